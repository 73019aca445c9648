//! From a request for server-sent events to a stream, or to the answer that says why not.
//!
//! An `EventSource` comes back by itself after whatever ended its stream, except after a status that is not 200: then it
//! never does. It tells where it stands when it comes back, so whoever sends `Last-Event-ID` is answered in its terms:
//! 204 where coming back is pointless without a change, and a stream that only names a time where it is not. Everybody
//! else gets a problem document with its status.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, State},
    http::{HeaderMap, HeaderName, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use everpost_core::{clock::now_ms, name::ConversationId};
use serde::Deserialize;

use super::{
    Gateway,
    auth::Principal,
    client::Client,
    close::Close,
    connection::Connection,
    error::{ApiError, some_wait},
    event_stream::{self, EventStream},
    extract::{Path, Query, conversation_id},
    limits::Place,
    origin,
    session::Session,
    start::Start,
    transport::Transport,
    ws::take_turn,
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Not to be printed: the token is secret.
#[derive(Deserialize)]
pub(super) struct Parameters {
    token: Option<String>,
    ticket: Option<String>,
    cursor: Option<String>,
    after: Option<u64>,
}

/// Who asks, from where, and with what.
pub(super) struct Asked {
    peer: SocketAddr,
    uri: Uri,
    headers: HeaderMap,
    parameters: Parameters,
}

/// `GET /v1/events`: everything of one user.
pub(super) async fn everything(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(parameters): Query<Parameters>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    open(gateway, None, Asked { peer, uri, headers, parameters }).await
}

/// `GET /v1/conversations/{id}/events`: one conversation.
pub(super) async fn conversation(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(conversation): Path<String>,
    Query(parameters): Query<Parameters>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    open(gateway, Some(conversation), Asked { peer, uri, headers, parameters }).await
}

async fn open(gateway: Arc<Gateway>, conversation: Option<String>, asked: Asked) -> Response {
    let returns = asked.headers.contains_key(LAST_EVENT_ID);
    match serve(&gateway, conversation, asked).await {
        Ok(stream) => stream,
        Err(error) => {
            gateway.metrics.refused();
            if returns { in_its_terms(&error) } else { error.into_response() }
        }
    }
}

fn in_its_terms(error: &ApiError) -> Response {
    if error.is_retryable() {
        event_stream::come_back(error.retry_after().unwrap_or_else(some_wait))
    } else {
        StatusCode::NO_CONTENT.into_response()
    }
}

async fn serve(gateway: &Arc<Gateway>, conversation: Option<String>, asked: Asked) -> Result<Response, ApiError> {
    let (principal, scope, place) = check(gateway, conversation, &asked).await?;
    let (user, grant) = (principal.user.clone(), principal.grant.clone());
    let session = Session::new(user, grant, gateway.limits.max_queue_bytes, gateway.seconds()).that_only_listens();
    let session = Arc::new(session.on(principal.device_type.clone()));
    let client = Client::new(gateway.client_address(asked.peer, &asked.headers), &asked.headers);
    let attending = gateway.attend(&session, &principal, scope.as_ref(), client).await.map_err(refused)?;
    gateway.metrics.upgraded();
    let partition = scope.as_ref().map(|scope| gateway.partitions.of(scope.as_str()));
    let (stream, response) = EventStream::new(partition, gateway.limits.heartbeat_timeout);
    let (start, transport) = (start(&asked, scope.is_some()), Transport::EventStream(Box::new(stream)));
    let connection = Connection::new(gateway.clone(), session, principal, scope, transport);
    gateway.tasks.spawn(async move {
        let _held = (place, attending);
        connection.run(start).await;
    });
    Ok(response)
}

async fn check(
    gateway: &Gateway,
    conversation: Option<String>,
    asked: &Asked,
) -> Result<(Principal, Option<ConversationId>, Place), ApiError> {
    if !origin::is_welcome(&asked.uri, &asked.headers, &gateway.allowed_origins) {
        return Err(ApiError::Forbidden("pages of this origin may not connect"));
    }
    let place = take_turn(gateway).await?;
    let Parameters { token, ticket, .. } = &asked.parameters;
    let credential = gateway.auth.shown(&asked.headers, token.as_deref(), ticket.as_deref());
    let principal = gateway.auth.authenticate(&credential).await?;
    if principal.grant.expires < now_ms() / 1_000 {
        // Clocks may differ a little; but who was just sent away for this would come back at once, and again.
        return Err(ApiError::Unauthenticated("the token has expired"));
    }
    let Some(conversation) = conversation else { return Ok((principal, None, place)) };
    let conversation = conversation_id(&conversation)?;
    gateway.authorise(&principal, &conversation).await?;
    Ok((principal, Some(conversation), place))
}

/// What a WebSocket would be closed for before it began.
fn refused(close: Close) -> ApiError {
    match close {
        Close::TooMany(why) => ApiError::TooManyConnections(why),
        Close::TryLater { .. } => ApiError::Unavailable("what this needs does not answer now"),
        _ => ApiError::Internal,
    }
}

/// What a client was given last counts for more than where its address once told it to begin.
fn start(asked: &Asked, has_scope: bool) -> Start {
    let last = asked.headers.get(LAST_EVENT_ID).map(|last| last.to_str().unwrap_or_default().to_owned());
    match (last.or_else(|| asked.parameters.cursor.clone()), asked.parameters.after) {
        (Some(cursor), _) => Start::Cursor(cursor),
        (None, Some(seq)) if has_scope => Start::After(seq),
        _ => Start::Now,
    }
}

impl Gateway {
    /// How often a session gets a sign of life. Whoever cannot answer gets one twice as often: it has nothing else to
    /// tell a stream that is quiet from one that is gone.
    pub(super) fn heartbeat_seconds(&self, session: &Session) -> u64 {
        let every = self.limits.heartbeat.as_secs();
        if session.only_listens { (every / 2).max(1) } else { every.max(1) }
    }
}
