//! A TCP proxy that does to connections what networks do to them.
//!
//! What a direction *holds* arrives when the fault ends, late and in order, as after a partition. What it *loses* is
//! gone; no connection can go on after that, so those that lost something are reset when the fault ends.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// As much as is carried at once.
const CHUNK: usize = 16 * 1_024;
/// Of a sliced chunk, that many bytes travel alone. More would measure the machine's system calls.
const ALONE: usize = 24;

/// What becomes of the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Way {
    /// They pass.
    #[default]
    Open,
    /// A message takes this long, and up to this much longer, whatever its size: it is a long way and not a narrow one.
    Slow { delay: Duration, jitter: Duration },
    /// They wait until the fault ends.
    Hold,
    /// They are gone, and the connection stays open.
    Lose,
    /// The first bytes of a chunk travel one by one.
    Slice,
}

/// What becomes of both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fault {
    pub(crate) requests: Way,
    pub(crate) replies: Way,
}

impl Fault {
    /// Nobody hears anything of the other side, and no connection is closed.
    pub(crate) const HALF_OPEN: Self = Self { requests: Way::Lose, replies: Way::Lose };
    /// The same, but what was under way arrives in the end.
    pub(crate) const PARTITION: Self = Self { requests: Way::Hold, replies: Way::Hold };
    /// Requests are carried out and nobody is told.
    pub(crate) const LOSE_REPLIES: Self = Self { requests: Way::Open, replies: Way::Lose };
    /// What was sent never arrives.
    pub(crate) const LOSE_REQUESTS: Self = Self { requests: Way::Lose, replies: Way::Open };
    /// Messages arrive in the smallest pieces.
    pub(crate) const SLICED: Self = Self { requests: Way::Slice, replies: Way::Slice };

    /// Requests are late by so much.
    pub(crate) fn slow(delay: Duration, jitter: Duration) -> Self {
        Self { requests: Way::Slow { delay, jitter }, replies: Way::Open }
    }
}

/// What all connections are told.
#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    fault: Fault,
    /// Connections made under another number are reset.
    resets: u64,
    /// New connections are reset at once.
    refuses: bool,
}

/// A way to one server, open at first.
pub(crate) struct Proxy {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own and leads to that server.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (orders, told) = watch::channel(Orders::default());
        Self { address, orders, accepting: tokio::spawn(accept(listener, target, told)) }
    }

    /// Where to connect instead of to the server.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins a fault, on open connections and on new ones.
    pub(crate) fn suffer(&self, fault: Fault) {
        self.orders.send_modify(|orders| orders.fault = fault);
    }

    /// Ends every fault.
    pub(crate) fn heal(&self) {
        self.orders.send_modify(|orders| *orders = Orders { resets: orders.resets, ..Orders::default() });
    }

    /// Resets every open connection.
    pub(crate) fn reset(&self) {
        self.orders.send_modify(|orders| orders.resets += 1);
    }

    /// Resets every open connection and every new one.
    pub(crate) fn refuse(&self) {
        self.orders.send_modify(|orders| *orders = Orders { resets: orders.resets + 1, refuses: true, ..*orders });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, told: watch::Receiver<Orders>) {
    let mut connections = JoinSet::new(); // they end with the proxy
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(carry(client, target, told.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Carries one connection to its end, which is a reset unless one side closed it.
async fn carry(mut client: TcpStream, target: SocketAddr, told: watch::Receiver<Orders>) {
    let resets = told.borrow().resets;
    let server = if told.borrow().refuses { None } else { TcpStream::connect(target).await.ok() };
    let Some(mut server) = server else {
        let _ = client.set_zero_linger(); // a connection that is gone is as good as reset
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true)); // no worse than without us
    let mut orders = told.clone();
    let closed = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let requests = Direction { way: |fault| fault.requests, told: told.clone(), has_lost: false };
        let replies = Direction { way: |fault| fault.replies, told, has_lost: false };
        tokio::select! {
            ended = requests.run(from_client, to_server) => ended.is_ok(),
            ended = replies.run(from_server, to_client) => ended.is_ok(),
            _ = orders.wait_for(|orders| orders.resets != resets) => false,
        }
    };
    if !closed {
        let _ = (client.set_zero_linger(), server.set_zero_linger()); // as above
    }
}

struct Direction {
    way: fn(&Fault) -> Way,
    told: watch::Receiver<Orders>,
    has_lost: bool,
}

impl Direction {
    fn way(&self) -> Way {
        (self.way)(&self.told.borrow().fault)
    }

    /// Carries until the sending side closes; an error is a reset.
    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = tokio::select! {
                count = from.read(&mut buffer) => count?,
                changed = self.told.changed() => {
                    changed.map_err(io::Error::other)?;
                    self.resume()?;
                    continue;
                }
            };
            if count == 0 {
                // A goodbye is as late as everything else.
                while self.way() == Way::Hold {
                    self.told.changed().await.map_err(io::Error::other)?;
                }
                return Ok(());
            }
            self.pass(&buffer[..count], &mut to).await?;
            // The rest of a message has travelled along with its beginning.
            while let Way::Slow { .. } = self.way()
                && let Ok(count @ 1..) = from.try_read(&mut buffer)
            {
                to.write_all(&buffer[..count]).await?;
            }
        }
    }

    async fn pass(&mut self, bytes: &[u8], to: &mut WriteHalf<'_>) -> io::Result<()> {
        loop {
            match self.way() {
                Way::Hold => self.told.changed().await.map_err(io::Error::other)?,
                Way::Lose => {
                    self.has_lost = true;
                    return Ok(());
                }
                way => {
                    self.resume()?;
                    return forward(way, bytes, to).await;
                }
            }
        }
    }

    /// Nothing passes behind what was lost.
    fn resume(&self) -> io::Result<()> {
        let passes = !matches!(self.way(), Way::Lose | Way::Hold);
        if self.has_lost && passes { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

async fn forward(way: Way, bytes: &[u8], to: &mut WriteHalf<'_>) -> io::Result<()> {
    if let Way::Slow { delay, jitter } = way {
        let share = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
        sleep(delay + jitter.mul_f64(share)).await;
    }
    let alone = if way == Way::Slice { bytes.len().min(ALONE) } else { 0 };
    for byte in bytes[..alone].chunks(1) {
        to.write_all(byte).await?;
        tokio::task::yield_now().await;
    }
    to.write_all(&bytes[alone..]).await
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(10);

    /// A server that says everything back, and a client of it through a proxy.
    async fn echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = socket.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let proxy = Proxy::start(address).await;
        let client = TcpStream::connect(proxy.address()).await.expect("it listens");
        (proxy, client)
    }

    async fn say(client: &mut TcpStream, words: &[u8]) {
        client.write_all(words).await.expect("the connection is open");
    }

    async fn hear(client: &mut TcpStream, words: &[u8]) {
        let mut heard = vec![0; words.len()];
        timeout(LONG, client.read_exact(&mut heard)).await.expect("in time").expect("the connection is open");
        assert_eq!(heard, words);
    }

    async fn silence(client: &mut TcpStream) {
        assert!(timeout(SHORT, client.read_u8()).await.is_err(), "nothing arrives");
    }

    async fn end(client: &mut TcpStream) -> Option<io::ErrorKind> {
        timeout(LONG, client.read_u8()).await.expect("in time").err().map(|error| error.kind())
    }

    #[tokio::test]
    async fn an_open_way_carries_everything_and_the_end() {
        let (_proxy, mut client) = echo().await;
        let words = vec![7; 100_000];
        say(&mut client, &words).await;
        hear(&mut client, &words).await;
        client.shutdown().await.expect("the connection is open");
        assert_eq!(end(&mut client).await, Some(io::ErrorKind::UnexpectedEof));
    }

    #[tokio::test]
    async fn what_was_held_arrives_in_the_end() {
        let (proxy, mut client) = echo().await;
        proxy.suffer(Fault::PARTITION);
        say(&mut client, b"hello").await;
        silence(&mut client).await;
        proxy.heal();
        hear(&mut client, b"hello").await;
    }

    #[tokio::test]
    async fn what_was_lost_never_arrives_and_ends_the_connection() {
        for fault in [Fault::HALF_OPEN, Fault::LOSE_REPLIES, Fault::LOSE_REQUESTS] {
            let (proxy, mut client) = echo().await;
            say(&mut client, b"before").await;
            hear(&mut client, b"before").await;
            proxy.suffer(fault);
            say(&mut client, b"hello").await;
            silence(&mut client).await;
            proxy.heal();
            assert_eq!(end(&mut client).await, Some(io::ErrorKind::ConnectionReset), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_reset_ends_what_is_open_and_nothing_else() {
        let (proxy, mut client) = echo().await;
        say(&mut client, b"before").await;
        hear(&mut client, b"before").await;
        proxy.reset();
        assert_eq!(end(&mut client).await, Some(io::ErrorKind::ConnectionReset));
        let mut next = TcpStream::connect(proxy.address()).await.expect("it listens");
        say(&mut next, b"hello").await;
        hear(&mut next, b"hello").await;
    }

    #[tokio::test]
    async fn a_way_that_refuses_opens_again() {
        let (proxy, mut client) = echo().await;
        say(&mut client, b"before").await;
        hear(&mut client, b"before").await;
        proxy.refuse();
        assert_eq!(end(&mut client).await, Some(io::ErrorKind::ConnectionReset));
        let mut next = TcpStream::connect(proxy.address()).await.expect("the port is there");
        assert!(end(&mut next).await.is_some());
        proxy.heal();
        let mut healed = TcpStream::connect(proxy.address()).await.expect("it listens");
        say(&mut healed, b"hello").await;
        hear(&mut healed, b"hello").await;
    }

    #[tokio::test]
    async fn slices_and_delays_change_nothing_but_the_time() {
        let (proxy, mut client) = echo().await;
        let words: Vec<u8> = (0..=255).collect();
        proxy.suffer(Fault::SLICED);
        say(&mut client, &words).await;
        hear(&mut client, &words).await;
        proxy.suffer(Fault::slow(SHORT, Duration::ZERO));
        let began = Instant::now();
        say(&mut client, &words).await;
        hear(&mut client, &words).await;
        assert!(began.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn a_long_way_is_not_a_narrow_one() {
        let (proxy, mut client) = echo().await;
        let words = vec![b'a'; 64 * CHUNK];
        proxy.suffer(Fault::slow(SHORT * 5, Duration::ZERO));
        let (mut hears, mut says) = client.split();
        let mut heard = vec![0; words.len()];
        let both = async { tokio::try_join!(says.write_all(&words), hears.read_exact(&mut heard)) };
        timeout(LONG, both).await.expect("in a few delays, not in one for each chunk").expect("the connection is open");
        assert_eq!(heard, words);
    }
}
