//! The last bytes of a connection: they may still be on their way when both sides have finished.

use std::time::Duration;

use causeway_tunnel::SendHalf;

use super::RelayEnd;

/// Longest wait for the last bytes of a finished connection to be acknowledged, while it still counts as open.
const MAX_LINGER: Duration = Duration::from_secs(5);

/// Time that the reset of a connection that was cut has to leave: nobody tells that it has arrived.
const CUT_LINGER: Duration = Duration::from_millis(100);

/// Keeps a finished connection in the list until its last bytes have arrived, so that a shutdown does not cut them off; and one that was cut
/// until the other side can have heard so, because the end of the tunnel would be heard instead.
pub(crate) async fn linger(end: RelayEnd, send: &SendHalf) {
    let longest = match end {
        RelayEnd::Finished => MAX_LINGER,
        RelayEnd::Cut => CUT_LINGER,
        _ => return,
    };
    let _ = tokio::time::timeout(longest, send.stopped()).await;
}
