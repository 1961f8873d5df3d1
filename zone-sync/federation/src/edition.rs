//! Editions: what applied topologies and trust documents are told apart by. The higher generation rules; which of two with one
//! generation does is said where each kind of document is, by something that its author cannot choose.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

use sha2::{Digest, Sha256};

/// The last generation there can be: what JSON numbers hold exactly (RFC 8259 §6).
pub(crate) const MAX_GENERATION: u64 = (1 << 53) - 1;

/// Tells one applied topology, or one trust document, from every other. Ordered by generation; the order within one generation
/// says nothing but which gateway asks which for a rival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Edition {
    pub generation: u64,
    pub fingerprint: Fingerprint,
}

impl Ord for Edition {
    fn cmp(&self, other: &Self) -> Ordering {
        let fingerprints = other.fingerprint.compared().cmp(self.fingerprint.compared());
        self.generation.cmp(&other.generation).then(fingerprints)
    }
}

impl PartialOrd for Edition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `7 (6a1b2c3d4e5f)`.
impl fmt::Display for Edition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.generation, self.fingerprint)
    }
}

/// Reads an edition; `None` when the fingerprint is not one.
#[must_use]
pub fn edition(generation: u64, fingerprint: &[u8]) -> Option<Edition> {
    let fingerprint = Fingerprint(fingerprint.try_into().ok()?);
    Some(Edition {
        generation,
        fingerprint,
    })
}

/// Identifies the content of a topology or of a trust document: SHA-256 of its bytes. Two are equal when their first
/// [`Fingerprint::COMPARED_BYTES`] are: zone sync carries no more of it.
#[derive(Clone, Copy, Default)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a topology's text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// 128 bits are enough to tell any two files apart, and every change of an export carries them.
    pub const COMPARED_BYTES: usize = 16;

    /// Prefix that zone sync carries, and that is compared.
    #[must_use]
    pub fn compared(&self) -> &[u8] {
        &self.0[..Self::COMPARED_BYTES]
    }
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.compared() == other.compared()
    }
}

impl Eq for Fingerprint {}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.compared().hash(state);
    }
}

impl fmt::Display for Fingerprint {
    /// The first 12 hexadecimal digits, enough to compare by eye.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}
