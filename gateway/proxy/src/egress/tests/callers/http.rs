//! Callers as an instance is told of them, request by request, where a certificate names them.

use std::sync::Arc;

use causeway_routing::snapshot::Instance;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
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
