//! Registrations of the time when a gateway kept its registry for itself: once it shares one with others, they are carried over
//! to that, or they would be gone without a word. What the shared registry has already is left as it is there.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use causeway_federation::registry::{InstanceSource, Registration, RegistryError};
use causeway_zone_sync::registry::Writer;

use crate::{addresses::AddressCheck, attach::Attach};

/// Added to the name of the file once all in it has been carried over.
const DONE: &str = "carried-over";
/// First wait before it is tried again when no zone-sync takes it; doubles each time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const MAX_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Refused registrations that are named in the log; the rest is counted.
const MAX_NAMED: usize = 20;

/// Carries over what is in the file at `path`, as often as it takes, and sets the file aside. Does nothing without a file.
pub(super) async fn carry_over(attach: Attach, addresses: AddressCheck, path: PathBuf) {
    let Some(sources) = read(&path).await else {
        return;
    };
    let count: usize = sources.values().map(Vec::len).sum();
    let mut wait = AGAIN_AFTER;
    loop {
        match hand_over(&attach, &addresses, &sources).await {
            Ok(()) => break,
            Err(RegistryError::Stopped) => return,
            Err(error) => {
                tracing::warn!(count, %error, "registrations of the time before --zone-sync wait to be carried over");
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MAX_AGAIN_AFTER);
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{DONE}"));
    match tokio::fs::rename(&path, &aside).await {
        Ok(()) => {
            tracing::info!(count, kept_as = %Path::new(&aside).display(),
                "registrations of the time before --zone-sync are in the shared registry");
        }
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "registrations that were carried over cannot be set aside");
        }
    }
}

/// Reads the registrations by source; `None`: there are none.
async fn read(path: &Path) -> Option<BTreeMap<InstanceSource, Vec<Registration>>> {
    if !tokio::fs::try_exists(path).await.unwrap_or(false) {
        return None;
    }
    let file = path.to_owned();
    // The writer is dropped at once, and with it the lock on the file.
    let reading = tokio::task::spawn_blocking(move || Writer::open(&file).map(|(_, stored)| stored));
    let stored = match reading.await {
        Ok(Ok(stored)) => stored,
        Ok(Err(error)) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "registrations of the time before --zone-sync cannot be read, and are not in the shared registry"
            );
            return None;
        }
        // The runtime is ending.
        Err(_) => return None,
    };
    let mut sources: BTreeMap<InstanceSource, Vec<Registration>> = BTreeMap::new();
    for (source, registration) in stored {
        sources.entry(source).or_default().push(registration);
    }
    (!sources.is_empty()).then_some(sources)
}

async fn hand_over(
    attach: &Attach,
    addresses: &AddressCheck,
    sources: &BTreeMap<InstanceSource, Vec<Registration>>,
) -> Result<(), RegistryError> {
    for (source, list) in sources {
        // Asking for another time to live tells which of them are there.
        let keys: Vec<_> = list.iter().map(Registration::key).collect();
        let known = attach.renew(&keys).await?.each;
        let is_missing = |known: &Result<(), RegistryError>| {
            known.as_ref().is_err_and(|error| error.word() == "not_found")
        };
        let missing = list.iter().zip(&known).filter(|(_, known)| is_missing(known));
        let missing: Vec<Registration> = missing.map(|(registration, _)| registration.clone()).collect();
        let (keys, is_whole) = (missing.iter().map(Registration::key), missing.len() == list.len());
        let keys: Vec<_> = keys.collect();
        let (good, checked) = addresses.shareable(missing);
        let unshareable = keys.into_iter().zip(checked);
        let unshareable = unshareable.filter_map(|(key, allowed)| Some((key, allowed.err()?)));
        let mut refused: Vec<_> = unshareable.collect();
        match source {
            InstanceSource::Registered => {
                let each = attach.register(&good).await?.each;
                let answered = good.iter().zip(each);
                refused.extend(
                    answered.filter_map(|(registration, taken)| Some((registration.key(), taken.err()?))),
                );
            }
            // A list of which the shared registry has a part is newer there.
            InstanceSource::Named(_) if is_whole => {
                refused.extend(attach.replace(source, good).await?.0.refused);
            }
            _ => refused.clear(),
        }
        if !refused.is_empty() {
            let named = refused.iter().take(MAX_NAMED);
            let named: Vec<String> = named.map(|(key, error)| format!("{key}: {error}")).collect();
            tracing::warn!(%source, refused = refused.len(), "registrations of the time before --zone-sync were refused: {}", named.join("; "));
        }
    }
    Ok(())
}
