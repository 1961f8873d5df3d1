//! The head of a request as bytes, to travel with the header of a stream. Pure.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, Version, header};

use super::headers::is_idempotent;

/// Longest head that travels so, in bytes: it waits at the far gateway for an instance, beside the 16 KiB that each stream may hold there.
const MAX_EARLY_HEAD_BYTES: usize = 8 * 1024;

/// Writes the head of a request that may be made twice and has no body, if `is_empty` says so. `None`: it is to wait for an instance.
pub(crate) fn early_head<B>(request: &Request<B>, is_empty: bool) -> Option<Bytes> {
    let headers = request.headers();
    let waits = !is_empty
        || request.version() != Version::HTTP_11
        || !is_idempotent(request.method())
        || headers.contains_key(header::EXPECT)
        || headers.contains_key(header::UPGRADE)
        || headers.contains_key(header::TRANSFER_ENCODING)
        || has_length(headers);
    if waits || request.uri().authority().is_some() {
        return None;
    }
    // As a whole: the path of `?c` alone is `/`.
    let target = request.uri().to_string();
    let method = request.method().as_str();
    let mut head = BytesMut::with_capacity(512);
    for part in [method, " ", &target, " HTTP/1.1\r\n"] {
        head.put_slice(part.as_bytes());
    }
    for (name, value) in headers {
        if head.len() + name.as_str().len() + value.len() + 4 > MAX_EARLY_HEAD_BYTES {
            return None;
        }
        head.put_slice(name.as_str().as_bytes());
        head.put_slice(b": ");
        head.put_slice(value.as_bytes());
        head.put_slice(b"\r\n");
    }
    head.put_slice(b"\r\n");
    (head.len() <= MAX_EARLY_HEAD_BYTES).then(|| head.freeze())
}

/// Tells whether a length is said other than none.
fn has_length(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONTENT_LENGTH)
        .iter()
        .any(|length| length.as_bytes() != b"0")
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    fn request(method: &str, fields: &[(&str, &str)]) -> Request<Empty<Bytes>> {
        let mut request = Request::builder().method(method).uri("/a%20b?c=d");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(Empty::new()).unwrap()
    }

    /// Bytes that hyper writes for a request, up to the end of its head.
    async fn of_hyper(request: Request<Empty<Bytes>>) -> Vec<u8> {
        let (near, mut far) = duplex(64 * 1024);
        let (mut sender, connection) = http1::handshake(TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection);
        let _answer = tokio::spawn(async move { sender.send_request(request).await });
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            far.read_buf(&mut bytes).await.unwrap();
        }
        bytes
    }

    #[test]
    fn a_target_without_a_path_has_one() {
        let mut bare = request("GET", &[]);
        *bare.uri_mut() = http::uri::PathAndQuery::from_static("?c").into();
        let head = early_head(&bare, true).unwrap();
        assert!(head.starts_with(b"GET /?c HTTP/1.1\r\n"), "{head:?}");
    }

    #[tokio::test]
    async fn a_head_is_written_as_hyper_writes_it() {
        let some = &[
            ("host", "orders.mesh"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("te", "trailers"),
        ][..];
        for (method, fields) in [
            ("GET", some),
            ("HEAD", some),
            ("DELETE", some),
            ("OPTIONS", some),
            ("PUT", &[("host", "orders.mesh"), ("content-length", "0")]),
        ] {
            let early = early_head(&request(method, fields), true).unwrap();
            let hyper = of_hyper(request(method, fields)).await;
            assert_eq!(String::from_utf8_lossy(&early), String::from_utf8_lossy(&hyper));
        }
    }

    #[test]
    fn a_request_that_is_given_once_or_asks_for_more_waits_for_its_instance() {
        let host = ("host", "orders.mesh");
        for (method, fields) in [
            ("POST", &[host][..]),
            ("PATCH", &[host]),
            ("CONNECT", &[host]),
            ("GET", &[host, ("expect", "100-continue")]),
            ("GET", &[host, ("upgrade", "websocket")]),
            ("GET", &[host, ("content-length", "1")]),
            ("GET", &[host, ("transfer-encoding", "chunked")]),
            ("GET", &[host, ("x-long", &"x".repeat(MAX_EARLY_HEAD_BYTES))]),
        ] {
            assert_eq!(
                early_head(&request(method, fields), true),
                None,
                "{method} {fields:?}"
            );
        }
        assert_eq!(early_head(&request("PUT", &[host]), false), None);
    }
}
