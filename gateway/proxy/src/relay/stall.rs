//! The limit of a connection that does not move: bytes wait in one direction, and the other side takes none.
//!
//! Nothing is measured while bytes flow. A timer is set when a direction is first seen to wait; when it ends, a direction that
//! still waits with as many bytes carried as then has stalled. So it takes one to two limits to be found, and one that takes
//! a byte now and then is left alone, as is one on which nobody has anything to say.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// Bytes that each direction has carried, of those that wait now: upward and downward.
pub(super) type Waiting = [Option<u64>; 2];

pub(super) struct StallTimer {
    limit: Duration,
    /// Boxed and made when it is needed first, so that an idle connection does not carry it.
    timer: Option<Box<ArmedTimer>>,
}

struct ArmedTimer {
    sleep: Pin<Box<Sleep>>,
    /// Bytes that waited when it was set.
    at_start: Waiting,
}

impl StallTimer {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    /// Is ready when a direction has stalled. To be asked after each time that the directions were polled.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, now: Waiting) -> Poll<()> {
        if self.timer.is_none() && now == Waiting::default() {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| {
            Box::new(ArmedTimer {
                sleep: Box::pin(sleep(self.limit)),
                at_start: now,
            })
        });
        while timer.sleep.as_mut().poll(cx).is_ready() {
            if has_stalled(timer.at_start, now) {
                return Poll::Ready(());
            }
            if now == Waiting::default() {
                self.timer = None;
                return Poll::Pending;
            }
            timer.at_start = now;
            timer.sleep.as_mut().reset(Instant::now() + self.limit);
        }
        Poll::Pending
    }
}

/// Tells whether a direction waits as it did then.
fn has_stalled(then: Waiting, now: Waiting) -> bool {
    let mut both = then.into_iter().zip(now);
    both.any(|(then, now)| now.is_some() && then == now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_that_waits_and_has_not_moved_has_stalled() {
        assert!(has_stalled([Some(5), None], [Some(5), None]));
        assert!(has_stalled([Some(5), Some(7)], [Some(6), Some(7)]));
        assert!(!has_stalled([Some(5), None], [Some(6), None]));
        assert!(!has_stalled([Some(5), None], [None, None]));
        assert!(!has_stalled([None, Some(7)], [Some(5), None]));
    }
}
