//! Sessions of gateways at the zone-syncs: what a call says of the attachment that it was made in.
//!
//! A call may be under way for long, in the queue of a host that was cut off, or be made again while the first attempt still is under way. So that
//! it undoes nothing that was acknowledged after it was given up, it names the session of its gateway, and within that an epoch:
//! the number of times by which the gateway has given up calls.

use std::{fmt, str::FromStr};

use crate::name::GatewayName;

/// Longest text of a [`CallSession`], in bytes: the name of a gateway, a session and the largest epoch.
const MAX_TEXT_BYTES: usize = 128;

/// One attachment of a gateway, among all that it ever makes: a number drawn at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewaySession(u128);

/// Session and epoch that a call was made in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSession {
    pub gateway: GatewayName,
    pub session: GatewaySession,
    /// Grows with every attempt that was given up: what an attempt of an earlier epoch asks for is not wanted any more.
    pub epoch: u64,
}

/// Error of a text that names no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("a session is 32 digits of hex")]
    Session,
    #[error("a call names its session as GATEWAY/SESSION/EPOCH")]
    Call,
}

impl GatewaySession {
    #[must_use]
    pub fn new(random: u128) -> Self {
        Self(random)
    }
}

impl fmt::Display for GatewaySession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for GatewaySession {
    type Err = SessionError;

    fn from_str(text: &str) -> Result<Self, SessionError> {
        let digits = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(digits) {
            return Err(SessionError::Session);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| SessionError::Session)?;
        Ok(Self(number))
    }
}

impl fmt::Display for CallSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.gateway, self.session, self.epoch)
    }
}

impl FromStr for CallSession {
    type Err = SessionError;

    fn from_str(text: &str) -> Result<Self, SessionError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(SessionError::Call);
        }
        let mut parts = text.splitn(3, '/');
        let mut next = || parts.next().ok_or(SessionError::Call);
        Ok(Self {
            gateway: GatewayName::new(next()?).map_err(|_| SessionError::Call)?,
            session: next()?.parse()?,
            epoch: next()?.parse().map_err(|_| SessionError::Call)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_a_call_names_reads_back(gateway in "[a-z][a-z0-9]{0,20}", random: u128, epoch: u64) {
            let named = CallSession {
                gateway: gateway.parse().unwrap(),
                session: GatewaySession::new(random),
                epoch,
            };
            prop_assert_eq!(named.to_string().parse(), Ok(named));
        }

        #[test]
        fn no_text_makes_the_reader_fall(text in "\\PC{0,160}") {
            let _ = text.parse::<CallSession>();
            let _ = text.parse::<GatewaySession>();
        }
    }

    #[test]
    fn what_names_no_session_is_refused() {
        let session = GatewaySession::new(7).to_string();
        assert!(session.ends_with("0007") && session.len() == 32);
        for bad in [
            String::new(),
            "gw1".to_owned(),
            format!("gw1/{session}"),
            format!("gw1/{session}/-1"),
            format!("gw1/{session}/1/2"),
            format!("gw1/+{}/1", &session[1..]),
            format!("GW 1/{session}/1"),
            format!("gw1/{}/1", session.replace('7', "G")),
        ] {
            assert!(bad.parse::<CallSession>().is_err(), "{bad}");
        }
    }
}
