//! Way of a command that changes something to the gateway of its own host: the unix socket that the gateway names on loopback.
//!
//! Who listens on loopback has proved nothing, and could name the socket of another program; so the socket is only used if it
//! is of the user who listens there, as the kernel tells.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use causeway_api::admin::view::SocketView;
use causeway_host::{listen::connect_unix, listening_user::listening_user};
use tokio::{net::UnixStream, task::spawn_blocking};

use super::{Failure, client::Endpoint};

/// Advice to a user whom the socket is not for.
pub(super) const OTHER_USER: &str = "run it as the gateway's user or as root; or show a token of `causeway admin-token` with --admin-token-file";

/// Opens the socket that the gateway which listens at `listener` has told; `None`: there is none, or the listener is no program of
/// this host, and its socket none either.
pub(super) async fn open(
    admin: &Endpoint,
    listener: SocketAddr,
    told: Option<SocketView>,
) -> Result<Option<UnixStream>, Failure> {
    let Some(SocketView { path }) = told else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    // Off the runtime, because the kernel's tables may be long.
    let user = spawn_blocking(move || listening_user(listener)).await;
    let Ok(Ok(Some(user))) = user else {
        return Ok(None);
    };
    let socket = connect_unix(&path)
        .await
        .map_err(|error| closed(admin, &path, &error))?;
    let owner = socket.peer_cred().map(|owner| owner.uid());
    match owner {
        Ok(owner) if owner == user => Ok(Some(socket)),
        _ => Err(Failure::new(format!(
            "the socket {} is not of the user who listens at {admin}",
            path.display()
        ))
        .hint("is it a gateway that listens there? name the right socket with --admin unix:/PATH")),
    }
}

fn closed(admin: &Endpoint, path: &Path, error: &io::Error) -> Failure {
    let shown = path.display();
    let failure = Failure::new(format!(
        "cannot open {shown}, over which the gateway at {admin} takes changes"
    ));
    let failure = failure.because(error);
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.hint(OTHER_USER),
        // The gateway restarts.
        io::ErrorKind::ConnectionRefused => failure.hint("is the gateway running?").passing(),
        _ => failure
            .hint("does the gateway run in a container? run the command there, or show a token with --admin-token-file"),
    }
}
