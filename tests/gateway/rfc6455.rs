//! WebSocket as RFC 6455 has it, case by case in the order of Autobahn's suite, each byte written by the test.
//!
//! Autobahn's cases expect an echo. Here the echo is the answer to `{"type":"ping","id":…}`, which repeats the id.
//! Left out are compression, which is not offered, and failing in the middle of a frame whose text is not UTF-8 (6.4.3
//! and 6.4.4): it is noticed at the end of the frame, which the limit of a message keeps near.

use serde_json::{Value, json};

use crate::harness::{
    app::App,
    raw::{self, ACCEPT, BINARY, CLOSE, CONTINUATION, FIN, KEY, PING, PONG, Raw, RawFrame, TEXT, frame},
};

/// What a connection takes in one message here.
const LIMIT: usize = 65_536;

async fn app() -> App {
    App::embedded_with(&[("max_connections_per_address", "10000"), ("max_connections_per_user", "10000")]).await
}

async fn open(app: &App) -> Raw {
    Raw::open(app.address(0), &format!("/v1/ws?token={}", app.token("alice"))).await
}

/// A message that is answered with its id.
fn echo(id: &str) -> Vec<u8> {
    json!({"type": "ping", "id": id}).to_string().into_bytes()
}

/// The same with spaces behind it.
fn echo_of(length: usize) -> Vec<u8> {
    let mut text = echo("id");
    assert!(text.len() <= length);
    text.resize(length, b' ');
    text
}

async fn expect_echo(raw: &mut Raw, id: &str, case: &str) {
    let answer = raw.answer().await.unwrap_or_else(|| panic!("{case}: it was closed"));
    let text: Value = serde_json::from_slice(&answer.payload).unwrap_or_else(|_| panic!("{case}: {answer:?}"));
    assert_eq!((&text["event"], &text["id"]), (&json!("pong"), &json!(id)), "{case}");
}

async fn expect_pong(raw: &mut Raw, payload: &[u8], case: &str) {
    let pong = RawFrame { opcode: PONG, payload: payload.to_vec() };
    assert_eq!(raw.answer().await, Some(pong), "{case}");
}

/// Every case on a connection of its own, which must end with this code.
async fn all_close(code: u16, cases: Vec<(String, Vec<u8>)>) {
    let app = app().await;
    for (case, bytes) in cases {
        let mut raw = open(&app).await;
        raw.write(&bytes).await;
        let closed = raw.closed().await.unwrap_or_else(|| panic!("{case}: no close frame"));
        assert_eq!(closed.0, code, "{case}: {}", closed.1);
    }
}

fn cases(cases: &[(&str, &[&[u8]])]) -> Vec<(String, Vec<u8>)> {
    cases.iter().map(|(case, frames)| ((*case).to_owned(), frames.concat())).collect()
}

#[tokio::test]
async fn messages_of_every_length_are_read_in_whatever_pieces_they_arrive() {
    let app = app().await;
    let mut raw = open(&app).await;
    for length in [30, 125, 126, 127, 128, 65_535, LIMIT] {
        raw.write(&frame(FIN | TEXT, &echo_of(length))).await;
        expect_echo(&mut raw, "id", &format!("{length} bytes")).await;
    }
    for piece in [1, 7, 997] {
        let length = if piece == 1 { 200 } else { LIMIT };
        for bytes in frame(FIN | TEXT, &echo_of(length)).chunks(piece) {
            raw.write(bytes).await;
        }
        expect_echo(&mut raw, "id", &format!("in pieces of {piece}")).await;
    }
}

#[tokio::test]
async fn what_is_no_command_gets_an_error_and_the_connection_stays() {
    let app = app().await;
    let mut raw = open(&app).await;
    for first in [FIN | TEXT, FIN | BINARY] {
        for length in [0, 1, 125, 126, 65_535, LIMIT] {
            raw.write(&frame(first, &vec![0x2a; length])).await;
            let answer = raw.answer().await.expect("it stays open");
            assert!(String::from_utf8_lossy(&answer.payload).contains("\"error\""), "{length}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn pings_are_answered_with_their_payload() {
    let app = app().await;
    let mut raw = open(&app).await;
    let binary: Vec<u8> = (0..125).map(|byte| 255 - byte).collect();
    for payload in [&b""[..], b"hello", &[0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff], &binary] {
        raw.write(&frame(FIN | PING, payload)).await;
        expect_pong(&mut raw, payload, "a ping").await;
    }
    for byte in frame(FIN | PING, &binary) {
        raw.write(&[byte]).await;
    }
    expect_pong(&mut raw, &binary, "octet by octet").await;
    for number in 0..10_u8 {
        raw.write(&frame(FIN | PING, &[number])).await;
        expect_pong(&mut raw, &[number], "ten pings").await;
    }
    raw.write(&[frame(FIN | PONG, b""), frame(FIN | PONG, b"unsolicited"), frame(FIN | PING, b"x")].concat()).await;
    expect_pong(&mut raw, b"x", "pongs nobody asked for").await;
}

#[tokio::test]
async fn what_is_not_the_protocol_is_1002() {
    let good = frame(FIN | TEXT, b"{\"type\":\"pong\"}");
    let mut list = cases(&[
        ("a ping of 126 bytes", &[&frame(FIN | PING, &[0xfe; 126])]),
        ("a pong of 126 bytes", &[&frame(FIN | PONG, &[0xfe; 126])]),
        ("a fragmented ping", &[&frame(PING, b"a"), &frame(FIN | CONTINUATION, b"b")]),
        ("a fragmented pong", &[&frame(PONG, b"a"), &frame(FIN | CONTINUATION, b"b")]),
        ("a fragmented close", &[&frame(CLOSE, &[0x03, 0xe8])]),
        ("nothing to continue", &[&frame(FIN | CONTINUATION, b"a"), &good]),
        ("nothing to continue, and more to come", &[&frame(CONTINUATION, b"a"), &good]),
        (
            "nothing to continue any more",
            &[&frame(TEXT, b"{\"type\":"), &frame(FIN | CONTINUATION, b"\"pong\"}"), &frame(CONTINUATION, b"a"), &good],
        ),
        ("a message within a message", &[&frame(TEXT, b"a"), &frame(FIN | TEXT, b"b")]),
        ("a binary message within a text", &[&frame(TEXT, b"a"), &frame(BINARY, b"b")]),
        ("a close of one byte", &[&frame(FIN | CLOSE, &[0x03])]),
        ("a reason of 124 bytes", &[&raw::close(1000, &[b'*'; 124])]),
        ("an unmasked text", &[b"\x81\x02{}"]),
        ("an unmasked ping", &[b"\x89\x00"]),
        ("an unmasked close", &[b"\x88\x02\x03\xe8"]),
    ]);
    for reserved in 1..8_u8 {
        for opcode in [TEXT, BINARY, PING, PONG, CLOSE] {
            let first = FIN | reserved << 4 | opcode;
            list.push((format!("reserved bits {reserved} with opcode {opcode}"), frame(first, b"")));
        }
    }
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        list.push((format!("opcode {opcode}"), frame(FIN | opcode, b"")));
        list.push((format!("opcode {opcode} behind a message"), [good.clone(), frame(FIN | opcode, b"x")].concat()));
    }
    all_close(1002, list).await;
}

#[tokio::test]
async fn messages_may_come_in_fragments_with_control_frames_between_them() {
    let app = app().await;
    let mut raw = open(&app).await;
    let text = echo("fragments");
    for sizes in [vec![5], vec![0, 0], vec![1; 20], vec![3, 0, 9]] {
        let case = format!("{sizes:?}");
        let (mut rest, mut first) = (&text[..], TEXT);
        for (number, size) in sizes.iter().enumerate() {
            raw.write(&frame(first, &rest[..*size])).await;
            raw.write(&frame(FIN | PING, &[number as u8])).await;
            expect_pong(&mut raw, &[number as u8], &case).await;
            (rest, first) = (&rest[*size..], CONTINUATION);
        }
        raw.write(&frame(FIN | PONG, b"between")).await;
        raw.write(&frame(FIN | CONTINUATION, rest)).await;
        expect_echo(&mut raw, "fragments", &case).await;
    }
}

/// Every kind of sequence, and the first and the last of each length.
const GOOD_UTF8: [&str; 12] = [
    "κόσμε",
    "Hello-µ@ßöäüàá-UTF-8!!",
    "\u{80}",
    "\u{7ff}",
    "\u{800}",
    "\u{ffff}",
    "\u{fffe}",
    "\u{d7ff}\u{e000}\u{fffd}",
    "\u{10000}",
    "\u{10ffff}",
    "\u{1fffe}\u{1ffff}",
    "𠀀 日本語 🎉",
];

#[tokio::test]
async fn text_in_utf8_may_be_cut_anywhere() {
    let app = app().await;
    let mut raw = open(&app).await;
    for text in GOOD_UTF8 {
        let message = echo(text);
        raw.write(&frame(FIN | TEXT, &message)).await;
        expect_echo(&mut raw, text, text).await;
        for (at, byte) in message.iter().enumerate() {
            let last = if at + 1 == message.len() { FIN } else { 0 };
            raw.write(&frame(last | if at == 0 { TEXT } else { CONTINUATION }, &[*byte])).await;
        }
        expect_echo(&mut raw, text, text).await;
    }
}

#[tokio::test]
async fn text_that_is_not_utf8_is_1007_at_once() {
    let bad: [&[u8]; 24] = [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\x80",
        b"\xbf",
        b"\x80\xbf\x80\xbf",
        b"\xc0 \xc1 ",
        b"\xe0 ",
        b"\xf0 ",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xfe",
        b"\xff",
        b"\xfe\xfe\xff\xff",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xed\xa0\x80\xed\xb0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\xe2\x82 ",
    ];
    let mut list = Vec::new();
    for bytes in bad {
        let whole = [&b"{\"id\":\""[..], bytes, b"\"}"].concat();
        list.push((format!("{bytes:x?}"), frame(FIN | TEXT, &whole)));
        // The rest of the message never comes: whoever waited for it would wait for ever.
        let fragments = whole.iter().enumerate().map(|(at, byte)| frame(if at == 0 { TEXT } else { 0 }, &[*byte]));
        list.push((format!("{bytes:x?} in fragments"), fragments.collect::<Vec<_>>().concat()));
    }
    for cut in [&b"\xce"[..], b"\xe2\x82", b"\xf0\x9f\x8e"] {
        list.push((format!("{cut:x?} at the end"), frame(FIN | TEXT, cut)));
        let fragments = [frame(TEXT, cut), frame(FIN | CONTINUATION, b"")].concat();
        list.push((format!("{cut:x?} at the end of fragments"), fragments));
    }
    list.push(("a reason".to_owned(), raw::close(1000, b"\xce\xba\xed\xa0\x80")));
    all_close(1007, list).await;
}

#[tokio::test]
async fn a_goodbye_is_answered_and_nothing_after_it_is() {
    let app = app().await;
    let mut raw = open(&app).await;
    raw.write(&[frame(FIN | TEXT, &echo("last words")), raw::close(1000, b"done")].concat()).await;
    expect_echo(&mut raw, "last words", "what came before").await;
    assert_eq!(raw.closed().await, Some((1000, "done".to_owned())));
    let after: [(&str, Vec<u8>); 4] = [
        ("another goodbye", raw::close(1000, b"")),
        ("a ping", frame(FIN | PING, b"x")),
        ("a message", frame(FIN | TEXT, &echo("late"))),
        ("the rest of a message", frame(FIN | CONTINUATION, b"x")),
    ];
    for (what, bytes) in after {
        let mut raw = open(&app).await;
        raw.write(&[raw::close(1000, b""), bytes].concat()).await;
        assert_eq!(raw.answer().await.and_then(|frame| frame.close()).map(|close| close.0), Some(1000), "{what}");
        assert_eq!(raw.answer().await, None, "{what}");
    }
    let mut raw = open(&app).await;
    raw.write(&[frame(TEXT, b"unfinished"), raw::close(1000, b"")].concat()).await;
    assert_eq!(raw.closed().await.map(|close| close.0), Some(1000), "in the middle of a message");
}

#[tokio::test]
async fn a_goodbye_may_say_why() {
    let app = app().await;
    let longest = "x".repeat(123);
    let mut good: Vec<(u16, &str)> = vec![(1000, ""), (1000, "done"), (1000, &longest), (1000, "κόσμε")];
    good.extend(
        [1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999].map(|code| (code, "")),
    );
    for (code, reason) in good {
        let mut raw = open(&app).await;
        raw.write(&raw::close(code, reason.as_bytes())).await;
        assert_eq!(raw.closed().await, Some((code, reason.to_owned())));
    }
    let mut raw = open(&app).await;
    raw.write(&frame(FIN | CLOSE, b"")).await;
    assert_eq!(raw.closed().await, Some((1005, String::new())), "no code is answered with none");
}

#[tokio::test]
async fn codes_nobody_may_send_are_1002() {
    let codes = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    all_close(1002, codes.map(|code| (code.to_string(), raw::close(code, b""))).into()).await;
}

/// Whatever is on its way behind it: the code must arrive, not a reset.
#[tokio::test]
async fn what_is_too_long_is_1009_however_much_is_behind_it() {
    let app = app().await;
    let fragment = |at| frame(if at == 0 { TEXT } else { CONTINUATION }, &[b' '; 4_096]);
    let fragments = |count: usize| (0..count).flat_map(fragment).collect::<Vec<u8>>();
    let list: [(&str, Vec<u8>); 5] = [
        ("one byte", frame(FIN | TEXT, &vec![b' '; LIMIT + 1])),
        ("the head alone", raw::bare(FIN | BINARY, 1 << 40)),
        ("a length nobody can have", raw::bare(FIN | TEXT, usize::MAX)),
        ("fragments", fragments(17)),
        ("fragments without an end", fragments(200)),
    ];
    for (case, bytes) in list {
        let mut raw = open(&app).await;
        raw.try_write(&bytes).await;
        let closed = raw.closed().await.unwrap_or_else(|| panic!("{case}: no close frame"));
        assert_eq!(closed.0, 1009, "{case}: {}", closed.1);
    }
    let mut raw = open(&app).await;
    let whole: Vec<u8> = echo_of(LIMIT);
    raw.write(&[frame(TEXT, &whole[..LIMIT / 2]), frame(FIN | CONTINUATION, &whole[LIMIT / 2..])].concat()).await;
    expect_echo(&mut raw, "id", "fragments up to the limit").await;
}

#[tokio::test]
async fn the_opening_handshake_is_checked_line_by_line() {
    let app = app().await;
    let path = format!("/v1/ws?token={}", app.token("alice"));
    let good = raw::upgrade(app.address(0), &path);
    let with = |name: &str, value: Option<&str>| {
        let mut lines: Vec<String> =
            good.iter().filter(|line| !line.starts_with(&format!("{name}:"))).cloned().collect();
        lines.extend(value.map(|value| format!("{name}: {value}")));
        lines
    };
    let first = |line: String| [vec![line], good[1..].to_vec()].concat();
    let list = [
        (101, good.clone()),
        (101, with("Connection", Some("keep-alive, Upgrade"))),
        (101, with("Connection", Some("upgrade"))),
        (101, with("Upgrade", Some("WebSocket"))),
        (101, with("Sec-WebSocket-Protocol", Some("chat, superchat"))),
        (101, with("Sec-WebSocket-Extensions", Some("permessage-deflate; client_max_window_bits"))),
        (400, with("Connection", Some("keep-alive"))),
        (400, with("Connection", None)),
        (400, with("Upgrade", Some("h2c"))),
        (400, with("Upgrade", None)),
        (400, with("Sec-WebSocket-Key", None)),
        (400, with("Sec-WebSocket-Key", Some("c2hvcnQ="))),
        (400, with("Sec-WebSocket-Key", Some(&format!("{KEY}\r\nSec-WebSocket-Key: {KEY}")))),
        (400, with("Sec-WebSocket-Version", None)),
        (426, with("Sec-WebSocket-Version", Some("8"))),
        (400, first(format!("POST {path} HTTP/1.1"))),
        (400, first(format!("GET {path} HTTP/1.0"))),
    ];
    for (status, lines) in list {
        let answer = Raw::connect(app.address(0)).await.request(&lines).await.to_ascii_lowercase();
        assert!(answer.split(' ').nth(1) == Some(&status.to_string()), "{lines:?}: {answer}");
        if status == 101 {
            assert!(answer.contains(&format!("sec-websocket-accept: {}\r\n", ACCEPT.to_ascii_lowercase())), "{answer}");
            assert!(!answer.contains("sec-websocket-protocol") && !answer.contains("extensions"), "{answer}");
        }
        assert_eq!(answer.contains("sec-websocket-version: 13\r\n"), status == 426, "{answer}");
    }
}

#[tokio::test]
async fn requests_and_frames_may_come_before_they_are_asked_for() {
    let app = app().await;
    let upgrade = raw::upgrade(app.address(0), &format!("/v1/ws?token={}", app.token("alice"))).join("\r\n");
    let healthz = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", app.address(0));
    let mut raw = Raw::connect(app.address(0)).await;
    let frames = [frame(FIN | TEXT, &echo("early")), frame(FIN | PING, b"too")].concat();
    raw.write(&[healthz.as_bytes(), upgrade.as_bytes(), b"\r\n\r\n", &frames].concat()).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(raw.body(3).await, "ok\n");
    assert!(raw.head().await.starts_with("HTTP/1.1 101"));
    assert!(raw.answer().await.is_some_and(|greeting| greeting.opcode == TEXT), "the greeting");
    expect_echo(&mut raw, "early", "sent with the request").await;
    expect_pong(&mut raw, b"too", "sent with the request").await;
}

#[tokio::test]
async fn who_closes_one_side_without_a_goodbye_is_gone() {
    let app = App::embedded_with(&[("max_connections_per_user", "2")]).await;
    for _ in 0..6 {
        let mut raw = open(&app).await;
        raw.write(&frame(FIN | TEXT, &echo("last words"))).await;
        raw.finish().await;
        expect_echo(&mut raw, "last words", "it still reads").await;
        assert_eq!(raw.closed().await, None, "and the place is free again once this side is closed as well");
    }
}

/// A socket that is told why it must go, and neither answers nor closes, is closed all the same.
#[tokio::test]
async fn nobody_has_to_agree_to_be_sent_away() {
    let app = app().await;
    let mut raw = Raw::connect(app.address(0)).await;
    let answer = raw.request(&raw::upgrade(app.address(0), "/v1/ws")).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert_eq!(raw.closed().await.map(|close| close.0), Some(4001));
}
