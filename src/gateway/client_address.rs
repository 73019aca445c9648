//! Where a client really is, behind proxies that say so.
//!
//! Anybody can write anything into `X-Forwarded-For`, so what it says counts only as far as it was written by proxies
//! we were told about: it is read from the right, where the nearest proxy wrote, and the first address that is not one
//! of theirs is the client. Where nothing sound is said, the client is whoever is connected to us.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, header::FORWARDED};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// More hops than any honest request has made.
const MAX_HOPS: usize = 32;

/// The client's address. Only what `trusted` proxies wrote is believed.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let theirs = lines(headers, &X_FORWARDED_FOR).map(|text| farthest(peer, &x_forwarded_for(&text), trusted));
    let standard = lines(headers, &FORWARDED).map(|text| farthest(peer, &forwarded(&text), trusted));
    match (theirs, standard) {
        // A proxy writes one of them and passes the other on as the client made it up: who is right cannot be known.
        (Some(one), Some(other)) if one != other => peer,
        (Some(address), _) | (None, Some(address)) => address.unwrap_or(peer),
        (None, None) => peer,
    }
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// All lines of a header are one list.
fn lines(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<_> = headers.get_all(name).iter().map(|line| line.to_str().unwrap_or("?")).collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

/// Walks from the nearest hop outwards as long as those who speak are trusted; nothing if one of them speaks nonsense.
fn farthest(peer: IpAddr, hops: &[Option<IpAddr>], trusted: &[IpNet]) -> Option<IpAddr> {
    let mut at = peer;
    for hop in hops.iter().rev() {
        at = (*hop)?;
        if !is_trusted(at, trusted) {
            break;
        }
    }
    Some(at)
}

/// The hops of `X-Forwarded-For`, the farthest first; nothing where there is no address.
fn x_forwarded_for(text: &str) -> Vec<Option<IpAddr>> {
    let mut hops: Vec<_> = text.rsplit(',').take(MAX_HOPS).map(|hop| node(hop.trim())).collect();
    hops.reverse();
    hops
}

/// The hops of `Forwarded`, RFC 7239. If the list cannot be taken apart, none of it can be believed.
fn forwarded(text: &str) -> Vec<Option<IpAddr>> {
    let Some(elements) = split_outside_quotes(text, ',') else { return vec![None] };
    elements.iter().rev().take(MAX_HOPS).rev().map(|element| forwarded_for(element)).collect()
}

fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in split_outside_quotes(element, ';')? {
        let (name, value) = pair.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("for") && found.replace(node(unquoted(value.trim())?)?).is_some() {
            return None; // twice
        }
    }
    found
}

/// Splits a list; nothing if a quote is left open.
fn split_outside_quotes(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if character == separator && !quoted => {
                parts.push(&text[start..at]);
                start = at + separator.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!quoted).then_some(parts)
}

/// An address needs no escapes, so a value with one is not an address.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').filter(|inner| !inner.contains(['"', '\\'])),
        None => Some(value),
    }
}

/// An address, with or without a port, and with or without brackets where it is of version 6.
fn node(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = text.parse::<IpAddr>().ok().or_else(bracketed).or_else(with_port);
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "fd00::/8"].iter().map(|network| network.parse().expect("a network")).collect()
    }

    fn seen(peer: &str, headers: &[(&HeaderName, &str)]) -> String {
        let value = |text: &str| HeaderValue::from_str(text).expect("a header");
        let mut map = HeaderMap::new();
        for (name, text) in headers {
            map.append(*name, value(text));
        }
        client_address(peer.parse().expect("an address"), &map, &trusted()).to_string()
    }

    #[test]
    fn only_what_trusted_proxies_wrote_is_believed() {
        for (what, peer, text, client) in [
            ("a stranger", "192.0.2.1", "198.51.100.7", "192.0.2.1"),
            ("one proxy", PROXY, "198.51.100.7", "198.51.100.7"),
            ("a made up beginning", PROXY, "1.1.1.1, 198.51.100.7", "198.51.100.7"),
            ("two proxies", PROXY, "198.51.100.7, 10.0.0.2", "198.51.100.7"),
            ("a stranger between proxies", PROXY, "10.9.9.9, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
            ("a proxy's own request", PROXY, "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("no blanks", PROXY, "1.1.1.1,198.51.100.7", "198.51.100.7"),
            ("a port", PROXY, "198.51.100.7:4711", "198.51.100.7"),
            ("version 6", PROXY, "2001:db8::7", "2001:db8::7"),
            ("version 6 in brackets", PROXY, "[2001:db8::7]", "2001:db8::7"),
            ("version 6 with a port", PROXY, "[2001:db8::7]:4711", "2001:db8::7"),
            ("a proxy of version 6", "fd00::1", "2001:db8::7, fd00::2", "2001:db8::7"),
            ("version 4 within 6", "::ffff:10.0.0.1", "::ffff:198.51.100.7", "198.51.100.7"),
            ("a stranger within 6", "::ffff:192.0.2.1", "198.51.100.7", "192.0.2.1"),
            ("nothing", PROXY, "", PROXY),
            ("a word", PROXY, "unknown", PROXY),
            ("nonsense where a proxy wrote", PROXY, "198.51.100.7, nonsense", PROXY),
            ("nonsense where the client wrote", PROXY, "nonsense, 198.51.100.7", "198.51.100.7"),
            ("an empty place", PROXY, "198.51.100.7, , 10.0.0.2", PROXY),
            ("a trailing comma", PROXY, "198.51.100.7,", PROXY),
            ("leading zeros", PROXY, "198.051.100.7", PROXY),
            ("a network", PROXY, "198.51.100.0/24", PROXY),
            ("a zone", PROXY, "fe80::1%eth0", PROXY),
            ("an open bracket", PROXY, "[2001:db8::7", PROXY),
            ("a port too many", PROXY, "198.51.100.7:4711:1", PROXY),
            ("a name", PROXY, "client.example", PROXY),
        ] {
            assert_eq!(seen(peer, &[(&X_FORWARDED_FOR, text)]), client, "{what}");
        }
        assert_eq!(seen(PROXY, &[]), PROXY, "no header at all");
    }

    #[test]
    fn the_standard_header_is_read_as_well() {
        for (what, text, client) in [
            ("plain", "for=198.51.100.7", "198.51.100.7"),
            ("with the rest", "for=198.51.100.7;proto=https;by=10.0.0.1", "198.51.100.7"),
            ("in another order", "Proto=https; FOR=198.51.100.7", "198.51.100.7"),
            ("quoted", r#"for="[2001:db8::7]:4711""#, "2001:db8::7"),
            ("two hops", r#"for=1.1.1.1, for=198.51.100.7, for="10.0.0.2:80""#, "198.51.100.7"),
            ("a comma in quotes", r#"for=198.51.100.7;host="a,b""#, "198.51.100.7"),
            ("a forged element in quotes", r#"for=198.51.100.7;host="x, for=1.1.1.1""#, "198.51.100.7"),
            ("a hidden name", "for=_hidden", PROXY),
            ("unknown", "for=unknown", PROXY),
            ("without for", "proto=https", PROXY),
            ("twice", "for=1.1.1.1;for=198.51.100.7", PROXY),
            ("an open quote", r#"for="198.51.100.7"#, PROXY),
            ("no pair", "198.51.100.7", PROXY),
            ("an escape", r#"for="198.51.100\.7""#, PROXY),
        ] {
            assert_eq!(seen(PROXY, &[(&FORWARDED, text)]), client, "{what}");
        }
    }

    #[test]
    fn two_headers_that_contradict_each_other_are_not_believed() {
        let (theirs, own) = ((&X_FORWARDED_FOR, "198.51.100.7"), (&FORWARDED, "for=1.1.1.1"));
        assert_eq!(seen(PROXY, &[theirs, own]), PROXY);
        assert_eq!(seen(PROXY, &[theirs, (&FORWARDED, "for=198.51.100.7")]), "198.51.100.7");
        assert_eq!(seen(PROXY, &[(&X_FORWARDED_FOR, "1.1.1.1"), (&X_FORWARDED_FOR, "198.51.100.7")]), "198.51.100.7");
    }

    proptest! {
        /// Whatever a client makes up, it stands to the left of what the proxy writes.
        #[test]
        fn nothing_made_up_changes_who_it_is(made_up in "[ -~]{0,80}", client: u32) {
            prop_assume!((client >> 24) != 10);
            let client = std::net::Ipv4Addr::from_bits(client).to_string();
            prop_assert_eq!(&seen(PROXY, &[(&X_FORWARDED_FOR, &format!("{made_up}, {client}"))]), &client);
            let standard = seen(PROXY, &[(&FORWARDED, &format!("{made_up}, for={client}"))]);
            prop_assert!(standard == client || standard == PROXY, "an open quote may swallow it, never replace it");
        }

        #[test]
        fn any_text_is_read_without_a_fault(text in "[ -~]{0,200}") {
            let _ = (x_forwarded_for(&text), forwarded(&text));
        }

        #[test]
        fn what_is_written_is_read(address: u128, port: u16) {
            let address = IpAddr::V6(Ipv6Addr::from_bits(address));
            let written = SocketAddr::new(address, port).to_string();
            prop_assert_eq!(node(&written), Some(address.to_canonical()));
            prop_assert_eq!(forwarded(&format!("for=\"{written}\"")), vec![Some(address.to_canonical())]);
        }
    }
}
