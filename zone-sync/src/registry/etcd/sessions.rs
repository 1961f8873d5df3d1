//! Sessions of the gateways that are attached here, and which of their calls may still be carried out. Pure, but for telling those who wait.
//!
//! A gateway that attaches anew, here or elsewhere, ends its session before that, and what that has still to say is refused. Here this is known at
//! once; a zone-sync that has not heard of it is kept from writing by etcd, where each write of a session compares the key of the gateway's last one
//! ([`super::write::Fence`]). A session puts its own there only as long as the key is as it was when the session began, so that none comes after one
//! that is younger. Attempts that were given up within one session are of an earlier epoch than the calls after them.

use std::collections::BTreeMap;

use causeway_federation::{
    name::GatewayName,
    registry::{CallSession, GatewaySession},
};
use tokio::sync::watch;

/// State of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionStanding {
    /// etcd does not hold it yet, so nothing can be written.
    Awaited,
    /// It is the gateway's last.
    InForce,
    /// A later one has taken its place, or its gateway has gone.
    Over,
}

/// Reason why a call of a gateway is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionRefusal {
    #[error("the attachment that the gateway made the call in is over")]
    Over,
    #[error("the gateway's attachment is not in etcd yet")]
    Awaited,
    #[error("the gateway has given up the attempt since")]
    GivenUp,
}

/// One entry for each gateway that has a session here.
#[derive(Debug, Default)]
pub(super) struct Sessions(BTreeMap<GatewayName, OpenSession>);

#[derive(Debug)]
struct OpenSession {
    session: GatewaySession,
    /// The latest that a call named.
    epoch: u64,
    /// Revision at which etcd took it; 0 until then.
    revision: i64,
    standing: watch::Sender<SessionStanding>,
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.standing.send_replace(SessionStanding::Over);
    }
}

impl Sessions {
    /// Begins a session, which ends the one that the gateway has here.
    pub(super) fn begin(
        &mut self,
        gateway: &GatewayName,
        session: GatewaySession,
    ) -> watch::Receiver<SessionStanding> {
        let (standing, told) = watch::channel(SessionStanding::Awaited);
        let open = OpenSession {
            session,
            epoch: 0,
            revision: 0,
            standing,
        };
        self.0.insert(gateway.clone(), open);
        told
    }

    /// Ends a session, unless another has taken its place.
    pub(super) fn end(&mut self, gateway: &GatewayName, session: GatewaySession) {
        if self.0.get(gateway).is_some_and(|open| open.session == session) {
            self.0.remove(gateway);
        }
    }

    /// Takes up which session of a gateway etcd holds since `revision`.
    pub(super) fn told(&mut self, gateway: &GatewayName, held: GatewaySession, revision: i64) {
        let Some(open) = self.0.get_mut(gateway) else {
            return;
        };
        if open.session == held {
            open.revision = revision;
            open.standing.send_replace(SessionStanding::InForce);
        } else if open.revision != 0 && open.revision < revision {
            self.0.remove(gateway);
        }
    }

    /// Lets a call in, after which none of an earlier epoch is.
    ///
    /// # Errors
    /// When it comes too late, or too early.
    pub(super) fn admit(&mut self, call: &CallSession) -> Result<(), SessionRefusal> {
        self.check(call)?;
        if let Some(open) = self.0.get_mut(&call.gateway) {
            open.epoch = call.epoch;
        }
        Ok(())
    }

    /// Looks at a call that was let in, before it is carried out.
    ///
    /// # Errors
    /// As for [`Sessions::admit`].
    pub(super) fn check(&self, call: &CallSession) -> Result<(), SessionRefusal> {
        let open = self.0.get(&call.gateway);
        let open = open.filter(|open| open.session == call.session);
        let open = open.ok_or(SessionRefusal::Over)?;
        if open.revision == 0 {
            return Err(SessionRefusal::Awaited);
        }
        match call.epoch < open.epoch {
            true => Err(SessionRefusal::GivenUp),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(name: &str) -> GatewayName {
        name.parse().unwrap()
    }

    fn session(number: u128) -> GatewaySession {
        GatewaySession::new(number)
    }

    fn call(number: u128, epoch: u64) -> CallSession {
        CallSession {
            gateway: gateway("gw1"),
            session: session(number),
            epoch,
        }
    }

    fn begun(number: u128) -> (Sessions, watch::Receiver<SessionStanding>) {
        let mut sessions = Sessions::default();
        let standing = sessions.begin(&gateway("gw1"), session(number));
        (sessions, standing)
    }

    #[test]
    fn a_session_counts_once_etcd_has_it_and_until_the_next() {
        let (mut sessions, first) = begun(1);
        assert_eq!(sessions.admit(&call(1, 0)), Err(SessionRefusal::Awaited));
        sessions.told(&gateway("gw1"), session(1), 5);
        assert_eq!(sessions.admit(&call(1, 0)), Ok(()));
        assert_eq!(*first.borrow(), SessionStanding::InForce);
        let second = sessions.begin(&gateway("gw1"), session(2));
        assert_eq!(*first.borrow(), SessionStanding::Over);
        assert_eq!(sessions.check(&call(1, 0)), Err(SessionRefusal::Over));
        assert_eq!(sessions.check(&call(2, 0)), Err(SessionRefusal::Awaited));
        // The end of the first one's connection is no end of the second.
        sessions.end(&gateway("gw1"), session(1));
        sessions.told(&gateway("gw1"), session(2), 6);
        assert_eq!(sessions.check(&call(2, 0)), Ok(()));
        sessions.end(&gateway("gw1"), session(2));
        assert_eq!(sessions.check(&call(2, 0)), Err(SessionRefusal::Over));
        assert_eq!(*second.borrow(), SessionStanding::Over);
    }

    #[test]
    fn a_session_that_etcd_has_from_elsewhere_ends_an_older_one_and_no_younger() {
        let (mut sessions, standing) = begun(1);
        // It is not known yet which of the two is older.
        sessions.told(&gateway("gw1"), session(9), 4);
        sessions.told(&gateway("gw1"), session(1), 5);
        // The watch tells late of what was before.
        sessions.told(&gateway("gw1"), session(9), 4);
        assert_eq!(sessions.check(&call(1, 0)), Ok(()));
        sessions.told(&gateway("gw2"), session(9), 6);
        assert_eq!(sessions.check(&call(1, 0)), Ok(()));
        sessions.told(&gateway("gw1"), session(9), 6);
        assert_eq!(sessions.check(&call(1, 0)), Err(SessionRefusal::Over));
        assert_eq!(*standing.borrow(), SessionStanding::Over);
    }

    #[test]
    fn after_a_call_of_a_later_epoch_none_of_an_earlier_one_is_carried_out() {
        let (mut sessions, _standing) = begun(1);
        sessions.told(&gateway("gw1"), session(1), 5);
        assert_eq!(sessions.admit(&call(1, 0)), Ok(()));
        assert_eq!(sessions.admit(&call(1, 2)), Ok(()));
        // Also what was let in already and waits.
        assert_eq!(sessions.check(&call(1, 0)), Err(SessionRefusal::GivenUp));
        assert_eq!(sessions.admit(&call(1, 1)), Err(SessionRefusal::GivenUp));
        assert_eq!(sessions.admit(&call(1, 2)), Ok(()));
    }
}
