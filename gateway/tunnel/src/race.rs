//! Trying several addresses at once, a little apart, in the manner of RFC 8305.

use std::{net::SocketAddr, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::sleep;

/// Starts an attempt at each address, `apart` after the one before or as soon as one has failed. The first success wins and
/// the others are dropped.
///
/// # Errors
/// Every address with its failure, when none succeeded.
pub(super) async fn race<'a, T, E>(
    addresses: Vec<SocketAddr>,
    apart: Duration,
    attempt: impl Fn(SocketAddr) -> BoxFuture<'a, Result<T, E>>,
) -> Result<T, Vec<(SocketAddr, E)>> {
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failures = Vec::new();
    let mut start_next = true;
    loop {
        if start_next && let Some(address) = waiting.next() {
            running.push(attempt(address).map(move |result| (address, result)));
        }
        tokio::select! {
            biased;
            Some((address, result)) = running.next() => match result {
                Ok(winner) => return Ok(winner),
                Err(failure) => {
                    failures.push((address, failure));
                    start_next = true;
                }
            },
            () = sleep(apart), if waiting.len() > 0 => start_next = true,
            else => return Err(failures),
        }
    }
}

/// Orders addresses so that the families take turns, beginning with the first address's (RFC 8305 §4), without repeats.
pub(super) fn take_turns(addresses: Vec<SocketAddr>, limit: usize) -> Vec<SocketAddr> {
    let mut unique = Vec::new();
    for address in addresses {
        if !unique.contains(&address) && unique.len() < limit {
            unique.push(address);
        }
    }
    let first_is_v6 = unique.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = unique.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut ordered: Vec<_> = first
        .into_iter()
        .flat_map(|a| [Some(a), second.next()])
        .flatten()
        .collect();
    ordered.extend(second);
    ordered
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| ([127, 0, 0, 1], port).into()).collect()
    }

    #[tokio::test]
    async fn an_address_that_never_answers_delays_the_next_one_only_a_little() {
        let won: Result<u16, Vec<(SocketAddr, ())>> = race(addresses(3), SHORT, |address| {
            Box::pin(async move {
                if address.port() < 3 {
                    std::future::pending::<()>().await;
                }
                Ok(address.port())
            })
        })
        .await;
        assert_eq!(won, Ok(3));
    }

    #[tokio::test]
    async fn a_failure_starts_the_next_address_at_once() {
        let began = Instant::now();
        let hour = Duration::from_secs(3600);
        let won = race(addresses(3), hour, |address| {
            Box::pin(async move {
                if address.port() < 3 {
                    Err("refused")
                } else {
                    Ok(())
                }
            })
        })
        .await;
        assert!(won.is_ok() && began.elapsed() < hour);
    }

    #[tokio::test]
    async fn when_all_fail_each_failure_is_told() {
        let lost: Result<(), _> = race(addresses(2), SHORT, |a| Box::pin(async move { Err(a.port()) })).await;
        assert_eq!(lost.unwrap_err().len(), 2);
        let none: Result<(), Vec<(SocketAddr, ())>> =
            race(vec![], SHORT, |_| Box::pin(async { Ok(()) })).await;
        assert!(none.unwrap_err().is_empty());
    }

    #[test]
    fn families_take_turns_and_nothing_is_tried_twice() {
        let parse = |list: &[&str]| {
            list.iter()
                .map(|a| a.parse().unwrap())
                .collect::<Vec<SocketAddr>>()
        };
        let given = parse(&[
            "[::1]:1",
            "[::2]:1",
            "[::1]:1",
            "[::3]:1",
            "1.1.1.1:1",
            "2.2.2.2:1",
        ]);
        let expected = parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        assert_eq!(take_turns(given, 16), expected);
        assert_eq!(
            take_turns(parse(&["1.1.1.1:1", "[::1]:1", "[::2]:1"]), 2).len(),
            2
        );
    }
}
