//! Callers as an instance is told of them, request by request, where a certificate names them.

use std::sync::Arc;

use causeway_routing::snapshot::Instance;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{Scene, WEB};
use crate::testbed;

#[tokio::test]
async fn an_instance_is_told_who_calls_and_a_caller_cannot_say_it_of_itself() {
    let instance = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at: Arc<Instance> = testbed::instance("a", instance.local_addr().unwrap(), 1, &[]);
    let topology = testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 8080, protocol: http }",
    );
    let scene = Scene::local(&topology).await;
    scene.home.change(|snapshot| {
        snapshot.instances = Arc::new([(testbed::service("orders"), vec![at].into())].into());
    });
    let mut client = scene.client(WEB).await;
    let lie =
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Client-Cert: URI=spiffe://test.internal/app/other\r\n\r\n";
    client.0.write_all(lie.as_bytes()).await.unwrap();
    let (mut accepted, _) = instance.accept().await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(accepted.read_u8().await.unwrap()));
    }
    let told: Vec<&str> = head
        .lines()
        .filter(|line| line.starts_with("x-forwarded-client-cert"))
        .collect();
    assert_eq!(told, [format!("x-forwarded-client-cert: URI={WEB}")]);
    assert!(head.contains("\r\nx-forwarded-proto: https\r\n"), "{head}");
}

/// An instance that answers every request with 200.
async fn agreeing() -> Arc<Instance> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = socket.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                        socket.write_all(answer).await.unwrap();
                    }
                }
            });
        }
    });
    testbed::instance("a", address, 1, &[])
}

/// Head of the answer to a request for this host.
async fn asked(client: &mut (impl AsyncRead + AsyncWrite + Unpin), host: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(client.read_u8().await.unwrap()));
    }
    head
}

#[tokio::test]
async fn a_request_for_another_service_than_its_connection_was_made_for_is_misdirected() {
    let topology = testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 8080, protocol: http }\n  web: { port: 8081, protocol: http }",
    );
    let scene = Scene::local(&topology).await;
    let at = agreeing().await;
    scene.home.change(|snapshot| {
        snapshot.instances = Arc::new([(testbed::service("orders"), vec![at].into())].into());
    });
    for host in ["web.mesh", "web.mesh:8081", "orders.west.zone.mesh"] {
        let head = asked(&mut scene.client(WEB).await.0, host).await;
        assert!(head.starts_with("HTTP/1.1 421 "), "{host}: {head}");
        assert!(
            head.contains("\r\ncauseway-reason: misdirected\r\n"),
            "{host}: {head}"
        );
    }
    // Names that are no one's, and the client's own affair.
    for host in [
        "orders.mesh",
        "orders.mesh:8080",
        "127.0.0.1:8080",
        "shop.example",
        "unknown.mesh",
    ] {
        let head = asked(&mut scene.client(WEB).await.0, host).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{host}: {head}");
    }
    // Without TLS the address alone says which service is meant: a proxy may have left the name as it was.
    let head = asked(&mut scene.home.client().await.0, "web.mesh").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}
