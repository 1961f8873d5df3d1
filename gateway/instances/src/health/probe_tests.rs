//! Real probes against tiny servers on loopback.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::oneshot,
};
use tokio_stream::wrappers::TcpListenerStream;

use super::*;

/// Long enough that no probe of a server that answers ends by it, on a busy machine either.
/// Name of the service that the instances are of.
const HOST: &str = "orders.mesh";
const PATIENT: Duration = Duration::from_secs(20);
/// Short enough to wait for.
const HASTY: Duration = Duration::from_millis(200);

fn get(path: &str) -> Probe {
    Probe::Http {
        path: path.to_owned(),
    }
}

fn health_of(service: &str) -> Probe {
    Probe::Grpc {
        service: service.to_owned(),
    }
}

/// Takes one connection, reads the request, writes `answer`, and then `more` again and again until the client leaves.
async fn server(answer: &'static [u8], more: &'static [u8]) -> (SocketAddr, oneshot::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, asked) = oneshot::channel();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = socket.read(&mut request).await.unwrap_or(0);
        let _ = tell.send(String::from_utf8_lossy(&request[..length]).into_owned());
        let _ = socket.write_all(answer).await;
        while !more.is_empty() && socket.write_all(more).await.is_ok() {}
    });
    (address, asked)
}

async fn http_probe(answer: &'static [u8], more: &'static [u8], timeout: Duration) -> Result<(), String> {
    let (address, _) = server(answer, more).await;
    let result = probe(address, HOST, &get("/healthz"), timeout).await;
    result.map_err(|failure| failure.reason())
}

#[tokio::test]
async fn tcp_passes_when_a_connection_is_accepted_and_fails_on_a_closed_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert!(probe(address, HOST, &Probe::Tcp, PATIENT).await.is_ok());
    drop(listener);
    for kind in [Probe::Tcp, get("/"), health_of("")] {
        let failure = probe(address, HOST, &kind, PATIENT).await.unwrap_err();
        assert!(matches!(failure, ProbeFailure::Connect(_)), "{failure:?}");
        assert!(failure.reason().contains("refused"), "{}", failure.reason());
    }
}

#[tokio::test]
async fn http_passes_on_success_and_on_redirects_that_it_does_not_follow() {
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    assert_eq!(http_probe(ok, b"", PATIENT).await, Ok(()));
    let moved = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(http_probe(moved, b"", PATIENT).await, Ok(()));
    let until_closed = b"HTTP/1.0 204 No Content\r\n\r\n";
    assert_eq!(http_probe(until_closed, b"", PATIENT).await, Ok(()));
}

#[tokio::test]
async fn http_asks_for_its_path_with_a_host() {
    let (address, asked) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"").await;
    assert!(
        probe(address, HOST, &get("/healthz?deep=1"), PATIENT)
            .await
            .is_ok()
    );
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("host: orders.mesh\r\n"), "{asked}");
    assert!(asked.contains("causeway-health/"), "{asked}");
}

#[tokio::test]
async fn http_fails_on_errors_with_the_status_as_the_reason() {
    for (answer, reason) in [
        (
            &b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"[..],
            "answered 500",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "answered 404",
        ),
    ] {
        assert_eq!(http_probe(answer, b"", PATIENT).await, Err(reason.to_owned()));
    }
}

#[tokio::test]
async fn http_fails_on_garbage_and_on_no_answer_at_all() {
    for answer in [&b"\x00\x01\x02 not http at all\r\n\r\n"[..], b"", b"HTTP/1.1 200"] {
        let failed = http_probe(answer, b"", PATIENT).await.unwrap_err();
        assert!(failed.starts_with("no proper HTTP answer"), "{failed}");
    }
    let failed = http_probe(b"HTTP/1.1 200 OK\r\n", b"x-more: of it\r\n", PATIENT).await;
    assert!(failed.is_err(), "a head without an end is not read for ever");
}

#[tokio::test]
async fn an_endless_body_is_read_in_part_and_passes() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = b"10\r\n0123456789abcdef\r\n";
    assert_eq!(http_probe(head, chunk, PATIENT).await, Ok(()));
}

#[tokio::test]
async fn the_timeout_covers_every_stage_of_a_probe() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    for kind in [get("/"), health_of("")] {
        let failure = probe(address, HOST, &kind, HASTY).await.unwrap_err();
        assert!(matches!(failure, ProbeFailure::Timeout(HASTY)), "{failure:?}");
    }
    // The head comes and the body never does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stalls = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 4096]).await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
        socket.write_all(head).await.unwrap();
        future::pending::<()>().await;
    });
    let failure = probe(address, HOST, &get("/"), HASTY).await.unwrap_err();
    assert!(matches!(failure, ProbeFailure::Timeout(_)), "{failure:?}");
    stalls.abort();
}

#[tokio::test]
async fn grpc_passes_on_serving_alone() {
    let (reporter, service) = tonic_health::server::health_reporter();
    let down = tonic_health::ServingStatus::NotServing;
    reporter.set_service_status("down", down).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    assert!(probe(address, HOST, &health_of(""), PATIENT).await.is_ok());
    let failure = probe(address, HOST, &health_of("down"), PATIENT)
        .await
        .unwrap_err();
    assert_eq!(failure.reason(), "reports NOT_SERVING");
    let failure = probe(address, HOST, &health_of("other"), PATIENT)
        .await
        .unwrap_err();
    assert!(failure.reason().contains("NotFound"), "{}", failure.reason());
}

#[tokio::test]
async fn grpc_fails_on_a_server_that_does_not_speak_it() {
    let (address, _) = server(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", b"").await;
    let failure = probe(address, HOST, &health_of(""), PATIENT).await.unwrap_err();
    assert!(failure.reason().len() < 300, "{}", failure.reason());
}

#[test]
fn a_lack_of_sockets_is_not_held_against_the_instance() {
    let ours = ProbeFailure::connect(Errno::MFILE.into());
    assert!(matches!(ours.outcome(), ProbeResult::NotAsked(_)));
    let theirs = ProbeFailure::connect(Errno::CONNREFUSED.into());
    assert!(matches!(theirs.outcome(), ProbeResult::Failed(_)));
}

#[test]
fn reasons_are_short_and_printable() {
    let failure = ProbeFailure::Grpc {
        code: tonic::Code::Internal,
        message: "\u{1b}[2Jx\n".repeat(1000),
    };
    let reason = failure.reason();
    assert_eq!(reason.chars().count(), MAX_REASON_CHARS);
    assert!(!reason.contains(char::is_control));
}
