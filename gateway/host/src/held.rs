//! Opening of what one process has at a time: files and addresses. One that has been killed lets go of them a moment after it is
//! seen to be gone.

use std::{
    io,
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest wait for another process to let go.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// Opens a file, once more every 5 ms for as long as another process holds it, for 2 s at most. Blocks the thread meanwhile.
///
/// # Errors
/// The last try's.
pub fn open_held<T, E>(is_held: impl Fn(&E) -> bool, open: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    open_within(LONGEST_WAIT, is_held, open)
}

/// Binds an address, once more every 5 ms for as long as somebody has it, for 2 s at most.
///
/// # Errors
/// The last try's.
pub async fn bind_held<T, F>(mut bind: impl FnMut() -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let begun = Instant::now();
    loop {
        match bind().await {
            Err(error) if is_taken(&error) && begun.elapsed() < LONGEST_WAIT => {
                tokio::time::sleep(PAUSE).await;
            }
            bound => return bound,
        }
    }
}

/// Tells whether somebody has the address.
#[must_use]
pub fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

#[allow(
    clippy::disallowed_methods,
    reason = "nothing tells when another process lets go of a file"
)]
fn open_within<T, E>(
    longest: Duration,
    is_held: impl Fn(&E) -> bool,
    mut open: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let begun = Instant::now();
    loop {
        match open() {
            Err(error) if is_held(&error) && begun.elapsed() < longest => sleep(PAUSE),
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_held_is_waited_for_and_no_other_failure_is() {
        let mut tries = 0;
        let opened = open_within(
            Duration::from_secs(60),
            |held| *held,
            || {
                tries += 1;
                if tries < 4 { Err(true) } else { Ok(tries) }
            },
        );
        assert_eq!(opened, Ok(4));
        let mut tries = 0;
        let failed: Result<(), bool> = open_within(
            Duration::from_secs(60),
            |held| *held,
            || {
                tries += 1;
                Err(false)
            },
        );
        assert_eq!((failed, tries), (Err(false), 1));
        let never: Result<(), bool> = open_within(Duration::from_millis(20), |held| *held, || Err(true));
        assert_eq!(never, Err(true));
    }

    #[tokio::test]
    async fn an_address_is_bound_once_it_is_free() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut tries = 0;
        let mut taken = Some(taken);
        let bound = bind_held(|| {
            tries += 1;
            if tries == 3 {
                taken = None;
            }
            std::future::ready(std::net::TcpListener::bind(address))
        });
        assert!(bound.await.is_ok() && tries >= 3);
    }
}
