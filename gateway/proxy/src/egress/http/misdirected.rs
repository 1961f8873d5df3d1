//! Requests on a connection that was made for another name. A client of the TLS listener says in its handshake which service it means;
//! one that then asks on the same connection for another service of the mesh (HTTP/2 clients share connections between names) is told
//! to connect anew (RFC 9110, 15.5.20). Any other name is the client's own affair: an alias, an address, a name that a proxy before it
//! has left as it was.

use causeway_dns::target_of;
use http::{HeaderValue, Request, header};

use super::serve::HttpConnection;

/// Tells whether a request names a target of the mesh that is not the one its connection was made for.
pub(super) fn is_misdirected<B>(connection: &HttpConnection, request: &Request<B>) -> bool {
    let Some(entrance) = connection
        .shared
        .tls
        .as_ref()
        .filter(|_| connection.socket.is_tls())
    else {
        return false;
    };
    let snapshot = connection.shared.snapshots.load();
    let named = name_of(request).and_then(|name| target_of(&snapshot, &entrance.names(), name));
    named.is_some_and(|target| target != connection.arrival.target)
}

/// Name that a request asks for, without its port.
fn name_of<B>(request: &Request<B>) -> Option<&str> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.host());
    }
    let host = request.headers().get(header::HOST).map(HeaderValue::to_str)?;
    let host = host.ok()?;
    let has_port = |(_, port): &(&str, &str)| port.bytes().all(|byte| byte.is_ascii_digit());
    Some(
        host.rsplit_once(':')
            .filter(has_port)
            .map_or(host, |(name, _)| name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_request_is_that_of_its_target_or_its_host() {
        let named = |target: &str, host: Option<&str>| {
            let request = Request::get(target);
            let request = host
                .into_iter()
                .fold(request, |request, host| request.header("host", host));
            name_of(&request.body(()).unwrap()).map(str::to_owned)
        };
        for (target, host, name) in [
            ("/", Some("orders.mesh"), Some("orders.mesh")),
            ("/", Some("orders.mesh:8080"), Some("orders.mesh")),
            ("/", Some("[::1]"), Some("[::1]")),
            ("/", Some("[::1]:80"), Some("[::1]")),
            ("https://web.mesh:80/", Some("orders.mesh"), Some("web.mesh")),
            ("/", None, None),
        ] {
            assert_eq!(named(target, host).as_deref(), name, "{target} {host:?}");
        }
    }
}
