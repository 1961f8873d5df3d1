//! Target `requests`: a client's bytes as the scan before HTTP/1.1 takes them. However they are cut, the same passes and the
//! same is refused; a head passes whole or not at all, and after a fault nothing passes.

// The scan is pure and by itself, and is not public; so its files are taken in as they stand.
#[path = "../../../gateway/proxy/src/http/scan/mod.rs"]
#[allow(dead_code, reason = "a part of it is for the gateway alone")]
mod scan;

use scan::{RequestFault, RequestScanner, ScanLimits};

/// Small limits, so that short inputs reach them.
const LIMITS: ScanLimits = ScanLimits {
    head_bytes: 512,
    fields: 8,
    trailer_bytes: 128,
    chunk_line_bytes: 64,
    extension_bytes: 96,
};

#[derive(Debug, PartialEq)]
struct ScannedWhole {
    heads: u64,
    in_body: bool,
    passed: usize,
    fault: Option<RequestFault>,
}

/// The first byte says how the others are cut.
pub fn run(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else {
        return;
    };
    let whole = scan(bytes, bytes.len().max(1));
    assert!(whole.passed <= bytes.len());
    assert_eq!(
        scan(bytes, usize::from(*cut) + 1),
        whole,
        "cutting changes what is found"
    );
    assert_eq!(scan(bytes, 1), whole, "cutting changes what is found");
    // What has passed passes by itself, too.
    let passed = scan(bytes.get(..whole.passed).unwrap_or_default(), bytes.len().max(1));
    assert_eq!(
        (passed.heads, passed.passed, passed.fault),
        (whole.heads, whole.passed, None)
    );
    if let Some(fault) = whole.fault {
        assert!((400..=505).contains(&fault.status()) && !fault.text().is_empty());
    }
}

/// Scans bytes in pieces of this length.
fn scan(bytes: &[u8], piece: usize) -> ScannedWhole {
    let mut scanner = RequestScanner::new(LIMITS);
    let (mut passed, mut fault, mut given) = (0, None, 0);
    while given < bytes.len() && fault.is_none() {
        given = (given + piece).min(bytes.len());
        loop {
            let scanned = scanner.scan(bytes.get(passed..given).unwrap_or_default());
            passed += scanned.passed;
            fault = scanned.fault;
            if !scanner.is_paused() {
                break;
            }
            // Every other request that asks for it changes the protocol.
            scanner.go_on(scanner.heads().is_multiple_of(2));
        }
    }
    if fault.is_some() {
        assert_eq!(scanner.scan(b"GET / HTTP/1.0\r\n\r\n").passed, 0, "a fault stays");
    }
    ScannedWhole {
        heads: scanner.heads(),
        in_body: scanner.is_in_body(),
        passed,
        fault,
    }
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let seed = |name: &str, text: &str| (name.to_owned(), [&[6], text.as_bytes()].concat());
    vec![
        seed(
            "pipelined",
            "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nGET\r\nGET http://a:80/b?c HTTP/1.1\r\nHost: [::1]:80\r\n\r\nOPTIONS * HTTP/1.0\r\n\r\n",
        ),
        seed(
            "chunked",
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n",
        ),
        seed(
            "two-lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        ),
        seed(
            "upgrade",
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n\u{81}\0",
        ),
        seed("bare", "CONNECT a:1 HTTP/1.1\nHost : a\r\n b\0\r\n\r\n"),
    ]
}
