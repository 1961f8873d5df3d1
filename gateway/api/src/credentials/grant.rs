//! Grants to the holders of certificates: `write=spiffe://acme.internal/zone/east/gateway/gw1`, `write:orders=spiffe://acme.internal/team/orders`.

use std::{fmt, str::FromStr};

use super::{Rights, Scope};

/// Longest SPIFFE id in bytes (SPIFFE-ID §2.3).
const MAX_ID_BYTES: usize = 2048;

/// Rights of one SPIFFE id, or of every one below a path: `read=spiffe://acme.internal/zone/east/*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub rights: Rights,
    /// Without the final `*`; it ends in `/` then.
    id: String,
    whole: bool,
}

/// Reason why a text is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error(
        "`{0}` is not SCOPE=SPIFFE-ID, with read, register, write, register:SERVICE or write:SERVICE as the scope"
    )]
    Shape(String),
    #[error("`{0}` is not a SPIFFE id, or one that ends in /* for all below it")]
    Id(String),
}

impl Grant {
    /// For every SPIFFE id below a path, which ends in `/`.
    pub(crate) fn below(scope: Scope, path: String) -> Self {
        Self {
            rights: Rights::of(scope),
            id: path,
            whole: false,
        }
    }

    /// Tells whether it is for the holder of this SPIFFE id.
    #[must_use]
    pub fn is_for(&self, id: &str) -> bool {
        match self.whole {
            true => self.id == id,
            false => id.len() > self.id.len() && id.starts_with(&self.id),
        }
    }
}

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let shown = || text.chars().take(120).collect::<String>();
        let parts = text.split_once('=');
        let (rights, id) = parts
            .and_then(|(scope, id)| Some((scope.parse().ok()?, id)))
            .ok_or_else(|| GrantError::Shape(shown()))?;
        let (id, whole) = match id.strip_suffix('*') {
            Some(prefix) => (prefix, false),
            None => (id, true),
        };
        let path = id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._/".contains(&b);
        let good = path.is_some_and(|(domain, path)| {
            let ends_well = path.is_empty() || path.ends_with('/');
            !domain.is_empty() && path.bytes().all(allowed) && (whole != ends_well)
        });
        if !good || id.len() > MAX_ID_BYTES {
            return Err(GrantError::Id(shown()));
        }
        Ok(Self {
            rights,
            id: id.to_owned(),
            whole,
        })
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.whole { "" } else { "*" };
        write!(f, "{}={}{star}", self.rights, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(text: &str) -> Grant {
        text.parse().unwrap()
    }

    #[test]
    fn a_grant_is_for_one_identity_or_for_all_below_a_path() {
        let one = grant("write=spiffe://acme.internal/zone/east/gateway/gw1");
        assert!(one.is_for("spiffe://acme.internal/zone/east/gateway/gw1"));
        assert!(!one.is_for("spiffe://acme.internal/zone/east/gateway/gw10"));
        let zone = grant("read=spiffe://acme.internal/zone/east/*");
        assert!(zone.is_for("spiffe://acme.internal/zone/east/gateway/gw1"));
        for other in [
            "spiffe://acme.internal/zone/east2/gateway/gw1",
            "spiffe://acme.internal/zone/east/",
            "spiffe://acme.internal/zone/east",
            "spiffe://evil.example/zone/east/gateway/gw1",
        ] {
            assert!(!zone.is_for(other), "{other}");
        }
    }

    #[test]
    fn a_grant_prints_as_it_was_given_and_nothing_else_is_one() {
        for text in [
            "read=spiffe://a/*",
            "register=spiffe://a.b/operator/alice",
            "write:orders=spiffe://a.b/team/orders",
        ] {
            assert_eq!(grant(text).to_string(), text);
        }
        for bad in [
            "",
            "read",
            "admin=spiffe://a/b",
            "read:orders=spiffe://a/b",
            "write:=spiffe://a/b",
            "read=https://a/b",
            "read=spiffe://a",
            "read=spiffe://a/",
            "read=spiffe:///b",
            "read=spiffe://a/b*",
            "read=spiffe://a/*/b",
            "read=spiffe://a/b c",
        ] {
            assert!(bad.parse::<Grant>().is_err(), "{bad}");
        }
    }
}
