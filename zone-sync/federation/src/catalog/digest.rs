//! A sum over the exports of a record, by which two holders see that they hold the same. One changed export costs two
//! hashes, whatever the size of the record.
//!
//! LtHash with n = 1024 and d = 16 (Bellare and Micciancio, "A new paradigm for collision-free hashing", 1997; Lewi,
//! Kim, Maykov and Weis, "Securing update propagation with homomorphic hashing", 2019): every element is hashed to 1,024
//! numbers of 16 bits, and the sum of a set is the sum of these vectors modulo 2^16. The hash of an element is BLAKE3 in
//! its extendable form. What is compared and signed is a hash of the sum.

use std::sync::Arc;

/// Numbers of 16 bits in the sum, four in each word.
const WORDS: usize = 256;
/// The highest bit of each of the four numbers in a word.
const HIGH_BITS: u64 = 0x8000_8000_8000_8000;

/// Digest that is compared: the first 16 bytes of the BLAKE3 hash of the sum.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExportsDigest(pub [u8; ExportsDigest::BYTES]);

impl ExportsDigest {
    /// 128 bits: nobody finds other exports for the digest that an origin signed.
    pub const BYTES: usize = 16;
}

impl std::fmt::Debug for ExportsDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The sum over a set of encoded exports. Copies share it until one changes.
#[derive(Clone)]
pub(super) struct ExportsSum(Arc<[u64; WORDS]>);

impl Default for ExportsSum {
    fn default() -> Self {
        Self(Arc::new([0; WORDS]))
    }
}

impl ExportsSum {
    pub(super) fn add(&mut self, element: &[u8]) {
        let hashed = hash(element);
        let words = Arc::make_mut(&mut self.0).iter_mut().zip(hashed);
        // Four additions at once: the highest bits are left out, so that nothing carries into the next number.
        words.for_each(|(a, b)| *a = ((*a & !HIGH_BITS) + (b & !HIGH_BITS)) ^ ((*a ^ b) & HIGH_BITS));
    }

    /// Takes out what was added before.
    pub(super) fn take(&mut self, element: &[u8]) {
        let hashed = hash(element);
        let words = Arc::make_mut(&mut self.0).iter_mut().zip(hashed);
        words.for_each(|(a, b)| *a = ((*a | HIGH_BITS) - (b & !HIGH_BITS)) ^ ((*a ^ !b) & HIGH_BITS));
    }

    #[must_use]
    pub(super) fn digest(&self) -> ExportsDigest {
        let mut hasher = blake3::Hasher::new();
        for word in self.0.iter() {
            hasher.update(&word.to_le_bytes());
        }
        let mut digest = [0; ExportsDigest::BYTES];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..ExportsDigest::BYTES]);
        ExportsDigest(digest)
    }
}

/// 2 KiB for an element, as words.
fn hash(element: &[u8]) -> [u64; WORDS] {
    let mut reader = blake3::Hasher::new().update(element).finalize_xof();
    let mut words = [0; WORDS];
    let mut bytes = [0; 8 * WORDS];
    reader.fill(&mut bytes);
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(elements: &[Vec<u8>]) -> ExportsSum {
        let mut sum = ExportsSum::default();
        elements.iter().for_each(|element| sum.add(element));
        sum
    }

    #[test]
    fn four_numbers_in_a_word_do_not_carry_into_each_other() {
        // 65,537 times the same element adds up to the element itself, as every number wraps on its own.
        let mut once = ExportsSum::default();
        once.add(b"x");
        let mut many = once.clone();
        for _ in 0..16 {
            let words = Arc::make_mut(&mut many.0);
            for word in words.iter_mut() {
                let lanes = [0, 16, 32, 48].map(|at| ((*word >> at) & 0xffff).wrapping_mul(2) & 0xffff);
                *word = lanes[0] | lanes[1] << 16 | lanes[2] << 32 | lanes[3] << 48;
            }
        }
        assert_eq!(many.digest(), ExportsSum::default().digest());
        many.add(b"x");
        assert_eq!(many.digest(), once.digest());
    }

    #[test]
    fn a_digest_never_changes_between_programs() {
        assert_eq!(
            format!("{:?}", sum(&[b"a".to_vec(), b"b".to_vec()]).digest()),
            "c2506647056a65b2298e5735382bc3ea"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn a_sum_is_that_of_the_set_whatever_the_way_there(
            kept in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12),
            gone in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12),
        ) {
            let mut way = sum(&gone);
            kept.iter().rev().for_each(|element| way.add(element));
            gone.iter().for_each(|element| way.take(element));
            prop_assert_eq!(way.digest(), sum(&kept).digest());
            if let Some(first) = kept.first() {
                way.take(first);
                prop_assert_ne!(way.digest(), sum(&kept).digest());
            }
        }
    }
}
