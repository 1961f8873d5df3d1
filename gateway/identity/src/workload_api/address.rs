//! The address at which an agent serves the Workload API (SPIFFE Workload Endpoint §4): a unix socket. TCP, which the specification also
//! allows, is not spoken: who reaches such a port is not known by the kernel.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The variable that SPIFFE programs find their agent with. It is read when that is asked for, and else means nothing here.
pub const STANDARD_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
const SCHEME: &str = "unix:";

/// The absolute path of an agent's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointAddress(PathBuf);

/// Reason why a text is no such address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the address of a SPIFFE Workload API: give unix:///PATH, an absolute path")]
pub struct EndpointAddressError(String);

impl EndpointAddress {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for EndpointAddress {
    type Err = EndpointAddressError;

    /// `unix:///PATH`, or the shorter `unix:/PATH`.
    fn from_str(text: &str) -> Result<Self, EndpointAddressError> {
        let wrong = || EndpointAddressError(text.chars().take(200).collect());
        let rest = text.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let path = match rest.strip_prefix("//") {
            // What stands between `//` and the path would be a host.
            Some(path) => path,
            None => rest,
        };
        let plain = !path.contains(['?', '#', '%', '\0']);
        match path.len() > 1 && path.starts_with('/') && !path.starts_with("//") && plain {
            true => Ok(Self(PathBuf::from(path))),
            false => Err(wrong()),
        }
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}//{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_found_at_the_absolute_path_of_a_unix_socket_and_nowhere_else() {
        for good in ["unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock"] {
            let address: EndpointAddress = good.parse().unwrap();
            assert_eq!(address.path(), Path::new("/run/spire/agent.sock"));
            assert_eq!(address.to_string(), "unix:///run/spire/agent.sock");
        }
        for bad in [
            "",
            "unix:",
            "unix:///",
            "unix://host/run/agent.sock",
            "unix:run/agent.sock",
            "unix:////run/agent.sock",
            "unix:///run/agent.sock?x",
            "unix:///run/agent%20.sock",
            "/run/agent.sock",
            "tcp://127.0.0.1:8000",
            "http://127.0.0.1:8000",
        ] {
            assert!(bad.parse::<EndpointAddress>().is_err(), "{bad}");
        }
    }
}
