//! Bearer tokens: their text, and what is kept of one. Pure; where tokens are kept is `token_file`'s.

use std::{fmt, str::FromStr};

use causeway_identity::SecretHash;
use data_encoding::HEXLOWER;

/// Beginning of every token, so that one in the wrong place is found by those who look for secrets.
const PREFIX: &str = "cwa_";
/// Of randomness in a token.
pub(crate) const SECRET_BYTES: usize = 32;
/// Longest name of a token in bytes.
pub const MAX_NAME_BYTES: usize = 40;

/// Name of a token in logs: 1 to 40 of a-z, 0-9 and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenName(String);

/// Error of a text that is no name of a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a name for a token: 1 to {MAX_NAME_BYTES} of a-z, 0-9 and -")]
pub struct TokenNameError(String);

impl TokenName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenName {
    type Err = TokenNameError;

    fn from_str(text: &str) -> Result<Self, TokenNameError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(allowed) {
            return Err(TokenNameError(text.chars().take(80).collect()));
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
        Self(format!("{PREFIX}{name}_{}", HEXLOWER.encode(secret)))
    }

    /// The text that its holder sends as `Authorization: Bearer …`.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(self.0.as_bytes())
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(SecretHash::parse(&hash.to_string()), Some(hash));
        assert!(hash.is(&SecretHash::of(token.reveal().as_bytes())));
        assert!(!hash.is(&SecretHash::of(b"cwa_grafana_")));
        assert!(!format!("{hash:?}").contains("07"));
    }

    #[test]
    fn names_are_short_and_plain() {
        for bad in ["", "Grafana", "a_b", "a b", &"x".repeat(41)] {
            assert!(bad.parse::<TokenName>().is_err(), "{bad}");
        }
    }
}
