//! Clients of the admin API, when it is left to another process.

use std::time::Duration;

use causeway_api::admin::{Admin, AdminAddress, AdminConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::federation::{ask, ask_over_socket, state};

/// Connects, and asks only once the API is being left to another process.
async fn ask_late(mut stream: impl AsyncRead + AsyncWrite + Unpin, admin: Admin) -> String {
    let leaving = tokio::spawn(admin.hand_over());
    let said = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await;
    assert!(said.is_err(), "closed before it could ask");
    let request = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    leaving.await.unwrap();
    answer
}

#[tokio::test]
async fn whoever_has_connected_and_said_nothing_yet_is_answered_in_a_hand_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let start = async |listen| {
        let config = AdminConfig {
            listen,
            insecure: false,
        };
        Admin::start(config, state()).await.unwrap()
    };
    // Another one that is answered comes after it, so that it has been accepted.
    let admin = start(AdminAddress::Unix(path.clone())).await;
    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    assert_eq!(
        ask_over_socket(path.display().to_string(), "GET /livez", "")
            .await
            .0,
        200
    );
    let answer = ask_late(stream, admin).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let admin = start("127.0.0.1:0".parse().unwrap()).await;
    let AdminAddress::Tcp(address) = *admin.local_addr() else {
        panic!("not on TCP");
    };
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&admin, "GET /livez", "").await.0, 200);
    let answer = ask_late(stream, admin).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
