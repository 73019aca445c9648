//! Who is at the other end of a connection, as the roster keeps it: the same for every kind of connection.

use std::{net::IpAddr, sync::Arc};

use axum::http::{HeaderMap, header};
use everpost_core::{
    clock::now_ms,
    name::ConversationId,
    roster::{Entry, Refusal},
};

use super::{Gateway, attendance::Attending, auth::Principal, close::Close, patience::LONGEST, session::Session};

/// Longer names are cut; they are for people who look for a pattern.
const MAX_USER_AGENT_CHARS: usize = 200;

/// Where a connection comes from.
pub(super) struct Client {
    address: IpAddr,
    user_agent: Option<String>,
}

impl Client {
    /// From the address that counts for it and the head of its request.
    pub(super) fn new(address: IpAddr, headers: &HeaderMap) -> Self {
        let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let user_agent = agent.map(|agent| agent.chars().take(MAX_USER_AGENT_CHARS).collect());
        Self { address, user_agent }
    }
}

impl Gateway {
    /// Enters a connection into the roster for as long as the answer lives, unless there are too many.
    pub(super) async fn attend(
        self: &Arc<Self>,
        session: &Session,
        principal: &Principal,
        scope: Option<&ConversationId>,
        client: Client,
    ) -> Result<Attending, Close> {
        let entry = Entry {
            connection_id: session.id,
            user_id: session.user.clone(),
            instance_id: self.instance.clone(),
            conversation_id: scope.cloned(),
            device_id: principal.device.clone(),
            device_type: principal.device_type.clone(),
            connected_ms: now_ms(),
            address: client.address,
            user_agent: client.user_agent,
        };
        let entering = self.attendance.enter(entry, principal.is_backend);
        match tokio::time::timeout(LONGEST, entering).await {
            Err(_) => Err(Close::try_later()),
            Ok(Ok(Ok(attending))) => Ok(attending),
            Ok(Ok(Err(Refusal::User))) => Err(Close::TooMany("too many connections of this user")),
            Ok(Ok(Err(Refusal::Address))) => Err(Close::TooMany("too many connections from this address")),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a connection cannot be entered into the roster");
                Err(Close::of(&error.into()))
            }
        }
    }
}
