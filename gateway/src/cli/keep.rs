//! `causeway register --keep`: registering as soon as a gateway answers, renewing, and taking leave, whatever the gateway
//! does meanwhile. A signal is heard at any moment.

use std::{ops::AsyncFnMut, time::Duration};

use causeway_host::{backoff::reconnect, tasks::Tasks};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::{MissedTickBehavior, timeout};

use super::{Failure, register::note, signals::Signals, supervised::Supervised};

/// For taking out of the registry at the end. A gateway that hangs forgets the instance when its time to live is over.
const FAREWELL_LIMIT: Duration = Duration::from_secs(3);

/// Makes the first call until a gateway answers: at boot it may come up later than the instance. What it refuses is refused.
/// `None`: a signal came before.
pub(super) async fn first<T>(
    signals: &mut Signals,
    mut call: impl AsyncFnMut() -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    let mut rng = SmallRng::from_os_rng();
    let mut attempt = 0;
    loop {
        let answered = tokio::select! {
            answered = call() => answered,
            () = signals.next() => return Ok(None),
        };
        match answered {
            Err(failure) if failure.is_passing() => {
                if attempt == 0 {
                    let _ = failure.report();
                    note("it is tried again until the gateway answers");
                }
            }
            answered => return answered.map(Some),
        }
        tokio::select! {
            () = tokio::time::sleep(reconnect(attempt, &mut rng)) => {}
            () = signals.next() => return Ok(None),
        }
        attempt += 1;
    }
}

/// Calls `renew` every so often until a signal comes; a service manager is told that it goes on.
pub(super) async fn until_told(
    signals: &mut Signals,
    every: Duration,
    mut renew: impl AsyncFnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let _supervised = Supervised::ready(&Tasks::default(), "registered, and renewing")?;
    let mut due = tokio::time::interval(every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    due.tick().await;
    loop {
        tokio::select! {
            () = signals.next() => return Ok(()),
            _ = due.tick() => {}
        }
        let renewed = tokio::select! {
            renewed = renew() => renewed,
            () = signals.next() => return Ok(()),
        };
        if let Err(failure) = renewed {
            // Said, and tried again at the next turn.
            let _ = failure.report();
        }
    }
}

/// Takes out what was registered, unless the gateway hangs or another signal comes.
pub(super) async fn farewell(
    signals: &mut Signals,
    call: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let left = |why: &str| {
        Failure::new(format!("could not deregister: {why}"))
            .hint("it leaves the registry when its time to live is over")
    };
    tokio::select! {
        done = timeout(FAREWELL_LIMIT, call) => {
            done.map_err(|_| left(&format!("the gateway did not answer within {FAREWELL_LIMIT:?}")))?
        }
        () = signals.next() => Err(left("told to end at once")),
    }
}
