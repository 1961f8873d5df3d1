//! Ports that this process may listen on only with a privilege.

use std::fs;

use rustix::thread::{CapabilitySet, capabilities};

/// First port that everybody may have, unless the host says another.
const USUAL_FIRST_FREE: u16 = 1024;
/// File of the host's own word on that.
const FIRST_FREE: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Returns the lowest port that this process may listen on; 0: every port.
#[must_use]
pub fn lowest_port() -> u16 {
    let privileged =
        capabilities(None).is_ok_and(|held| held.effective.contains(CapabilitySet::NET_BIND_SERVICE));
    let told = fs::read_to_string(FIRST_FREE).ok();
    lowest(privileged, told.as_deref())
}

fn lowest(privileged: bool, told: Option<&str>) -> u16 {
    if privileged {
        return 0;
    }
    let told = told.and_then(|text| text.trim().parse().ok());
    told.unwrap_or(USUAL_FIRST_FREE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_says_which_ports_are_free_for_who_has_no_privilege() {
        assert_eq!(lowest(true, Some("1024\n")), 0);
        assert_eq!(lowest(false, Some("80\n")), 80);
        assert_eq!(lowest(false, None), 1024);
    }
}
