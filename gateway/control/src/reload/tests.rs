//! Files that change under a running gateway: good, bad, renamed, swapped.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use causeway_federation::name::ServiceName;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;

/// Longer than any wait of these tests takes when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

fn text(port: u16) -> String {
    format!(
        "version: 1\ntrust_domain: acme.internal\nzones:\n  east: {{ gateways: [gw.east:7800] }}\n\
         services:\n  orders: {{ port: {port} }}\n"
    )
}

fn port(topology: &Topology) -> u16 {
    topology.services[&ServiceName::new("orders").unwrap()]
        .ports
        .primary
        .number
}

struct Watched {
    file: Arc<TopologyFile>,
    topology: channel::Receiver<Arc<Topology>>,
    state: channel::Receiver<ReloadState>,
    _stop: DropGuard,
}

impl Watched {
    fn new(path: &Path) -> Self {
        let file = Arc::new(TopologyFile::open(path.to_owned()).unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(file.clone().watch(Arc::default(), stop.clone()));
        Self {
            topology: file.topology(),
            state: file.state(),
            file,
            _stop: stop.drop_guard(),
        }
    }

    async fn port_becomes(&mut self, wanted: u16) {
        let wait = self.topology.wait_for(|topology| port(topology) == wanted);
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the change is taken up")
            .unwrap();
    }

    async fn refusal(&mut self, wanted: bool) -> Option<ReloadRefusal> {
        let wait = self.state.wait_for(|state| state.refused.is_some() == wanted);
        let state = tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the state changes")
            .unwrap();
        state.refused.clone()
    }

    fn port_now(&self) -> u16 {
        port(&self.topology.borrow())
    }
}

fn folder_with(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("topology.yaml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[tokio::test]
async fn a_changed_file_is_taken_up() {
    let (_folder, path) = folder_with(&text(1));
    let mut watched = Watched::new(&path);
    fs::write(&path, text(2)).unwrap();
    watched.port_becomes(2).await;
}

#[tokio::test]
async fn a_file_replaced_by_renaming_is_taken_up() {
    let (folder, path) = folder_with(&text(1));
    let mut watched = Watched::new(&path);
    for port in [2, 3] {
        let draft = folder.path().join("draft");
        fs::write(&draft, text(port)).unwrap();
        fs::rename(&draft, &path).unwrap();
        watched.port_becomes(port).await;
    }
}

/// The layout of a mounted ConfigMap: `topology.yaml -> ..data/topology.yaml`, `..data -> ..1`.
#[tokio::test]
async fn a_swapped_config_map_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for port in [1, 2] {
        fs::create_dir(at(&format!("..{port}"))).unwrap();
        fs::write(at(&format!("..{port}/topology.yaml")), text(port)).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/topology.yaml", at("topology.yaml")).unwrap();
    let mut watched = Watched::new(&at("topology.yaml"));
    symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    watched.port_becomes(2).await;
}

#[tokio::test]
async fn a_bad_file_leaves_the_old_topology_in_force_until_a_good_one_comes() {
    let (_folder, path) = folder_with(&text(1));
    let mut watched = Watched::new(&path);
    fs::write(&path, text(2).replace("port", "prot")).unwrap();
    let refusal = watched.refusal(true).await.unwrap();
    assert!(
        refusal.summary.ends_with("topology.yaml: 1 error, 1 warning"),
        "{}",
        refusal.summary
    );
    assert!(
        refusal.details.contains("did you mean `port`?"),
        "{}",
        refusal.details
    );
    let [error, warning] = &refusal.lines[..] else {
        panic!("{:?}", refusal.lines);
    };
    let place = format!("{}:6:13: error[unknown-key]: ", path.display());
    assert!(
        error.starts_with(&place) && error.ends_with("did you mean `port`?)"),
        "{error}"
    );
    assert!(warning.contains(": warning[no-instances]: "), "{warning}");
    assert_eq!(watched.port_now(), 1);

    fs::write(&path, text(3)).unwrap();
    watched.port_becomes(3).await;
    assert_eq!(watched.refusal(false).await, None);
}

#[tokio::test]
async fn an_emptied_file_leaves_the_old_topology_and_its_text() {
    let (_folder, path) = folder_with(&text(1));
    let mut watched = Watched::new(&path);
    for emptied in ["", "# generation 0, fingerprint 0123456789ab\n"] {
        fs::write(&path, emptied).unwrap();
        watched.refusal(true).await;
        assert_eq!(
            (watched.port_now(), watched.file.text().as_deref()),
            (1, Some(text(1).as_str()))
        );
    }
    fs::write(&path, text(2)).unwrap();
    watched.port_becomes(2).await;
    assert_eq!(watched.file.text().as_deref(), Some(text(2).as_str()));
}

#[tokio::test]
async fn going_back_to_the_file_in_force_ends_the_refusal() {
    let (_folder, path) = folder_with(&text(1));
    let mut watched = Watched::new(&path);
    fs::write(&path, "nonsense").unwrap();
    watched.refusal(true).await;
    fs::write(&path, text(1)).unwrap();
    assert_eq!(watched.refusal(false).await, None);
}

#[tokio::test]
async fn a_deleted_file_leaves_the_old_topology_in_force() {
    let (_folder, path) = folder_with(&text(1));
    let mut watched = Watched::new(&path);
    fs::remove_file(&path).unwrap();
    let refusal = watched.refusal(true).await.unwrap();
    assert!(refusal.summary.starts_with("cannot read "), "{}", refusal.summary);
    assert_eq!(watched.port_now(), 1);
    fs::write(&path, text(2)).unwrap();
    watched.port_becomes(2).await;
}

#[tokio::test]
async fn a_published_topology_holds_until_the_file_changes() {
    let (_folder, path) = folder_with(&text(1));
    let mut watched = Watched::new(&path);
    let published = causeway_federation::topology::parse(&text(7), "published").unwrap();
    watched.file.publish(Arc::new(published.topology));
    assert_eq!(watched.file.reload(Trigger::Request), ReloadOutcome::Unchanged);
    assert_eq!(watched.port_now(), 7);
    fs::write(&path, text(2)).unwrap();
    watched.port_becomes(2).await;
}

#[test]
fn each_bad_content_is_reported_once_and_again_on_request() {
    let (_folder, path) = folder_with(&text(1));
    let file = TopologyFile::open(path.clone()).unwrap();
    assert_eq!(file.reload(Trigger::Change), ReloadOutcome::Unchanged);
    fs::write(&path, "nonsense").unwrap();
    assert_eq!(file.reload(Trigger::Change), ReloadOutcome::Refused);
    assert_eq!(file.reload(Trigger::Change), ReloadOutcome::Unchanged);
    assert_eq!(file.reload(Trigger::Request), ReloadOutcome::Refused);
    fs::write(&path, text(2)).unwrap();
    let ReloadOutcome::Taken(changes) = file.reload(Trigger::Request) else {
        panic!("a good file was not taken up on request");
    };
    assert_eq!(changes.changes[0].to_string(), "~ service orders: port: 1 -> 2");
    assert_eq!(port(&file.topology().borrow()), 2);
}

#[test]
fn a_file_that_is_missing_or_not_text_is_refused_at_the_start() {
    let (folder, path) = folder_with(&text(1));
    fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    let error = TopologyFile::open(path).unwrap_err();
    assert!(
        error.summary().ends_with("it is not UTF-8 text"),
        "{}",
        error.summary()
    );
    let missing = TopologyFile::open(folder.path().join("none.yaml")).unwrap_err();
    assert!(matches!(missing, LoadError::Read { .. }));
}
