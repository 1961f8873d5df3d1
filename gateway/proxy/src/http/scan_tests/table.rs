//! Malformed requests, each with what is wrong with it. The tests of the egress send them too.

use super::{super::scan::RequestFault as F, scan_whole};

/// Heads of which nothing may pass.
pub(crate) const MALFORMED: [(&str, F); 90] = [
    // Lines.
    ("GET / HTTP/1.1\nHost: a\n\n", F::LineEnd),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", F::LineEnd),
    ("GET / HTTP/1.1\r\nHost: a\r\n\n", F::LineEnd),
    ("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", F::LineEnd),
    ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", F::LineEnd),
    ("GET / HTTP/1.1\r\nHost: a\r\n\rX", F::LineEnd),
    ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", F::LineEnd),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", F::EmptyLines),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", F::ControlByte),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\u{b}b\r\n\r\n", F::ControlByte),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX: \u{1b}[0m\r\n\r\n",
        F::ControlByte,
    ),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{7f}\r\n\r\n", F::ControlByte),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n", F::ControlByte),
    ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", F::ControlByte),
    ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0", F::ControlByte),
    // The request line.
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", F::Method),
    ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", F::Method),
    ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", F::Method),
    ("G\u{e4}T / HTTP/1.1\r\nHost: a\r\n\r\n", F::Method),
    ("get / HTTP/1.1\r\nHost: a\r\n\r\n", F::MethodCase),
    ("Delete / HTTP/1.1\r\nHost: a\r\n\r\n", F::MethodCase),
    ("pATCH / HTTP/1.1\r\nHost: a\r\n\r\n", F::MethodCase),
    ("hello\r\n\r\n", F::Target),
    ("GET / \r\n\r\n", F::Version),
    ("GET /\r\n\r\n", F::Version),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET /\ta HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", F::Target),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("OPTIONS *a HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET http://me@a/ HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET http://a:b/ HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", F::Target),
    ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", F::Connect),
    ("connect a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", F::Connect),
    ("GET / HTTP/0.9\r\n\r\n", F::OtherVersion),
    ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", F::OtherVersion),
    ("PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n", F::OtherVersion),
    ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", F::OtherVersion),
    ("GET / HTTP/2\r\nHost: a\r\n\r\n", F::Version),
    ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", F::Version),
    ("GET / HTTP/11\r\nHost: a\r\n\r\n", F::Version),
    ("GET / http/1.1\r\nHost: a\r\n\r\n", F::Version),
    ("GET / HTTP/1,1\r\nHost: a\r\n\r\n", F::Version),
    ("GET / ICY/1.1\r\nHost: a\r\n\r\n", F::Version),
    // Fields.
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", F::Field),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\t: y\r\n\r\n", F::Field),
    ("GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n", F::Field),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", F::Field),
    ("GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n", F::Field),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\u{e4}: z\r\n\r\n", F::Field),
    ("GET / HTTP/1.1\r\nHost: a\r\n\"X\": z\r\n\r\n", F::Field),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", F::Folded),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", F::Folded),
    ("GET / HTTP/1.1\r\nHost: a\r\n\tX: y\r\n\r\n", F::Folded),
    // Host.
    ("GET / HTTP/1.1\r\n\r\n", F::NoHost),
    ("GET http://a/ HTTP/1.1\r\n\r\n", F::NoHost),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", F::TwoHosts),
    ("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", F::TwoHosts),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", F::Host),
    ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", F::Host),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", F::Host),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", F::Host),
    ("GET / HTTP/1.1\r\nHost: me@a\r\n\r\n", F::Host),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", F::Host),
    ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", F::Host),
    ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", F::Host),
    // The length of the body.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        F::TwoLengths,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        F::TwoLengths,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
        F::Length,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        F::Length,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello",
        F::Length,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello",
        F::Length,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello",
        F::Length,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
        F::Length,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        F::LengthAndCoding,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        F::Coding,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        F::Coding,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        F::UnknownCoding,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\nhello",
        F::UnknownCoding,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        F::UnknownCoding,
    ),
    (
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        F::OldCoding,
    ),
];

/// Further values of `Transfer-Encoding` that are no list of codings.
const CODINGS: [(&str, F); 9] = [
    ("", F::Coding),
    (",chunked", F::Coding),
    ("chunked,", F::Coding),
    ("\"chunked\"", F::Coding),
    ("chunked;q=1", F::Coding),
    ("chunked ;q=1", F::Coding),
    ("chun ked", F::Coding),
    ("chunked\u{a0}", F::Coding),
    ("chunked\r\nTransfer-Encoding: chunked", F::Coding),
];

/// Bodies in chunks that turn bad after their first.
pub(crate) const MALFORMED_CHUNKS: [(&str, F); 25] = [
    ("5\nhello\r\n0\r\n\r\n", F::LineEnd),
    ("5\rhello\r\n0\r\n\r\n", F::LineEnd),
    ("5;a\nhello\r\n0\r\n\r\n", F::LineEnd),
    ("5;a\rb\r\nhello\r\n0\r\n\r\n", F::LineEnd),
    ("5;a\0b\r\nhello\r\n0\r\n\r\n", F::ControlByte),
    ("\r\nhello\r\n0\r\n\r\n", F::ChunkSize),
    ("0x5\r\nhello\r\n0\r\n\r\n", F::ChunkSize),
    ("+5\r\nhello\r\n0\r\n\r\n", F::ChunkSize),
    ("-5\r\nhello\r\n0\r\n\r\n", F::ChunkSize),
    (" 5\r\nhello\r\n0\r\n\r\n", F::ChunkSize),
    ("5 \r\nhello\r\n0\r\n\r\n", F::ChunkSize),
    ("5 ;a\r\nhello\r\n0\r\n\r\n", F::ChunkSize),
    ("g\r\nhello\r\n0\r\n\r\n", F::ChunkSize),
    ("ffffffffffffffff\r\nhello", F::ChunkSize),
    ("10000000000000005\r\nhello\r\n0\r\n\r\n", F::ChunkSize),
    ("5;\r\nhello\r\n0\r\n\r\n", F::ChunkExtension),
    ("4\r\nhello\r\n0\r\n\r\n", F::ChunkEnd),
    ("5\r\nhello\n0\r\n\r\n", F::ChunkEnd),
    ("5\r\nhello0\r\n\r\n", F::ChunkEnd),
    ("0\r\nX : y\r\n\r\n", F::Field),
    ("0\r\nX: y\n\r\n", F::LineEnd),
    ("0\r\n X: y\r\n\r\n", F::Folded),
    ("0\r\nContent-Length: 5\r\n\r\n", F::Trailer),
    ("0\r\nhost: b\r\n\r\n", F::Trailer),
    ("0\r\nX-Forwarded-Client-Cert: URI=evil\r\n\r\n", F::Trailer),
];

#[test]
fn nothing_of_a_malformed_head_passes() {
    for (bytes, fault) in MALFORMED {
        let found = scan_whole(bytes.as_bytes());
        assert_eq!(found.fault, Some(fault), "{bytes:?}");
        assert!(found.passed.is_empty() && !found.in_body, "{bytes:?}");
    }
    for (value, fault) in CODINGS {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {value}\r\n\r\n");
        assert_eq!(scan_whole(head.as_bytes()).fault, Some(fault), "{value:?}");
    }
}

#[test]
fn a_body_passes_until_it_turns_bad() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    for (bytes, fault) in MALFORMED_CHUNKS {
        let found = scan_whole(format!("{head}{bytes}").as_bytes());
        assert_eq!(found.fault, Some(fault), "{bytes:?}");
        assert!(
            found.in_body && found.passed.starts_with(head.as_bytes()),
            "{bytes:?}"
        );
        assert!(!found.passed.ends_with(b"\r\n\r\n"), "{bytes:?}");
    }
}

#[test]
fn what_common_programs_send_passes() {
    for bytes in [
        "GET /a?b={c}|[d]^\\'(e)&f=%20 HTTP/1.1\r\nHost: a_b.mesh:8080\r\nX_Y:\r\nZ: \u{e4}\t\"q\"\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [fd00::1]:80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:a \r\n\r\n",
        "GET HTTP://a.b:80?c HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "M-SEARCH //a//b HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n",
        "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        "deleted / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\t\r\n\r\n00a;b=\"c d\";e\r\n0123456789\r\n000\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let found = scan_whole(bytes.as_bytes());
        assert_eq!((found.fault, found.heads), (None, 1), "{bytes:?}");
        assert_eq!(found.passed, bytes.as_bytes(), "{bytes:?}");
    }
}
