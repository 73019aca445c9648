//! From an upgrade request to a connection, or to the close code that says why not.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{
        ConnectInfo, State,
        ws::{WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use everpost_core::name::ConversationId;
use serde::Deserialize;

use super::{
    FAREWELL, Gateway,
    auth::{self, Principal},
    client_address::neighbourhood,
    close::Close,
    connection::Connection,
    error::ApiError,
    extract::{Path, Query},
    origin,
    session::Session,
    start::Start,
    transport::Transport,
};

/// Held by every idle connection, so small on purpose.
const READ_BUFFER: usize = 2 * 1024;
/// Grows only as far as it is used; a larger one saves system calls when many frames wait.
const WRITE_BUFFER: usize = 32 * 1024;

#[derive(Debug, Deserialize)]
pub(super) struct Parameters {
    token: Option<String>,
    cursor: Option<String>,
    after: Option<u64>,
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// `GET /v1/ws`: everything of one user.
pub(super) async fn everything(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(parameters): Query<Parameters>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Response {
    open(gateway, peer, None, parameters, (&uri, &headers), upgrade)
}

/// `GET /ws/{conversation_id}`: one conversation.
pub(super) async fn conversation(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(conversation): Path<String>,
    Query(parameters): Query<Parameters>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Response {
    open(gateway, peer, Some(conversation), parameters, (&uri, &headers), upgrade)
}

fn open(
    gateway: Arc<Gateway>,
    peer: SocketAddr,
    conversation: Option<String>,
    parameters: Parameters,
    (uri, headers): (&Uri, &HeaderMap),
    upgrade: Upgrade,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return ApiError::invalid("not_websocket", rejection.body_text()).into_response(),
    };
    if !origin::is_welcome(uri, headers, &gateway.allowed_origins) {
        return ApiError::Forbidden("pages of this origin may not connect").into_response();
    }
    if gateway.stopping.is_cancelled() || !gateway.admission.has_room() {
        gateway.metrics.refused();
        let full = ApiError::Unavailable("this instance is full, try another").into_response();
        return (StatusCode::SERVICE_UNAVAILABLE, full).into_response();
    }
    let principal = gateway.auth.upgrade(headers, parameters.token.as_deref());
    let address = gateway.client_address(peer, headers);
    let limits = &gateway.limits;
    let mut upgrade = upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + 2 * limits.max_message_bytes.max(limits.max_queue_bytes))
        .max_message_size(limits.max_message_bytes)
        .max_frame_size(limits.max_message_bytes);
    if auth::offers_protocol(headers) {
        upgrade = upgrade.protocols([auth::protocol()]);
    }
    let tasks = gateway.tasks.clone();
    upgrade.on_upgrade(move |socket| {
        let connection = admit(gateway, address, conversation, parameters, principal, socket);
        // The tracker outlives the server, which does not know upgraded connections.
        tasks.track_future(connection)
    })
}

async fn admit(
    gateway: Arc<Gateway>,
    address: IpAddr,
    conversation: Option<String>,
    parameters: Parameters,
    principal: Result<Principal, ApiError>,
    mut socket: WebSocket,
) {
    let checked = Box::pin(check(&gateway, conversation, principal)).await;
    let admitted = checked.and_then(|(principal, scope)| {
        let admitted = gateway.admission.admit(&principal.user, neighbourhood(address));
        let admitted = admitted.map_err(|refusal| Close::TooMany(refusal.reason()))?;
        Ok((principal, scope, admitted))
    });
    match admitted {
        Ok((principal, scope, _admitted)) => {
            gateway.metrics.upgraded();
            let start = match (parameters.cursor, parameters.after) {
                (Some(cursor), _) => Start::Cursor(cursor),
                (None, Some(seq)) if scope.is_some() => Start::After(seq),
                _ => Start::Now,
            };
            let (user, expires) = (principal.user.clone(), principal.expires);
            let session = Session::new(user, expires, gateway.limits.max_queue_bytes, gateway.seconds());
            // Boxed, so that what was needed to get here is not kept for the life of the connection.
            let transport = Transport::WebSocket(socket);
            Box::pin(Connection::new(gateway, Arc::new(session), principal, scope, transport).run(start)).await;
        }
        Err(close) => {
            gateway.metrics.refused();
            let farewell = async {
                socket.send(close.message()).await?;
                while let Some(Ok(_)) = socket.recv().await {} // until the client has closed its side
                Ok::<_, axum::Error>(())
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await; // it may be long gone
        }
    }
}

async fn check(
    gateway: &Gateway,
    conversation: Option<String>,
    principal: Result<Principal, ApiError>,
) -> Result<(Principal, Option<ConversationId>), Close> {
    let principal = principal.map_err(|error| match error {
        ApiError::Unauthenticated(why) => Close::Unauthenticated(why),
        _ => Close::Internal,
    })?;
    let Some(conversation) = conversation else { return Ok((principal, None)) };
    let conversation = ConversationId::new(conversation).map_err(|_| Close::Forbidden)?;
    match gateway.authorise(&principal, &conversation).await {
        Ok(()) => Ok((principal, Some(conversation))),
        Err(ApiError::Forbidden(_) | ApiError::NotFound(_)) => Err(Close::Forbidden),
        Err(_) => Err(Close::Internal),
    }
}
