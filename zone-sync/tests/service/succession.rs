//! One process of a gateway has taken the place of another, and somebody has what the other said.

use std::time::Duration;

use causeway_proto::sync::{Hello, SyncMessage, sync_message::Body};
use causeway_zone_sync::service::ZoneSync;
use tokio::{sync::mpsc, time::timeout};
use tonic::Streaming;

use super::{Ended, export, first_refusal, gateway, healthy, hello, join, liar, start, until};

/// Speaks to a node as `zone`, by hand.
async fn speak(zone: &str, to: &ZoneSync) -> (mpsc::Sender<SyncMessage>, Streaming<SyncMessage>, Ended) {
    let (a, b) = tokio::io::duplex(64 * 1024);
    let (accepter, peer) = (to.clone(), gateway(zone));
    let session = tokio::spawn(async move { accepter.accept_session(peer, b).await });
    let (say, answers) = liar(a).await;
    let hello = Hello {
        // With signatures, as an own process would speak.
        newest_protocol: 3,
        ..match hello(zone).body {
            Some(Body::Hello(hello)) => hello,
            _ => Hello::default(),
        }
    };
    let body = Some(Body::Hello(hello));
    say.send(SyncMessage { body }).await.unwrap();
    (say, answers.unwrap(), session)
}

#[tokio::test]
async fn what_a_process_said_of_itself_undoes_nothing_once_another_has_taken_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (former, _) = start("east", Some(folder.path())).await;
    former.set_exports(vec![export("orders", 9)]);
    let (_say, mut heard, _session) = speak("north", &former).await;
    let said = loop {
        let message = timeout(Duration::from_secs(20), heard.message());
        let message = message.await.unwrap().unwrap().unwrap();
        if let Some(Body::Snapshot(record)) = &message.body {
            assert!(record.head.is_some(), "it is signed");
            break message;
        }
    };
    // The moment of a hand-over: its files are closed, and the successor opens them.
    former.shutdown().await;
    drop(former);
    let (successor, _) = start("east", Some(folder.path())).await;
    successor.set_exports(vec![export("orders", 4)]);
    let (west, mut events) = start("west", None).await;
    let _sessions = join((&successor, "east"), (&west, "west"));
    until(&mut west.catalog(), |c| healthy(c, "east", "orders") == Some(4)).await;
    let incarnation = west
        .catalog()
        .borrow()
        .entry(&gateway("east"))
        .unwrap()
        .record
        .incarnation;

    // Word for word, with its signature: from the gateway that it is of, which is told what is held, and from another that passes it on.
    let (say, mut answers, _session) = speak("east", &west).await;
    say.send(said.clone()).await.unwrap();
    let held = loop {
        let message = timeout(Duration::from_secs(20), answers.message());
        if let Some(Body::Ack(held)) = message.await.unwrap().unwrap().unwrap().body {
            break held;
        }
    };
    assert_eq!(held.incarnation, incarnation);
    let (say, _answers, _session) = speak("north", &west).await;
    say.send(said).await.unwrap();
    // Both say nothing more, and are left for it: by then all that they said has been heard.
    for _ in 0..2 {
        let (_, _, reason) = first_refusal(&mut events).await;
        assert_eq!(reason, "silent");
    }
    let catalog = west.catalog().borrow().clone();
    let record = &catalog.entry(&gateway("east")).unwrap().record;
    assert_eq!(record.incarnation, incarnation);
    assert_eq!(healthy(&catalog, "east", "orders"), Some(4));
    // The successor is heard as before.
    let _sessions = join((&successor, "east"), (&west, "west"));
    successor.set_exports(vec![export("orders", 5)]);
    until(&mut west.catalog(), |c| healthy(c, "east", "orders") == Some(5)).await;
}
