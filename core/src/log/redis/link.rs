//! The way to Redis: one shared connection for short commands, one of its own for each blocking reader.
//!
//! The shared connection pipelines whatever its users send at the same time. Every call has a deadline here, because
//! the client would otherwise hide an outage for ten seconds. A call that timed out may have been carried out.
//!
//! Redis takes at most 16 KiB from a connection in one turn of its event loop, and flushes to disk once a turn. Large
//! requests that share a connection would therefore wait for each other's flushes; each partition's appends have their
//! own.

use std::{future::Future, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, RedisResult, Script,
    ServerErrorKind,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use secrecy::{ExposeSecret, SecretString};

use crate::log::LogError;

const DEADLINE: Duration = Duration::from_secs(5);

/// A shared way to one Redis server.
#[derive(Clone)]
pub(crate) struct Link {
    client: Client,
    shared: ConnectionManager,
    insist: Arc<Script>,
}

impl Link {
    pub(crate) async fn connect(url: &SecretString) -> Result<Self, LogError> {
        // The client's own message would repeat the address, and with it a password.
        let unreadable = |_| LogError::Unsuitable("the Redis address is not of the form redis://host:port/db".into());
        let info = url.expose_secret().into_connection_info().map_err(unreadable)?;
        let client = Client::open(info.set_tcp_settings(TcpSettings::default().set_nodelay(true))).map_err(failed)?;
        let shared = within(client.get_connection_manager_with_config(config())).await?;
        Ok(Self { client, shared, insist: Arc::new(Script::new(include_str!("insist.lua"))) })
    }

    /// The same server over a connection that is shared with nobody else.
    pub(crate) async fn another(&self) -> Result<Self, LogError> {
        let shared = within(self.client.get_connection_manager_with_config(config())).await?;
        Ok(Self { client: self.client.clone(), shared, insist: self.insist.clone() })
    }

    /// A connection for one reader that blocks; it has no response timeout, the reader sets its own deadline.
    pub(crate) async fn dedicated(&self) -> Result<MultiplexedConnection, LogError> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(Some(Duration::from_secs(2)));
        within(self.client.get_multiplexed_async_connection_with_config(&config)).await
    }

    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, LogError> {
        let mut connection = self.shared.clone();
        within(command.query_async(&mut connection)).await
    }

    pub(crate) async fn pipeline<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, LogError> {
        let mut connection = self.shared.clone();
        within(pipeline.query_async(&mut connection)).await
    }

    /// Runs a script by its digest and loads it first where the server does not know it.
    pub(crate) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        fill: impl FnOnce(&mut redis::ScriptInvocation<'_>),
    ) -> Result<T, LogError> {
        let mut connection = self.shared.clone();
        let mut invocation = script.prepare_invoke();
        fill(&mut invocation);
        within(invocation.invoke_async(&mut connection)).await
    }

    /// Carries out one command on one key, also when Redis is at its memory limit.
    pub(crate) async fn insist<T: FromRedisValue>(
        &self,
        command: &str,
        key: &str,
        fill: impl FnOnce(&mut redis::ScriptInvocation<'_>),
    ) -> Result<T, LogError> {
        self.script(&self.insist, |call| {
            call.key(key).arg(command);
            fill(call);
        })
        .await
    }
}

fn config() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_response_timeout(Some(DEADLINE))
        .set_connection_timeout(Some(Duration::from_secs(2)))
        .set_number_of_retries(2)
        .set_max_delay(Duration::from_millis(500))
        .set_pipeline_buffer_size(1_024)
}

async fn within<T>(call: impl Future<Output = RedisResult<T>>) -> Result<T, LogError> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(answer) => answer.map_err(failed),
        Err(late) => Err(LogError::unavailable(late)),
    }
}

/// Sorts a failure of Redis by what can be done about it.
pub(crate) fn failed(error: RedisError) -> LogError {
    // Of a pipeline the client tells no code, only those of the commands that failed.
    let failures = error.clone().into_server_errors();
    let code = failures.as_ref().and_then(|failures| failures.first()).map(|(_, failure)| failure.code());
    match (error.kind(), code.or(error.code())) {
        (_, Some("OOM")) => LogError::Full,
        (_, Some("STALE" | "NOGROUP" | "NOSCRIPT")) => LogError::Renewing,
        (_, Some("WRONGTYPE")) => LogError::Damaged("a key holds a value of another kind".to_owned()),
        (ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm), _) => LogError::Unsuitable(
            format!("Redis refused access: {}", error.detail().unwrap_or("check user and password")),
        ),
        _ => LogError::unavailable(error),
    }
}
