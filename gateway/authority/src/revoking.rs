//! Connections of those whose certificates were revoked since: they end, as those with gateways do.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_host::files::FileStamp;
use causeway_identity::{
    Guarded, Serial, begin_of,
    ca::revoked::{REVOKED_FILE, Revoked},
    identify,
};
use rustls_pki_types::CertificateDer;
use tokio::{sync::watch, time::MissedTickBehavior};

/// Interval at which the file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For a call that is under way then, so that its refusal is heard.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Revocations in the folder of a CA, now and whenever there are more.
pub(super) type CaRevocations = watch::Receiver<Arc<Revoked>>;

/// Follows `revoked.jsonl`. What cannot be read leaves what was known in force; calls read it for themselves.
pub(super) async fn follow(folder: PathBuf, revocations: watch::Sender<Arc<Revoked>>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        ticks.tick().await;
        let (folder, before) = (folder.clone(), seen);
        let look = tokio::task::spawn_blocking(move || {
            // There is no file as long as nobody was revoked.
            let now = FileStamp::of(&folder.join(REVOKED_FILE)).ok();
            (now != before).then(|| (now, Revoked::read(&folder)))
        });
        match look.await {
            Ok(Some((stamp, Ok(revoked)))) => {
                seen = stamp;
                revocations.send_replace(Arc::new(revoked));
            }
            Ok(Some((stamp, Err(error)))) => {
                seen = stamp;
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot tell what was revoked"
                );
            }
            Ok(None) | Err(_) => {}
        }
    }
}

/// Ends a connection once the certificate that was shown on it is revoked.
pub(super) fn guard<S>(io: S, chain: &[CertificateDer<'_>], revocations: CaRevocations) -> Guarded<S> {
    Guarded::until(io, revoked(holder(chain), revocations))
}

/// Certificate that was shown, and whose it is; `None`: there was none, or it is nobody's that is ever revoked here.
type Holder = Option<(Serial, causeway_federation::name::GatewayId, SystemTime)>;

fn holder(chain: &[CertificateDer<'_>]) -> Holder {
    let leaf = chain.first()?;
    let begins = begin_of(leaf).unwrap_or(SystemTime::UNIX_EPOCH);
    Some((Serial::of(leaf)?, identify(leaf).ok()?.gateway, begins))
}

/// Waits until the certificate is revoked and a call that was under way has had its word, and says so in words. One that was revoked before it was shown
/// is refused in words by each call.
async fn revoked(holder: Holder, mut revocations: CaRevocations) -> String {
    let Some((serial, gateway, begins)) = holder else {
        return std::future::pending().await;
    };
    let covers = |revoked: &Arc<Revoked>| revoked.covers(&serial, &gateway, begins);
    if covers(&revocations.borrow_and_update()) || revocations.wait_for(covers).await.is_err() {
        return std::future::pending().await;
    }
    tokio::time::sleep(LAST_WORDS).await;
    let why = format!("the certificate with serial number {serial} was revoked");
    tracing::warn!(peer = %gateway, reason = "revoked", "ended a connection: {why}");
    why
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path};

    use causeway_federation::name::GatewayId;
    use causeway_identity::ca::{
        Ca, LEAF_VALIDITY,
        revoked::{Revocation, RevocationSubject},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::timeout,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn chain(ca: &Ca, zone: &str) -> Vec<CertificateDer<'static>> {
        let gateway = GatewayId::new(zone.parse().unwrap(), "gw1".parse().unwrap());
        ca.issue(&gateway, LEAF_VALIDITY).unwrap().chain().to_vec()
    }

    fn revoke(folder: &Path, zone: &str) {
        let mut revoked = Revoked::read(folder).unwrap();
        revoked.0.push(Revocation {
            at: SystemTime::now(),
            subject: RevocationSubject::Zone(zone.to_owned()),
            serials: Vec::new(),
            readmitted: false,
        });
        revoked.write(folder).unwrap();
    }

    #[tokio::test]
    async fn a_connection_ends_once_its_holder_is_revoked_and_no_other_does() {
        let (folder, ca) = (tempfile::tempdir().unwrap(), Ca::new("acme.internal").unwrap());
        let (sender, revocations) = watch::channel(Arc::default());
        let following = tokio::spawn(follow(folder.path().to_owned(), sender));
        let open = |zone: &str| {
            let (near, far) = duplex(16);
            (guard(near, &chain(&ca, zone), revocations.clone()), far)
        };
        let ((mut west, _far_west), (mut east, mut far_east)) = (open("west"), open("east"));
        let (mut nobody, mut far_nobody) = duplex(16);
        let mut nobody = guard(&mut nobody, &[], revocations.clone());
        // West waits to read; that it is revoked is seen all the same.
        let reading = tokio::spawn(async move { west.read_u8().await });
        revoke(folder.path(), "west");
        let ended = timeout(PATIENCE, reading).await.unwrap().unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        far_east.write_u8(7).await.unwrap();
        assert_eq!(east.read_u8().await.unwrap(), 7);
        far_nobody.write_u8(8).await.unwrap();
        assert_eq!(nobody.read_u8().await.unwrap(), 8);
        // Who comes after that is told in words.
        let (mut late, mut far_late) = open("west");
        far_late.write_u8(9).await.unwrap();
        assert_eq!(late.read_u8().await.unwrap(), 9);
        following.abort();
    }
}
