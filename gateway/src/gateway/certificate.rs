//! What `/readyz` and `causeway check` say of the gateway's own certificate: whether it is in use, when it ends, when it is
//! renewed, and why it was not.

use std::time::{Duration, SystemTime};

use crate::{
    admin::Check,
    identity::LiveIdentity,
    renewal::{Lifetime, RenewalStatus, Urgency},
};

/// A certificate that somebody else renews is worth a warning when less than this is left, or less than a third of its
/// life if that is shorter.
const EXPIRES_SOON: Duration = Duration::from_secs(48 * 3600);

pub(super) fn check(identity: &LiveIdentity, renewal: Option<&RenewalStatus>, now: SystemTime) -> Check {
    if let Some(why) = identity.refused() {
        return warn(
            format!(
                "the files have changed and are refused; the certificate before them stays in use: {why}"
            ),
            "put a certificate, its key and its roots in place that belong together",
        );
    }
    let Some((not_before, not_after)) = identity.current().validity() else {
        return Check::ok("gateway", "certificate", "it does not expire");
    };
    let lifetime = Lifetime {
        not_before,
        not_after,
    };
    let Ok(left) = not_after.duration_since(now) else {
        return Check::fail(
            "gateway",
            "certificate",
            "it has expired: no gateway will accept it",
            "get a new one with `causeway join` or `causeway ca issue`; put in place, it is taken up at once",
        );
    };
    let text = format!("it is valid for {}", in_words(left));
    match renewal {
        Some(renewal) => renewed_here(&text, renewal, lifetime, now),
        None => renewed_elsewhere(text, left, lifetime, now),
    }
}

fn renewed_here(text: &str, renewal: &RenewalStatus, lifetime: Lifetime, now: SystemTime) -> Check {
    if let Some(problem) = &renewal.settings {
        return warn(
            format!("{text} and is not renewed: {problem}"),
            "correct the file; it is read again within seconds",
        );
    }
    let Some(next) = renewal.next else {
        let left = lifetime.not_after.duration_since(now).unwrap_or_default();
        return renewed_elsewhere(text.to_owned(), left, lifetime, now);
    };
    let next = match next.duration_since(now) {
        Ok(wait) => format!("in {}", in_words(wait)),
        Err(_) => "now".to_owned(),
    };
    if let Some(failure) = &renewal.failure {
        let tries = renewal.failures;
        return warn(
            format!("{text} and could not be renewed ({tries} tries, the next {next}): {failure}"),
            "is `causeway ca serve` running, and can this gateway or one of another zone reach it?",
        );
    }
    let text = format!("{text} and is renewed {next}");
    match lifetime.urgency(now) {
        Urgency::Calm => Check::ok("gateway", "certificate", text),
        Urgency::LastThird | Urgency::LastTenth | Urgency::Over => warn(
            text,
            "it should have been renewed before; the log says why it was not",
        ),
    }
}

fn renewed_elsewhere(text: String, left: Duration, lifetime: Lifetime, now: SystemTime) -> Check {
    let late = lifetime.urgency(now) >= Urgency::LastThird;
    match left < EXPIRES_SOON && late {
        true => warn(
            text,
            "whoever renews it should have done so; `causeway join` and `causeway ca issue` make a new one",
        ),
        false => Check::ok("gateway", "certificate", text),
    }
}

fn warn(text: String, hint: &str) -> Check {
    Check::warn("gateway", "certificate", text, hint)
}

fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds @ 120..7200 => format!("{} minutes", seconds / 60),
        seconds @ 7200..172_800 => format!("{} hours", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use causeway_zone_sync::name::GatewayId;

    use super::*;
    use crate::{admin::Status, identity::ca::Ca};

    const HOUR: Duration = Duration::from_secs(3600);

    fn identity(hours: u32) -> LiveIdentity {
        let ca = Ca::new("acme.internal").unwrap();
        let gateway = GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap());
        ca.issue(&gateway, HOUR * hours).unwrap().into()
    }

    #[test]
    fn a_certificate_that_renews_itself_says_when_and_one_that_cannot_says_why() {
        let (identity, now) = (identity(24), SystemTime::now());
        let mut status = RenewalStatus {
            next: Some(now + 12 * HOUR),
            ..RenewalStatus::default()
        };
        let good = check(&identity, Some(&status), now);
        assert_eq!(good.status, Status::Ok, "{good:?}");
        assert!(good.message.ends_with("renewed in 12 hours"), "{good:?}");
        (status.failure, status.failures) = (Some("no way".to_owned()), 3);
        let failed = check(&identity, Some(&status), now);
        assert_eq!(failed.status, Status::Warn);
        assert!(
            failed.message.contains("3 tries") && failed.message.contains("no way"),
            "{failed:?}"
        );
        let over = check(&identity, Some(&status), now + 25 * HOUR);
        assert_eq!(over.status, Status::Fail);
    }

    #[test]
    fn one_that_somebody_else_renews_is_warned_about_in_its_last_third() {
        let now = SystemTime::now();
        for (hours, after, expected) in [
            (24, 1, Status::Ok),
            (24, 17, Status::Warn),
            (24 * 30, 24 * 25, Status::Ok),
            (24 * 30, 24 * 29, Status::Warn),
        ] {
            let found = check(&identity(hours), None, now + after * HOUR);
            assert_eq!(found.status, expected, "{hours} h, after {after} h: {found:?}");
        }
    }
}
