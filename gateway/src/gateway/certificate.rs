//! Word of `/readyz` and `causeway check` on the gateway's own certificate: whether it is in use, when it ends, when it
//! is renewed, and why it was not.

use std::time::{Duration, SystemTime};

use causeway_control::renewal::{RenewalStatus, WayBack};
use causeway_identity::{Lifetime, LiveIdentity, Urgency, workload_api::AgentStatus};
use causeway_telemetry::Check;

/// A certificate that somebody else renews is worth a warning when less than this is left, or less than a third of its
/// life if that is shorter.
const EXPIRES_SOON: Duration = Duration::from_secs(48 * 3600);

pub(super) fn check(identity: &LiveIdentity, renewal: Option<&RenewalStatus>, now: SystemTime) -> Check {
    let agent = identity.agent();
    if let (Some(why), Some(agent)) = (identity.refused(), &agent) {
        return warn(
            format!(
                "what the Workload API at {} says is refused; the certificate before it stays in use: {why}",
                agent.endpoint
            ),
            "look at this gateway's registration entry, and at the agent's log",
        );
    }
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
        return expired(agent.as_ref(), renewal, now);
    };
    let text = format!("it is valid for {}", in_words(left));
    match (renewal, agent) {
        (_, Some(agent)) => from_agent(&text, &agent, lifetime, now),
        (Some(renewal), None) => renewed_here(&text, renewal, lifetime, now),
        (None, None) => renewed_elsewhere(text, left, lifetime, now),
    }
}

fn expired(agent: Option<&AgentStatus>, renewal: Option<&RenewalStatus>, now: SystemTime) -> Check {
    let way_back = renewal.and_then(|renewal| Some((renewal, renewal.way_back.as_ref()?)));
    let (text, hint) = match (agent, way_back) {
        (None, Some((renewal, way_back))) => (
            format!(
                "it has expired: no gateway will accept it; {}",
                coming_back(renewal, way_back, now)
            ),
            "`causeway token list` on the CA's host says how the token stands; a file with another one is taken up within seconds",
        ),
        (None, None) => (
            "it has expired: no gateway will accept it".to_owned(),
            "get a new one with `causeway join` or `causeway ca issue`; put in place, it is taken up at once",
        ),
        (Some(agent), _) => (
            format!(
                "it has expired, and the Workload API at {} gave no other: no gateway will accept it",
                agent.endpoint
            ),
            "is the agent running, and is this gateway registered there? a new certificate is taken up at once",
        ),
    };
    Check::fail("gateway", "certificate", text, hint)
}

/// Says how it stands with joining again after the certificate has ended.
fn coming_back(renewal: &RenewalStatus, way_back: &WayBack, now: SystemTime) -> String {
    let file = way_back.file.display();
    if let Some(problem) = way_back.problem.as_ref().or(renewal.settings.as_ref()) {
        return format!("it cannot join again with the token in {file}: {problem}");
    }
    let Some(next) = renewal.next else {
        return format!(
            "it cannot join again with the token in {file}: renew.json does not say where the CA is"
        );
    };
    let next = in_words(next.duration_since(now).unwrap_or_default());
    match &renewal.failure {
        Some(failure) => format!(
            "joining again with the token in {file} failed ({} tries, the next in {next}): {failure}",
            renewal.failures
        ),
        None => format!("it joins again with the token in {file}"),
    }
}

fn from_agent(text: &str, agent: &AgentStatus, lifetime: Lifetime, now: SystemTime) -> Check {
    let endpoint = &agent.endpoint;
    if let Some(trouble) = &agent.trouble {
        let since = in_words(now.duration_since(trouble.since).unwrap_or_default());
        return warn(
            format!(
                "{text} and the Workload API at {endpoint} cannot be asked for {since} ({} tries): {}",
                trouble.tries, trouble.why
            ),
            trouble.hint,
        );
    }
    let text = format!("{text} and comes from the Workload API at {endpoint}");
    match lifetime.urgency(now) {
        Urgency::Calm => Check::ok("gateway", "certificate", text),
        Urgency::LastThird | Urgency::LastTenth | Urgency::Over => warn(
            text,
            "the agent should have given another one by now; its log says why it has not",
        ),
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
    if let Some(WayBack {
        file,
        problem: Some(problem),
    }) = &renewal.way_back
    {
        return warn(
            format!(
                "{text} and is renewed {next}, but the join token in {} is of no use: {problem}",
                file.display()
            ),
            "mend the file; without it somebody has to join anew once the certificate has ended",
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
    use causeway_federation::name::GatewayId;

    use super::*;
    use causeway_identity::{ca::Ca, workload_api::Trouble};
    use causeway_telemetry::Status;

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
    fn one_that_has_ended_says_how_it_stands_with_coming_back() {
        let (identity, now) = (identity(1), SystemTime::now());
        let mut status = RenewalStatus {
            next: Some(now + 2 * HOUR + Duration::from_secs(20)),
            way_back: Some(WayBack {
                file: "/etc/causeway/rejoin".into(),
                problem: None,
            }),
            ..RenewalStatus::default()
        };
        let found = |status: &RenewalStatus| {
            let found = check(&identity, Some(status), now + 2 * HOUR);
            assert_eq!(found.status, Status::Fail, "{found:?}");
            found.message
        };
        assert!(found(&status).ends_with("it joins again with the token in /etc/causeway/rejoin"));
        (status.failure, status.failures) = (Some("the CA refuses: token_revoked".to_owned()), 3);
        assert!(
            found(&status)
                .ends_with("failed (3 tries, the next in 20 seconds): the CA refuses: token_revoked")
        );
        status.next = None;
        assert!(found(&status).ends_with("renew.json does not say where the CA is"));
        status.way_back = Some(WayBack {
            file: "/etc/causeway/rejoin".into(),
            problem: Some("it is gone".to_owned()),
        });
        assert!(found(&status).ends_with("in /etc/causeway/rejoin: it is gone"));
        (status.failure, status.failures) = (None, 0);
        status.next = Some(now + HOUR);
        let early = check(&identity, Some(&status), now);
        assert_eq!(early.status, Status::Warn);
        assert!(early.message.contains("is of no use: it is gone"), "{early:?}");
    }

    #[test]
    fn one_that_an_agent_gives_says_so_and_why_the_agent_cannot_be_asked() {
        let now = SystemTime::now();
        let mut agent = AgentStatus {
            endpoint: "unix:///run/agent.sock".parse().unwrap(),
            trouble: None,
        };
        let life = Lifetime {
            not_before: now,
            not_after: now + HOUR,
        };
        let good = from_agent("it is valid", &agent, life, now);
        assert_eq!(good.status, Status::Ok, "{good:?}");
        let late = from_agent("it is valid", &agent, life, now + HOUR * 41 / 60);
        assert_eq!(late.status, Status::Warn, "{late:?}");
        agent.trouble = Some(Trouble {
            why: "cannot connect".to_owned(),
            hint: "is the agent running?",
            since: now - 3 * HOUR,
            tries: 17,
        });
        let away = from_agent("it is valid", &agent, life, now);
        assert_eq!(away.status, Status::Warn);
        assert!(
            away.message.ends_with(
                "at unix:///run/agent.sock cannot be asked for 3 hours (17 tries): cannot connect"
            ),
            "{away:?}"
        );
        assert_eq!(expired(Some(&agent), None, now).status, Status::Fail);
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
