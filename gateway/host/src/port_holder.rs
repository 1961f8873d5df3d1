//! Programs of this host that have a TCP port, as far as the kernel lets this user see them: so that who is told that a port is
//! taken is told by whom.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::SocketAddr,
    path::Path,
    process,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::listening_user::{ListeningRow, listening_rows};

/// Most descriptors of all programs that are looked at in one reading: a host with more has other worries, and the look ends.
const MAX_LOOKED_AT: usize = 1 << 20;
/// Time for which one reading counts: many addresses fail at once for one port, and each look at a host's programs costs.
const COUNTS_FOR: Duration = Duration::from_secs(5);
/// Bytes that the kernel keeps of a command's name, its end included (`TASK_COMM_LEN`).
const COMMAND_BYTES: usize = 16;

/// Program that has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    listener: SocketAddr,
    user: u32,
    /// Number and command; `None`: this user may not see them.
    program: Option<(u32, String)>,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listener, user, .. } = self;
        match &self.program {
            Some((pid, _)) if *pid == process::id() => write!(f, "this process itself listens at {listener}"),
            Some((pid, command)) => write!(f, "`{command}` (pid {pid}) listens at {listener}"),
            None => write!(f, "a program of user {user} listens at {listener}"),
        }
    }
}

/// Programs that have TCP ports, read anew when somebody asks and the last reading is old.
#[derive(Debug, Default)]
pub struct PortHolders(Mutex<Option<(Instant, Vec<PortHolder>)>>);

impl PortHolders {
    /// Finds who keeps `address` from being bound; `None`: nobody that listens, or nobody can tell. Reads beside the runtime.
    pub async fn of(&self, address: SocketAddr) -> Option<PortHolder> {
        let mut read = self.0.lock().await;
        if read.as_ref().is_none_or(|(at, _)| at.elapsed() > COUNTS_FOR) {
            let holders = tokio::task::spawn_blocking(holders).await.unwrap_or_default();
            *read = Some((Instant::now(), holders));
        }
        let (_, holders) = read.as_ref()?;
        let found = holders.iter().find(|holder| excludes(holder.listener, address));
        found.cloned()
    }
}

/// Tells whether a listener at `listener` keeps `address` from being bound.
fn excludes(listener: SocketAddr, address: SocketAddr) -> bool {
    let (at, wanted) = (listener.ip().to_canonical(), address.ip().to_canonical());
    let all = |ip: std::net::IpAddr, other: std::net::IpAddr| {
        ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4())
    };
    listener.port() == address.port() && (at == wanted || all(at, wanted) || all(wanted, at))
}

/// Reads every socket that listens, with its program.
fn holders() -> Vec<PortHolder> {
    let rows = listening_rows().unwrap_or_default();
    let wanted: BTreeMap<u64, usize> = (0..).zip(&rows).map(|(place, row)| (row.inode, place)).collect();
    let mut programs: Vec<Option<(u32, String)>> = vec![None; rows.len()];
    let mut left = MAX_LOOKED_AT;
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for (pid, folder) in processes.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, entry.path()))
    }) {
        // Those of other users cannot be read without a privilege.
        let descriptors = fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
        for descriptor in descriptors {
            let Some(fewer) = left.checked_sub(1) else {
                break;
            };
            left = fewer;
            let place = inode(&descriptor.path()).and_then(|inode| wanted.get(&inode));
            if let Some(program) = place.and_then(|place| programs.get_mut(*place)) {
                program.get_or_insert_with(|| (pid, command(&folder)));
            }
        }
    }
    let holder = |(ListeningRow { at, user, .. }, program)| PortHolder {
        listener: at,
        user,
        program,
    };
    rows.into_iter().zip(programs).map(holder).collect()
}

/// Reads the number of the socket that a descriptor is; `None`: it is none.
fn inode(descriptor: &Path) -> Option<u64> {
    let target = fs::read_link(descriptor).ok()?;
    let number = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

/// Reads a program's name, and not its arguments, which may hold secrets. A program chooses it: nothing of it may move a terminal.
fn command(process: &Path) -> String {
    let name = fs::read(process.join("comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name[..name.len().min(COMMAND_BYTES)]).into_owned();
    let shown = |c: char| if c.is_control() || c == '`' { '?' } else { c };
    name.trim_end().chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn who_has_a_port_at_every_address_is_found_for_each_of_them() {
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        let holders = PortHolders::default();
        let found = holders
            .of(SocketAddr::from(([127, 66, 0, 1], port)))
            .await
            .unwrap();
        assert_eq!(found.listener.port(), port);
        let (pid, command) = found.program.clone().unwrap();
        assert!(pid == process::id() && !command.is_empty(), "{command}");
        assert_eq!(
            found.to_string(),
            format!("this process itself listens at 0.0.0.0:{port}")
        );
    }

    #[test]
    fn a_holder_is_told_by_its_command_and_else_by_its_user() {
        let listener = "0.0.0.0:80".parse().unwrap();
        let told = |program| {
            PortHolder {
                listener,
                user: 33,
                program,
            }
            .to_string()
        };
        assert_eq!(
            told(Some((1, "nginx".to_owned()))),
            "`nginx` (pid 1) listens at 0.0.0.0:80"
        );
        assert_eq!(told(None), "a program of user 33 listens at 0.0.0.0:80");
    }

    #[test]
    fn a_listener_excludes_its_own_address_and_at_every_address_all_of_its_family() {
        let cases = [
            ("0.0.0.0:80", "127.64.0.1:80", true),
            ("[::]:80", "127.64.0.1:80", true),
            ("127.64.0.1:80", "0.0.0.0:80", true),
            ("127.64.0.1:80", "127.64.0.1:80", true),
            ("127.64.0.1:80", "127.64.0.2:80", false),
            ("0.0.0.0:80", "127.64.0.1:81", false),
            ("0.0.0.0:80", "[fd00::1]:80", false),
        ];
        for (listener, address, expected) in cases {
            let found = excludes(listener.parse().unwrap(), address.parse().unwrap());
            assert_eq!(found, expected, "{listener} and {address}");
        }
    }
}
