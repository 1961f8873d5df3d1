//! The scan beside the parser that reads what has passed: both see the same requests.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::{parts, scan_whole};
use crate::http::limits::{MAX_HEAD_BYTES, MAX_HEADERS};

/// Most bytes that the parser's side of the pair holds.
const ROOM: usize = 1 << 20;

/// Requests as hyper reads them.
#[derive(Debug, Default)]
struct ReadByHyper {
    /// Of each request the bytes of its body, or `None` if it did not come to its end.
    bodies: Vec<Option<usize>>,
    failed: bool,
}

fn read_by_hyper(bytes: &[u8]) -> ReadByHyper {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let all = bodies.clone();
    let failed = runtime.block_on(async move {
        let (mut client, server) = tokio::io::duplex(ROOM);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let service = service_fn(move |request: Request<Incoming>| {
            let all = all.clone();
            async move {
                let place = {
                    let mut all = all.lock();
                    all.push(None);
                    all.len() - 1
                };
                if let Ok(body) = request.into_body().collect().await {
                    all.lock()[place] = Some(body.to_bytes().len());
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut builder = http1::Builder::new();
        builder.half_close(true).max_headers(MAX_HEADERS);
        builder
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(MAX_HEAD_BYTES);
        builder
            .serve_connection(TokioIo::new(server), service)
            .await
            .is_err()
    });
    let bodies = std::mem::take(&mut *bodies.lock());
    ReadByHyper { bodies, failed }
}

/// Requests that hyper reads no further than, because one says that it is the last.
fn says_close(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    text.contains("close") || text.contains("HTTP/1.0")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn hyper_reads_the_requests_that_passed_and_no_others(bytes in parts()) {
        let scanned = scan_whole(&bytes);
        let read = read_by_hyper(&scanned.passed);
        if !says_close(&scanned.passed) {
            prop_assert_eq!(read.bodies.len() as u64, scanned.heads, "{:?} of {:?}", read, scanned);
            let whole = read.bodies.iter().flatten().count() as u64;
            prop_assert_eq!(whole, scanned.heads - u64::from(scanned.in_body));
        } else {
            prop_assert!(read.bodies.len() as u64 <= scanned.heads, "{:?} of {:?}", read, scanned);
        }
    }

    #[test]
    fn what_hyper_reads_otherwise_is_a_fault(bytes in parts()) {
        let scanned = scan_whole(&bytes);
        let read = read_by_hyper(&bytes);
        let same = read.bodies.len() as u64 == scanned.heads && !read.failed;
        prop_assert!(same || scanned.fault.is_some() || scanned.passed.len() < bytes.len() || scanned.in_body || says_close(&bytes),
            "{:?} and {:?}", read, scanned);
    }
}

#[test]
fn every_byte_of_a_target_that_passes_is_one_that_hyper_reads() {
    for byte in 0..=u8::MAX {
        for before in ["/", "/?", "http://a/", "http://a?"] {
            let mut bytes = format!("GET {before}").into_bytes();
            bytes.push(byte);
            bytes.extend_from_slice(b" HTTP/1.1\r\nHost: a\r\n\r\n");
            let scanned = scan_whole(&bytes);
            if scanned.fault.is_none() {
                assert_eq!(
                    read_by_hyper(&bytes).bodies,
                    [Some(0)],
                    "{byte:#x} after {before}"
                );
            }
        }
    }
}
