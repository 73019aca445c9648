//! WebSocket frames, as much of RFC 6455 as a client needs that trusts its server.
//!
//! The generator shares the machine with what it measures, so it reads frames in place and writes them with a zero mask:
//! a server does the same work for any mask, and the client none.

use anyhow::{Result, bail};

/// Part of a message that was split over several frames.
pub(super) const CONTINUATION: u8 = 0;
/// A text message.
pub(super) const TEXT: u8 = 1;
/// The end of the connection, with its reason.
pub(super) const CLOSE: u8 = 8;
/// Asks for a pong.
pub(super) const PING: u8 = 9;
/// Answers a ping.
pub(super) const PONG: u8 = 10;

/// The largest frame a server may send; anything above is taken for garbage.
const MAX_PAYLOAD: usize = 16 << 20;

/// Where one whole frame lies in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// One of the constants above.
    pub(super) opcode: u8,
    /// The first byte of the payload.
    pub(super) start: usize,
    /// One past its last byte: the next frame begins here.
    pub(super) end: usize,
}

/// The first frame in `input`, if all of it is there.
pub(super) fn decode(input: &[u8]) -> Result<Option<Frame>> {
    let &[first, second, ..] = input else { return Ok(None) };
    if second & 0x80 != 0 || first & 0x70 != 0 {
        bail!("the server sent a masked frame or one with an extension");
    }
    if first & 0x80 == 0 || first & 0x0f == CONTINUATION {
        bail!("the server split a message over several frames, which the generator does not read");
    }
    let Some((start, length)) = payload(input, second & 0x7f) else { return Ok(None) };
    if length > MAX_PAYLOAD {
        bail!("the server sent a frame of {length} bytes");
    }
    let end = start + length;
    Ok((input.len() >= end).then_some(Frame { opcode: first & 0x0f, start, end }))
}

fn payload(input: &[u8], short: u8) -> Option<(usize, usize)> {
    match short {
        126 => Some((4, usize::from(u16::from_be_bytes(input.get(2..4)?.try_into().ok()?)))),
        127 => Some((10, usize::try_from(u64::from_be_bytes(input.get(2..10)?.try_into().ok()?)).ok()?)),
        length => Some((2, usize::from(length))),
    }
}

/// Appends a client frame to `output`.
pub(super) fn encode(opcode: u8, payload: &[u8], output: &mut Vec<u8>) {
    output.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => output.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            output.push(0x80 | 126);
            output.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            output.push(0x80 | 127);
            output.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    output.extend_from_slice(&[0; 4]);
    output.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        encode(TEXT, payload, &mut frame);
        let header = frame.len() - payload.len() - 4;
        frame.drain(header..header + 4);
        frame[1] &= 0x7f;
        frame
    }

    #[test]
    fn every_length_is_found_again() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let bytes = server_frame(&payload);
            let frame = decode(&bytes).expect("valid").expect("whole");
            assert_eq!((frame.opcode, frame.end), (TEXT, bytes.len()));
            assert_eq!(&bytes[frame.start..frame.end], payload);
        }
    }

    #[test]
    fn an_incomplete_frame_is_awaited() {
        let bytes = server_frame(&[b'x'; 300]);
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]).expect("valid"), None);
        }
    }

    #[test]
    fn what_is_not_spoken_here_is_refused() {
        assert!(decode(&[0x81, 0x80]).is_err(), "masked");
        assert!(decode(&[0x01, 0x00]).is_err(), "fragment");
        assert!(decode(&[0xc1, 0x00]).is_err(), "compressed");
        assert!(decode(&[0x81, 127, 0, 0, 0, 0, 0xff, 0, 0, 0]).is_err(), "too long");
    }
}
