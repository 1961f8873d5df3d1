//! Bytes that are no request, or can be read in two ways: answered, counted, and never given to an instance.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use causeway_host::tasks::Tasks;
use causeway_routing::snapshot::Instance;
use causeway_telemetry::{AccessLog, LineWriter};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::speaking_http;
use crate::{
    egress::{EgressConfig, tests::one_id::Written},
    http::{
        limits::{MAX_HEAD_BYTES, MAX_HEADERS},
        scan_tests::table::{MALFORMED, MALFORMED_CHUNKS},
    },
    testbed::{self, Zone, connect, until},
};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
const GOOD: &str = "GET / HTTP/1.1\r\nHost: orders.mesh\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";

/// Bytes of one connection, and its end.
#[derive(Debug, Default)]
struct GivenBytes {
    bytes: Vec<u8>,
    end: Option<io::Result<()>>,
}

/// An instance that records all that it is given, and answers each request that has no body.
struct RawInstance {
    address: SocketAddr,
    given: Arc<Mutex<Vec<GivenBytes>>>,
}

impl RawInstance {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let given = Arc::new(Mutex::new(Vec::new()));
        let all = given.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let index = all.lock().len();
                all.lock().push(GivenBytes::default());
                tokio::spawn(record(socket, all.clone(), index));
            }
        });
        Self { address, given }
    }

    fn instance(&self) -> Arc<Instance> {
        testbed::instance("raw", self.address, 1, &[])
    }

    fn connections(&self) -> usize {
        self.given.lock().len()
    }

    /// Text that its last connection was given.
    fn last(&self) -> String {
        let given = self.given.lock();
        let bytes = given.last().map(|given| given.bytes.clone());
        String::from_utf8(bytes.unwrap_or_default()).unwrap()
    }

    fn has_last_ended(&self) -> bool {
        self.given.lock().last().is_some_and(|given| given.end.is_some())
    }
}

async fn record(mut socket: TcpStream, all: Arc<Mutex<Vec<GivenBytes>>>, index: usize) {
    let mut buffer = [0; 4096];
    loop {
        let read = socket.read(&mut buffer).await;
        match read {
            Ok(0) => all.lock()[index].end = Some(Ok(())),
            Ok(count) => all.lock()[index].bytes.extend_from_slice(&buffer[..count]),
            Err(error) => all.lock()[index].end = Some(Err(error)),
        }
        let read = all.lock()[index].bytes.clone();
        if all.lock()[index].end.is_some() {
            return;
        }
        if read.starts_with(b"GET") && read.ends_with(b"\r\n\r\n") {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            let _ = socket.write_all(answer).await;
        }
    }
}

/// All that comes back for these bytes, until the gateway closes.
async fn told(address: SocketAddr, bytes: &[u8]) -> String {
    let (mut read, mut write) = connect(address).await.into_split();
    let mut answer = Vec::new();
    let exchange = async {
        let writing = async { write.write_all(bytes).await.unwrap() };
        let reading = async { read.read_to_end(&mut answer).await };
        let ((), read) = tokio::join!(writing, reading);
        read.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(bytes)))
    };
    timeout(PATIENCE, exchange).await.expect("the gateway closes");
    String::from_utf8(answer).unwrap()
}

fn assert_refused(answer: &str, status: u16, bytes: &str) {
    let begin = format!("HTTP/1.1 {status} ");
    assert!(answer.starts_with(&begin), "{status} for {bytes:?}: {answer:?}");
    assert!(
        answer.contains("\r\ncauseway-reason: bad_request\r\n"),
        "{answer:?}"
    );
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer:?}");
    assert!(answer.ends_with("(bad_request)\n"), "{answer:?}");
}

#[tokio::test]
async fn a_malformed_request_is_refused_and_nothing_of_it_reaches_an_instance() {
    let here = RawInstance::start().await;
    let home = Zone::start("home", &speaking_http("early: false"), vec![here.instance()]);
    for (bytes, fault) in MALFORMED {
        let answer = told(home.vip, bytes.as_bytes()).await;
        assert_refused(&answer, fault.status(), bytes);
    }
    assert_eq!(here.connections(), 0, "{}", here.last());
    until("all are closed", || home.egress.open_connections().count() == 0).await;
}

#[tokio::test]
async fn requests_before_a_malformed_one_are_answered() {
    let here = RawInstance::start().await;
    let home = Zone::start("home", &speaking_http("early: false"), vec![here.instance()]);
    for (bytes, fault) in MALFORMED.into_iter().step_by(8) {
        let answer = told(home.vip, format!("{GOOD}{GOOD}{bytes}").as_bytes()).await;
        let (answered, refused) = answer.split_at(answer.rfind("okHTTP/1.1 ").unwrap() + 2);
        assert_eq!(answered.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{answer:?}");
        assert_refused(refused, fault.status(), bytes);
    }
    for given in &*here.given.lock() {
        let text = String::from_utf8_lossy(&given.bytes);
        let heads: Vec<&str> = text.split_terminator("\r\n\r\n").collect();
        assert!(
            heads.iter().all(|head| head.starts_with("GET / HTTP/1.1\r\n")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_body_that_turns_bad_is_never_ended_towards_the_instance() {
    let here = RawInstance::start().await;
    let home = Zone::start("home", &speaking_http("early: false"), vec![here.instance()]);
    for (bytes, fault) in MALFORMED_CHUNKS {
        let before = here.connections();
        let (mut read, mut write) = connect(home.vip).await.into_split();
        write.write_all(CHUNKED.as_bytes()).await.unwrap();
        until("the instance has its begin", || {
            here.connections() > before && here.last().ends_with("3\r\nabc\r\n")
        })
        .await;
        write.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let reading = timeout(PATIENCE, read.read_to_string(&mut answer));
        reading.await.expect("an answer in time").unwrap();
        assert_refused(&answer, fault.status(), bytes);
        until("the instance hears of it", || here.has_last_ended()).await;
        let given = here.given.lock();
        let last = given.last().unwrap();
        assert!(
            matches!(last.end, Some(Err(_))),
            "{bytes:?} ended as if it were whole"
        );
        assert!(!last.bytes.ends_with(b"0\r\n\r\n"), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_body_that_comes_bad_is_never_ended_towards_the_instance() {
    let here = RawInstance::start().await;
    let home = Zone::start("home", &speaking_http("early: false"), vec![here.instance()]);
    for (bytes, fault) in MALFORMED_CHUNKS {
        let answer = told(home.vip, format!("{CHUNKED}{bytes}").as_bytes()).await;
        assert_refused(&answer, fault.status(), bytes);
    }
    for given in &*here.given.lock() {
        assert!(!given.bytes.ends_with(b"0\r\n\r\n"), "{given:?}");
    }
}

#[tokio::test]
async fn heads_have_limits() {
    let here = RawInstance::start().await;
    let home = Zone::start("home", &speaking_http("early: false"), vec![here.instance()]);
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "y".repeat(MAX_HEAD_BYTES)
    );
    assert_refused(&told(home.vip, large.as_bytes()).await, 431, "a large head");
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(MAX_HEADERS)
    );
    assert_refused(&told(home.vip, many.as_bytes()).await, 431, "many fields");
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_HEAD_BYTES));
    assert_refused(&told(home.vip, long.as_bytes()).await, 414, "a long target");
    assert_eq!(here.connections(), 0);
    let most = "y".repeat(MAX_HEAD_BYTES - 60);
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {most}\r\n\r\n");
    assert!(large.len() <= MAX_HEAD_BYTES);
    let answer = told(home.vip, large.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
}

#[tokio::test]
async fn a_client_that_goes_on_sending_is_heard_out() {
    let home = Zone::start("home", &speaking_http("early: false"), vec![]);
    let mut bytes = b"POST / HTTP/1.1\r\n\r\n".to_vec();
    bytes.resize(512 * 1024, b'x');
    assert_refused(&told(home.vip, &bytes).await, 400, "no Host");
    let (mut read, mut write) = connect(home.vip).await.into_split();
    write.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    read.read_to_string(&mut answer).await.unwrap();
    assert_refused(&answer, 400, "no Host");
    // A connection that is closed would be reset by the first, and the others would fail.
    for _ in 0..8 {
        write.write_all(&[b'x'; 16 * 1024]).await.unwrap();
    }
    drop((read, write));
    until("it is closed", || home.egress.open_connections().count() == 0).await;
}

#[tokio::test]
async fn a_malformed_request_has_a_line_in_the_access_log() {
    let written = Written::default();
    let access = LineWriter::start("access log", written.clone(), &Tasks::default()).unwrap();
    let home = Zone::with_access_log(
        "home",
        &speaking_http("early: false"),
        vec![],
        EgressConfig::new(1),
        AccessLog::Text(access),
    );
    let answer = told(home.vip, b"GET / HTTP/1.1\n\n").await;
    assert_refused(&answer, 400, "bare LF");
    until("a line is written", || written.lines().len() == 1).await;
    let line = &written.lines()[0];
    assert!(line.contains(" egress orders{} home->- bad_request "), "{line}");
    assert!(line.contains(" attempts=0 ") && line.contains(" up=0 "), "{line}");
}
