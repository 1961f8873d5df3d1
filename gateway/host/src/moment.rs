//! Waits for a moment that may never come.

use tokio::time::{Instant, sleep_until};

/// Waits until `moment`; for ever where there is none.
pub async fn until(moment: Option<impl Into<Instant>>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_moment_is_waited_for_and_none_for_ever() {
        let moment = Instant::now() + Duration::from_millis(20);
        until(Some(moment)).await;
        assert!(Instant::now() >= moment);
        let never = timeout(Duration::from_millis(20), until(None::<Instant>));
        assert!(never.await.is_err());
    }
}
