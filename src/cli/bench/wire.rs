//! A TCP connection that reads in large gulps and writes in batches.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
};

/// Enough for a quiet connection: thousands of them must not weigh on the machine that is measured.
const SMALLEST: usize = 4 << 10;
/// A read never takes more than this at once, so that one connection cannot starve the others.
const LARGEST: usize = 256 << 10;

/// A socket with what was read and what waits to be written.
pub(super) struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
    start: usize,
    end: usize,
    output: Vec<u8>,
    written: usize,
}

impl Wire {
    /// Connects to `address`, a host and a port.
    pub(super) async fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }

    /// The same with as little room for input as a socket can have.
    pub(super) async fn connect_narrow(address: &str) -> io::Result<Self> {
        let address = tokio::net::lookup_host(address).await?.next().ok_or(io::ErrorKind::NotFound)?;
        let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
        socket.set_recv_buffer_size(SMALLEST as u32)?;
        Ok(Self::over(socket.connect(address).await?))
    }

    fn over(stream: TcpStream) -> Self {
        Self { stream, input: vec![0; SMALLEST], start: 0, end: 0, output: Vec::new(), written: 0 }
    }

    /// What was read and not consumed.
    pub(super) fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    /// The input, and the output for answers to it.
    pub(super) fn both(&mut self) -> (&[u8], &mut Vec<u8>) {
        (&self.input[self.start..self.end], &mut self.output)
    }

    /// What waits to be written; the next [`turn`](Self::turn) writes it.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Marks the first `count` bytes of the input as done with.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Writes what waits while it waits for input, and returns once there is some.
    ///
    /// Both directions at once: a server that stops reading until we have read cannot block us. Cancelling loses nothing.
    pub(super) async fn turn(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_turn(context)).await
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_write(context) {
            return Poll::Ready(Err(error));
        }
        self.poll_read(context)
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            let rest = &self.output[self.written..];
            self.written += ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
        }
        self.output.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.make_room();
        let mut free = ReadBuf::new(&mut self.input[self.end..]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut free))?;
        match free.filled().len() {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            count => {
                self.end += count;
                self.widen();
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Doubles the buffer when a read has filled it: there is more where that came from.
    fn widen(&mut self) {
        if self.end == self.input.len() && self.input.len() < LARGEST {
            self.input.resize(self.input.len() * 2, 0);
        }
    }

    /// Moves a half-read frame to the front; one that fills the whole buffer gets a larger one.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.input.len() {
            self.input.resize(self.input.len() * 2, 0);
        }
    }
}
