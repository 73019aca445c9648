//! The client listener: how long and how much a connection may take before it has asked for anything.

use std::{io, net::SocketAddr, time::Duration};

use axum::Router;
use axum_server::{Handle, tls_rustls::RustlsAcceptor};
use hyper_util::{rt::TokioExecutor, server::conn::auto::Builder};
use tokio_util::sync::CancellationToken;

use super::{limits::Limits, linger, tls::Tls};

/// What the head of a request may weigh.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Requests of one connection at once, over HTTP/2. Each stream of events is one.
const MAX_STREAMS: u32 = 100;
/// Requests of one connection that were given up before they were answered.
const MAX_RESETS: usize = 50;

/// A bound listener and how it treats connections.
pub struct Listener {
    /// Where connections come in.
    pub socket: std::net::TcpListener,
    /// Certificate and key; without them it speaks plainly.
    pub tls: Option<Tls>,
    /// How long after a request the next one may take, its head included. As long as a connection may do nothing, it may
    /// as well send a head slowly; only the first one has `request_timeout`.
    pub keep_alive: Duration,
}

impl Listener {
    /// Serves connections until the handle says otherwise.
    pub(super) async fn serve(
        self,
        routes: Router,
        limits: &Limits,
        handle: Handle<SocketAddr>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let Self { socket, tls, keep_alive } = self;
        let mut server = axum_server::from_tcp(socket)?.handle(handle).first_request_timeout(limits.request_timeout);
        bound(server.http_builder(), keep_alive, limits.request_timeout);
        let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
        // Several times over: the system counts a window that stays nearly shut as silence, and a slow reader is there.
        let prepare = linger::Acceptor::new(5 * limits.heartbeat_timeout);
        let Some(tls) = tls else { return server.acceptor(prepare).serve(routes).await };
        let secured = RustlsAcceptor::new(tls.config()).handshake_timeout(limits.request_timeout).acceptor(prepare);
        tokio::spawn(tls.watch(stop));
        server.acceptor(secured).serve(routes).await
    }
}

fn bound(builder: &mut Builder<TokioExecutor>, keep_alive: Duration, timeout: Duration) {
    builder.http1().header_read_timeout(keep_alive).max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .keep_alive_interval(keep_alive)
        .keep_alive_timeout(timeout);
}
