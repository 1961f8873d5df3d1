//! The change of a connection from HTTP to another protocol, such as WebSocket (RFC 9110, 7.8). Pure.

use http::{
    HeaderMap, HeaderValue, Version,
    header::{self, HeaderName},
};

use super::headers::lists;

/// HTTP/2 by upgrade, which is not offered: HTTP/2 comes by prior knowledge or ALPN (RFC 9113, 3.1).
const NOT_OFFERED: &str = "h2c";
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Protocols that a client asks for instead of HTTP; `None`: it does not ask, or for nothing that is offered.
pub(crate) fn asked_for(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !lists(headers, &header::CONNECTION, "upgrade") {
        return None;
    }
    let values = headers.get_all(header::UPGRADE).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let members = values.flat_map(|value| value.split(',')).map(str::trim);
    let offered: Vec<&str> = members
        .filter(|member| !member.is_empty() && !member.eq_ignore_ascii_case(NOT_OFFERED))
        .collect();
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
    fn a_client_asks_by_both_fields_and_h2c_is_not_offered() {
        let websocket = Some("websocket".to_owned());
        let one = Version::HTTP_11;
        assert_eq!(asked(one, "keep-alive, Upgrade", &["websocket"]), websocket);
        assert_eq!(asked(one, "upgrade", &["h2c, websocket"]), websocket);
        let both = Some("a/1, b".to_owned());
        assert_eq!(asked(one, "upgrade", &["a/1", "b"]), both);
        assert_eq!(asked(one, "upgrade, http2-settings", &["H2C"]), None);
        assert_eq!(asked(one, "keep-alive", &["websocket"]), None);
        assert_eq!(asked(one, "upgrade", &[]), None);
        assert_eq!(asked(Version::HTTP_10, "upgrade", &["websocket"]), None);
    }
}
