//! The file that holds what is known of the tokens: names, scopes and hashes, never a token itself. A running gateway
//! takes up its changes; a bad one keeps what was in force.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use causeway_host::{
    files::{PRIVATE, replace_file},
    watch::watch_folder,
};
use causeway_identity::SecretHash;
use causeway_telemetry::log::in_one_line;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Rights, TokenName, token::Token};

/// Most tokens of one file.
pub const MAX_TOKENS: usize = 1024;
/// Largest token file in bytes: 8 KiB for each, for the names of as many services as one may have rights over.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// Interval at which the file is read without being told to.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Bits of a file's mode that let others than its owner read or change it.
const OTHERS: u32 = 0o077;
/// Of these, what a file of root may have: a group that reads it. So is a Secret of Kubernetes for the group of a pod (`fsGroup`), and
/// what the group finds there are hashes.
const GROUP_READS: u32 = 0o040;
const ROOT: u32 = 0;

/// Reason why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("cannot read {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {path}", path = path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is open to others than its owner (mode {mode:o}); `chmod 600 {path}`, or 640 if it is root's", path = path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{path} is larger than {MAX_FILE_BYTES} bytes", path = path.display())]
    TooLarge { path: PathBuf },
    #[error("{path} is no token file", path = path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path}: token {name}: {what}", path = path.display())]
    Entry {
        path: PathBuf,
        name: String,
        what: &'static str,
    },
    #[error("{path} holds {MAX_TOKENS} tokens already; revoke one first", path = path.display())]
    Full { path: PathBuf },
    #[error("there is a token {name} already; take another name, or revoke that one first")]
    Taken { name: TokenName },
    #[error("there is no token {name}")]
    Unknown { name: TokenName },
}

/// One token, as the file holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    pub name: String,
    /// `read`, `register` or `write`, of everything or of single services: `register,write:orders`.
    pub scope: String,
    /// Of the token's text, in hexadecimal.
    sha256: String,
    /// RFC 3339.
    pub issued: String,
    /// RFC 3339; without it the token does not end by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenList {
    tokens: Vec<TokenEntry>,
}

/// One token, ready to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    name: Arc<str>,
    rights: Rights,
    hash: SecretHash,
    expires: Option<SystemTime>,
}

/// The tokens that are in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Known>);

/// Token that was found, and what it is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundToken {
    Good { name: Arc<str>, rights: Rights },
    Expired { name: Arc<str> },
}

impl Tokens {
    /// Looks a token up. Every entry is compared, whichever one it is.
    #[must_use]
    pub fn find(&self, shown: &[u8], now: SystemTime) -> Option<FoundToken> {
        let hash = SecretHash::of(shown);
        self.find_by(now, |known| known.is(&hash))
    }

    /// Looks for the token with the hash that this is true of.
    pub(super) fn find_by(&self, now: SystemTime, is: impl Fn(&SecretHash) -> bool) -> Option<FoundToken> {
        let mut found = None;
        for known in &self.0 {
            if is(&known.hash) {
                found = Some(known);
            }
        }
        let Known {
            name,
            rights,
            expires,
            ..
        } = found?.clone();
        Some(match expires {
            Some(end) if end <= now => FoundToken::Expired { name },
            _ => FoundToken::Good { name, rights },
        })
    }

    fn read(path: &Path) -> Result<Self, TokenFileError> {
        let document = read(path)?;
        let mut names = BTreeSet::new();
        let known = document.tokens.iter().map(|entry| {
            let refuse = |what| TokenFileError::Entry {
                path: path.to_owned(),
                name: entry.name.chars().take(80).collect(),
                what,
            };
            let name: TokenName = entry
                .name
                .parse()
                .map_err(|_| refuse("its name is not 1 to 40 of a-z, 0-9 and -"))?;
            if !names.insert(name.clone()) {
                return Err(refuse("its name comes twice"));
            }
            let expires = entry.expires.as_deref().map(humantime::parse_rfc3339_weak);
            Ok(Known {
                name: name.as_str().into(),
                rights: entry.scope.parse().map_err(|_| {
                    refuse("its scope is not read, register, write, register:SERVICE or write:SERVICE")
                })?,
                hash: SecretHash::parse(&entry.sha256)
                    .ok_or_else(|| refuse("its sha256 is not 64 digits"))?,
                expires: expires
                    .transpose()
                    .map_err(|_| refuse("`expires` is not a time such as 2027-01-31T00:00:00Z"))?,
            })
        });
        known.collect::<Result<_, _>>().map(Self)
    }
}

/// Tells whether others than those for whom it can be meant may read or change a file.
fn is_open(owner: u32, mode: u32) -> bool {
    let may_be = if owner == ROOT { GROUP_READS } else { 0 };
    mode & OTHERS & !may_be != 0
}

fn read(path: &Path) -> Result<TokenList, TokenFileError> {
    let owned = || path.to_owned();
    let failed = |source| TokenFileError::Read {
        path: owned(),
        source,
    };
    let about = fs::metadata(path).map_err(failed)?;
    let mode = about.mode() & 0o777;
    if is_open(about.uid(), mode) {
        return Err(TokenFileError::Open { path: owned(), mode });
    }
    if about.len() > MAX_FILE_BYTES {
        return Err(TokenFileError::TooLarge { path: owned() });
    }
    let text = fs::read(path).map_err(failed)?;
    let document: TokenList = serde_json::from_slice(&text).map_err(|source| TokenFileError::Json {
        path: owned(),
        source,
    })?;
    match document.tokens.len() {
        0..=MAX_TOKENS => Ok(document),
        _ => Err(TokenFileError::Full { path: owned() }),
    }
}

fn write(path: &Path, document: &TokenList) -> Result<(), TokenFileError> {
    let failed = |source| TokenFileError::Write {
        path: path.to_owned(),
        source,
    };
    let mut text = serde_json::to_string_pretty(document).map_err(|error| failed(error.into()))?;
    text.push('\n');
    replace_file(path, &text, PRIVATE).map_err(failed)
}

/// Adds a token to the file, which is made if there is none. `secret` has to be random.
///
/// # Errors
/// When the file cannot be read or written, the name is taken, or the file is full.
pub fn issue(
    path: &Path,
    name: &TokenName,
    rights: &Rights,
    expires: Option<SystemTime>,
    secret: &[u8; super::token::SECRET_BYTES],
) -> Result<Token, TokenFileError> {
    let mut document = match read(path) {
        Err(TokenFileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            TokenList::default()
        }
        document => document?,
    };
    if document.tokens.iter().any(|entry| entry.name == name.as_str()) {
        return Err(TokenFileError::Taken { name: name.clone() });
    }
    if document.tokens.len() >= MAX_TOKENS {
        return Err(TokenFileError::Full {
            path: path.to_owned(),
        });
    }
    let token = Token::new(name, secret);
    let written = |time| humantime::format_rfc3339_seconds(time).to_string();
    document.tokens.push(TokenEntry {
        name: name.to_string(),
        scope: rights.to_string(),
        sha256: token.hash().to_string(),
        issued: written(SystemTime::now()),
        expires: expires.map(written),
    });
    write(path, &document)?;
    Ok(token)
}

/// Lists what the file holds.
///
/// # Errors
/// When it cannot be read.
pub fn list(path: &Path) -> Result<Vec<TokenEntry>, TokenFileError> {
    Ok(read(path)?.tokens)
}

/// Takes a token out of the file; a running gateway refuses it from then on.
///
/// # Errors
/// When the file cannot be read or written, or holds no token of this name.
pub fn revoke(path: &Path, name: &TokenName) -> Result<(), TokenFileError> {
    let mut document = read(path)?;
    let before = document.tokens.len();
    document.tokens.retain(|entry| entry.name != name.as_str());
    if document.tokens.len() == before {
        return Err(TokenFileError::Unknown { name: name.clone() });
    }
    write(path, &document)
}

/// A token file, and what is in force of it.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    tokens: ArcSwap<Tokens>,
    /// Reason why the file as it is now is not in force, so that it is told once.
    refused: Mutex<Option<String>>,
}

impl TokenFile {
    /// # Errors
    /// When the file cannot be used.
    pub fn open(path: &Path) -> Result<Self, TokenFileError> {
        Ok(Self {
            path: path.to_owned(),
            tokens: ArcSwap::from_pointee(Tokens::read(path)?),
            refused: Mutex::default(),
        })
    }

    #[must_use]
    pub fn tokens(&self) -> Arc<Tokens> {
        self.tokens.load_full()
    }

    /// Reads the file again. Blocks on the disk.
    pub fn reload(&self) {
        let mut refused = self.refused.lock();
        match Tokens::read(&self.path) {
            Ok(tokens) => {
                *refused = None;
                if tokens != **self.tokens.load() {
                    tracing::info!(file = %self.path.display(), tokens = tokens.0.len(), "took up changed tokens");
                    self.tokens.store(Arc::new(tokens));
                }
            }
            Err(error) => {
                let told = in_one_line(&error);
                if refused.as_ref() != Some(&told) {
                    tracing::error!("the tokens before it stay in force: {told}");
                    *refused = Some(told);
                }
            }
        }
    }

    /// Takes up changes of the file until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let changed = Arc::new(Notify::new());
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let watcher = watch_folder(folder.unwrap_or(Path::new(".")), changed.clone());
        if let Err(error) = &watcher {
            tracing::warn!(file = %self.path.display(), %error,
                "cannot watch the folder of the tokens; changes are noticed within {LOOK_EVERY:?}");
        }
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed.notified() => {}
                _ = look.tick() => {}
            }
            let file = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || file.reload()).await {
                tracing::error!(%error, "reading the tokens again has failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::credentials::Scope;

    fn name(text: &str) -> TokenName {
        text.parse().unwrap()
    }

    fn shown(tokens: &Tokens, token: &Token) -> Option<FoundToken> {
        tokens.find(token.reveal().as_bytes(), SystemTime::now())
    }

    #[test]
    fn a_token_is_known_until_it_is_revoked_or_ends_and_is_not_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let read = issue(&path, &name("grafana"), &Rights::of(Scope::Read), None, &[1; 32]).unwrap();
        let hour = SystemTime::now() + Duration::from_secs(3600);
        let writes = Rights::of(Scope::Write);
        let write = issue(&path, &name("ci"), &writes, Some(hour), &[2; 32]).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(read.reveal()) && !text.contains("0101"), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let file = TokenFile::open(&path).unwrap();
        let good = |name: &str, scope| {
            Some(FoundToken::Good {
                name: name.into(),
                rights: Rights::of(scope),
            })
        };
        assert_eq!(shown(&file.tokens(), &read), good("grafana", Scope::Read));
        assert_eq!(shown(&file.tokens(), &write), good("ci", Scope::Write));
        assert_eq!(
            file.tokens().find(write.reveal().as_bytes(), hour),
            Some(FoundToken::Expired { name: "ci".into() })
        );
        assert_eq!(file.tokens().find(b"cwa_ci_", hour), None);
        assert_eq!(file.tokens().find(text.as_bytes(), hour), None);

        revoke(&path, &name("grafana")).unwrap();
        file.reload();
        assert_eq!(shown(&file.tokens(), &read), None);
        assert_eq!(list(&path).unwrap().len(), 1);
    }

    #[test]
    fn a_name_is_taken_once_and_an_unknown_one_cannot_be_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        issue(&path, &name("a"), &Rights::of(Scope::Read), None, &[1; 32]).unwrap();
        let again = issue(&path, &name("a"), &Rights::of(Scope::Read), None, &[2; 32]);
        assert!(matches!(again, Err(TokenFileError::Taken { .. })));
        let unknown = revoke(&path, &name("b"));
        assert!(matches!(unknown, Err(TokenFileError::Unknown { .. })));
    }

    #[test]
    fn a_bad_file_is_refused_and_what_was_in_force_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let token = issue(&path, &name("a"), &Rights::of(Scope::Read), None, &[1; 32]).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let file = TokenFile::open(&path).unwrap();
        let mode = |bits| fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        mode(0o660);
        let open = TokenFile::open(&path);
        assert!(matches!(open, Err(TokenFileError::Open { mode: 0o660, .. })));
        mode(0o600);
        let twice = good.replace("\"tokens\": [", &format!("\"tokens\": [{},", entry(&good)));
        let bad = [
            "",
            "{}",
            "[]",
            &good.replace("read", "all"),
            &good.replace("read", "read:orders"),
            &good.replace("\"a\"", "\"A\""),
            &twice,
        ];
        for text in bad {
            fs::write(&path, text).unwrap();
            assert!(TokenFile::open(&path).is_err(), "{text}");
            file.reload();
            assert!(shown(&file.tokens(), &token).is_some(), "{text}");
        }
    }

    #[test]
    fn a_file_of_root_may_be_read_by_its_group_and_one_of_anybody_else_by_nobody() {
        for (owner, mode, open) in [
            (0, 0o600, false),
            (0, 0o640, false),
            (0, 0o440, false),
            (0, 0o660, true),
            (0, 0o644, true),
            (0, 0o650, true),
            (1000, 0o600, false),
            (1000, 0o640, true),
            (1000, 0o604, true),
        ] {
            assert_eq!(is_open(owner, mode), open, "user {owner}, mode {mode:o}");
        }
    }

    /// As the kubelet does it: the names in the folder are links through `..data`, which is swapped.
    #[tokio::test]
    async fn tokens_of_a_secret_are_followed_when_its_link_is_swapped() {
        let folder = tempfile::tempdir().unwrap();
        let put = |stamp: &str, token: u8| {
            let stamp = format!("..{stamp}");
            fs::create_dir(folder.path().join(&stamp)).unwrap();
            let file = folder.path().join(&stamp).join("tokens.json");
            let token = issue(&file, &name("a"), &Rights::of(Scope::Read), None, &[token; 32]).unwrap();
            std::os::unix::fs::symlink(&stamp, folder.path().join("..data_tmp")).unwrap();
            fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
            token
        };
        let first = put("first", 1);
        let path = folder.path().join("tokens.json");
        std::os::unix::fs::symlink("..data/tokens.json", &path).unwrap();
        let file = Arc::new(TokenFile::open(&path).unwrap());
        let stop = CancellationToken::new();
        let watching = tokio::spawn(file.clone().watch(stop.clone()));
        assert!(shown(&file.tokens(), &first).is_some());
        let second = put("second", 2);
        fs::remove_dir_all(folder.path().join("..first")).unwrap();
        tokio::time::timeout(Duration::from_secs(60), async {
            while shown(&file.tokens(), &second).is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the new token is known");
        assert!(shown(&file.tokens(), &first).is_none());
        stop.cancel();
        watching.await.unwrap();
    }

    fn entry(text: &str) -> String {
        let document: serde_json::Value = serde_json::from_str(text).unwrap();
        document["tokens"][0].to_string()
    }
}
