//! The limit of a connection on which nothing moves: none of its bytes, in either direction.
//!
//! There are two: the idle timeout of a service, which has none unless its topology says so, and that of connections of
//! which one side has finished and the other goes on saying nothing. Without a limit no time is measured.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{RelayEnd, RelayLimits};

pub(super) struct IdleTimer {
    idle: Option<Duration>,
    half_closed: Option<Duration>,
    /// Boxed and made when a limit first applies.
    timer: Option<Box<ArmedIdle>>,
}

struct ArmedIdle {
    sleep: Pin<Box<Sleep>>,
    limit: Duration,
    /// Bytes carried when they were last looked at, and when they last were more than before.
    bytes: u64,
    moved_at: Instant,
    /// First seen with one side finished.
    half_closed_at: Option<Instant>,
}

/// Time from which the limit counts: silence before one side finished is not held against the other.
fn counts_from(moved_at: Instant, half_closed_at: Option<Instant>) -> Instant {
    half_closed_at.map_or(moved_at, |at| at.max(moved_at))
}

impl IdleTimer {
    pub(super) fn new(limits: &RelayLimits) -> Self {
        Self {
            idle: limits.idle,
            half_closed: limits.half_closed,
            timer: None,
        }
    }

    /// Is ready when nothing has moved for as long as is allowed. To be asked after each time that the directions were
    /// polled, with the bytes that both have carried.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, half_closed: bool, bytes: u64) -> Poll<RelayEnd> {
        let Some((limit, end)) = limit(self.idle, self.half_closed, half_closed) else {
            return Poll::Pending;
        };
        let now = Instant::now();
        let timer = self.timer.get_or_insert_with(|| {
            Box::new(ArmedIdle {
                sleep: Box::pin(sleep_until(now + limit)),
                limit,
                bytes,
                moved_at: now,
                half_closed_at: None,
            })
        });
        if half_closed {
            timer.half_closed_at.get_or_insert(now);
        }
        if timer.bytes != bytes {
            (timer.bytes, timer.moved_at) = (bytes, now);
        }
        if timer.limit != limit {
            timer.limit = limit;
            let ends = counts_from(timer.moved_at, timer.half_closed_at) + limit;
            timer.sleep.as_mut().reset(ends);
        }
        while timer.sleep.as_mut().poll(cx).is_ready() {
            let ends = counts_from(timer.moved_at, timer.half_closed_at) + limit;
            if now >= ends {
                return Poll::Ready(end);
            }
            timer.sleep.as_mut().reset(ends);
        }
        Poll::Pending
    }
}

/// The limit that applies now, and how a connection ends that reaches it.
fn limit(
    idle: Option<Duration>,
    half_closed: Option<Duration>,
    is_half_closed: bool,
) -> Option<(Duration, RelayEnd)> {
    let idle = idle.map(|limit| (limit, RelayEnd::Idle));
    let half_closed = half_closed
        .filter(|_| is_half_closed)
        .map(|limit| (limit, RelayEnd::HalfClosed));
    match (idle, half_closed) {
        (Some(idle), Some(half_closed)) if half_closed.0 < idle.0 => Some(half_closed),
        (idle, half_closed) => idle.or(half_closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_limit_applies_and_that_of_half_closed_ones_only_to_them() {
        let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
        assert_eq!(limit(None, Some(hour), false), None);
        assert_eq!(limit(None, Some(hour), true), Some((hour, RelayEnd::HalfClosed)));
        assert_eq!(
            limit(Some(minute), Some(hour), true),
            Some((minute, RelayEnd::Idle))
        );
        assert_eq!(
            limit(Some(hour), Some(minute), true),
            Some((minute, RelayEnd::HalfClosed))
        );
        assert_eq!(
            limit(Some(hour), Some(minute), false),
            Some((hour, RelayEnd::Idle))
        );
        assert_eq!(limit(None, None, true), None);
    }

    #[test]
    fn a_limit_of_half_closed_connections_counts_from_the_finish_and_not_from_the_last_byte() {
        let moved = Instant::now();
        let finished = moved + Duration::from_secs(6);
        assert_eq!(counts_from(moved, None), moved);
        assert_eq!(counts_from(moved, Some(finished)), finished);
        assert_eq!(
            counts_from(finished, Some(moved)),
            finished,
            "a byte after the finish"
        );
    }
}
