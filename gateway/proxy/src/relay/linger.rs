//! The last bytes of a connection: they may still be on their way when both sides have finished.

use std::time::Duration;

use causeway_tunnel::SendHalf;

use super::RelayEnd;

/// Longest wait for the last bytes of a finished connection to be acknowledged, while it still counts as open.
const MAX_LINGER: Duration = Duration::from_secs(5);

/// Keeps a finished connection in the list until its last bytes have arrived, so that a shutdown does not cut them off; and one that was cut
/// until the other side has heard so, because the end of the tunnel would be heard instead.
pub(crate) async fn linger(end: RelayEnd, send: &SendHalf) {
    if matches!(end, RelayEnd::Finished | RelayEnd::Cut) {
        let _ = tokio::time::timeout(MAX_LINGER, send.stopped()).await;
    }
}
