//! The change of a connection from HTTP to another protocol, such as WebSocket (RFC 9110, 7.8). Pure.

use http::{
    HeaderMap, HeaderValue, Version,
    header::{self, HeaderName},
};

use super::{headers::lists, scan::is_token};

/// Beginnings of protocols that are not offered: what is HTTP once more, in which nobody would look at requests, or what it is spoken
/// within. HTTP/2 comes by prior knowledge or ALPN (RFC 9113, 3.1).
const NOT_OFFERED: [&str; 7] = ["h2", "h3", "http", "quic", "spdy", "ssl", "tls"];
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Tells whether a connection may change to this protocol, which is written `name` or `name/version`.
pub(crate) fn is_offered(protocol: &[u8]) -> bool {
    let mut parts = protocol.splitn(2, |byte| *byte == b'/');
    let begins = |begin: &&str| {
        let first = protocol.get(..begin.len());
        first.is_some_and(|first| first.eq_ignore_ascii_case(begin.as_bytes()))
    };
    parts.all(is_token) && !NOT_OFFERED.iter().any(begins)
}

/// Protocols that a client asks for instead of HTTP; `None`: it does not ask, or for nothing that is offered.
pub(crate) fn asked_for(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !lists(headers, &header::CONNECTION, "upgrade") {
        return None;
    }
    let values = headers.get_all(header::UPGRADE).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let members = values.flat_map(|value| value.split(',')).map(str::trim);
    let offered: Vec<&str> = members.filter(|member| is_offered(member.as_bytes())).collect();
    match offered.is_empty() {
        true => None,
        false => HeaderValue::from_str(&offered.join(", ")).ok(),
    }
}

/// Asks for, or answers with, a change of protocol. To be called once fields that end with the connection are gone.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocols: HeaderValue) {
    headers.remove(HTTP2_SETTINGS);
    headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocols);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(version: Version, connection: &'static str, upgrade: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
        for value in upgrade {
            headers.append(header::UPGRADE, HeaderValue::from_static(value));
        }
        let protocols = asked_for(version, &headers)?;
        Some(protocols.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_client_asks_by_both_fields_and_nothing_that_carries_http_is_offered() {
        let websocket = Some("websocket".to_owned());
        let one = Version::HTTP_11;
        assert_eq!(asked(one, "keep-alive, Upgrade", &["websocket"]), websocket);
        assert_eq!(asked(one, "upgrade", &["h2c, websocket"]), websocket);
        let both = Some("a/1, b".to_owned());
        assert_eq!(asked(one, "upgrade", &["a/1", "b"]), both);
        assert_eq!(asked(one, "upgrade, http2-settings", &["H2C"]), None);
        for carries in [
            "h2c", "HTTP/2.0", "http/1.1", "h2", "h3-29", "TLS/1.0", "tls", "SPDY/3.1", "\"h2c\"", "h2c;q=1",
        ] {
            assert_eq!(asked(one, "upgrade", &[carries]), None, "{carries}");
            let both = format!("{carries}, websocket");
            assert_eq!(
                asked(one, "upgrade", &[&*Box::leak(both.into_boxed_str())]),
                websocket
            );
        }
        for odd in [&b"\xa0h2c"[..], b"", b"/", b"a/", b"a b", b"h2c\x85"] {
            assert!(!is_offered(odd), "{odd:?}");
        }
        assert_eq!(asked(one, "keep-alive", &["websocket"]), None);
        assert_eq!(asked(one, "upgrade", &[]), None);
        assert_eq!(asked(Version::HTTP_10, "upgrade", &["websocket"]), None);
    }
}
