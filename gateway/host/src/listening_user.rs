//! The user whose program listens at a TCP address of this host, as the kernel tells it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// A socket that listens, in the tables of the kernel (`TCP_LISTEN`).
const LISTENING: &str = "0A";

/// A socket that listens, as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListeningRow {
    pub(crate) at: SocketAddr,
    pub(crate) user: u32,
    /// Number of the socket in the kernel.
    pub(crate) inode: u64,
}

/// Finds the user whose program takes connections to `address`; `None`: nobody of this host does, or programs of several users.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub fn listening_user(address: SocketAddr) -> io::Result<Option<u32>> {
    let mut found = None;
    for row in listening_rows()? {
        if !takes(row.at, address) {
            continue;
        }
        if found.is_some_and(|found| found != row.user) {
            return Ok(None);
        }
        found = Some(row.user);
    }
    Ok(found)
}

/// Reads every TCP socket of this host that listens.
pub(crate) fn listening_rows() -> io::Result<Vec<ListeningRow>> {
    let mut rows = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = match File::open(table) {
            Ok(table) => BufReader::new(table),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in table.lines().skip(1) {
            // Those that listen come first.
            let Some(row) = listener(&line?) else {
                break;
            };
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Tells whether a listener at `listener` takes connections to `address`.
fn takes(listener: SocketAddr, address: SocketAddr) -> bool {
    let (at, to) = (listener.ip().to_canonical(), address.ip().to_canonical());
    let everywhere = at.is_unspecified() && (at.is_ipv6() || to.is_ipv4());
    listener.port() == address.port() && (at == to || everywhere)
}

/// Reads one line of a table; `None`: it is not of a socket that listens.
fn listener(line: &str) -> Option<ListeningRow> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (ip, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let user = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    let at = SocketAddr::new(ip_address(ip)?, u16::from_str_radix(port, 16).ok()?);
    (state == LISTENING).then_some(ListeningRow { at, user, inode })
}

/// Reads an address: words of 32 bits in the order of this machine, in hexadecimal.
fn ip_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_listens_is_the_user_of_that_program() {
        let own = rustix::process::geteuid().as_raw();
        for at in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let port = listener.local_addr().unwrap().port();
            let at = SocketAddr::from(([127, 0, 0, 1], port));
            assert_eq!(listening_user(at).unwrap(), Some(own), "{at}");
            drop(listener);
        }
    }

    #[test]
    fn lines_of_the_tables_are_read_as_the_kernel_writes_them() {
        // As on a machine whose numbers begin with their lowest byte.
        let word = |text: &str| match cfg!(target_endian = "little") {
            true => text.to_owned(),
            false => format!("{:08X}", u32::from_str_radix(text, 16).unwrap().swap_bytes()),
        };
        let line = |address: &str, state: &str| {
            format!(
                "   0: {address}:1E82 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 12345 1"
            )
        };
        let own = word("0100007F");
        assert_eq!(
            listener(&line(&own, "0A")),
            Some(ListeningRow {
                at: "127.0.0.1:7810".parse().unwrap(),
                user: 1000,
                inode: 12345
            })
        );
        assert_eq!(listener(&line(&own, "01")), None);
        let six = ["00000000", "00000000", "00000000", "01000000"]
            .map(word)
            .concat();
        assert_eq!(
            listener(&line(&six, "0A")).map(|row| row.at),
            "[::1]:7810".parse().ok()
        );
        assert_eq!(listener("nonsense"), None);
        let takes =
            |listener: &str, address: &str| takes(listener.parse().unwrap(), address.parse().unwrap());
        assert!(
            takes("0.0.0.0:1", "127.0.0.1:1") && takes("[::]:1", "127.0.0.1:1") && takes("[::]:1", "[::1]:1")
        );
        assert!(
            !takes("0.0.0.0:1", "[::1]:1")
                && !takes("127.0.0.2:1", "127.0.0.1:1")
                && !takes("127.0.0.1:2", "127.0.0.1:1")
        );
    }
}
