//! Takes values in DER apart that stand one behind the other, as certificates do in the Workload API. What is in them is not
//! looked at.

use rustls_pki_types::CertificateDer;

/// The tag of a sequence, which a certificate is.
const SEQUENCE: u8 = 0x30;
/// A length of more bytes than this is longer than any message.
const MAX_LENGTH_BYTES: usize = 4;

/// Reason why bytes are not that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsplit {
    Malformed,
    TooMany,
}

/// Sequences in DER that stand one behind the other and leave nothing over; at most `most`.
pub(super) fn split(mut bytes: &[u8], most: usize) -> Result<Vec<CertificateDer<'static>>, Unsplit> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        if found.len() == most {
            return Err(Unsplit::TooMany);
        }
        let length = length_of_first(bytes).ok_or(Unsplit::Malformed)?;
        let (first, rest) = bytes.split_at_checked(length).ok_or(Unsplit::Malformed)?;
        found.push(CertificateDer::from(first.to_vec()));
        bytes = rest;
    }
    Ok(found)
}

/// Length of the sequence that `bytes` begin with, tag and length included (X.690 §8.1.3, in the definite form).
fn length_of_first(bytes: &[u8]) -> Option<usize> {
    let (&SEQUENCE, rest) = bytes.split_first()? else {
        return None;
    };
    let (&first, rest) = rest.split_first()?;
    if first < 0x80 {
        return Some(2 + usize::from(first));
    }
    let count = usize::from(first & 0x7f);
    if count == 0 || count > MAX_LENGTH_BYTES {
        return None;
    }
    let length = rest
        .get(..count)?
        .iter()
        .fold(0usize, |length, byte| length << 8 | usize::from(*byte));
    length.checked_add(2 + count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        let header = match content.len() {
            short @ 0..128 => vec![SEQUENCE, u8::try_from(short).unwrap()],
            128..256 => vec![SEQUENCE, 0x81, length[3]],
            256..65_536 => vec![SEQUENCE, 0x82, length[2], length[3]],
            _ => [&[SEQUENCE, 0x84], &length[..]].concat(),
        };
        [header, content.to_vec()].concat()
    }

    #[test]
    fn what_does_not_end_where_it_says_or_is_no_sequence_is_refused() {
        let whole = sequence(&[7; 300]);
        assert_eq!(split(&[], 1), Ok(Vec::new()));
        assert_eq!(split(&whole, 1).map(|found| found.len()), Ok(1));
        for bad in [
            &whole[..whole.len() - 1],
            &[&whole[..], &[SEQUENCE]].concat(),
            &[SEQUENCE, 0x80, 0, 0],
            &[SEQUENCE, 0xff, 1],
            &[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x31, 0],
            b"-----BEGIN CERTIFICATE-----",
        ] {
            assert_eq!(split(bad, 9), Err(Unsplit::Malformed), "{bad:?}");
        }
        assert_eq!(split(&whole.repeat(3), 2), Err(Unsplit::TooMany));
    }

    proptest! {
        #[test]
        fn what_was_put_together_is_taken_apart(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..6),
        ) {
            let parts: Vec<_> = contents.iter().map(|content| sequence(content)).collect();
            let found = split(&parts.concat(), parts.len()).unwrap();
            prop_assert_eq!(found.iter().map(|der| der.to_vec()).collect::<Vec<_>>(), parts);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_nothing_is_lost(
            bytes in prop::collection::vec(prop_oneof![Just(SEQUENCE), 0u8..5, 0x7fu8..0x86, any::<u8>()], 0..200),
        ) {
            if let Ok(found) = split(&bytes, 100) {
                prop_assert!(found.len() <= 100);
                prop_assert_eq!(found.iter().flat_map(|der| der.to_vec()).collect::<Vec<_>>(), bytes);
            }
        }
    }
}
