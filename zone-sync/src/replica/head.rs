//! The words that an origin signs: the head of a record, and beats. Everything that comes is checked here, once.

use std::sync::Arc;

use causeway_federation::{
    catalog::{ExportsDigest, MAX_TOLD_SHIFTS, ShiftFigures, ShiftStepNumber},
    edition::{Edition, Fingerprint},
    signing::{Credential, MAX_SIGNATURE_BYTES, Signed},
    topology::MAX_GATE_CONDITIONS,
};
use causeway_proto::sync as proto;
use prost::Message as _;

use super::{
    limits::MAX_STATEMENT_BYTES,
    refusal::SyncRefusal,
    wire::{self, Stamp},
};

/// A record without its exports, as its origin states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub stamp: Stamp,
    pub draining: bool,
    pub topology: Fingerprint,
    pub topology_generation: u64,
    pub trust: Edition,
    pub trust_ended: u64,
    pub shifts: Arc<[ShiftFigures]>,
    pub digest: ExportsDigest,
}

impl Head {
    /// Encoded, with the fields of `more` after the known ones.
    pub(crate) fn words(&self, more: &[u8]) -> Vec<u8> {
        let mut words = proto::Statement {
            incarnation: self.stamp.incarnation,
            version: self.stamp.version,
            draining: self.draining,
            topology: wire::short_fingerprint(&self.topology),
            topology_generation: self.topology_generation,
            exports_digest: self.digest.0.to_vec(),
            trust_generation: self.trust.generation,
            trust: wire::short_fingerprint(&self.trust.fingerprint),
            trust_ended: self.trust_ended,
            shifts: self.shifts.iter().map(shift_message).collect(),
        }
        .encode_to_vec();
        words.extend_from_slice(more);
        words
    }

    pub(crate) fn read(words: &[u8]) -> Result<Self, SyncRefusal> {
        let statement = proto::Statement::decode(words)
            .map_err(|_| SyncRefusal::Malformed("a statement cannot be decoded"))?;
        let stamp = Stamp::new(statement.incarnation, statement.version)?;
        if stamp.version == 0 {
            return Err(SyncRefusal::Malformed("a statement has no version"));
        }
        Ok(Self {
            stamp,
            draining: statement.draining,
            topology: wire::read_fingerprint(&statement.topology)?,
            topology_generation: statement.topology_generation,
            trust: Edition {
                generation: statement.trust_generation,
                fingerprint: wire::read_fingerprint(&statement.trust)?,
            },
            trust_ended: statement.trust_ended,
            shifts: read_shifts(statement.shifts),
            digest: read_digest(&statement.exports_digest)?,
        })
    }
}

fn shift_message(figures: &ShiftFigures) -> proto::ShiftWord {
    proto::ShiftWord {
        step: figures.step.0,
        requests: figures.requests,
        against: figures.against.clone(),
        taken_back: figures.taken_back,
    }
}

/// Of more than this program tells, the first: a statement is bounded, and so is what is kept of it.
fn read_shifts(words: Vec<proto::ShiftWord>) -> Arc<[ShiftFigures]> {
    let words = words.into_iter().take(MAX_TOLD_SHIFTS);
    let figures = words.map(|mut word| {
        word.against.truncate(MAX_GATE_CONDITIONS);
        ShiftFigures {
            step: ShiftStepNumber(word.step),
            requests: word.requests,
            against: word.against,
            taken_back: word.taken_back,
        }
    });
    figures.collect()
}

/// Place of a beat in the life of its origin: incarnation, then count.
pub(super) type BeatMark = (u64, u64);

/// Proof that an origin lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beat {
    pub stamp: Stamp,
    pub digest: ExportsDigest,
    pub count: u64,
}

impl Beat {
    pub(super) fn mark(&self) -> BeatMark {
        (self.stamp.incarnation, self.count)
    }

    pub(super) fn words(&self, more: &[u8]) -> Vec<u8> {
        let mut words = proto::BeatStatement {
            incarnation: self.stamp.incarnation,
            version: self.stamp.version,
            exports_digest: self.digest.0.to_vec(),
            count: self.count,
        }
        .encode_to_vec();
        words.extend_from_slice(more);
        words
    }

    pub(super) fn read(words: &[u8]) -> Result<Self, SyncRefusal> {
        let statement = proto::BeatStatement::decode(words)
            .map_err(|_| SyncRefusal::Malformed("a beat cannot be decoded"))?;
        Ok(Self {
            stamp: Stamp::new(statement.incarnation, statement.version)?,
            digest: read_digest(&statement.exports_digest)?,
            count: statement.count,
        })
    }
}

fn read_digest(bytes: &[u8]) -> Result<ExportsDigest, SyncRefusal> {
    let bytes = bytes.try_into();
    let bytes = bytes.map_err(|_| SyncRefusal::Malformed("a digest of exports is not 16 bytes long"))?;
    Ok(ExportsDigest(bytes))
}

/// `signed` on its way to a peer that has the credential `known`.
pub(crate) fn signed_message(signed: &Signed, known: Option<&Credential>) -> proto::Signed {
    let credential = match known == Some(&*signed.credential) {
        true => Vec::new(),
        false => signed.credential.0.clone(),
    };
    proto::Signed {
        statement: signed.words.to_vec(),
        signature: signed.signature.to_vec(),
        credential,
    }
}

/// Reads what a peer sent, within bounds; `known` stands for a credential that was left out.
pub(crate) fn read_signed(
    message: Option<proto::Signed>,
    known: Option<&Arc<Credential>>,
) -> Result<Signed, SyncRefusal> {
    let message = message.ok_or(SyncRefusal::Malformed("the statement of a record is missing"))?;
    if message.statement.len() > MAX_STATEMENT_BYTES || message.signature.len() > MAX_SIGNATURE_BYTES {
        return Err(SyncRefusal::Malformed("a statement or signature is too long"));
    }
    let credential = match known {
        Some(known) if message.credential.is_empty() => known.clone(),
        _ => Arc::new(Credential(message.credential)),
    };
    if !credential.is_bounded() {
        return Err(SyncRefusal::Malformed("a credential is too large"));
    }
    Ok(Signed {
        words: message.statement.into(),
        signature: message.signature.into(),
        credential,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_head_and_a_beat_survive_the_round_trip_with_words_of_a_newer_program(
            incarnation in 0u64..1 << 48, version in 1u64..1 << 50, draining in any::<bool>(),
            topology in any::<[u8; 16]>(), generation in any::<u64>(), digest in any::<[u8; 16]>(), count in any::<u64>(),
            told in prop::collection::vec((any::<u64>(), any::<u64>(), prop::collection::vec(any::<u32>(), 0..=MAX_GATE_CONDITIONS), any::<bool>()), 0..=MAX_TOLD_SHIFTS),
        ) {
            let mut fingerprint = Fingerprint::default();
            fingerprint.0[..16].copy_from_slice(&topology);
            let stamp = Stamp { incarnation, version };
            let digest = ExportsDigest(digest);
            let trust = Edition { generation: generation / 2, fingerprint };
            let shifts = told.into_iter().map(|(step, requests, against, taken_back)| ShiftFigures {
                step: ShiftStepNumber(step), requests: requests >> 24, taken_back,
                against: against.into_iter().map(u64::from).collect(),
            }).collect();
            let head = Head { stamp, draining, topology: fingerprint, topology_generation: generation, trust, trust_ended: 3, shifts, digest };
            prop_assert!(head.words(&[]).len() <= MAX_STATEMENT_BYTES);
            let beat = Beat { stamp, digest, count };
            for more in [&[][..], &[0xf8, 0x07, 0x01]] {
                prop_assert_eq!(Head::read(&head.words(more)).unwrap(), head.clone());
                prop_assert_eq!(Beat::read(&beat.words(more)).unwrap(), beat);
            }
        }

        #[test]
        fn arbitrary_words_never_panic(words in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (Head::read(&words), Beat::read(&words));
        }
    }
}
