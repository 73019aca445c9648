//! Connections that end in order, whatever their client still has on its way.
//!
//! A socket that is closed with unread input makes the system send a reset, and a reset takes away from the client what
//! it has not read yet: the close frame that says why, the answer to a request whose body was too large. So what is left
//! of a closed connection says that no more will come and takes in for a moment what still arrives.

use std::{
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum_server::accept::Accept;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    runtime::Handle,
    sync::Semaphore,
    time::timeout,
};

/// How long the rest of a connection is waited for.
const LONGEST: Duration = Duration::from_secs(2);
/// How much of it is read at most.
const MOST_BYTES: u64 = 1024 * 1024;
/// How many connections linger at a time; others are closed at once.
const AT_ONCE: usize = 1_024;

/// Makes accepted connections linger, and sends small frames without delay.
#[derive(Debug, Clone)]
pub(super) struct Acceptor {
    places: Arc<Semaphore>,
    /// Who acknowledges nothing for so long is gone.
    lost_after: Duration,
}

impl Acceptor {
    pub(super) fn new(lost_after: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), lost_after }
    }
}

impl<S> Accept<TcpStream, S> for Acceptor {
    type Stream = Lingering;
    type Service = S;
    type Future = Ready<io::Result<(Lingering, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let prepared = stream.set_nodelay(true).and_then(|()| {
            // A stream of events never hears of its client; only the lack of acknowledgements tells that it is gone.
            SockRef::from(&stream).set_tcp_user_timeout(Some(self.lost_after))
        });
        let places = self.places.clone();
        ready(prepared.map(|()| (Lingering { stream: Some(stream), has_ended: false, places }, service)))
    }
}

/// A connection that lingers when it is dropped.
#[derive(Debug)]
pub(super) struct Lingering {
    /// Gone only while it is being dropped.
    stream: Option<TcpStream>,
    /// The client has said that no more will come, or has gone.
    has_ended: bool,
    places: Arc<Semaphore>,
}

impl Lingering {
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let place = self.places.clone().try_acquire_owned();
        if let (Some(stream), Ok(place), Ok(runtime)) = (self.stream.take(), place, Handle::try_current()) {
            runtime.spawn(async move {
                let _ = timeout(LONGEST, finish(stream)).await; // whoever takes longer is cut off
                drop(place);
            });
        }
    }
}

async fn finish(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = stream.take(MOST_BYTES);
    let mut buffer = [0; 4_096];
    while rest.read(&mut buffer).await? > 0 {}
    Ok(())
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let read = ready!(self.stream()?.poll_read(context, buffer));
        self.has_ended |= read.is_err() || (room > 0 && buffer.filled().len() == before);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_acknowledges_nothing_is_gone_after_a_while() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, _) = accepted.expect("it is accepted");
        let lost_after = Duration::from_secs(90);
        let (lingering, ()) = Acceptor::new(lost_after).accept(stream, ()).await.expect("it is prepared");
        let stream = lingering.stream.as_ref().expect("it is open");
        assert_eq!(SockRef::from(stream).tcp_user_timeout().expect("it is known"), Some(lost_after));
        assert!(stream.nodelay().expect("it is known"));
    }
}
