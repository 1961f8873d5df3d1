//! Check of the unix sockets over which this host changes things: they are files, which others may take away.

use std::{os::unix::fs::FileTypeExt as _, path::Path};

use causeway_api::admin::AdminAddress;
use causeway_telemetry::Check;

use super::GatewayConfig;

/// Tells where the gateway listens on unix sockets, and which of them is not there any more.
pub(super) fn check(config: &GatewayConfig) -> impl Fn() -> Check + Send + Sync + use<> {
    let admin = config.admin.iter().filter_map(|admin| match &admin.listen {
        AdminAddress::Unix(path) => Some(path.clone()),
        AdminAddress::Tcp(_) => None,
    });
    let registration = config
        .registration
        .iter()
        .filter_map(|registration| registration.socket.clone());
    let paths: Vec<_> = admin.chain(registration).collect();
    move || listens(&paths)
}

fn listens(paths: &[impl AsRef<Path>]) -> Check {
    let (group, name) = ("gateway", "sockets");
    let is_there = |path: &Path| path.metadata().is_ok_and(|file| file.file_type().is_socket());
    let told = |path: &Path| path.display().to_string();
    let (there, gone): (Vec<&Path>, Vec<&Path>) =
        paths.iter().map(AsRef::as_ref).partition(|path| is_there(path));
    let list = |paths: Vec<&Path>| paths.into_iter().map(told).collect::<Vec<_>>().join(", ");
    match (there.is_empty(), gone.is_empty()) {
        (_, false) => Check::warn(
            group,
            name,
            format!("not there any more: {}", list(gone)),
            "somebody has removed it, and nobody gets in there: start the gateway again, and keep others out of its --data folder",
        ),
        (false, true) => Check::ok(group, name, format!("listens at {}", list(there))),
        (true, true) => Check::ok(group, name, "none was asked for"),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn a_socket_that_was_taken_away_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["admin.sock", "registry.sock"].map(|name| folder.path().join(name));
        let _listeners = paths.each_ref().map(|path| UnixListener::bind(path).unwrap());
        let well = listens(&paths);
        assert!(
            well.message.contains("admin.sock") && well.hint.is_none(),
            "{well:?}"
        );
        fs::remove_file(&paths[1]).unwrap();
        let told = listens(&paths);
        let expected = format!("not there any more: {}", paths[1].display());
        assert_eq!((told.message, told.hint.is_some()), (expected, true));
        assert_eq!(listens(&paths[..0]).message, "none was asked for");
    }
}
