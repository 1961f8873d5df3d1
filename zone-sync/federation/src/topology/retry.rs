//! Retries of a service's requests, as its topology declares them.

use std::{collections::BTreeSet, time::Duration};

/// Methods that may be made twice (RFC 9110, 9.2.2): those that are retried unless a service names others.
pub const IDEMPOTENT_METHODS: [&str; 6] = ["DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"];

/// Retries of requests.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Retry {
    /// Tries after the first.
    pub attempts: u32,
    pub on: BTreeSet<RetryCondition>,
    /// Longest wait for one try's answer, the last one aside; `None`: any.
    pub per_try_timeout: Option<Duration>,
    /// Methods of the requests that may be tried again once an instance has been given one.
    pub methods: BTreeSet<String>,
    /// Share (0 to 1) of requests that may be retries.
    pub budget: f64,
}

/// End of a try after which there may be another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryCondition {
    /// No instance was given a byte.
    ConnectFailure,
    /// The connection ended without a byte of an answer.
    Reset,
    /// The answer has this status.
    Status(u16),
    /// The answer is that of a call which ended before its first message, with this code.
    Code(GrpcCode),
}

/// Codes of gRPC after which a call may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GrpcCode {
    Cancelled,
    DeadlineExceeded,
    ResourceExhausted,
    Aborted,
    Internal,
    Unavailable,
}

impl GrpcCode {
    /// All, with their words in the file and their numbers.
    pub const ALL: [(&'static str, u32, Self); 6] = [
        ("cancelled", 1, Self::Cancelled),
        ("deadline-exceeded", 4, Self::DeadlineExceeded),
        ("resource-exhausted", 8, Self::ResourceExhausted),
        ("aborted", 10, Self::Aborted),
        ("internal", 13, Self::Internal),
        ("unavailable", 14, Self::Unavailable),
    ];

    /// The code with this number, if it is one of these.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        let known = Self::ALL.iter().find(|(_, known, _)| *known == number);
        known.map(|(_, _, code)| *code)
    }
}
