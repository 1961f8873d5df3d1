//! Check of the redirect of clients by the kernel.

use std::time::Instant;

use causeway_proxy::egress::{Egress, RedirectStatus};
use causeway_telemetry::Check;

/// Fails while clients are not redirected: those of the mesh names would get to programs of this host.
pub(super) fn check(egress: Egress) -> impl Fn() -> Check + Send + Sync {
    move || told(&egress.redirect_status().unwrap_or_default(), Instant::now())
}

fn told(status: &RedirectStatus, now: Instant) -> Check {
    let (group, name) = ("clients", "redirect");
    let RedirectStatus {
        table,
        in_force,
        failure,
        ..
    } = status;
    match failure {
        Some((error, advice)) if *in_force => {
            let text =
                format!("table {table} is not as it should be, and new services are not reached: {error}");
            Check::fail(group, name, text, advice.clone())
        }
        Some((error, advice)) => Check::fail(
            group,
            name,
            format!("clients of virtual addresses are not redirected: {error}"),
            advice.clone(),
        ),
        None if !in_force => Check::fail(
            group,
            name,
            "clients of virtual addresses are not redirected yet",
            "it takes a moment; the log says what keeps it",
        ),
        None if status.was_lost_lately(now) => Check::warn(
            group,
            name,
            format!(
                "table {table} was removed or changed by somebody else, and put back within the last minute"
            ),
            "clients of that moment may have got to programs of this host; have what reloads the firewall remove its own tables \
             only (no `flush ruleset`)",
        ),
        None => Check::ok(
            group,
            name,
            format!("clients of virtual addresses are redirected by table {table}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_are_not_redirected_end_readiness() {
        let status = RedirectStatus {
            table: "causeway_east_gw1".to_owned(),
            ..RedirectStatus::default()
        };
        let read = |status: &RedirectStatus| {
            let check = told(status, Instant::now());
            (check.status, check.message)
        };
        let waiting = read(&status);
        let well = read(&RedirectStatus {
            in_force: true,
            ..status.clone()
        });
        let failing = read(&RedirectStatus {
            failure: Some(("no".to_owned(), "do".to_owned())),
            ..status
        });
        use causeway_telemetry::Status;
        assert_eq!(
            [waiting.0, well.0, failing.0],
            [Status::Fail, Status::Ok, Status::Fail]
        );
        assert!(failing.1.ends_with("not redirected: no"), "{}", failing.1);
    }
}
