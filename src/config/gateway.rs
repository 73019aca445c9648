//! What settings mean for the gateway: whom it believes, and how much it lets anybody ask for.

use super::{ConfigError, Settings, unsound};
use crate::gateway::{
    Limits,
    auth::{AuthConfig, TokenRules},
    jwks::JwksSource,
};

impl Settings {
    /// Where public keys of tokens are, if they are anywhere.
    pub fn jwks(&self) -> Result<Option<JwksSource>, ConfigError> {
        self.jwks.as_deref().map(JwksSource::parse).transpose().map_err(unsound)
    }

    /// What tokens must say.
    pub fn token_rules(&self) -> TokenRules {
        let (audience, issuer) = (self.token_audience.clone(), self.token_issuer.clone());
        TokenRules { audience, issuer, max_lifetime: self.max_token_lifetime }
    }

    /// What callers authenticate with.
    pub fn auth(&self) -> Result<AuthConfig, ConfigError> {
        Ok(AuthConfig {
            token_secret: self.token_secret()?,
            jwks: self.jwks()?,
            rules: self.token_rules(),
            api_key: Some(self.api_key()?),
            query_tokens: self.query_tokens,
            ticket_ttl: self.ticket_ttl,
        })
    }

    /// The limits of the gateway.
    pub fn limits(&self) -> Limits {
        Limits {
            max_connections: self.max_connections,
            max_connections_per_user: self.max_connections_per_user,
            max_connections_per_address: self.max_connections_per_address,
            accept_rate: self.accept_rate,
            max_message_bytes: self.max_message_bytes,
            max_queue_bytes: self.max_queue_bytes,
            publish_rate: self.publish_rate,
            join_rate: self.join_rate,
            replay_rate: self.replay_rate,
            pressed_publish_rate: self.pressed_publish_rate,
            max_in_flight: self.max_in_flight,
            max_receipt_participants: self.max_receipt_participants,
            heartbeat: self.heartbeat,
            heartbeat_timeout: self.heartbeat_timeout,
            request_timeout: self.request_timeout,
        }
    }
}
