//! Reasons why a session was ended: each reason has one word, which travels, is counted and is logged.

use causeway_federation::{
    name::{MAX_TAGS, NameError},
    signing::Unproven,
};

use super::limits::{
    MAX_EXPORT_BYTES, MAX_EXPORTS, MAX_KNOWN, MAX_MESSAGE_BYTES, MAX_PARTS, MAX_PEERS, MAX_RECORD_BYTES,
    MAX_TAG_KEY_BYTES, MAX_TAG_VALUE_BYTES, OLDEST_PROTOCOL, PROTOCOL, RECEIVE_INTERVAL, SILENCE,
};

/// Misdeed of a peer that ends its session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyncRefusal {
    #[error("protocol {0} is not spoken here, only {OLDEST_PROTOCOL} to {PROTOCOL}")]
    UnknownProtocol(u32),
    #[error("the first message of a session must be a hello")]
    HelloExpected,
    #[error("the record of `{0}` may not be told in this session")]
    WrongOrigin(String),
    #[error("zone `{0}` is not in the topology")]
    UnknownZone(String),
    #[error("gateways of one zone do not sync with each other")]
    OwnZone,
    #[error("a name cannot be used")]
    BadName(#[source] NameError),
    #[error(
        "an export may have {MAX_TAGS} tags of {MAX_TAG_KEY_BYTES} bytes with values of {MAX_TAG_VALUE_BYTES} bytes"
    )]
    BadTags,
    #[error("a message is larger than {MAX_MESSAGE_BYTES} bytes")]
    MessageTooLarge,
    #[error("a record has more than {MAX_EXPORTS} exports, {MAX_RECORD_BYTES} bytes or {MAX_PARTS} parts")]
    RecordTooLarge,
    #[error("a message speaks of more than {MAX_KNOWN} origins")]
    TooManyOrigins,
    #[error("{MAX_PEERS} peers have a session already")]
    TooManyPeers,
    #[error("a message makes no sense: {0}")]
    Malformed(&'static str),
    #[error("versions went backwards")]
    VersionBackwards,
    #[error("two records have the same version")]
    VersionReused,
    #[error("the exports are not those that the origin signed")]
    DigestMismatch,
    #[error("the origin's signature is not believed")]
    BadSignature(#[source] Unproven),
    #[error("an export is larger than {MAX_EXPORT_BYTES} bytes")]
    ExportTooLarge,
    #[error("messages come faster than one in {} ms", RECEIVE_INTERVAL.as_millis())]
    TooFast,
    #[error("nothing was heard for {} s", SILENCE.as_secs())]
    Silent,
}

impl SyncRefusal {
    /// One fixed word for the wire, counters and logs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownProtocol(_) => "unknown_protocol",
            Self::HelloExpected => "hello_expected",
            Self::WrongOrigin(_) => "wrong_origin",
            Self::UnknownZone(_) => "unknown_zone",
            Self::OwnZone => "own_zone",
            Self::BadName(_) => "bad_name",
            Self::BadTags => "bad_tags",
            Self::MessageTooLarge => "message_too_large",
            Self::RecordTooLarge => "record_too_large",
            Self::TooManyOrigins => "too_many_origins",
            Self::TooManyPeers => "too_many_peers",
            Self::Malformed(_) => "malformed",
            Self::VersionBackwards => "version_backwards",
            Self::VersionReused => "version_reused",
            Self::DigestMismatch => "digest_mismatch",
            Self::BadSignature(_) => "bad_signature",
            Self::ExportTooLarge => "export_too_large",
            Self::TooFast => "too_fast",
            Self::Silent => "silent",
        }
    }
}

/// Every word of [`SyncRefusal::reason`].
const REASONS: [&str; 19] = [
    "unknown_protocol",
    "hello_expected",
    "wrong_origin",
    "unknown_zone",
    "own_zone",
    "bad_name",
    "bad_tags",
    "message_too_large",
    "record_too_large",
    "too_many_origins",
    "too_many_peers",
    "malformed",
    "version_backwards",
    "version_reused",
    "digest_mismatch",
    "bad_signature",
    "export_too_large",
    "too_fast",
    "silent",
];

/// The word that a peer sent, or `other` for one that this program does not know: what a peer writes never becomes a
/// new label in a metric.
#[must_use]
pub(crate) fn known_reason(word: &str) -> &'static str {
    REASONS
        .into_iter()
        .find(|known| *known == word)
        .unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_the_peer_never_becomes_a_label() {
        assert_eq!(known_reason(SyncRefusal::BadTags.reason()), "bad_tags");
        assert_eq!(known_reason("anything else"), "other");
    }
}
