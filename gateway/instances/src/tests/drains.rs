//! Drains of instances, with their file.

use causeway_federation::topology::Drain;

use super::*;
use crate::drains::keep_forgetting;

#[tokio::test]
async fn a_drain_in_the_file_goes_once_its_instance_has_been_gone_for_a_week() {
    let folder = tempfile::tempdir().unwrap();
    let fixed = topology(&[some_address(1)], UNCHECKED);
    let bench = start_in(Some(folder.path().to_owned()), fixed).unwrap();
    let (kept, gone) = (some_address(1).to_string(), "gone".to_owned());
    let registered = registration("orders", &gone, some_address(2));
    bench.instances.register(registered).await.unwrap();
    for id in [&kept, &gone] {
        let key = key(&service("orders"), id);
        let drain = Some(Drain { by: None });
        bench.instances.drain(key, drain, true).await.unwrap();
    }
    bench
        .instances
        .deregister(&service("orders"), &gone)
        .await
        .unwrap();
    let file = || std::fs::read_to_string(folder.path().join("drains.json")).unwrap();
    assert!(file().contains(&gone) && file().contains(&kept));
    let (drains, commands) = (
        bench.instances.drains.clone(),
        bench.instances.commands.downgrade(),
    );
    let forgetting = keep_forgetting(Duration::from_micros(10), drains, commands);
    let written = async {
        while file().contains(&gone) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = forgetting => {}
        forgotten = tokio::time::timeout(LIMIT, written) => forgotten.expect("it is forgotten in time"),
    }
    assert!(file().contains(&kept), "{}", file());
}
