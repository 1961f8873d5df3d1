//! The join tokens that a CA gave out, in `tokens/` of its folder: a file for each, with a hash of its secret and what
//! the token is for. A token is used up by renaming its file, which succeeds for one process and one call alone. One by which
//! gateways come back stays as it is: `issued.jsonl` says how often it was used.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use causeway_federation::name::{GatewayId, GatewayName, ZoneName};
use causeway_host::files::{self, PRIVATE};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::{CaError, issued::rfc3339, make_folder, random};
use crate::{DnsName, SecretHash};

/// In the CA's folder.
pub(crate) const TOKENS_FOLDER: &str = "tokens";
/// Bytes of a token's id.
pub const ID_BYTES: usize = 8;
/// Bytes of its secret: nobody guesses 256 bits.
pub const SECRET_BYTES: usize = 32;
/// Longest that a token may be valid.
pub const MAX_VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);
/// The same for one by which gateways come back.
pub const MAX_REJOIN_VALIDITY: Duration = Duration::from_secs(366 * 24 * 3600);
/// Time over which the uses of such a token are counted.
pub const REJOIN_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// Time for which a token is remembered after its end, so that it is refused as used or expired and not as unknown.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most tokens that are remembered at once.
pub const MAX_TOKENS: usize = 10_000;

/// Id of a token. It is no secret, and may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; ID_BYTES]);

impl std::fmt::Display for TokenId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl std::str::FromStr for TokenId {
    type Err = BadTokenId;

    fn from_str(text: &str) -> Result<Self, BadTokenId> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| BadTokenId(text.to_owned()))
    }
}

/// A text that is no token's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the id of a token: 16 hexadecimal digits, as `causeway token list` shows them")]
pub struct BadTokenId(String);

/// Secret that makes a token worth something. Never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; SECRET_BYTES]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Purpose of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPurpose {
    pub zone: ZoneName,
    /// `None`: any gateway of the zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayName>,
    /// That the certificate gets, for clients that look at host names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<DnsName>,
    /// Times within [`REJOIN_PERIOD`] that gateways may come back with it which have the key of a certificate that has ended;
    /// `None`: it serves once, and a new gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejoins: Option<u32>,
    #[serde(with = "rfc3339")]
    pub issued_at: SystemTime,
    #[serde(with = "rfc3339")]
    pub expires_at: SystemTime,
}

/// A token's file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// SHA-256 of the secret, hexadecimal.
    secret_sha256: String,
    #[serde(flatten)]
    grant: TokenPurpose,
}

/// State of a token; the ending of its file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It may be used until it expires.
    Open,
    Used,
    Revoked,
}

impl Fate {
    const ALL: [Self; 3] = [Self::Open, Self::Used, Self::Revoked];

    /// The word that `causeway token list` shows, and files end with.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Used => "used",
            Self::Revoked => "revoked",
        }
    }
}

/// Reason why a token does not open the door.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefusal {
    #[error("no token with this id was given out by this CA, or it is long over")]
    Unknown,
    #[error("the token has the id of one that was given out, and not its secret")]
    Forged,
    #[error("the token has been used")]
    Used,
    #[error("the token was revoked")]
    Revoked,
    #[error("the token expired at {}", humantime::format_rfc3339_seconds(*.0))]
    Expired(SystemTime),
    #[error("the token is for zone {0}")]
    WrongZone(ZoneName),
    #[error("the token is for gateway {0}")]
    WrongGateway(GatewayName),
    #[error("cannot use up the token in {path}", path = path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Gives out a token and remembers a hash of it.
///
/// # Errors
/// When it cannot be written, or too many are remembered already.
pub fn issue(folder: &Path, grant: &TokenPurpose) -> Result<(TokenId, Secret), CaError> {
    let tokens = folder.join(TOKENS_FOLDER);
    make_folder(&tokens)?;
    if list(folder)?.len() >= MAX_TOKENS {
        return Err(CaError::TooManyTokens);
    }
    let (id, secret) = (TokenId(random()?), Secret(random()?));
    let kept = Kept {
        secret_sha256: SecretHash::of(&secret.0).to_string(),
        grant: grant.clone(),
    };
    let path = place(&tokens, id, Fate::Open);
    let write = |source| CaError::Write {
        path: path.clone(),
        source,
    };
    let text = serde_json::to_string(&kept).map_err(|error| write(error.into()))?;
    files::replace_file(&path, &text, PRIVATE).map_err(write)?;
    Ok((id, secret))
}

/// Uses a token up for a gateway, once and for all, whatever becomes of the gateway's request afterwards. One by which gateways
/// come back is not used up, and alone is worth nothing yet.
///
/// # Errors
/// Why it does not count. A token that is refused stays as it was.
pub fn use_up(
    folder: &Path,
    (id, secret): (TokenId, Secret),
    gateway: &GatewayId,
    now: SystemTime,
) -> Result<TokenPurpose, TokenRefusal> {
    let tokens = folder.join(TOKENS_FOLDER);
    let (fate, kept) = find(&tokens, id)?.ok_or(TokenRefusal::Unknown)?;
    let shown = SecretHash::of(&secret.0);
    if !SecretHash::parse(&kept.secret_sha256).is_some_and(|kept| kept.is(&shown)) {
        return Err(TokenRefusal::Forged);
    }
    match fate {
        Fate::Open => {}
        Fate::Used => return Err(TokenRefusal::Used),
        Fate::Revoked => return Err(TokenRefusal::Revoked),
    }
    let grant = kept.grant;
    if now >= grant.expires_at {
        return Err(TokenRefusal::Expired(grant.expires_at));
    }
    if grant.zone != gateway.zone {
        return Err(TokenRefusal::WrongZone(grant.zone));
    }
    if let Some(name) = grant.gateway.clone().filter(|name| *name != gateway.gateway) {
        return Err(TokenRefusal::WrongGateway(name));
    }
    if grant.rejoins.is_some() {
        return Ok(grant);
    }
    let path = place(&tokens, id, Fate::Open);
    match move_to(&tokens, id, Fate::Used) {
        Ok(()) => Ok(grant),
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(TokenRefusal::Used),
        Err(source) => Err(TokenRefusal::Io { path, source }),
    }
}

/// Makes an open token worthless.
///
/// # Errors
/// When there is no such open token, or it cannot be moved.
pub fn revoke(folder: &Path, id: TokenId) -> Result<(), CaError> {
    let tokens = folder.join(TOKENS_FOLDER);
    move_to(&tokens, id, Fate::Revoked).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CaError::NoSuchToken(id),
        _ => CaError::Write {
            path: place(&tokens, id, Fate::Open),
            source,
        },
    })
}

/// Every token that is remembered, by the time it was given out.
///
/// # Errors
/// When the folder cannot be read. Files that are not tokens are passed over.
pub fn list(folder: &Path) -> Result<Vec<(TokenId, Fate, TokenPurpose)>, CaError> {
    let tokens = folder.join(TOKENS_FOLDER);
    let unread = |source| CaError::Tokens {
        path: tokens.clone(),
        source,
    };
    let entries = match fs::read_dir(&tokens) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unread)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(unread)?.file_name();
        let parts = name.to_str().and_then(|name| name.split_once('.'));
        let Some((id, fate)) = parts.and_then(|(id, ending)| {
            let fate = Fate::ALL.into_iter().find(|fate| fate.word() == ending)?;
            Some((id.parse::<TokenId>().ok()?, fate))
        }) else {
            continue;
        };
        if let Ok(Some(kept)) = read(&place(&tokens, id, fate)) {
            found.push((id, fate, kept.grant));
        }
    }
    found.sort_by_key(|(id, _, grant)| (grant.issued_at, *id));
    Ok(found)
}

/// Forgets tokens that ended long ago. Says how many.
///
/// # Errors
/// When the folder cannot be read.
pub fn sweep(folder: &Path, now: SystemTime) -> Result<usize, CaError> {
    let over = |grant: &TokenPurpose| {
        now.duration_since(grant.expires_at)
            .is_ok_and(|over| over > REMEMBERED)
    };
    let tokens = folder.join(TOKENS_FOLDER);
    let old = list(folder)?.into_iter().filter(|(.., grant)| over(grant));
    Ok(old
        .filter(|(id, fate, _)| fs::remove_file(place(&tokens, *id, *fate)).is_ok())
        .count())
}

fn find(tokens: &Path, id: TokenId) -> Result<Option<(Fate, Kept)>, TokenRefusal> {
    for fate in Fate::ALL {
        let path = place(tokens, id, fate);
        let kept = read(&path).map_err(|source| TokenRefusal::Io { path, source })?;
        if let Some(kept) = kept {
            return Ok(Some((fate, kept)));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> io::Result<Option<Kept>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn move_to(tokens: &Path, id: TokenId, fate: Fate) -> io::Result<()> {
    fs::rename(place(tokens, id, Fate::Open), place(tokens, id, fate))?;
    // On disk before anything is signed: a crash must not bring a used token back.
    fs::File::open(tokens)?.sync_all()
}

fn place(tokens: &Path, id: TokenId, fate: Fate) -> PathBuf {
    tokens.join(format!("{id}.{}", fate.word()))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn gateway(zone: &str, name: &str) -> GatewayId {
        GatewayId::new(zone.parse().unwrap(), name.parse().unwrap())
    }

    fn give_out(name: Option<&str>) -> (TempDir, (TokenId, Secret), SystemTime) {
        let (folder, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let grant = TokenPurpose {
            dns_names: Vec::new(),
            rejoins: None,
            zone: "west".parse().unwrap(),
            gateway: name.map(|name| name.parse().unwrap()),
            issued_at: now,
            expires_at: now + 15 * MINUTE,
        };
        let token = issue(folder.path(), &grant).unwrap();
        (folder, token, now)
    }

    #[test]
    fn a_token_counts_once() {
        let (folder, token, now) = give_out(None);
        let grant = use_up(folder.path(), token, &gateway("west", "gw1"), now).unwrap();
        assert_eq!(grant.zone.as_str(), "west");
        let again = use_up(folder.path(), token, &gateway("west", "gw1"), now);
        assert!(matches!(again, Err(TokenRefusal::Used)), "{again:?}");
    }

    #[test]
    fn of_many_who_use_a_token_at_once_one_succeeds() {
        let (folder, token, now) = give_out(None);
        let tries = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| use_up(folder.path(), token, &gateway("west", "gw1"), now)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect::<Vec<_>>()
        });
        let used = |outcome: &&Result<TokenPurpose, TokenRefusal>| matches!(outcome, Err(TokenRefusal::Used));
        assert_eq!(tries.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        assert_eq!(tries.iter().filter(used).count(), 15, "{tries:?}");
    }

    #[test]
    fn each_reason_to_refuse_has_its_own_name_and_uses_nothing_up() {
        let (folder, (id, secret), now) = give_out(Some("gw1"));
        let mut forged = secret;
        forged.0[31] ^= 1;
        let mut stranger = id;
        stranger.0[0] ^= 1;
        let (good, at) = (gateway("west", "gw1"), folder.path());
        let refused = |token, gateway: &GatewayId, now| use_up(at, token, gateway, now).unwrap_err();
        assert!(matches!(refused((id, forged), &good, now), TokenRefusal::Forged));
        assert!(matches!(
            refused((stranger, secret), &good, now),
            TokenRefusal::Unknown
        ));
        assert!(matches!(
            refused((id, secret), &good, now + 15 * MINUTE),
            TokenRefusal::Expired(_)
        ));
        let east = gateway("east", "gw1");
        assert!(matches!(
            refused((id, secret), &east, now),
            TokenRefusal::WrongZone(_)
        ));
        let other = gateway("west", "gw2");
        assert!(matches!(
            refused((id, secret), &other, now),
            TokenRefusal::WrongGateway(_)
        ));
        use_up(at, (id, secret), &good, now).unwrap();
        // Who does not know the secret does not learn what became of the token.
        assert!(matches!(refused((id, forged), &good, now), TokenRefusal::Forged));
    }

    #[test]
    fn a_revoked_token_is_refused_and_an_old_one_forgotten() {
        let (folder, token, now) = give_out(None);
        revoke(folder.path(), token.0).unwrap();
        assert!(revoke(folder.path(), token.0).is_err());
        let refused = use_up(folder.path(), token, &gateway("west", "gw1"), now);
        assert!(matches!(refused, Err(TokenRefusal::Revoked)), "{refused:?}");
        assert_eq!(sweep(folder.path(), now + MINUTE).unwrap(), 0);
        assert_eq!(list(folder.path()).unwrap().len(), 1);
        assert_eq!(sweep(folder.path(), now + REMEMBERED + 16 * MINUTE).unwrap(), 1);
        assert!(list(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn the_folder_holds_no_secret() {
        let (folder, (id, secret), _) = give_out(None);
        let path = place(&folder.path().join(TOKENS_FOLDER), id, Fate::Open);
        let text = fs::read_to_string(path).unwrap();
        assert!(!text.contains(&HEXLOWER.encode(&secret.0)));
        assert!(text.contains(&SecretHash::of(&secret.0).to_string()));
    }
}
