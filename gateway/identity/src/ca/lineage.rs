//! Lineage of certificates: which renewals of one there have been, and whether there may be another. A key that was copied is used
//! by two who renew, so sooner or later one certificate is to be renewed that has been renewed before, for another key.

use std::time::{Duration, SystemTime};

use super::issued::{Issued, descendants};
use crate::Serial;

/// Time after its first renewal in which a certificate may be renewed again: for a gateway that has not got the answer, or was ended
/// before it had written it down.
pub const RENEW_AGAIN: Duration = Duration::from_secs(600);
/// Most certificates of one name that are valid at once, those aside whose renewals are older than [`RENEW_AGAIN`].
pub const MAX_LIVE: usize = 16;

/// Reason why a certificate is not renewed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineageRefusal {
    /// It was renewed before, and who got that certificate has gone on with it.
    #[error(
        "the certificate with serial number {serial} was renewed {} before{}, and goes on as {child}: two hold its key, or its host was set back to an old state",
        humantime::format_duration(*ago), from(address.as_deref())
    )]
    Superseded {
        serial: Serial,
        child: String,
        ago: Duration,
        address: Option<String>,
    },
    #[error("{0} certificates of this name are valid at once, which is the limit")]
    TooMany(usize),
}

fn from(address: Option<&str>) -> String {
    address.map_or_else(String::new, |address| format!(" from {address}"))
}

/// Renewal that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Renewing<'a> {
    /// Certificate that is to be renewed.
    pub serial: &'a Serial,
    /// SPIFFE id of its holder.
    pub id: &'a str,
    /// SHA-256 of the key that the next one is to be for, as [`Issued::key`] has it.
    pub key: &'a str,
    /// SHA-256 of the certificate of the CA that would sign, as [`Issued::issuer`] has it.
    pub issuer: &'a str,
}

/// Answer to a renewal that may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewable<'a> {
    /// A new certificate.
    Anew,
    /// The one that was issued for this key before: its answer was lost.
    Again(&'a Issued),
}

/// Decides what is issued to whom renews; `issued` is what the CA has issued, oldest first, and `shown` tells whether somebody has
/// shown a certificate to this CA.
///
/// Who asks again with one and the same key gets what was issued before, however late: nobody else has that key. With another key
/// a certificate is renewed again for [`RENEW_AGAIN`], or until somebody goes on with a renewal.
///
/// # Errors
/// Why nothing is.
pub fn renewable<'a>(
    asked: Renewing<'_>,
    issued: &'a [Issued],
    shown: impl Fn(&Serial) -> bool,
    now: SystemTime,
) -> Result<Renewable<'a>, LineageRefusal> {
    let came_of_it = descendants(asked.serial, issued);
    let came_of_it = || {
        let of_it =
            |one: &&Issued| Serial::parse(&one.serial).is_some_and(|serial| came_of_it.contains(&serial));
        issued.iter().filter(of_it).filter(|one| !is(one, asked.serial))
    };
    let own_key = |one: &&Issued| one.key.as_deref() == Some(asked.key);
    if let Some(first) = came_of_it().find(|one| !own_key(one)) {
        may_be_renewed_again(asked.serial, first, issued, shown, now)?;
    }
    // Half of its life is over when it would be renewed itself.
    let lasts = |one: &&Issued| one.issuer == asked.issuer && half_of(one) > now;
    if let Some(before) = came_of_it().filter(own_key).rfind(lasts) {
        return Ok(Renewable::Again(before));
    }
    let live = live(asked.id, issued, now);
    match live >= MAX_LIVE {
        true => Err(LineageRefusal::TooMany(live)),
        false => Ok(Renewable::Anew),
    }
}

/// Decides about a certificate that was renewed for another key, `other` or one before it.
fn may_be_renewed_again(
    serial: &Serial,
    other: &Issued,
    issued: &[Issued],
    shown: impl Fn(&Serial) -> bool,
    now: SystemTime,
) -> Result<(), LineageRefusal> {
    let first = children(serial, issued).next().unwrap_or(other);
    let ago = now.duration_since(first.made_at()).unwrap_or_default();
    let goes_on = children(serial, issued).find(|child| {
        Serial::parse(&child.serial)
            .is_some_and(|child| shown(&child) || children(&child, issued).next().is_some())
    });
    if ago <= RENEW_AGAIN && goes_on.is_none() {
        return Ok(());
    }
    let child = goes_on.unwrap_or(other);
    Err(LineageRefusal::Superseded {
        serial: serial.clone(),
        child: child.serial.clone(),
        ago: Duration::from_secs(ago.as_secs()),
        address: child.address.clone(),
    })
}

fn is(issued: &Issued, serial: &Serial) -> bool {
    Serial::parse(&issued.serial).as_ref() == Some(serial)
}

fn half_of(issued: &Issued) -> SystemTime {
    let life = issued.not_after.duration_since(issued.not_before);
    issued.not_before + life.unwrap_or_default() / 2
}

fn children<'a>(of: &Serial, issued: &'a [Issued]) -> impl Iterator<Item = &'a Issued> {
    issued
        .iter()
        .filter(move |one| one.parent.as_deref().and_then(Serial::parse).as_ref() == Some(of))
}

/// Number of certificates of a name that are valid and that no renewal took the place of a while ago.
fn live(id: &str, issued: &[Issued], now: SystemTime) -> usize {
    let of_name = issued.iter().filter(|one| one.id == id);
    let valid = of_name.filter(|one| one.not_after >= now);
    let superseded = |one: &Issued| {
        let serial = Serial::parse(&one.serial);
        let first = serial.and_then(|serial| children(&serial, issued).next());
        first.is_some_and(|first| {
            now.duration_since(first.made_at())
                .is_ok_and(|ago| ago > RENEW_AGAIN)
        })
    };
    valid.filter(|one| !superseded(one)).take(MAX_LIVE + 1).count()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::ca::CLOCK_SKEW;

    const ID: &str = "spiffe://acme.internal/zone/east/gateway/gw1";

    fn at(minutes: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + 60 * minutes)
    }

    /// Key that a certificate with this serial number is for.
    fn key_of(serial: u64) -> String {
        format!("key {serial}")
    }

    /// Issued at this minute for a day, to a key of its own.
    fn issued(serial: u64, parent: Option<u64>, minute: u64) -> Issued {
        Issued {
            serial: format!("{serial:032x}"),
            id: ID.to_owned(),
            issuer: "00".repeat(32),
            not_before: at(minute) - CLOCK_SKEW,
            not_after: at(minute + 24 * 60),
            how: "renewal".to_owned(),
            parent: parent.map(|parent| format!("{parent:032x}")),
            address: parent.map(|_| "192.0.2.1".to_owned()),
            key: Some(key_of(serial)),
            dns_names: Vec::new(),
        }
    }

    fn serial(number: u64) -> Serial {
        Serial::parse(&format!("{number:x}")).unwrap()
    }

    /// The number of the certificate that is given out again; 0: a new one.
    fn renew_with(key: &str, number: u64, all: &[Issued], minute: u64) -> Result<u64, LineageRefusal> {
        let asked = Renewing {
            serial: &serial(number),
            id: ID,
            key,
            issuer: &"00".repeat(32),
        };
        let renewable = renewable(asked, all, |_| false, at(minute))?;
        Ok(match renewable {
            Renewable::Anew => 0,
            Renewable::Again(before) => u64::from_str_radix(&before.serial, 16).unwrap(),
        })
    }

    fn renew(number: u64, all: &[Issued], minute: u64) -> Result<u64, LineageRefusal> {
        renew_with("a key of its own", number, all, minute)
    }

    #[test]
    fn one_certificate_is_renewed_again_for_ten_minutes_or_until_somebody_goes_on_with_a_renewal() {
        let mut all = vec![issued(1, None, 0), issued(2, Some(1), 700)];
        assert_eq!(renew(1, &all, 709), Ok(0), "the answer was lost");
        let late = renew(1, &all, 711).unwrap_err();
        assert!(
            late.to_string().contains("renewed 11m before from 192.0.2.1"),
            "{late}"
        );
        assert_eq!(renew(2, &all, 711), Ok(0));
        all.push(issued(3, Some(2), 702));
        let gone_on = renew(1, &all, 703).unwrap_err();
        assert!(matches!(gone_on, LineageRefusal::Superseded { .. }), "{gone_on}");
        assert_eq!(renew(3, &all, 703), Ok(0));
    }

    #[test]
    fn who_asks_again_with_the_same_key_gets_the_same_certificate_however_late_until_another_key_is_seen() {
        let mut all = vec![issued(1, None, 0), issued(2, Some(1), 700)];
        let again = |all: &[Issued], minute| renew_with(&key_of(2), 1, all, minute);
        assert_eq!(again(&all, 701), Ok(2));
        assert_eq!(again(&all, 1_000), Ok(2), "long after the answer was lost");
        assert_eq!(again(&all, 1_500), Ok(0), "one that is half over is no use");
        all.push(Issued {
            key: Some(key_of(2)),
            ..issued(3, Some(1), 1_440)
        });
        assert_eq!(again(&all, 1_441), Ok(3));
        // Somebody has the key of the first as well, or went on with one of those that came of it.
        for (parent, minute) in [(1, 1_442), (3, 1_442)] {
            let other = [&all[..], &[issued(4, Some(parent), minute)]].concat();
            let refused = again(&other, 1_460).unwrap_err();
            assert!(matches!(refused, LineageRefusal::Superseded { .. }), "{parent}");
        }
        let under_another_root = Issued {
            issuer: "11".repeat(32),
            ..issued(2, Some(1), 700)
        };
        let under_another_root = [issued(1, None, 0), under_another_root];
        assert_eq!(
            again(&under_another_root, 701),
            Ok(0),
            "the root was exchanged meanwhile"
        );
    }

    #[test]
    fn once_a_renewal_was_shown_to_the_ca_its_parent_is_renewed_for_no_other_key() {
        let all = vec![issued(1, None, 0), issued(2, Some(1), 700)];
        let (first, second) = (serial(1), serial(2));
        let asked = |key| Renewing {
            serial: &first,
            id: ID,
            key,
            issuer: &all[0].issuer,
        };
        let renew = |key, shown: Option<&Serial>| {
            renewable(asked(key), &all, |serial| Some(serial) == shown, at(701))
        };
        assert_eq!(renew("another", Some(&first)), Ok(Renewable::Anew));
        let refused = renew("another", Some(&second));
        assert!(
            matches!(refused, Err(LineageRefusal::Superseded { .. })),
            "{refused:?}"
        );
        let own = key_of(2);
        assert_eq!(renew(&own, Some(&second)), Ok(Renewable::Again(&all[1])));
    }

    #[test]
    fn a_name_has_so_many_certificates_at_once_and_those_that_were_renewed_make_room() {
        let limit = u64::try_from(MAX_LIVE).unwrap();
        let mut all = vec![issued(0, None, 0)];
        all.extend((1..limit).map(|nth| issued(nth, Some(nth - 1), 1)));
        assert_eq!(renew(limit - 1, &all, 1), Err(LineageRefusal::TooMany(MAX_LIVE)));
        assert_eq!(renew(limit - 1, &all, 12), Ok(0));
        let other = Renewing {
            serial: &Serial::new(&[99]),
            id: "spiffe://acme.internal/zone/west/gateway/gw1",
            key: "another",
            issuer: &"00".repeat(32),
        };
        let other = renewable(other, &all, |_| false, at(1));
        assert_eq!(other, Ok(Renewable::Anew), "another name has room of its own");
    }
}
