//! A join token as text: what an operator copies from one host to another. Letters and digits only, upper or lower case
//! alike, so that it survives mail, chat and being read out; with a checksum, so that a slip is not taken for a forgery.
//!
//! `cwjoin` and then, in base 32 (RFC 4648 §6, without padding): a version byte, the id (8 bytes), the secret (32), the
//! SHA-256 of the CA's certificate (32), the name of the zone, and the first 4 bytes of the SHA-256 of all that.

use std::{fmt, str::FromStr};

use causeway_federation::name::ZoneName;
use causeway_identity::ca::tokens::{ID_BYTES, SECRET_BYTES, Secret, TokenId};
use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

const PREFIX: &str = "cwjoin";
const VERSION: u8 = 1;
/// Bytes of a fingerprint, which is a SHA-256.
const FINGERPRINT_BYTES: usize = 32;
/// Bytes of the checksum: one slip in four thousand million goes unnoticed here, and is refused by the CA.
const CHECKSUM_BYTES: usize = 4;
/// Longest text that is looked at; the longest token has about 240 characters.
const MAX_TEXT_BYTES: usize = 512;

/// Lets a gateway of one zone join, once, or come back, as often as it must; the CA knows which.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub id: TokenId,
    pub secret: Secret,
    /// SHA-256 of the CA's certificate, by which the joiner knows the CA.
    pub fingerprint: [u8; FINGERPRINT_BYTES],
    pub zone: ZoneName,
}

/// The secret stays out of it.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id.to_string())
            .field("zone", &self.zone)
            .finish_non_exhaustive()
    }
}

/// Reason that a text is no token. It does not repeat the text, which may be most of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    #[error("it does not begin with `{PREFIX}`, as every join token does")]
    Prefix,
    #[error("it holds a character that is in no token, or is not whole")]
    Character,
    #[error("its checksum does not fit: a part is missing or was changed in copying")]
    Checksum,
    #[error("it is of version {0}, which this program does not know")]
    Version(u8),
    #[error("it names no zone")]
    Zone,
}

impl JoinToken {
    /// The whole token. Whoever sees it can use it.
    #[must_use]
    pub fn reveal(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.id.0);
        bytes.extend(self.secret.0);
        bytes.extend(self.fingerprint);
        bytes.extend(self.zone.as_str().as_bytes());
        bytes.extend(checksum(&bytes));
        format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_lowercase())
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let text = text.trim();
        if text.len() > MAX_TEXT_BYTES {
            return Err(JoinTokenError::Character);
        }
        let upper = text.to_ascii_uppercase();
        let body = upper
            .strip_prefix(&PREFIX.to_ascii_uppercase())
            .ok_or(JoinTokenError::Prefix)?;
        let bytes = BASE32_NOPAD
            .decode(body.as_bytes())
            .map_err(|_| JoinTokenError::Character)?;
        let (body, sum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(JoinTokenError::Checksum)?;
        if *sum != checksum(body) {
            return Err(JoinTokenError::Checksum);
        }
        match body.split_first() {
            Some((&VERSION, body)) => read(body).ok_or(JoinTokenError::Checksum)?,
            Some((version, _)) => Err(JoinTokenError::Version(*version)),
            None => Err(JoinTokenError::Checksum),
        }
    }
}

/// Reads what follows the version; `None` if it is too short.
fn read(body: &[u8]) -> Option<Result<JoinToken, JoinTokenError>> {
    let (id, body) = body.split_first_chunk::<ID_BYTES>()?;
    let (secret, body) = body.split_first_chunk::<SECRET_BYTES>()?;
    let (fingerprint, zone) = body.split_first_chunk::<FINGERPRINT_BYTES>()?;
    let zone = std::str::from_utf8(zone).ok().and_then(|zone| zone.parse().ok());
    Some(zone.ok_or(JoinTokenError::Zone).map(|zone| JoinToken {
        id: TokenId(*id),
        secret: Secret(*secret),
        fingerprint: *fingerprint,
        zone,
    }))
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(bytes));
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(zone: &str, filler: u8) -> JoinToken {
        JoinToken {
            id: TokenId([filler; ID_BYTES]),
            secret: Secret([filler.wrapping_add(1); SECRET_BYTES]),
            fingerprint: [filler.wrapping_add(2); FINGERPRINT_BYTES],
            zone: zone.parse().unwrap(),
        }
    }

    #[test]
    fn a_token_is_one_word_of_letters_and_digits() {
        let text = token("west", 7).reveal();
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()), "{text}");
        assert_eq!(text.to_uppercase().parse(), Ok(token("west", 7)));
        assert_eq!(format!(" {text}\n").parse(), Ok(token("west", 7)));
        let longest = token(&"z".repeat(63), 255).reveal();
        assert!(longest.len() < MAX_TEXT_BYTES, "{}", longest.len());
    }

    #[test]
    fn what_is_wrong_is_told_without_repeating_the_token() {
        let text = token("west", 7).reveal();
        for (bad, why) in [
            ("", JoinTokenError::Prefix),
            ("west", JoinTokenError::Prefix),
            ("cwjoin", JoinTokenError::Checksum),
            (&text.replace("cwjoin", "cwjoin8"), JoinTokenError::Character),
            (&text.replacen('a', "!", 1), JoinTokenError::Character),
        ] {
            let found = bad.parse::<JoinToken>().unwrap_err();
            assert_eq!(found, why, "{bad}");
            assert!(bad.len() < 20 || !found.to_string().contains(&bad[10..]));
        }
        for cut in 1..text.len() {
            assert!(text[..cut].parse::<JoinToken>().is_err(), "cut at {cut}");
        }
        let shown = format!("{:?}", token("west", 7));
        assert!(!shown.contains('8') && !shown.contains("Secret"), "{shown}");
    }

    proptest! {
        #[test]
        fn a_token_survives_the_round_trip(zone in "[a-z]([a-z0-9-]{0,61}[a-z0-9])?", filler in any::<u8>()) {
            prop_assert_eq!(token(&zone, filler).reveal().parse(), Ok(token(&zone, filler)));
        }

        #[test]
        fn a_slip_of_one_character_is_noticed(at in 6usize..130, with in "[a-z2-7]") {
            let text = token("west", 7).reveal();
            let mut slip = text.clone();
            slip.replace_range(at..=at, &with);
            if slip != text {
                prop_assert!(slip.parse::<JoinToken>().is_err());
            }
        }

        #[test]
        fn arbitrary_text_is_refused_without_a_panic(text in "(cwjoin)?.{0,300}") {
            prop_assert!(text.parse::<JoinToken>().is_err());
        }
    }
}
