//! An `EventSource` as the HTML standard has it, to the letter, except that a test says when it comes back.

use std::{collections::VecDeque, mem, time::Duration};

use reqwest::{Client, Response};
use serde_json::Value;
use tokio::time::{Instant, timeout};

/// Far longer than anything takes, so that a test that hangs says where.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a page's listeners get.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
    pub(crate) last_event_id: String,
}

impl Event {
    /// The frame in it.
    pub(crate) fn frame(&self) -> Value {
        serde_json::from_str(&self.data).expect("JSON")
    }
}

/// The standard's parser of event streams.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    after_return: bool,
    id: String,
    name: String,
    data: String,
    events: VecDeque<Event>,
    last_event_id: String,
    retry: Option<u64>,
    comments: usize,
}

impl Parser {
    fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' if mem::take(&mut self.after_return) => {}
                b'\n' | b'\r' => {
                    self.after_return = byte == b'\r';
                    let line = String::from_utf8(mem::take(&mut self.line)).expect("UTF-8");
                    self.take_line(&line);
                }
                byte => {
                    self.after_return = false;
                    self.line.push(byte);
                }
            }
        }
    }

    fn take_line(&mut self, line: &str) {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => self.retry = value.parse().ok(),
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        self.last_event_id.clone_from(&self.id);
        let (name, mut data) = (mem::take(&mut self.name), mem::take(&mut self.data));
        if data.is_empty() {
            return;
        }
        data.pop();
        let name = if name.is_empty() { "message".to_owned() } else { name };
        self.events.push_back(Event { name, data, last_event_id: self.last_event_id.clone() });
    }

    /// What is not complete is forgotten when a stream ends.
    fn cut(&mut self) {
        self.line.clear();
        self.data.clear();
        self.name.clear();
        self.id.clone_from(&self.last_event_id);
    }
}

/// One source of events.
#[derive(Debug)]
pub(crate) struct EventSource {
    http: Client,
    url: String,
    response: Option<Response>,
    parser: Parser,
}

impl EventSource {
    /// Opens a source; the error is the status that makes it give up.
    pub(crate) async fn open(http: &Client, url: &str) -> Result<Self, u16> {
        Self::open_at(http, url, "").await
    }

    /// The same for one that has been given something before.
    pub(crate) async fn open_at(http: &Client, url: &str, last_event_id: &str) -> Result<Self, u16> {
        let mut parser = Parser::default();
        parser.id.push_str(last_event_id);
        parser.last_event_id.push_str(last_event_id);
        let mut source = Self { http: http.clone(), url: url.to_owned(), response: None, parser };
        source.reconnect().await.map(|()| source)
    }

    /// Comes back with what it was given last.
    pub(crate) async fn reconnect(&mut self) -> Result<(), u16> {
        self.parser.cut();
        let mut request = self.http.get(&self.url).header("accept", "text/event-stream");
        if !self.parser.last_event_id.is_empty() {
            request = request.header("last-event-id", &self.parser.last_event_id);
        }
        let response = request.send().await.map_err(|_| 0_u16)?;
        let is_stream = response.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream");
        if response.status() != 200 || !is_stream {
            return Err(response.status().as_u16());
        }
        assert_eq!(response.headers()["cache-control"], "no-store");
        self.response = Some(response);
        Ok(())
    }

    /// Hangs up.
    pub(crate) fn cut(&mut self) {
        self.response = None;
        self.parser.cut();
    }

    /// Where it stands.
    pub(crate) fn last_event_id(&self) -> &str {
        &self.parser.last_event_id
    }

    /// When it was told to come back, in milliseconds.
    pub(crate) fn retry(&self) -> Option<u64> {
        self.parser.retry
    }

    /// How many comments came.
    pub(crate) fn comments(&self) -> usize {
        self.parser.comments
    }

    /// Which HTTP it is carried by.
    pub(crate) fn version(&self) -> Option<reqwest::Version> {
        self.response.as_ref().map(Response::version)
    }

    /// Reads what comes next, whatever it is; `false` at the end.
    pub(crate) async fn read(&mut self) -> bool {
        let Some(response) = &mut self.response else { return false };
        let chunk = timeout(PATIENCE, response.chunk()).await;
        let chunk = chunk.unwrap_or_else(|_| panic!("nothing came; before: {:?}", self.parser.events));
        if let Ok(Some(chunk)) = chunk {
            self.parser.read(&chunk);
            return true;
        }
        self.cut();
        false
    }

    /// The next event; nothing at the end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let until = Instant::now() + PATIENCE;
        while self.parser.events.is_empty() {
            assert!(Instant::now() < until, "nothing came but comments");
            if !self.read().await {
                return None;
            }
        }
        self.parser.events.pop_front()
    }

    /// The next event of this name; others are passed over.
    pub(crate) async fn next_named(&mut self, name: &str) -> Event {
        loop {
            match self.next().await {
                Some(event) if event.name == name => return event,
                Some(_) => {}
                None => panic!("the stream ended while waiting for {name}"),
            }
        }
    }

    /// The next messages, which must be of the given numbers.
    pub(crate) async fn expect_seqs(&mut self, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            let frame = self.next_named("new_message").await.frame();
            assert_eq!(frame["seq"], seq, "{frame}");
        }
    }
}

#[test]
fn the_examples_of_the_standard_are_read_as_it_says() {
    let mut parser = Parser::default();
    parser.read(b"data: YHOO\ndata: +2\ndata: 10\n\n: test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\r\n\r\nid: 7\n\ndata\n\ndata: cut");
    let events: Vec<_> =
        parser.events.iter().map(|event| (event.data.as_str(), event.last_event_id.as_str())).collect();
    let expected = [("YHOO\n+2\n10", ""), ("first event", "1"), ("second event", ""), (" third event", ""), ("", "7")];
    assert_eq!(events, expected);
    assert_eq!((parser.comments, parser.last_event_id.as_str()), (1, "7"));
}
