//! Fields of a message that end with one connection, and those that a gateway adds. Pure.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{self, Entry},
    uri::{Authority, PathAndQuery},
};

use super::scan::names::{begins_as, reads_as};

/// Fields that a `Connection` field cannot name away: they frame the message, or say whom it is for.
const KEPT: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
/// Fields that end with the connection without being named (RFC 9110, 7.6.1), besides all that begin with `proxy-`.
const HOP_BY_HOP: [HeaderName; 4] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::UPGRADE,
];
const PROXY_FIELDS: &str = "proxy-";
/// Fields that frame a message or end with the connection, and that programs read under other names too.
const DISGUISED: [&str; 4] = [
    "content-length",
    "transfer-encoding",
    "keep-alive",
    "http2-settings",
];

/// Takes out what ends with the connection. Of `TE` the word `trailers` stays, by which trailers are permitted.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let trailers = lists(headers, &header::TE, "trailers");
    let named = headers.get_all(header::CONNECTION).iter();
    let named = named.filter_map(|value| value.to_str().ok());
    let mut gone: Vec<HeaderName> = named
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| !KEPT.contains(name))
        .collect();
    gone.extend(HOP_BY_HOP);
    let proxy = headers
        .keys()
        .filter(|name| begins_as(name.as_str().as_bytes(), PROXY_FIELDS.as_bytes()));
    gone.extend(proxy.cloned());
    for name in gone {
        headers.remove(name);
    }
    drop_disguised(headers, DISGUISED.into_iter());
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Takes out of an answer before the answer (1xx) what ends with the connection, and what frames a body: it has none (RFC 9110, 8.6;
/// RFC 9112, 6.1).
pub(crate) fn strip_bodiless(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::TRAILER] {
        headers.remove(name);
    }
}

/// Tells whether a field that is a list has this member, whatever its parameters.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, member: &str) -> bool {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut members = values.flat_map(|value| value.split(','));
    members.any(|found| {
        let found = found.split(';').next().unwrap_or_default();
        found.trim().eq_ignore_ascii_case(member)
    })
}

/// Tells whether an answer of HTTP/1.1 says in one way how its body is framed. One that has both a length and a coding, or another coding than
/// chunked, can be read in two, and what comes behind it on the connection too.
pub(crate) fn is_framed_once(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && !headers.contains_key(header::CONTENT_LENGTH)
        }
        (Some(_), Some(_)) => false,
    }
}

/// Marks a copy of a request, as Envoy does: `orders.mesh:80` becomes `orders.mesh-shadow:80`. An address stays as it is.
pub(crate) fn shadow_host<B>(request: &mut Request<B>) {
    let host = request.headers().get(header::HOST);
    let shadowed = host.and_then(|host| shadow_of(host.to_str().ok()?));
    if let Some(Ok(shadowed)) = shadowed.map(HeaderValue::try_from) {
        request.headers_mut().insert(header::HOST, shadowed);
    }
    let mut parts = request.uri().clone().into_parts();
    let authority = parts.authority.as_ref();
    let shadowed = authority.and_then(|authority| shadow_of(authority.as_str()));
    if let Some(Ok(shadowed)) = shadowed.map(Authority::try_from) {
        parts.authority = Some(shadowed);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

fn shadow_of(host: &str) -> Option<String> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.starts_with('[') || name.parse::<IpAddr>().is_ok() {
        return None;
    }
    Some(match port {
        Some(port) => format!("{name}-shadow:{port}"),
        None => format!("{name}-shadow"),
    })
}

/// Adds this gateway to the way that the message has come.
pub(crate) fn add_via(headers: &mut HeaderMap, version: Version) {
    let entry = match version {
        Version::HTTP_10 => "1.0 causeway",
        Version::HTTP_2 => "2.0 causeway",
        _ => "1.1 causeway",
    };
    headers.append(header::VIA, HeaderValue::from_static(entry));
}

/// Makes the target of a request one of its own path, as an instance expects it. A name in it replaces that of `Host`
/// (RFC 9112, 3.2.2); a request without either gets `host`.
///
/// # Errors
/// When the target is none that can be written so.
pub(crate) fn to_origin_form(
    method: &Method,
    uri: &mut Uri,
    headers: &mut HeaderMap,
    host: &str,
) -> Result<(), http::Error> {
    let mut parts = std::mem::take(uri).into_parts();
    let named = parts.authority.take();
    let is_bare = parts
        .path_and_query
        .as_ref()
        .is_none_or(|path| path.as_str().is_empty());
    if is_bare {
        let path = match *method == Method::OPTIONS && named.is_some() {
            true => "*",
            false => "/",
        };
        parts.path_and_query = Some(PathAndQuery::from_static(path));
    }
    parts.scheme = None;
    *uri = Uri::from_parts(parts)?;
    match named {
        Some(authority) => {
            let text = authority.as_str();
            let name = text.rsplit_once('@').map_or(text, |(_, name)| name);
            headers.insert(header::HOST, HeaderValue::from_str(name)?);
        }
        None => {
            if let Entry::Vacant(place) = headers.entry(header::HOST) {
                place.insert(HeaderValue::from_str(host)?);
            }
        }
    }
    Ok(())
}

/// Tells whether a request may be made twice (RFC 9110, 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PUT,
        Method::DELETE,
        Method::TRACE,
    ]
    .contains(method)
}

/// Takes out fields that are none of `names`, and that programs such as those behind CGI and WSGI read as one of them.
pub(crate) fn drop_disguised<'n>(headers: &mut HeaderMap, names: impl Iterator<Item = &'n str> + Clone) {
    let is_disguised = |name: &&HeaderName| {
        let own = name.as_str();
        names
            .clone()
            .any(|told| reads_as(own.as_bytes(), told.as_bytes()))
            && !names.clone().any(|told| told == own)
    };
    let disguised: Vec<_> = headers.keys().filter(is_disguised).cloned().collect();
    for name in disguised {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn stripped(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = map(fields);
        strip_hop_by_hop(&mut headers);
        headers
    }

    #[test]
    fn a_copy_is_marked_in_its_host() {
        for (host, expected) in [
            ("orders.mesh", "orders.mesh-shadow"),
            ("orders.mesh.:8080", "orders.mesh-shadow:8080"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("[::1]", "[::1]"),
        ] {
            let uri = format!("http://{host}/x?y");
            let mut request = Request::get(&uri).header("host", host).body(()).unwrap();
            shadow_host(&mut request);
            assert_eq!(request.headers()["host"], expected);
            assert_eq!(request.uri().to_string(), format!("http://{expected}/x?y"));
            let mut request = Request::get("/x").header("host", host).body(()).unwrap();
            shadow_host(&mut request);
            assert_eq!(request.uri().to_string(), "/x");
        }
    }

    #[test]
    fn what_ends_with_a_connection_goes_no_further_and_the_rest_does() {
        let left = stripped(&[
            ("connection", "close, X-Mine ,te"),
            ("connection", "x-other, host, content-length, transfer-encoding"),
            ("x-mine", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "secret"),
            ("proxy_authorization", "secret"),
            ("proxy.authorization", "secret"),
            ("keep_alive", "timeout=5"),
            ("content_length", "7"),
            ("transfer~encoding", "chunked"),
            ("http2.settings", "AAMAAABk"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            ("host", "orders.mesh"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("x-kept", "3"),
        ]);
        let kept = [
            ("host", "orders.mesh"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("x-kept", "3"),
        ];
        assert_eq!(left, map(&kept));
    }

    #[test]
    fn trailers_stay_permitted_and_no_other_coding() {
        let left = stripped(&[("te", "gzip;q=0.5, Trailers"), ("connection", "te")]);
        assert_eq!(left, map(&[("te", "trailers"), ("connection", "te")]));
    }

    #[test]
    fn a_name_in_the_target_replaces_that_of_host_and_goes_no_further() {
        let told = |method: Method, target: &str, host: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(host) = host {
                headers.insert(header::HOST, HeaderValue::from_static(host));
            }
            let mut uri: Uri = target.parse().unwrap();
            to_origin_form(&method, &mut uri, &mut headers, "10.0.0.1:80").unwrap();
            (
                uri.to_string(),
                headers[header::HOST].to_str().unwrap().to_owned(),
            )
        };
        let both = |uri: &str, host: &str| (uri.to_owned(), host.to_owned());
        let get = Method::GET;
        assert_eq!(told(get.clone(), "/a?b", Some("one")), both("/a?b", "one"));
        assert_eq!(told(get.clone(), "/a", None), both("/a", "10.0.0.1:80"));
        assert_eq!(
            told(get.clone(), "http://two/a?b", Some("one")),
            both("/a?b", "two")
        );
        assert_eq!(told(get, "http://me@two:8", Some("one")), both("/", "two:8"));
        assert_eq!(told(Method::OPTIONS, "*", Some("one")), both("*", "one"));
    }

    #[test]
    fn an_answer_is_framed_in_one_way() {
        let chunked = ("transfer-encoding", "chunked");
        let length = ("content-length", "3");
        for (fields, expected) in [
            (&[][..], true),
            (&[length], true),
            (&[chunked], true),
            (&[("transfer-encoding", "Chunked")], true),
            (&[chunked, length], false),
            (&[chunked, chunked], false),
            (&[("transfer-encoding", "gzip, chunked")], false),
            (&[("transfer-encoding", "identity")], false),
        ] {
            assert_eq!(is_framed_once(&map(fields)), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_gateway_names_itself_after_those_before_it() {
        let mut headers = map(&[("via", "1.0 elsewhere")]);
        add_via(&mut headers, Version::HTTP_11);
        add_via(&mut headers, Version::HTTP_10);
        assert_eq!(
            headers,
            map(&[
                ("via", "1.0 elsewhere"),
                ("via", "1.1 causeway"),
                ("via", "1.0 causeway")
            ])
        );
    }

    #[test]
    fn a_post_is_never_made_twice() {
        assert!(is_idempotent(&Method::GET) && is_idempotent(&Method::DELETE));
        assert!(!is_idempotent(&Method::POST) && !is_idempotent(&Method::PATCH));
    }
}
