//! Callers over TLS whose service is looked at request by request.

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{BATCH, Scene, WEB, settings};
use crate::egress::tests::http::{
    set_instances,
    version2::{CallClient, CallInstance, speaking_grpc},
};

#[tokio::test]
async fn calls_over_tls_are_made_by_whom_the_certificate_names() {
    let here = CallInstance::start("here").await;
    let scene = Scene::local(&speaking_grpc(&format!("allow: [\"{WEB}\"]"))).await;
    set_instances(&scene.home, vec![here.instance(&[])]);
    for (uri, code) in [(WEB, "0"), (BATCH, "7")] {
        let mut config = settings(&scene.caller(uri));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let socket = scene.connect(config, "orders.mesh").await.unwrap().0;
        assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
        let (sender, connection) = shaken.await.unwrap();
        tokio::spawn(connection);
        let asking = CallClient(sender);
        let told = tokio::time::timeout(Duration::from_secs(30), asking.call("/"));
        assert_eq!(told.await.unwrap().unwrap().code(), Some(code), "{uri}");
    }
    assert_eq!(here.calls(), 1);
}
