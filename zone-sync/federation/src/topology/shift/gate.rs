//! Conditions that a shift is aborted by: `success<99%`, `p99>300ms`.
//!
//! Each is a count: a percentile lies above a limit when more requests than its rest took longer. So counts of several zones add up to
//! the verdict on all of them, which percentiles would not.

use std::{fmt, str::FromStr, time::Duration};

/// 100 %, in the unit of shares here.
const WHOLE: u32 = 100_000;
/// Limits of latency.
const LONGEST: Duration = Duration::from_secs(3600);

/// One condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateCondition {
    /// Fewer requests succeed than this share, in 100,000ths.
    SuccessBelow { share: u32 },
    /// This share of requests, in 100,000ths, is not answered within `limit`.
    SlowerThan { percentile: u32, limit: Duration },
}

/// End of one request to an arm, as a gate sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JudgedEnd {
    pub failed: bool,
    /// From when an instance was given it to the head of the answer.
    pub took: Duration,
}

impl GateCondition {
    /// Tells whether a request counts against it.
    #[must_use]
    pub fn counts(&self, end: JudgedEnd) -> bool {
        match self {
            Self::SuccessBelow { .. } => end.failed,
            Self::SlowerThan { limit, .. } => end.took > *limit,
        }
    }

    /// Tells whether it holds when so many of so many requests count against it.
    #[must_use]
    pub fn holds(&self, counted: u64, requests: u64) -> bool {
        let allowed = match self {
            Self::SuccessBelow { share } => WHOLE.saturating_sub(*share),
            Self::SlowerThan { percentile, .. } => WHOLE.saturating_sub(*percentile),
        };
        u128::from(counted) * u128::from(WHOLE) > u128::from(requests) * u128::from(allowed)
    }

    /// Says what was counted: `12 of 400 failed`.
    #[must_use]
    pub fn told(&self, counted: u64, requests: u64) -> String {
        let word = if requests == 1 { "request" } else { "requests" };
        match self {
            Self::SuccessBelow { .. } => format!("{counted} of {requests} {word} failed"),
            Self::SlowerThan { limit, .. } => {
                let limit = humantime::format_duration(*limit);
                format!("{counted} of {requests} {word} took longer than {limit}")
            }
        }
    }
}

impl fmt::Display for GateCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SuccessBelow { share } => write!(f, "success<{}%", percent(*share)),
            Self::SlowerThan { percentile, limit } => {
                let limit = humantime::format_duration(*limit).to_string().replace(' ', "");
                write!(f, "p{}>{limit}", percent(*percentile))
            }
        }
    }
}

/// `99`, `99.5`.
fn percent(share: u32) -> String {
    let (whole, rest) = (share / 1000, share % 1000);
    match rest {
        0 => whole.to_string(),
        rest => format!("{whole}.{rest:03}").trim_end_matches('0').to_owned(),
    }
}

/// A text that is no condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a condition of a gate: write `success<99%` or `p99>300ms`")]
pub struct GateConditionError(String);

impl FromStr for GateCondition {
    type Err = GateConditionError;

    fn from_str(text: &str) -> Result<Self, GateConditionError> {
        read(text).ok_or_else(|| GateConditionError(text.chars().take(80).collect()))
    }
}

fn read(text: &str) -> Option<GateCondition> {
    let bare: String = text.chars().filter(|character| *character != ' ').collect();
    if let Some(share) = bare.strip_prefix("success<") {
        let share = thousandths(share.strip_suffix('%')?)?;
        return (1..=WHOLE)
            .contains(&share)
            .then_some(GateCondition::SuccessBelow { share });
    }
    let (percentile, limit) = bare.strip_prefix('p')?.split_once('>')?;
    let (percentile, limit) = (thousandths(percentile)?, humantime::parse_duration(limit).ok()?);
    let fits = (1..WHOLE).contains(&percentile) && !limit.is_zero() && limit <= LONGEST;
    fits.then_some(GateCondition::SlowerThan { percentile, limit })
}

/// Reads `99.5` as 99,500.
fn thousandths(text: &str) -> Option<u32> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(whole) || !are_digits(rest) || whole.len() > 3 || rest.len() > 3 {
        return None;
    }
    let (whole, rest): (u32, u32) = (whole.parse().ok()?, format!("{rest:0<3}").parse().ok()?);
    Some(whole * 1000 + rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_request_is_told_as_one() {
        let told = |text: &str, requests| text.parse::<GateCondition>().unwrap().told(1, requests);
        assert_eq!(told("success<99%", 1), "1 of 1 request failed");
        assert_eq!(told("success<99%", 2), "1 of 2 requests failed");
        assert_eq!(told("p99>300ms", 1), "1 of 1 request took longer than 300ms");
    }

    #[test]
    fn conditions_are_read_as_they_are_written() {
        for text in [
            "success<99%",
            "success<99.5%",
            "success<100%",
            "p99>300ms",
            "p99.9>1m30s",
            "p50>1s",
        ] {
            assert_eq!(text.parse::<GateCondition>().unwrap().to_string(), text);
        }
        assert_eq!(
            "success < 99 %".parse::<GateCondition>().unwrap().to_string(),
            "success<99%"
        );
        for bad in [
            "",
            "success",
            "success>99%",
            "success<99",
            "success<0%",
            "success<101%",
            "success<1.2345%",
            "p99<300ms",
            "p100>1s",
            "p0>1s",
            "p99>300",
            "p99>0s",
            "p99>2h",
            "p>1s",
            "success<.5%",
        ] {
            assert!(bad.parse::<GateCondition>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_condition_holds_from_the_first_request_beyond_its_rest() {
        for (text, counted, requests, holds) in [
            ("success<99%", 1, 100, false),
            ("success<99%", 2, 100, true),
            ("success<100%", 0, 100, false),
            ("success<100%", 1, u64::MAX, true),
            ("success<99.9%", 1, 1000, false),
            ("success<99.9%", 2, 1000, true),
            ("p99>300ms", 1, 100, false),
            ("p99>300ms", 2, 100, true),
            ("p50>300ms", 50, 100, false),
            ("success<99%", 0, 0, false),
        ] {
            let condition: GateCondition = text.parse().unwrap();
            assert_eq!(
                condition.holds(counted, requests),
                holds,
                "{text} {counted} of {requests}"
            );
        }
        let slow: GateCondition = "p99>300ms".parse().unwrap();
        let end = |failed, took| JudgedEnd {
            failed,
            took: Duration::from_millis(took),
        };
        assert!(!slow.counts(end(true, 300)) && slow.counts(end(false, 301)));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(success<|p)?[0-9.%<>mspéa ]{0,12}") {
            if let Ok(condition) = text.parse::<GateCondition>() {
                prop_assert_eq!(condition.to_string().parse::<GateCondition>().unwrap(), condition);
            }
        }
    }
}
