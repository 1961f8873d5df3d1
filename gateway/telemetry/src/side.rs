//! The two sides of a tunnel.

/// The side of a tunnel or stream that said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// This gateway refused.
    Local,
    /// The peer refused.
    Peer,
}

impl Side {
    /// The word that metrics and the admin API use.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Peer => "peer",
        }
    }
}
