//! Decides who may take the place of a running gateway. Pure.

use std::net::SocketAddr;

use causeway_tunnel::MAX_PREDECESSORS;

use super::messages::{TakeOverRequest, VERSION};

/// Facts of a running gateway, as far as its successor must be the same.
#[derive(Debug, Clone)]
pub(crate) struct Incumbent {
    /// Name with its trust domain, as in its certificate.
    pub(crate) gateway: String,
    pub(crate) user: u32,
    pub(crate) threads: usize,
    pub(crate) listen: SocketAddr,
    /// Processes before it that still finish what they hold.
    pub(crate) predecessors: usize,
}

/// Checks whether a process of `user` that asks so may take over.
///
/// # Errors
/// Says why not, for whoever started it.
pub(super) fn judge(incumbent: &Incumbent, user: u32, ask: &TakeOverRequest) -> Result<(), String> {
    if user != incumbent.user {
        return Err(format!(
            "the running gateway is user {}'s, and this process is user {user}'s",
            incumbent.user
        ));
    }
    if ask.version != VERSION {
        return Err(format!(
            "the running gateway hands over by version {VERSION}, and this program ({}) by version {}: restart it instead",
            ask.program, ask.version
        ));
    }
    if ask.gateway != incumbent.gateway {
        return Err(format!(
            "the running gateway is {}, and this process is {}",
            incumbent.gateway, ask.gateway
        ));
    }
    if ask.listen != Some(incumbent.listen) {
        let wanted = ask
            .listen
            .map_or("nowhere".to_owned(), |listen| listen.to_string());
        return Err(format!(
            "the running gateway takes tunnels at {}, and this process at {wanted}: a change of --listen takes a restart",
            incumbent.listen
        ));
    }
    if ask.threads < incumbent.threads {
        return Err(format!(
            "the running gateway has {} data threads, and this process {}: fewer --threads take a restart",
            incumbent.threads, ask.threads
        ));
    }
    if incumbent.predecessors >= MAX_PREDECESSORS {
        return Err(format!(
            "{} processes before the running gateway still finish what they hold: wait for the first to end",
            incumbent.predecessors
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_gateway_of_the_same_user_takes_over() {
        let incumbent = Incumbent {
            gateway: "spiffe://acme/zone/east/gateway/gw1".to_owned(),
            user: 42,
            threads: 2,
            listen: "[::]:7800".parse().unwrap(),
            predecessors: 0,
        };
        let ask = TakeOverRequest {
            version: VERSION,
            program: "causeway 0.1.0".to_owned(),
            gateway: incumbent.gateway.clone(),
            threads: 2,
            listen: Some(incumbent.listen),
            takes_unix: true,
        };
        let refused = |user, ask: TakeOverRequest| judge(&incumbent, user, &ask).unwrap_err();
        assert_eq!(judge(&incumbent, 42, &ask), Ok(()));
        let more = TakeOverRequest {
            threads: 3,
            ..ask.clone()
        };
        assert_eq!(judge(&incumbent, 42, &more), Ok(()));
        assert!(refused(0, ask.clone()).contains("user 0's"));
        let later = TakeOverRequest {
            version: VERSION + 1,
            ..ask.clone()
        };
        assert!(refused(42, later).contains("restart it instead"));
        let other = TakeOverRequest {
            gateway: "spiffe://acme/zone/east/gateway/gw2".to_owned(),
            ..ask.clone()
        };
        assert!(refused(42, other).contains("gw2"));
        let elsewhere = TakeOverRequest {
            listen: None,
            ..ask.clone()
        };
        assert!(refused(42, elsewhere).contains("--listen"));
        let fewer = TakeOverRequest {
            threads: 1,
            ..ask.clone()
        };
        assert!(refused(42, fewer).contains("--threads"));
        let crowded = Incumbent {
            predecessors: MAX_PREDECESSORS,
            ..incumbent.clone()
        };
        assert!(judge(&crowded, 42, &ask).unwrap_err().contains("wait"));
    }
}
