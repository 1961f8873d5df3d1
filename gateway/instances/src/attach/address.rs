//! The address of a zone-sync.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

/// The port of a zone-sync that names none.
const DEFAULT_PORT: u16 = 7820;

/// `10.0.0.5:7820`, `sync1.east.internal:7820`, or `unix:/run/causeway/zone-sync.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// A host, by name or address, and a port.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// Reason why an address of a zone-sync was not accepted.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the address of a zone-sync: give HOST:PORT or unix:/PATH")]
pub struct AddressError(String);

impl ServerAddress {
    /// The loopback address that it is; `None`: a name, a unix socket, or an address that leads elsewhere.
    pub(super) fn loopback(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { host, port } => {
                let ip = host.parse::<IpAddr>().ok()?.to_canonical();
                ip.is_loopback().then(|| SocketAddr::new(ip, *port))
            }
            Self::Unix(_) => None,
        }
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = || AddressError(text.chars().take(120).collect());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(bad())
            };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let (host, port) = (address.ip().to_string(), address.port());
            return if port > 0 {
                Ok(Self::Tcp { host, port })
            } else {
                Err(bad())
            };
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0).ok_or_else(bad)?),
            None => (text, DEFAULT_PORT),
        };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if host.is_empty() || host.len() > 253 || !host.bytes().all(allowed) {
            return Err(bad());
        }
        let host = host.to_owned();
        Ok(Self::Tcp { host, port })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_is_written() {
        for text in [
            "10.0.0.5:7820",
            "[fd00::5]:7820",
            "sync1.east.internal:7821",
            "unix:/run/sync.sock",
        ] {
            assert_eq!(text.parse::<ServerAddress>().unwrap().to_string(), text);
        }
        assert_eq!(
            "sync1".parse::<ServerAddress>().unwrap().to_string(),
            "sync1:7820"
        );
    }

    #[test]
    fn what_is_no_address_is_refused_whole() {
        for text in [
            "",
            ":7820",
            "host:",
            "host:0",
            "10.0.0.5:0",
            "a b:1",
            "unix:relative",
            "http://host:7820",
        ] {
            let error = text.parse::<ServerAddress>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn only_an_address_on_loopback_has_a_socket_beside_it() {
        let local = |text: &str| text.parse::<ServerAddress>().unwrap().loopback();
        assert_eq!(local("127.0.0.9:1"), "127.0.0.9:1".parse().ok());
        assert_eq!(local("[::1]:1"), "[::1]:1".parse().ok());
        for elsewhere in ["10.0.0.5:1", "localhost:1", "unix:/run/sync.sock"] {
            assert_eq!(local(elsewhere), None, "{elsewhere}");
        }
    }
}
