//! From an upgrade request to a connection, or to the close code that says why not.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{
        ConnectInfo, State,
        ws::{WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, Uri},
    response::{IntoResponse, Response},
};
use everpost_core::name::ConversationId;
use serde::Deserialize;

use super::{
    Gateway,
    auth::{self, Credential, Principal},
    client::Client,
    close::Close,
    connection::Connection,
    error::ApiError,
    extract::{Path, Query},
    handshake,
    limits::Place,
    origin,
    patience::Patience,
    session::Session,
    start::Start,
    transport::Transport,
};

/// Held by every idle connection, so small on purpose.
const READ_BUFFER: usize = 2 * 1024;
/// Grows only as far as it is used; a larger one saves system calls when many frames wait.
const WRITE_BUFFER: usize = 32 * 1024;

/// Not to be printed: some of it is secret.
#[derive(Deserialize)]
pub(super) struct Parameters {
    token: Option<String>,
    ticket: Option<String>,
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
    open(gateway, peer, None, parameters, (&uri, &headers), upgrade).await
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
    open(gateway, peer, Some(conversation), parameters, (&uri, &headers), upgrade).await
}

async fn open(
    gateway: Arc<Gateway>,
    peer: SocketAddr,
    conversation: Option<String>,
    parameters: Parameters,
    (uri, headers): (&Uri, &HeaderMap),
    upgrade: Upgrade,
) -> Response {
    if let Some(refusal) = handshake::refusal(headers) {
        return refusal;
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return ApiError::invalid("not_websocket", rejection.body_text()).into_response(),
    };
    if !origin::is_welcome(uri, headers, &gateway.allowed_origins) {
        return ApiError::Forbidden("pages of this origin may not connect").into_response();
    }
    let place = match take_turn(&gateway).await {
        Ok(place) => place,
        Err(refusal) => {
            gateway.metrics.refused();
            return refusal.into_response();
        }
    };
    let credential = gateway.auth.shown(headers, parameters.token.as_deref(), parameters.ticket.as_deref());
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
    let client = Client::new(gateway.client_address(peer, headers), headers);
    upgrade.on_upgrade(move |socket| {
        let connection = admit(gateway, (client, place), conversation, parameters, credential, socket);
        // The tracker outlives the server, which does not know upgraded connections.
        tasks.track_future(connection)
    })
}

/// Takes a place and waits for a turn, unless the process stops meanwhile.
pub(super) async fn take_turn(gateway: &Gateway) -> Result<Place, ApiError> {
    const FULL: ApiError = ApiError::Unavailable("this instance is full, try another");
    let place = gateway.admission.place().filter(|_| !gateway.stopping.is_cancelled()).ok_or(FULL)?;
    gateway.gate.enter(&gateway.stopping).await?;
    if gateway.stopping.is_cancelled() { Err(FULL) } else { Ok(place) }
}

async fn admit(
    gateway: Arc<Gateway>,
    (client, _place): (Client, Place),
    conversation: Option<String>,
    parameters: Parameters,
    credential: Credential,
    mut socket: WebSocket,
) {
    // Boxed here and below, so that what was needed to get here is not kept for the life of the connection.
    let admitted = Box::pin(async {
        let (principal, scope) = check(&gateway, conversation, &credential).await?;
        let (user, grant) = (principal.user.clone(), principal.grant.clone());
        let session = Session::new(user, grant, gateway.limits.max_queue_bytes, gateway.seconds());
        let session = Arc::new(session.on(principal.device_type.clone()));
        let attending = gateway.attend(&session, &principal, scope.as_ref(), client).await?;
        Ok::<_, Close>((principal, scope, session, attending))
    });
    match admitted.await {
        Ok((principal, scope, session, _attending)) => {
            gateway.metrics.upgraded();
            let start = match (parameters.cursor, parameters.after) {
                (Some(cursor), _) => Start::Cursor(cursor),
                (None, Some(seq)) if scope.is_some() => Start::After(seq),
                _ => Start::Now,
            };
            let transport = Transport::WebSocket(socket);
            Box::pin(Connection::new(gateway, session, principal, scope, transport).run(start)).await;
        }
        Err(close) => {
            gateway.metrics.refused();
            close.tell(&mut socket).await;
        }
    }
}

async fn check(
    gateway: &Gateway,
    conversation: Option<String>,
    credential: &Credential,
) -> Result<(Principal, Option<ConversationId>), Close> {
    let principal = gateway.auth.authenticate(credential).await.map_err(|error| match error {
        ApiError::Unauthenticated(why) => Close::Unauthenticated(why),
        _ => Close::Internal,
    })?;
    let Some(conversation) = conversation else { return Ok((principal, None)) };
    let conversation = ConversationId::new(conversation).map_err(|_| Close::Forbidden)?;
    let patience = Patience::new(&gateway.stopping);
    match patience.ask(|| gateway.authorise(&principal, &conversation)).await {
        Ok(()) => Ok((principal, Some(conversation))),
        Err(ApiError::Forbidden(_) | ApiError::NotFound(_)) => Err(Close::Forbidden),
        Err(error) => Err(Close::of(&error)),
    }
}
