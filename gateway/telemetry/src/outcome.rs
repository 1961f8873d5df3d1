//! Outcome of a connection as a value: the data path passes these, and a word is made of one only where it is written (a
//! line of the log or the access log, a label of a metric).
//!
//! Adding an outcome: a variant, its line in each method, one in the table of the tests, and one in docs/watching.md. Only a word
//! that is in the table is looked for in the page.
//!
//! Adding a reason for which a stream is refused: the next number in proto/proto/tunnel.proto
//! (`UPDATE_GENERATED=1 cargo test --workspace --test generated` writes the Rust), its line in `stream_refusal` of
//! gateway/tunnel/src/frame.rs, a variant of [`StreamRefusal`], and the rest as for an outcome. A gateway that does not know the
//! number reads `unspecified` and goes by the refusal's own `retryable`. The ingress makes the refusal in
//! gateway/proxy/src/ingress/refuse.rs. Three places take every reason without asking the compiler: `unless_alike` there names
//! those that follow from the topology, `refused` in `report.rs` beside it those that are part of normal life and no WARN, and
//! `is_answer` in gateway/proxy/src/egress/ask.rs those that a gateway would give again.

use causeway_routing::route::Why;
use serde::{Serialize, Serializer};

use super::Side;

/// Reason that a gateway refuses a stream, as the tunnel protocol numbers the reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamRefusal {
    /// The peer gave a reason that this program does not know.
    Unspecified,
    BadHeader,
    HeaderTooLong,
    UnknownService,
    NotExported,
    NoInstance,
    ConnectFailed,
    Overloaded,
    Draining,
    Forbidden,
    Unvouched,
    NoCa,
    /// The stream is of a kind that the gateway does not know; another, of a later version, may.
    UnknownKind,
    /// The connection has come through more gateways than one may.
    TooManyHops,
    /// This gateway has no descriptors left but those that are kept for itself.
    NoDescriptors,
    /// Few descriptors are left, and whoever asks has its share of them.
    Crowded,
    /// The service has no port of this name.
    UnknownPort,
}

impl StreamRefusal {
    /// The word for metrics and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::BadHeader => "bad_header",
            Self::HeaderTooLong => "header_too_long",
            Self::UnknownService => "unknown_service",
            Self::NotExported => "not_exported",
            Self::NoInstance => "no_instance",
            Self::ConnectFailed => "connect_failed",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::Forbidden => "forbidden",
            Self::Unvouched => "unvouched",
            Self::NoCa => "no_ca",
            Self::UnknownKind => "unknown_kind",
            Self::TooManyHops => "too_many_hops",
            Self::NoDescriptors => "no_descriptors",
            Self::Crowded => "crowded",
            Self::UnknownPort => "unknown_port",
        }
    }

    /// Tells whether another gateway or zone can help. An unknown service or port is retryable: that zone may run an older topology.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::UnknownService
            | Self::UnknownPort
            | Self::NoInstance
            | Self::ConnectFailed
            | Self::Overloaded
            | Self::Draining
            | Self::UnknownKind
            | Self::NoDescriptors
            | Self::Crowded => true,
            Self::Unspecified
            | Self::BadHeader
            | Self::HeaderTooLong
            | Self::NotExported
            | Self::Forbidden
            | Self::Unvouched
            | Self::NoCa
            | Self::TooManyHops => false,
        }
    }
}

/// The part of a connection that an outcome is owed to: where a person looks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutcomeSide {
    /// The program that called, or the certificate that it showed.
    Client,
    /// The program that was called, or that there is none.
    Instance,
    /// The path between two gateways.
    Tunnel,
    /// The gateway at the far end of a tunnel.
    Peer,
    /// The gateway that writes the line.
    Gateway,
    /// Permissions and exports of the topology, here or in the other zone.
    Permission,
    /// The decision where to go, which found nowhere.
    Routing,
}

/// End of a connection, or the reason that no instance ever had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionOutcome {
    /// Both sides have said what they had to say.
    Served,
    /// A route had the gateway answer by itself.
    Answered,
    /// The client left before an instance was reached.
    ClientGone,
    ClientReset,
    /// The client sent what is no request, or one that can be read in two ways.
    BadRequest,
    /// The client asked for a service other than the one that its connection was made for.
    Misdirected,
    InstanceReset,
    /// The instance has said that it has not read the request, again and again, or has as many under way as it takes.
    InstanceFull,
    /// The answer is none.
    BadAnswer,
    /// The answer is over a limit of this gateway.
    AnswerTooLarge,
    /// The calling gateway gave the connection to another candidate.
    LostRace,
    /// The tunnel was lost under an open connection.
    TunnelLost,
    /// The tunnel was lost before an instance was ready.
    LostUnready,
    /// This gateway ended it, to shut down.
    Cut,
    /// The gateway at the other end ended it, to shut down or because somebody told it to.
    PeerCut,
    /// Nobody took a byte of what waited, for as long as `--stall-timeout` allows.
    Stalled,
    /// Nothing moved for as long as the `idle_timeout` of its service.
    Idle,
    /// One side had finished, and then nothing moved for as long as `--half-closed-timeout` allows.
    HalfClosed,
    /// It did not belong where it was any more, for as long as the `linger` of its service.
    Moved,
    /// It was as old as the `max_age` of its service.
    MaxAge,
    /// No candidate was asked, or none answered before the time was over.
    Unrouted(Why),
    /// No tunnel to the candidate was up.
    NoTunnel,
    /// The candidate did not answer in time.
    NoAnswer,
    /// The service, or this caller of it, is called more often than its topology allows.
    RateLimited,
    /// The instance did not answer a request in the time that its service or route allows.
    RequestTimeout,
    /// The candidate's answer is none.
    BadReply,
    /// One of the two gateways refused.
    Refused {
        by: Side,
        reason: StreamRefusal,
    },
    /// The client takes back requests by the hundred as soon as it has made them.
    ClientFlood,
    /// The client's certificate was revoked under an open connection.
    CertificateRevoked,
    /// The client's certificate ended too long ago, and it has shown no later one.
    CertificateExpired,
    /// The issuer of the client's certificate is trusted no more.
    IssuerDistrusted,
}

impl ConnectionOutcome {
    /// The refusal of this gateway.
    #[must_use]
    pub fn refused_here(reason: StreamRefusal) -> Self {
        let by = Side::Local;
        Self::Refused { by, reason }
    }

    /// The word for metrics, the log and the access log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Answered => "answered",
            Self::ClientGone => "client_gone",
            Self::ClientReset => "client_reset",
            Self::BadRequest => "bad_request",
            Self::Misdirected => "misdirected",
            Self::InstanceReset => "instance_reset",
            Self::InstanceFull => "instance_full",
            Self::BadAnswer => "bad_answer",
            Self::AnswerTooLarge => "answer_too_large",
            Self::LostRace => "lost_race",
            Self::TunnelLost | Self::LostUnready => "tunnel_lost",
            Self::Cut | Self::PeerCut => "cut",
            Self::Stalled => "stalled",
            Self::Idle => "idle_timeout",
            Self::HalfClosed => "half_closed_timeout",
            Self::Moved => "moved",
            Self::MaxAge => "max_age",
            Self::Unrouted(why) => why.word(),
            Self::NoTunnel => "no_tunnel",
            Self::NoAnswer => "timeout",
            Self::RequestTimeout => "request_timeout",
            Self::RateLimited => "rate_limited",
            Self::BadReply => "bad_reply",
            Self::Refused { reason, .. } => reason.word(),
            Self::ClientFlood => "client_flood",
            Self::CertificateRevoked => "revoked",
            Self::CertificateExpired => "expired",
            Self::IssuerDistrusted => "unknown_issuer",
        }
    }

    /// Names whom it is owed to; `None` when nothing went wrong.
    #[must_use]
    pub fn side(self) -> Option<OutcomeSide> {
        Some(match self {
            Self::Served | Self::Answered => return None,
            Self::ClientGone
            | Self::ClientReset
            | Self::BadRequest
            | Self::Misdirected
            | Self::RateLimited
            | Self::ClientFlood
            | Self::CertificateRevoked
            | Self::CertificateExpired
            | Self::IssuerDistrusted => OutcomeSide::Client,
            Self::InstanceReset
            | Self::InstanceFull
            | Self::BadAnswer
            | Self::AnswerTooLarge
            | Self::RequestTimeout => OutcomeSide::Instance,
            Self::TunnelLost | Self::LostUnready | Self::NoTunnel => OutcomeSide::Tunnel,
            Self::LostRace | Self::PeerCut | Self::NoAnswer | Self::BadReply => OutcomeSide::Peer,
            Self::Cut | Self::Stalled | Self::Idle | Self::HalfClosed | Self::Moved | Self::MaxAge => {
                OutcomeSide::Gateway
            }
            Self::Unrouted(_) => OutcomeSide::Routing,
            Self::Refused { by, reason } => match reason {
                StreamRefusal::NoInstance | StreamRefusal::ConnectFailed | StreamRefusal::TooManyHops => {
                    OutcomeSide::Instance
                }
                StreamRefusal::NotExported | StreamRefusal::Forbidden | StreamRefusal::Unvouched => {
                    OutcomeSide::Permission
                }
                StreamRefusal::Unspecified
                | StreamRefusal::BadHeader
                | StreamRefusal::HeaderTooLong
                | StreamRefusal::UnknownService
                | StreamRefusal::UnknownPort
                | StreamRefusal::Overloaded
                | StreamRefusal::Draining
                | StreamRefusal::NoCa
                | StreamRefusal::UnknownKind
                | StreamRefusal::NoDescriptors
                | StreamRefusal::Crowded => match by {
                    Side::Local => OutcomeSide::Gateway,
                    Side::Peer => OutcomeSide::Peer,
                },
            },
        })
    }

    /// Tells whether another candidate may be asked the same: no instance has been given the connection, and another gateway
    /// or zone may well take it.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::LostUnready | Self::NoTunnel | Self::NoAnswer | Self::BadReply => true,
            Self::Refused { reason, .. } => reason.is_retryable(),
            Self::Served
            | Self::Answered
            | Self::ClientGone
            | Self::ClientReset
            | Self::BadRequest
            | Self::Misdirected
            | Self::InstanceReset
            | Self::InstanceFull
            | Self::BadAnswer
            | Self::AnswerTooLarge
            | Self::RequestTimeout
            | Self::RateLimited
            | Self::LostRace
            | Self::TunnelLost
            | Self::Cut
            | Self::PeerCut
            | Self::Stalled
            | Self::Idle
            | Self::HalfClosed
            | Self::Moved
            | Self::MaxAge
            | Self::Unrouted(_)
            | Self::ClientFlood
            | Self::CertificateRevoked
            | Self::CertificateExpired
            | Self::IssuerDistrusted => false,
        }
    }
}

impl Serialize for ConnectionOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use ConnectionOutcome as O;
    use OutcomeSide as S;

    use super::*;

    #[test]
    fn a_cut_is_told_by_its_side_from_one_at_the_other_end() {
        let told = |outcome: O| (outcome.word(), outcome.side(), outcome.is_retryable());
        assert_eq!(told(O::Cut), ("cut", Some(S::Gateway), false));
        assert_eq!(told(O::PeerCut), ("cut", Some(S::Peer), false));
    }

    #[test]
    fn an_outcome_has_its_word_its_side_and_says_whether_another_may_be_asked() {
        check([
            (O::Served, "served", None, false),
            (O::Answered, "answered", None, false),
            (O::ClientGone, "client_gone", Some(S::Client), false),
            (O::ClientReset, "client_reset", Some(S::Client), false),
            (O::BadRequest, "bad_request", Some(S::Client), false),
            (O::Misdirected, "misdirected", Some(S::Client), false),
            (O::InstanceReset, "instance_reset", Some(S::Instance), false),
            (O::InstanceFull, "instance_full", Some(S::Instance), false),
            (O::BadAnswer, "bad_answer", Some(S::Instance), false),
            (O::AnswerTooLarge, "answer_too_large", Some(S::Instance), false),
            (O::LostRace, "lost_race", Some(S::Peer), false),
            (O::TunnelLost, "tunnel_lost", Some(S::Tunnel), false),
            (O::LostUnready, "tunnel_lost", Some(S::Tunnel), true),
            (O::Stalled, "stalled", Some(S::Gateway), false),
            (O::Idle, "idle_timeout", Some(S::Gateway), false),
            (O::HalfClosed, "half_closed_timeout", Some(S::Gateway), false),
            (O::Moved, "moved", Some(S::Gateway), false),
            (O::MaxAge, "max_age", Some(S::Gateway), false),
            (O::Unrouted(Why::NoHome), "no_candidate", Some(S::Routing), false),
            (O::NoTunnel, "no_tunnel", Some(S::Tunnel), true),
            (O::NoAnswer, "timeout", Some(S::Peer), true),
            (O::RateLimited, "rate_limited", Some(S::Client), false),
            (O::RequestTimeout, "request_timeout", Some(S::Instance), false),
            (O::BadReply, "bad_reply", Some(S::Peer), true),
            (O::ClientFlood, "client_flood", Some(S::Client), false),
            (O::CertificateRevoked, "revoked", Some(S::Client), false),
            (O::CertificateExpired, "expired", Some(S::Client), false),
            (O::IssuerDistrusted, "unknown_issuer", Some(S::Client), false),
        ]);
    }

    #[test]
    fn a_refusal_has_its_word_its_side_and_says_whether_another_may_be_asked() {
        use Side::{Local, Peer};
        use StreamRefusal as R;
        let refused = |by, reason| O::Refused { by, reason };
        check([
            (refused(Peer, R::Draining), "draining", Some(S::Peer), true),
            (
                refused(Local, R::Overloaded),
                "overloaded",
                Some(S::Gateway),
                true,
            ),
            (
                refused(Local, R::NoDescriptors),
                "no_descriptors",
                Some(S::Gateway),
                true,
            ),
            (refused(Local, R::Crowded), "crowded", Some(S::Gateway), true),
            (refused(Peer, R::UnknownPort), "unknown_port", Some(S::Peer), true),
            (
                refused(Peer, R::Forbidden),
                "forbidden",
                Some(S::Permission),
                false,
            ),
            (
                refused(Local, R::NoInstance),
                "no_instance",
                Some(S::Instance),
                true,
            ),
            (
                refused(Peer, R::TooManyHops),
                "too_many_hops",
                Some(S::Instance),
                false,
            ),
            (
                refused(Local, R::BadHeader),
                "bad_header",
                Some(S::Gateway),
                false,
            ),
        ]);
    }

    fn check(
        outcomes: impl IntoIterator<Item = (ConnectionOutcome, &'static str, Option<OutcomeSide>, bool)>,
    ) {
        for (outcome, word, side, retryable) in outcomes {
            let told = (outcome.word(), outcome.side(), outcome.is_retryable());
            assert_eq!(told, (word, side, retryable), "{outcome:?}");
            let page = include_str!("../../../docs/watching.md");
            assert!(
                page.contains(&format!("`{word}`")),
                "docs/watching.md has no word of {word}"
            );
        }
    }
}
