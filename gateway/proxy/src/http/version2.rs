//! Messages on the way between HTTP/2 and HTTP/1.1: where the name that is asked for stands, and what only one of them permits. Pure.

use std::error::Error as _;

use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, header,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::{
    limits::MAX_HEADERS,
    scan::{RequestFault, is_host, is_target, method_fault},
};

/// Fault that a request of HTTP/2 is refused for; `None`: it may go on.
pub(crate) fn fault_of<B>(request: &Request<B>) -> Option<RequestFault> {
    if request.method() == Method::CONNECT {
        return Some(RequestFault::Connect);
    }
    if request.headers().len() > MAX_HEADERS {
        return Some(RequestFault::TooManyFields);
    }
    let fault = name_fault(request.uri(), request.headers()).or_else(|| field_fault(request));
    fault.or_else(|| {
        let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        let is_sound = is_target(request.method().as_str().as_bytes(), target.as_bytes());
        (!is_sound).then_some(RequestFault::Target)
    })
}

/// Fault of the method, or of a field that HTTP/1.1 and HTTP/2 would read in two ways.
pub(crate) fn field_fault<B>(request: &Request<B>) -> Option<RequestFault> {
    let is_blunt = request.headers().values().any(has_outer_blank);
    method_fault(request.method().as_str().as_bytes()).or(is_blunt.then_some(RequestFault::OuterBlank))
}

/// Tells whether a value begins or ends with a blank. Some programs take it away, and then it is another.
pub(crate) fn has_outer_blank(value: &HeaderValue) -> bool {
    let is_blank = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last())
}

/// Fault of the name that is asked for. It may stand in `:authority` and in `Host`, of which an instance is told one (RFC 9113, 8.3.1).
fn name_fault(uri: &Uri, headers: &HeaderMap) -> Option<RequestFault> {
    let named = uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    let host = hosts.next();
    let differ = named
        .zip(host)
        .is_some_and(|(named, host)| !named.eq_ignore_ascii_case(host));
    if hosts.next().is_some() || differ {
        return Some(RequestFault::TwoHosts);
    }
    let mut names = named.into_iter().chain(host);
    (!names.all(is_host)).then_some(RequestFault::Host)
}

/// Makes one field of what HTTP/2 may have in several, so that HTTP/1.1 has it as it is read: pieces of cookies (RFC 9113, 8.2.3),
/// and the length, of which the first was held against the body.
pub(crate) fn join_fields(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
    if let Some(length) = headers.get(header::CONTENT_LENGTH).cloned() {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

/// Has a body whose length was not told sent in chunks. Without a word on it, what writes HTTP/1.1 leaves out the body of GET and HEAD.
pub(crate) fn frame_body(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Makes the target of a request one of HTTP/2, which names what it is for by itself and not by `Host`. One without either gets `host`.
/// Fields that HTTP/2 forbids go.
///
/// # Errors
/// A name that is none.
pub(crate) fn to_version_2(uri: &mut Uri, headers: &mut HeaderMap, host: &str) -> Result<(), http::Error> {
    let mut parts = std::mem::take(uri).into_parts();
    let name = match (parts.authority.take(), headers.remove(header::HOST)) {
        (Some(authority), _) => authority,
        (None, Some(host)) => Authority::try_from(host.as_bytes())?,
        (None, None) => Authority::try_from(host)?,
    };
    let text = name.as_str();
    parts.authority = Some(match text.rsplit_once('@') {
        Some((_, bare)) => Authority::try_from(bare)?,
        None => name,
    });
    // What is spoken to the instance, whatever the client came by.
    parts.scheme = Some(Scheme::HTTP);
    let path = parts.path_and_query.take();
    let path = path.filter(|path| !path.as_str().is_empty());
    parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    *uri = Uri::from_parts(parts)?;
    headers.remove(header::CONNECTION);
    headers.remove(header::TRANSFER_ENCODING);
    Ok(())
}

/// Tells whether an instance has said with this that it has not read a request, and never will (RFC 9113, 6.8 and 8.7). A GOAWAY is
/// the error of those streams only that came after the last one that it names.
pub(crate) fn is_unread(error: &hyper::Error) -> bool {
    cause(error).is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// Tells whether it has refused this request alone, as beyond those that it takes at a time.
pub(crate) fn is_refused(error: &hyper::Error) -> bool {
    is_unread(error) && cause(error).is_some_and(h2::Error::is_reset)
}

fn cause(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_stands_in_the_target_and_not_in_host() {
        let told = |target: &str, host: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            for (name, value) in [("connection", "te"), ("te", "trailers")] {
                headers.insert(name, HeaderValue::from_static(value));
            }
            if let Some(host) = host {
                headers.insert(header::HOST, HeaderValue::from_static(host));
            }
            let mut uri: Uri = target.parse().unwrap();
            to_version_2(&mut uri, &mut headers, "10.0.0.1:80").unwrap();
            assert_eq!(headers.len(), 1, "{headers:?}");
            uri.to_string()
        };
        assert_eq!(told("/a?b", Some("one")), "http://one/a?b");
        assert_eq!(told("https://me@two:8/a", Some("one")), "http://two:8/a");
        assert_eq!(told("/a", None), "http://10.0.0.1:80/a");
        assert_eq!(told("http://two", None), "http://two/");
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("a b"));
        assert!(to_version_2(&mut Uri::from_static("/"), &mut headers, "own").is_err());
    }

    #[test]
    fn pieces_of_a_cookie_become_one_and_so_do_lengths() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("cookie", "a=1"),
            ("cookie", "b=2; c=3"),
            ("content-length", "3"),
            ("content-length", "7"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        join_fields(&mut headers);
        assert_eq!(headers[header::COOKIE], "a=1; b=2; c=3");
        assert_eq!(headers[header::CONTENT_LENGTH], "3");
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn a_name_or_target_that_could_be_read_in_two_ways_is_refused() {
        let status = |method: Method, target: &'static [u8], hosts: &[&'static str]| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            *request.uri_mut() = Uri::try_from(target).unwrap();
            for host in hosts {
                request
                    .headers_mut()
                    .append(header::HOST, HeaderValue::from_static(host));
            }
            fault_of(&request).map(RequestFault::status)
        };
        let get = |target, hosts: &[&'static str]| status(Method::GET, target, hosts);
        assert_eq!(get(b"http://one/a?b", &[]), None);
        assert_eq!(get(b"http://one:80/a", &["One:80"]), None);
        assert_eq!(get(b"/a", &["one"]), None);
        assert_eq!(get(b"http://[::1]:80/", &[]), None);
        assert_eq!(status(Method::OPTIONS, b"*", &["one"]), None);
        assert_eq!(get(b"http://one/a", &["two"]), Some(400));
        assert_eq!(get(b"/a", &["one", "one"]), Some(400));
        assert_eq!(get(b"http://one/a", &["one", "two"]), Some(400));
        assert_eq!(get(b"/a", &["one, two"]), Some(400));
        assert_eq!(get(b"http://me@one/a", &[]), Some(400));
        assert_eq!(get(b"http://one/a\"b", &[]), Some(400));
        assert_eq!(get("http://one/ä".as_bytes(), &[]), Some(400));
        assert_eq!(get(b"*", &["one"]), Some(400));
    }

    #[test]
    fn a_blank_around_a_value_and_a_method_in_other_letters_are_refused() {
        let fault = |method: &str, value: &str| {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let request = Request::builder().method(method).uri("http://one/a");
            let request = request.header("x-tenant", value).body(()).unwrap();
            fault_of(&request)
        };
        for sound in ["1", "", "a b", "a\tb"] {
            assert_eq!(fault("GET", sound), None, "{sound:?}");
        }
        for blunt in [" 1", "1 ", "\t1", "1\t", " "] {
            assert_eq!(fault("GET", blunt), Some(RequestFault::OuterBlank), "{blunt:?}");
        }
        for (method, expected) in [
            ("PURGE", None),
            ("purge", None),
            ("delete", Some(RequestFault::MethodCase)),
            ("Get", Some(RequestFault::MethodCase)),
        ] {
            assert_eq!(fault(method, "1"), expected, "{method}");
        }
    }

    #[test]
    fn connect_and_too_many_fields_are_refused() {
        let mut request = Request::new(());
        assert_eq!(fault_of(&request), None);
        for number in 0..=MAX_HEADERS {
            request.headers_mut().append("x-many", HeaderValue::from(number));
        }
        assert_eq!(fault_of(&request).unwrap().status(), 431);
        *request.headers_mut() = HeaderMap::new();
        *request.method_mut() = Method::CONNECT;
        assert_eq!(fault_of(&request).unwrap().status(), 501);
    }
}
