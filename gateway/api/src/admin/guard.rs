//! Keeps web pages away from an API on loopback. A page can make its own host name resolve to 127.0.0.1 (DNS rebinding)
//! and then talk to any local port as if it were its origin; the `Host` header gives that away.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, StatusCode, header, uri::Authority};

use super::{AdminAddress, error::ApiError};

/// `Host` headers that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// `localhost` and loopback addresses, with any port: it may be forwarded.
    Loopback,
    /// Any: on a unix socket no browser can follow; on an open address clients prove who they are, or the operator chose
    /// that they need not.
    Any,
}

impl Hosts {
    pub(crate) fn of(address: &AdminAddress, insecure: bool) -> Self {
        match address {
            AdminAddress::Tcp(_) if !address.is_open() && !insecure => Self::Loopback,
            AdminAddress::Tcp(_) | AdminAddress::Unix(_) => Self::Any,
        }
    }

    fn allow(self, host: Option<&str>) -> bool {
        self == Self::Any || host.is_some_and(is_loopback)
    }
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let literal = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || literal.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Tells whether a page of another origin makes this request. Programs send no `Origin`.
fn is_foreign(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let host = headers.get(header::HOST).map(|host| host.as_bytes());
    let own = |scheme: &[u8]| host.is_some_and(|host| [scheme, host].concat() == origin.as_bytes());
    !own(b"http://") && !own(b"https://")
}

pub(super) async fn check(
    State(hosts): State<Hosts>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    if !hosts.allow(host) {
        let shown: String = host.unwrap_or("(none)").chars().take(100).collect();
        return Err(ApiError::new(
            StatusCode::MISDIRECTED_REQUEST,
            format!("the host `{shown}` is not this gateway"),
        )
        .hint("use localhost or a loopback address in the URL"));
    }
    if is_foreign(headers) {
        let error = ApiError::new(
            StatusCode::FORBIDDEN,
            "requests from web pages of another origin are refused",
        );
        return Err(error);
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_pass_on_loopback() {
        for good in [
            "localhost",
            "localhost:7810",
            "LOCALHOST:1",
            "127.0.0.1:7810",
            "127.9.9.9",
            "[::1]:7810",
        ] {
            assert!(Hosts::Loopback.allow(Some(good)), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1:7810",
            "",
            "127.0.0.1.nip.io",
            "a b",
        ] {
            assert!(!Hosts::Loopback.allow(Some(bad)), "{bad}");
        }
        assert!(!Hosts::Loopback.allow(None));
        assert!(Hosts::Any.allow(None));
    }

    #[test]
    fn a_page_of_another_origin_is_foreign() {
        let headers = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "localhost:7810".parse().unwrap());
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            headers
        };
        assert!(is_foreign(&headers("http://evil.example")));
        assert!(is_foreign(&headers("null")));
        assert!(!is_foreign(&headers("http://localhost:7810")));
        assert!(!is_foreign(&HeaderMap::new()));
    }
}
