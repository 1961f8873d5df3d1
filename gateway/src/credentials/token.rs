//! Bearer tokens: their text, and what is kept of one. Pure; where tokens are kept is `token_file`'s.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

/// What every token begins with, so that one in the wrong place is found by those who look for secrets.
const PREFIX: &str = "cwa_";
/// Of randomness in a token.
pub const SECRET_BYTES: usize = 32;
/// Longest name of a token in bytes.
pub const MAX_NAME_BYTES: usize = 40;

/// What a token is called in logs: 1 to 40 of a-z, 0-9 and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenName(String);

/// What is no name of a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a name for a token: 1 to {MAX_NAME_BYTES} of a-z, 0-9 and -")]
pub struct TokenError(String);

impl TokenName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenName {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(allowed) {
            return Err(TokenError(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A new token, which is shown once. It has neither `Debug` nor `Display`.
pub struct Token(String);

impl Token {
    #[must_use]
    pub fn new(name: &TokenName, secret: &[u8; SECRET_BYTES]) -> Self {
        Self(format!("{PREFIX}{name}_{}", hexadecimal(secret)))
    }

    /// The text that its holder sends as `Authorization: Bearer …`.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.as_bytes())
    }
}

/// SHA-256 of a token's text. The text holds 256 random bits, so that a slow hash would add nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
        let bytes: Vec<u8> = digits
            .chunks_exact(2)
            .filter_map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok())
            .collect();
        (digits.len() == 64).then(|| bytes.try_into().ok().map(Self))?
    }

    /// Compares in a time that does not depend on where the two differ.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(&other.0).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hexadecimal(&self.0))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_names_itself_and_its_hash_reads_back() {
        let token = Token::new(&"grafana".parse().unwrap(), &[7; SECRET_BYTES]);
        assert!(
            token.reveal().starts_with("cwa_grafana_0707"),
            "{}",
            token.reveal()
        );
        let hash = token.hash();
        assert_eq!(TokenHash::parse(&hash.to_string()), Some(hash));
        assert!(hash.is(&TokenHash::of(token.reveal().as_bytes())));
        assert!(!hash.is(&TokenHash::of(b"cwa_grafana_")));
        assert!(!format!("{hash:?}").contains("07"));
    }

    #[test]
    fn names_are_short_and_plain() {
        for bad in ["", "Grafana", "a_b", "a b", &"x".repeat(41)] {
            assert!(bad.parse::<TokenName>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_is_no_hash_and_no_panic(text in ".{0,70}") {
            let read = TokenHash::parse(&text);
            prop_assert_eq!(read.map(|hash| hash.to_string()), read.map(|_| text.to_ascii_lowercase()));
        }
    }
}
