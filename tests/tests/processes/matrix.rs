//! The matrix of who can talk to whom: right and wrong certificates, tokens and protocols, each tried at every entrance of a zone. Each
//! refusal has its own word in the log and the metrics of the side that refuses, and its own answer for the other.

use causeway_tests::matrix::{Entrance, World, rows, table};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_credential_is_admitted_or_refused_with_its_own_reason_at_every_entrance() {
    let rows = rows();
    let mut world = World::start(&rows).await.unwrap();
    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        for entrance in Entrance::ALL {
            if let Err(error) = world.hold(number, row, entrance).await {
                wrong.push(format!("{} at {}: {error:#}", row.name, entrance.title()));
            }
        }
    }
    println!("{}", table(&rows));
    assert!(
        wrong.is_empty(),
        "{} cells are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
