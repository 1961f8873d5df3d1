//! Tests of the scan: a table of what is refused, and that no cutting of the bytes changes what is found.

mod against_hyper;
pub(crate) mod table;

use proptest::prelude::*;

use super::{
    limits::SCAN_LIMITS,
    scan::{RequestFault, RequestScanner, ScanLimits},
};

/// Small limits, so that short inputs reach them.
const SMALL: ScanLimits = ScanLimits {
    head_bytes: 120,
    fields: 4,
    trailer_bytes: 40,
    chunk_line_bytes: 20,
    extension_bytes: 24,
};

/// Whole result of a scan.
#[derive(Debug, PartialEq)]
pub(super) struct ScannedWhole {
    pub(super) heads: u64,
    pub(super) passed: Vec<u8>,
    pub(super) fault: Option<RequestFault>,
    pub(super) in_body: bool,
}

/// Scans bytes as they come in these pieces.
fn scan_pieces<'a>(limits: ScanLimits, pieces: impl IntoIterator<Item = &'a [u8]>) -> ScannedWhole {
    let mut scanner = RequestScanner::new(limits);
    let (mut held, mut passed, mut fault) = (Vec::new(), Vec::new(), None);
    for piece in pieces {
        held.extend_from_slice(piece);
        let scanned = scanner.scan(&held);
        passed.extend(held.drain(..scanned.passed));
        fault = scanned.fault;
        if fault.is_some() {
            break;
        }
    }
    ScannedWhole {
        heads: scanner.heads(),
        passed,
        fault,
        in_body: scanner.is_in_body(),
    }
}

pub(super) fn scan_whole(bytes: &[u8]) -> ScannedWhole {
    scan_pieces(SCAN_LIMITS, [bytes])
}

/// Parts that requests, and what looks like some, are made of.
pub(super) fn parts() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET ",
        "/",
        "*",
        "http://a/b",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        "Host: a\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding : chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Connection: close\r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: h2c\r\n",
        "X: y\r\n",
        " folded\r\n",
        "\r\n",
        "\n",
        "\r",
        "hello",
        "5\r\nhello\r\n",
        "5;a=b\r\nhello\r\n",
        "5;\nhello\r\n",
        "A\r\n0123456789\r\n",
        "0\r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "0\r\nContent-Length: 4\r\n\r\n",
        "00",
        "ffffffffffffffff\r\n",
        "\0",
        "\u{7f}",
        "\u{e4}",
        ":",
    ]);
    let known = known.prop_map(|text: &str| text.as_bytes().to_vec());
    let any = prop::collection::vec(any::<u8>(), 1..4);
    prop::collection::vec(prop_oneof![12 => known, 1 => any], 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn no_cutting_changes_what_is_found(
        bytes in parts(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        for limits in [SMALL, SCAN_LIMITS] {
            let whole = scan_pieces(limits, [&*bytes]);
            let single = scan_pieces(limits, bytes.chunks(1));
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            places.sort_unstable();
            places.insert(0, 0);
            places.push(bytes.len());
            let pieces = places.windows(2).map(|ends| &bytes[ends[0]..ends[1]]);
            prop_assert_eq!(&scan_pieces(limits, pieces), &whole);
            prop_assert_eq!(&single, &whole);
            prop_assert!(bytes.starts_with(&whole.passed));
        }
    }
}

#[test]
fn pipelined_requests_are_told_apart() {
    let one: &[u8] = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nGET";
    let two: &[u8] =
        b"PUT /2 HTTP/1.1\r\nhost:a:80\r\nTransfer-Encoding: Chunked\r\n\r\n4;x=y\r\nGET \r\n0\r\nX-Sum: 7\r\n\r\n";
    let three: &[u8] = b"\r\nOPTIONS * HTTP/1.0\r\n\r\n";
    let found = scan_whole(&[one, two, three].concat());
    assert_eq!((found.heads, found.fault), (3, None));
    assert_eq!(found.passed.len(), one.len() + two.len() + three.len());
    let bad = scan_whole(&[one, two, b"GET / HTTP/1.1\nHost: a\r\n\r\n"].concat());
    assert_eq!((bad.heads, bad.fault), (2, Some(RequestFault::LineEnd)));
    assert_eq!(bad.passed.len(), one.len() + two.len());
}

#[test]
fn nothing_is_read_after_a_request_that_asks_for_another_protocol() {
    let asking: &[u8] = b"PUT / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nab";
    for (is_upgraded, passed, fault) in [(true, 3, None), (false, 0, Some(RequestFault::LineEnd))] {
        let mut scanner = RequestScanner::new(SCAN_LIMITS);
        let scanned = scanner.scan(&[asking, b"\n\0x"].concat());
        assert_eq!((scanned.passed, scanned.fault), (asking.len(), None));
        assert!(scanner.is_paused());
        assert_eq!(scanner.scan(b"\n\0x").passed, 0);
        scanner.go_on(is_upgraded);
        let scanned = scanner.scan(b"\n\0x");
        assert_eq!((scanned.passed, scanned.fault), (passed, fault));
    }
    let old = b"GET / HTTP/1.0\r\nUpgrade: x\r\n\r\n";
    assert_eq!(scan_whole(&[&old[..], old].concat()).heads, 2);
}

#[test]
fn a_head_is_held_until_it_is_whole() {
    let found = scan_whole(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n");
    assert_eq!((found.heads, found.fault, found.in_body), (1, None, false));
    assert_eq!(found.passed, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn limits_are_exact() {
    let limits = SCAN_LIMITS;
    let head = |padding: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(padding));
    let most = limits.head_bytes - head(0).len();
    assert_eq!(scan_whole(head(most).as_bytes()).fault, None);
    let over = scan_whole(head(most + 1).as_bytes());
    assert_eq!(over.fault, Some(RequestFault::HeadTooLong));
    let target = format!("GET /{} HTTP/1.1\r\n", "x".repeat(limits.head_bytes));
    assert_eq!(
        scan_whole(target.as_bytes()).fault,
        Some(RequestFault::TargetTooLong)
    );
    let fields = |count: usize| format!("GET / HTTP/1.0\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert_eq!(scan_whole(fields(limits.fields).as_bytes()).fault, None);
    let over = scan_whole(fields(limits.fields + 1).as_bytes());
    assert_eq!(over.fault, Some(RequestFault::TooManyFields));
}

#[test]
fn a_fault_stays_and_nothing_passes_after_it() {
    let mut scanner = RequestScanner::new(SCAN_LIMITS);
    for bytes in [&b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..], b"GET / HTTP/1.0\r\n\r\n"] {
        let scanned = scanner.scan(bytes);
        assert_eq!((scanned.passed, scanned.fault), (0, Some(RequestFault::LineEnd)));
    }
}

#[test]
fn every_fault_has_a_status_of_the_client_or_says_what_is_not_offered() {
    for (_, fault) in table::MALFORMED {
        assert!(
            [400, 408, 414, 431, 501, 505].contains(&fault.status()),
            "{fault:?}"
        );
        assert!(!fault.text().is_empty() && !fault.text().contains('\n'));
    }
}
