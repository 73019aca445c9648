//! Rights that change while a connection is open: conversations its user leaves, and tokens shown in place of the first.

use std::collections::HashSet;

use everpost_core::{clock::rfc3339, name::ConversationId, store::Standing};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::{
    Gateway,
    auth::Principal,
    close::Close,
    connection::{Connection, End},
    error::ApiError,
    frame,
    receive::Refused,
    session::Item,
};

impl Connection {
    /// To be asked before each frame of a run or of a page, which a slow client may take long to read: whether rights
    /// have ended meanwhile. What was left is left when it returns; with its token revoked the connection ends.
    pub(super) fn heed(&mut self) -> Result<bool, End> {
        let Some((left, close)) = self.session.ended() else { return Ok(false) };
        left.iter().for_each(|conversation| self.left(conversation));
        close.map_or(Ok(true), |close| Err(End::Close(close)))
    }

    /// Its user no longer takes part in a conversation.
    pub(super) fn left(&mut self, conversation: &ConversationId) {
        self.rooms.remove(conversation);
        self.muted.remove(conversation);
        self.gateway.hub.leave(&self.session, conversation);
        if self.scope.as_ref() == Some(conversation) {
            self.session.close(Close::Forbidden);
        }
    }

    /// Goes on with another token of the same user and device; its role counts from now on.
    pub(super) async fn renew(&mut self, id: Option<&str>, token: &SecretString) -> Result<(), Refused> {
        self.within_rate()?;
        let renewed = self.gateway.auth.token(token.expose_secret()).await?;
        let is_same = renewed.user == self.principal.user && renewed.device == self.principal.device;
        if self.principal.is_backend || !is_same {
            let why = "a connection goes on only with a token of its own user and device";
            return Err(ApiError::Forbidden(why).into());
        }
        let expires_at = rfc3339(renewed.grant.expires.saturating_mul(1_000));
        self.session.renew(renewed.grant.clone());
        self.principal = renewed;
        let ack = frame::plain("ack", None, id, json!({ "expires_at": expires_at }));
        self.send(ack).await.map_err(Refused::Connection)
    }
}

impl Gateway {
    /// Which conversations of a page of a replay somebody may no longer read. All their connections here are told.
    pub(super) async fn withdrawn(
        &self,
        principal: &Principal,
        conversations: HashSet<&str>,
    ) -> Result<Vec<ConversationId>, ApiError> {
        let mut withdrawn = Vec::new();
        if principal.is_backend {
            return Ok(withdrawn);
        }
        let names = conversations.into_iter().filter_map(|name| ConversationId::new(name).ok());
        let standings = names.map(|name| async move { (self.reads.standing(&name, &principal.user).await, name) });
        for (standing, name) in futures_util::future::join_all(standings).await {
            if standing? != Standing::Participant {
                self.hub.of_user(&principal.user).iter().for_each(|session| session.push(Item::Left(name.clone())));
                withdrawn.push(name);
            }
        }
        Ok(withdrawn)
    }
}
