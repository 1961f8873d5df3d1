//! Keeps web pages of others away from an API. A page can make its own host name resolve to 127.0.0.1 (DNS rebinding) and then
//! talk to any local port as if it were its origin: the `Host` header gives that away. It can also have its browser ask without
//! seeing the answer (a picture, a script, a form): `Origin` and `Sec-Fetch-Site` give that away, and nothing is done then.
//!
//! Pages of other origins prove nothing where clients prove who they are: credentials are never in a cookie.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, uri::Authority};

use super::{AdminAddress, error::ApiError};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// `Host` headers that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// `localhost` and loopback addresses, with any port: it may be forwarded.
    Loopback,
    /// Any from programs, addresses and `localhost` from browsers: clients need not prove who they are, and the name may be that
    /// of a page that rebinds it.
    Unproven,
    /// Any: on a unix socket no browser can follow; on an open address clients prove who they are.
    Any,
}

impl Hosts {
    pub(crate) fn of(address: &AdminAddress, insecure: bool) -> Self {
        match address {
            AdminAddress::Unix(_) => Self::Any,
            AdminAddress::Tcp(_) if insecure => Self::Unproven,
            AdminAddress::Tcp(_) if address.is_open() => Self::Any,
            AdminAddress::Tcp(_) => Self::Loopback,
        }
    }

    fn allow(self, host: Option<&str>, by_browser: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Unproven => !by_browser || host.is_some_and(|host| is_loopback(host) || is_address(host)),
            Self::Loopback => host.is_some_and(is_loopback),
        }
    }
}

fn is_address(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let literal = authority.host().trim_start_matches('[').trim_end_matches(']');
    literal.parse::<IpAddr>().is_ok()
}

/// Tells whether a browser makes this request. Its pages can change some of these headers, and leave none of them out.
fn is_of_browser(headers: &HeaderMap) -> bool {
    let sent = [
        header::ACCEPT_LANGUAGE,
        header::ORIGIN,
        header::REFERER,
        FETCH_SITE,
    ];
    let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes);
    sent.iter().any(|name| headers.contains_key(name))
        || agent.is_some_and(|agent| agent.starts_with(b"Mozilla/"))
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let literal = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || literal.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Tells whether a page of another origin makes this request. Programs send neither `Origin` nor `Sec-Fetch-Site`.
fn is_foreign(headers: &HeaderMap) -> bool {
    let site = headers.get(FETCH_SITE).map(HeaderValue::as_bytes);
    // `none`: somebody typed the address, or took it from a bookmark.
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return true;
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let host = headers.get(header::HOST).map(|host| host.as_bytes());
    let own = |scheme: &[u8]| host.is_some_and(|host| [scheme, host].concat() == origin.as_bytes());
    !own(b"http://") && !own(b"https://")
}

/// Tells whether somebody followed a link to the dashboard: the page that has the link sees nothing of what comes, which is the
/// same for everybody.
fn is_link_to_dashboard(request: &Request) -> bool {
    let is = |name: &HeaderName, value: &str| {
        let sent = request.headers().get(name);
        sent.is_some_and(|sent| sent.as_bytes() == value.as_bytes())
    };
    request.method() == Method::GET
        && request.uri().path() == "/"
        && is(&FETCH_MODE, "navigate")
        && is(&FETCH_DEST, "document")
}

pub(super) async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut response = match passes(hosts, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let headers = response.headers_mut();
    // No answer is a script, a style or a picture of another page.
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

fn passes(hosts: Hosts, request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    if !hosts.allow(host, is_of_browser(headers)) {
        let shown: String = host.unwrap_or("(none)").chars().take(100).collect();
        let error = format!("the host `{shown}` is not this gateway");
        let hint = match hosts {
            Hosts::Unproven => {
                "with --admin-insecure a browser has to use the address of the gateway in the URL, and no name"
            }
            Hosts::Loopback | Hosts::Any => "use localhost or a loopback address in the URL",
        };
        return Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, error).hint(hint));
    }
    if is_foreign(headers) && !is_link_to_dashboard(request) {
        let error = "requests from web pages of another origin are refused";
        return Err(ApiError::new(StatusCode::FORBIDDEN, error));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

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
            assert!(Hosts::Loopback.allow(Some(good), true), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1:7810",
            "",
            "127.0.0.1.nip.io",
            "a b",
        ] {
            assert!(!Hosts::Loopback.allow(Some(bad), false), "{bad}");
        }
        assert!(!Hosts::Loopback.allow(None, false));
        assert!(Hosts::Any.allow(None, true));
    }

    #[test]
    fn where_nobody_proves_anything_a_browser_gets_nothing_under_a_name() {
        for name in ["gw.east.acme.internal:7810", "evil.example", "10.0.0.1.nip.io"] {
            assert!(Hosts::Unproven.allow(Some(name), false), "{name}");
            assert!(!Hosts::Unproven.allow(Some(name), true), "{name}");
        }
        for address in ["10.0.0.1:7810", "[2001:db8::1]:7810", "localhost:7810"] {
            assert!(Hosts::Unproven.allow(Some(address), true), "{address}");
        }
        let of = |name: HeaderName, value| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        assert!(!is_of_browser(&of(header::USER_AGENT, "curl/8.9.1")));
        assert!(is_of_browser(&of(header::USER_AGENT, "Mozilla/5.0 (X11)")));
        // A page may call itself curl, and its browser still says which language is wanted.
        assert!(is_of_browser(&of(header::ACCEPT_LANGUAGE, "en")));
    }

    #[test]
    fn what_a_listener_accepts_follows_from_who_reaches_it() {
        for (address, insecure, hosts) in [
            ("127.0.0.1:7810", false, Hosts::Loopback),
            ("127.0.0.1:7810", true, Hosts::Unproven),
            ("10.0.0.1:7810", false, Hosts::Any),
            ("10.0.0.1:7810", true, Hosts::Unproven),
            ("unix:/run/admin.sock", true, Hosts::Any),
        ] {
            assert_eq!(Hosts::of(&address.parse().unwrap(), insecure), hosts, "{address}");
        }
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

    #[test]
    fn a_page_of_another_origin_reaches_nothing_but_a_link_to_the_dashboard() {
        let request = |method: &str, path: &str, fetch: [&str; 3]| {
            let request = Request::builder().method(method).uri(path);
            let request = request.header(header::HOST, "127.0.0.1:7810");
            let names = [FETCH_SITE, FETCH_MODE, FETCH_DEST];
            let request = names
                .into_iter()
                .zip(fetch)
                .fold(request, |request, (name, value)| request.header(name, value));
            request.body(Body::empty()).unwrap()
        };
        let passes = |method, path, fetch| passes(Hosts::Loopback, &request(method, path, fetch)).is_ok();
        for own in ["same-origin", "none"] {
            assert!(passes("GET", "/v1/zones", [own, "cors", "empty"]));
        }
        for site in ["cross-site", "same-site", "anything"] {
            assert!(passes("GET", "/", [site, "navigate", "document"]));
            for (method, path, mode, dest) in [
                ("GET", "/v1/zones", "no-cors", "script"),
                ("GET", "/v1/zones", "no-cors", "image"),
                ("GET", "/v1/zones", "navigate", "document"),
                ("GET", "/", "navigate", "iframe"),
                ("GET", "/", "no-cors", "empty"),
                ("GET", "/dashboard/app.js", "no-cors", "script"),
                ("POST", "/", "navigate", "document"),
                ("POST", "/v1/shifts/orders/abort", "navigate", "document"),
                ("POST", "/v1/topology/diff", "no-cors", "empty"),
            ] {
                assert!(
                    !passes(method, path, [site, mode, dest]),
                    "{site} {method} {path}"
                );
            }
        }
    }
}
