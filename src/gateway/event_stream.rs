//! Server-sent events: frames in the form that browsers' `EventSource` reads, and the body that carries them.
//!
//! Every block has the client's position as its `id`, so that a browser that is cut off comes back with it by itself.
//! An `id` counts only once its block is complete, and the first one comes before any event: whoever was connected at
//! all has a position.
//!
//! ```text
//! retry: 2750                        when to come back if this breaks, another time for each client
//! id: AQAAAAAAAgE                    where it stands
//!
//! event: new_message                 from here on as it happens
//! id: AQAAAAAABAE                    left out where it did not move
//! data: {"event":"new_message",…}    the same JSON as over WebSocket
//! ```

use std::{convert::Infallible, fmt::Write as _, mem, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use everpost_core::{cursor::Cursor, partition::Partition, position::Position};
use futures_util::stream;
use tokio::{sync::mpsc, time::timeout};

use super::{
    close::Close,
    connection::End,
    error::{self, wait_ms},
    frame,
};

/// What gathers before it is sent even without a flush.
const CHUNK: usize = 32 * 1024;

const ACCEL: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The writing end of one stream.
pub(super) struct EventStream {
    chunks: mpsc::Sender<Bytes>,
    text: String,
    /// The only partition it tells about, if it is about one conversation.
    scope: Option<Partition>,
    /// The last `id`.
    told: Option<Cursor>,
    /// How long a client may take nothing.
    patience: Duration,
}

impl EventStream {
    /// A stream, and the response that carries it. At most two chunks wait in between.
    pub(super) fn new(scope: Option<Partition>, patience: Duration) -> (Self, Response) {
        let (chunks, waiting) = mpsc::channel(1);
        let (text, told) = (String::new(), None);
        (Self { chunks, text, scope, told, patience }, response(body(waiting)))
    }

    /// Returns when the client is gone.
    pub(super) async fn gone(&self) {
        self.chunks.closed().await;
    }

    /// Writes a frame as an event.
    pub(super) async fn feed(&mut self, frame: &str, seen: &Cursor) -> Result<(), End> {
        let place = self.place(seen);
        if self.told.is_none() {
            let _ = writeln!(self.text, "retry: {}\nid: {}\n", wait_ms(error::some_wait()), place.encode());
        } else if self.told.as_ref() != Some(&place) {
            let _ = writeln!(self.text, "id: {}", place.encode());
        }
        self.told = Some(place);
        push_event(&mut self.text, frame);
        if self.text.len() >= CHUNK { self.flush().await } else { Ok(()) }
    }

    /// Where the client stands. In a stream of one conversation the other partitions are left out: it passes over what
    /// happens there. The position is for this stream; whoever takes it elsewhere still skips what else is in its
    /// partition.
    fn place(&self, seen: &Cursor) -> Cursor {
        let Some(scope) = self.scope else { return seen.clone() };
        let mut positions = vec![Position::ZERO; seen.positions().len()];
        positions[scope.index()] = seen.at(scope);
        Cursor::new(seen.epoch, positions)
    }

    /// A line that clients pass over and that keeps everything between them and us awake.
    pub(super) fn comment(&mut self) {
        self.text.push_str(":\n\n");
    }

    /// Hands over what was written. Whoever takes nothing for too long is as good as gone, and can come back.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        if self.text.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(mem::take(&mut self.text));
        match timeout(self.patience, self.chunks.send(chunk)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(End::Gone),
        }
    }

    /// Says why the stream ends, and when to come back if there is a time.
    pub(super) async fn close(&mut self, close: &Close) {
        if let Close::GoingAway { reconnect_after_ms } = close {
            let _ = writeln!(self.text, "retry: {reconnect_after_ms}");
        }
        let data = serde_json::json!({"code": close.code(), "reason": close.reason()});
        push_event(&mut self.text, &frame::plain("closed", None, None, data));
        let _ = self.flush().await; // it may be long gone
    }
}

fn push_event(text: &mut String, frame: &str) {
    let _ = writeln!(text, "event: {}", frame::name(frame));
    // Data that came in with line breaks between its members has them still; the client puts them back.
    for line in frame.split(['\n', '\r']) {
        let _ = writeln!(text, "data: {line}");
    }
    text.push('\n');
}

/// A stream that only says when to come back. An `EventSource` gives up for good on any status but 200.
pub(super) fn come_back(after: Duration) -> Response {
    response(Body::from(format!("retry: {}\n\n", wait_ms(after))))
}

fn body(waiting: mpsc::Receiver<Bytes>) -> Body {
    Body::from_stream(stream::unfold(waiting, async |mut waiting| {
        let chunk = waiting.recv().await?;
        Some((Ok::<_, Infallible>(chunk), waiting))
    }))
}

fn response(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (ACCEL, HeaderValue::from_static("no")), // or nginx would gather what should arrive
    ];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use everpost_core::partition::Partitions;

    use super::*;

    fn stream(scope: Option<Partition>) -> EventStream {
        EventStream::new(scope, Duration::from_secs(1)).0
    }

    #[tokio::test]
    async fn a_position_comes_before_any_event_and_then_where_it_moves() {
        let mut events = stream(None);
        let mut seen = Cursor::start(1, Partitions::ONE);
        let start = seen.encode();
        events.feed(r#"{"event":"connected"}"#, &seen).await.ok().expect("written");
        events.feed(r#"{"event":"typing"}"#, &seen).await.ok().expect("written");
        seen.advance(Partition(0), Position::new(1, 5));
        events.feed("{\"event\":\"order\",\"data\":{\n}}", &seen).await.ok().expect("written");
        let (retry, rest) = events.text.split_once('\n').expect("lines");
        let wait: u64 = retry.strip_prefix("retry: ").and_then(|wait| wait.parse().ok()).expect("a wait");
        assert!((1_000..=5_000).contains(&wait), "{wait}");
        let now = seen.encode();
        assert_eq!(
            rest,
            format!(
                "id: {start}\n\nevent: connected\ndata: {{\"event\":\"connected\"}}\n\n\
                 event: typing\ndata: {{\"event\":\"typing\"}}\n\n\
                 id: {now}\nevent: order\ndata: {{\"event\":\"order\",\"data\":{{\ndata: }}}}\n\n"
            )
        );
    }

    #[test]
    fn the_position_in_one_conversation_says_nothing_of_other_partitions() {
        let partitions = Partitions::new(4).expect("a power of two");
        let seen = Cursor::new(7, vec![Position::new(1, 9); partitions.count()]);
        let place = stream(Some(Partition(2))).place(&seen);
        assert_eq!(place.at(Partition(2)), Position::new(1, 9));
        assert!(partitions.iter().all(|at| at == Partition(2) || place.at(at) == Position::ZERO));
    }
}
