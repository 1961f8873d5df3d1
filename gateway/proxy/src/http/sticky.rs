//! The cookie by which a client comes back to its instance. Pure.

use std::net::IpAddr;

use causeway_federation::topology::Sticky;
use causeway_routing::{
    permit::Caller,
    sticky::{StickyKey, key_of},
};
use http::{HeaderMap, HeaderValue};
use rand::Rng;

/// Mark that keeps one request with others of its user.
#[derive(Debug, Default)]
pub(crate) struct StickyMark {
    /// `None`: it has nothing that it could be known by.
    pub(crate) key: Option<StickyKey>,
    /// Value of `Set-Cookie` for a client that has none.
    pub(crate) cookie: Option<HeaderValue>,
}

impl StickyMark {
    /// Reads the mark of a request, or makes one for a client without a cookie, which then sends it along.
    pub(crate) fn of(
        sticky: &Sticky,
        headers: &HeaderMap,
        caller: &Caller,
        (client, is_tls): (IpAddr, bool),
        rng: &mut impl Rng,
    ) -> Self {
        let key = key_of(sticky, headers, caller, client);
        if key.is_some() || !matches!(sticky, Sticky::Cookie { .. }) {
            return Self { key, cookie: None };
        }
        let value = format!("{:032x}", rng.random::<u128>());
        Self {
            key: Some(StickyKey::of_mark(value.as_bytes())),
            cookie: set_cookie(sticky, &value, is_tls),
        }
    }
}

/// `session=…; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax`, and `Secure` where the client came over TLS.
fn set_cookie(sticky: &Sticky, value: &str, is_tls: bool) -> Option<HeaderValue> {
    let Sticky::Cookie { name, ttl, path } = sticky else {
        return None;
    };
    let age = ttl
        .map(|ttl| format!("; Max-Age={}", ttl.as_secs()))
        .unwrap_or_default();
    let secure = if is_tls { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path={path}{age}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use causeway_routing::testbed;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn sticky(ttl: Option<Duration>, path: &str) -> Sticky {
        Sticky::Cookie {
            name: "session".to_owned(),
            ttl,
            path: path.to_owned(),
        }
    }

    fn marked(sticky: &Sticky, cookie: Option<&'static str>, is_tls: bool) -> StickyMark {
        let mut headers = HeaderMap::new();
        if let Some(cookie) = cookie {
            headers.insert("cookie", HeaderValue::from_static(cookie));
        }
        let (caller, client) = (
            Caller::anonymous(testbed::zone("east")),
            "10.0.0.1".parse().unwrap(),
        );
        StickyMark::of(
            sticky,
            &headers,
            &caller,
            (client, is_tls),
            &mut SmallRng::seed_from_u64(1),
        )
    }

    #[test]
    fn a_client_without_a_cookie_is_given_one_that_means_the_same_next_time() {
        let given = marked(&sticky(None, "/"), None, false);
        let cookie = given.cookie.unwrap();
        let (pair, attributes) = cookie.to_str().unwrap().split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
        let value = pair.strip_prefix("session=").unwrap();
        assert_eq!(value.len(), 32);
        assert_eq!(given.key, Some(StickyKey::of_mark(value.as_bytes())));
        let back = marked(&sticky(None, "/"), Some("session=abc"), false);
        assert_eq!((back.key, back.cookie), (Some(StickyKey::of_mark(b"abc")), None));
        let long = marked(&sticky(Some(Duration::from_secs(3600)), "/shop"), None, true);
        let cookie = long.cookie.unwrap();
        assert!(
            cookie
                .to_str()
                .unwrap()
                .ends_with("; Path=/shop; Max-Age=3600; HttpOnly; SameSite=Lax; Secure")
        );
    }

    #[test]
    fn who_has_no_header_has_no_mark() {
        let mark = marked(&Sticky::Header("x-user".to_owned()), Some("x-user=a"), false);
        assert!(mark.key.is_none() && mark.cookie.is_none());
    }
}
