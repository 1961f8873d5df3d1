//! Ranges of the limits that `causeway gateway` takes for connections, and settings that go together.

use std::{ops::RangeInclusive, time::Duration};

use causeway_history::HistoryLimits;
use causeway_proxy::{
    egress::{Outlive, REDIRECT_PORT},
    keepalive::KEEPALIVES,
    relay::{HALF_CLOSED_LIMITS, STALL_LIMITS},
};
use causeway_tunnel::IDLE_TIMEOUTS;

use super::Failure;

/// Time that bytes may wait of which nobody takes any.
pub(super) fn stall_limit(given: Duration) -> Result<Duration, Failure> {
    let wrong = "cannot use --stall-timeout: it is between 1s and 7days";
    within(given, &STALL_LIMITS, wrong, "the default is 5m")
}

/// Time that a half-closed connection may go on without a byte; zero is for ever.
pub(super) fn half_closed_limit(given: Duration) -> Result<Option<Duration>, Failure> {
    let wrong = "cannot use --half-closed-timeout: it is 0s, or between 1s and 7days";
    let given = (!given.is_zero()).then_some(given);
    given
        .map(|given| within(given, &HALF_CLOSED_LIMITS, wrong, "the default is 1h"))
        .transpose()
}

/// Silence before a host is probed, as the kernel can be told it; zero is never.
pub(super) fn keepalive(given: Duration) -> Result<Option<Duration>, Failure> {
    let wrong = "cannot use --tcp-keepalive: it is 0s, or between 1s and 9h";
    let given = (!given.is_zero()).then_some(given);
    given
        .map(|given| within(given, &KEEPALIVES, wrong, "the default is 60s"))
        .transpose()
}

/// Port that clients are redirected to; `None`: they are not.
pub(super) fn redirect_port(is_redirect: bool, given: Option<u16>) -> Result<Option<u16>, Failure> {
    match (is_redirect, given) {
        (true, given) => Ok(Some(given.unwrap_or(REDIRECT_PORT))),
        (false, None) => Ok(None),
        (false, Some(_)) => Err(
            Failure::usage("--redirect-port is of no use without --capture redirect")
                .hint("give --capture redirect too, or leave --redirect-port out"),
        ),
    }
}

fn within(
    given: Duration,
    range: &RangeInclusive<Duration>,
    wrong: &str,
    hint: &str,
) -> Result<Duration, Failure> {
    match range.contains(&given) {
        true => Ok(given),
        false => Err(Failure::usage(wrong).hint(hint)),
    }
}

/// Silence of a peer after which what is open to it is reset.
pub(super) fn tunnel_idle_timeout(given: Duration) -> Result<Duration, Failure> {
    match IDLE_TIMEOUTS.contains(&given) {
        true => Ok(given),
        false => Err(
            Failure::usage("cannot use --tunnel-idle-timeout: it is between 3s and 10m")
                .hint("the default is 10s; the shorter of both gateways' counts"),
        ),
    }
}

/// Memory budgets that make sense: no less than the first windows of a few peers.
const MEMORY_BUDGETS: RangeInclusive<u64> = 16 * 1024 * 1024..=1024 * 1024 * 1024 * 1024;

/// Time and room for which the history is kept.
pub(super) fn history_limits(keep: Duration, bytes: u64) -> Result<HistoryLimits, Failure> {
    let wrong = "cannot use --history: it is between 1m and 31days";
    let keep = within(keep, &HistoryLimits::KEEPS, wrong, "the default is 24h")?;
    Ok(HistoryLimits { keep, bytes })
}

/// Reads the size of the history.
pub(super) fn history_size(text: &str) -> Result<u64, String> {
    let wrong = "give a size such as 64MiB or 2GiB, between 1MiB and 16GiB";
    size(text, &HistoryLimits::SIZES).ok_or_else(|| wrong.to_owned())
}

/// Reads the size of the memory budget.
pub(super) fn memory_budget(text: &str) -> Result<u64, String> {
    let wrong = "give a size such as 64MiB or 2GiB, between 16MiB and 1024GiB";
    size(text, &MEMORY_BUDGETS).ok_or_else(|| wrong.to_owned())
}

/// Reads a number of bytes such as `64MiB`.
fn size(text: &str, range: &RangeInclusive<u64>) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        "GiB" => 1024 * 1024 * 1024,
        _ => return None,
    };
    let number: u64 = digits.trim().parse().ok()?;
    let bytes = number.saturating_mul(unit);
    range.contains(&bytes).then_some(bytes)
}

/// Longest time that a connection over TLS may be let outlive its certificate, `never` aside.
const LONGEST_OUTLIVE: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads how long a connection may outlive the certificate of its client.
pub(super) fn outlive(text: &str) -> Result<Outlive, String> {
    match text {
        "life" => Ok(Outlive::Life),
        "never" => Ok(Outlive::Unbounded),
        time => match humantime::parse_duration(time) {
            Ok(time) if time <= LONGEST_OUTLIVE => Ok(Outlive::For(time)),
            Ok(_) => Err("it is a year at most; `never` leaves the connection open".to_owned()),
            Err(error) => Err(format!("{error}; give a time such as 1h, or `life`, or `never`")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_kept_for_a_minute_to_a_month_in_a_room_that_has_a_unit() {
        let day = Duration::from_secs(24 * 3600);
        let limits = history_limits(day, 1 << 20).unwrap();
        assert_eq!((limits.keep, limits.bytes), (day, 1 << 20));
        assert!(history_limits(Duration::from_secs(59), 1 << 20).is_err());
        assert!(history_limits(32 * day, 1 << 20).is_err());
        assert_eq!(history_size("64MiB"), Ok(64 << 20));
        for wrong in ["64", "0MiB", "17GiB", "1 TiB", "-1MiB"] {
            assert!(history_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_port_to_redirect_to_is_refused_where_nobody_is_redirected() {
        assert_eq!(redirect_port(true, None).unwrap(), Some(REDIRECT_PORT));
        assert_eq!(redirect_port(true, Some(7816)).unwrap(), Some(7816));
        assert_eq!(redirect_port(false, None).unwrap(), None);
        let refused = format!("{:?}", redirect_port(false, Some(7816)).unwrap_err());
        assert!(refused.contains("--capture redirect"), "{refused}");
    }
}
