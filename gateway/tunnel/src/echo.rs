//! Time that the smallest question takes over one tunnel: to the far gateway's program and back, not only to its kernel.

use std::time::{Duration, Instant};

use causeway_proto::tunnel::{Opened, StreamHeader, stream_header::Kind};

use super::{AskError, Tunnel, read_reply};

/// Asks the far gateway of `tunnel` something, and measures the time until its answer comes. Every version answers it, if only to refuse.
///
/// # Errors
/// When the tunnel is gone, or the answer is none.
pub async fn echo(tunnel: &Tunnel) -> Result<Duration, AskError> {
    // No connection has this number, so there is nothing to look for.
    let header = StreamHeader {
        kind: Some(Kind::Opened(Opened { client_sockets: 0 })),
    };
    let asked = Instant::now();
    let mut stream = tunnel.open(&header).await?;
    let _ = stream.send.finish();
    read_reply(&mut stream.recv).await?;
    Ok(asked.elapsed())
}

#[cfg(test)]
mod tests {
    use causeway_federation::name::GatewayId;
    use causeway_proto::tunnel::RefusalReason;

    use super::*;
    use crate::{read_frame, refuse_documents, send_documents, testbed};

    fn gateway(zone: &str) -> GatewayId {
        GatewayId::new(zone.parse().unwrap(), "gw1".parse().unwrap())
    }

    #[tokio::test]
    async fn an_answer_and_a_refusal_are_both_measured_and_a_tunnel_that_is_gone_is_an_error() {
        let (near, far) = testbed::pair(gateway("east"), gateway("west")).await;
        for refuses in [false, true] {
            let answering = async {
                let mut stream = far.accept_bare().await.unwrap();
                let header: StreamHeader = read_frame(&mut stream.recv).await.unwrap();
                assert!(matches!(
                    header.kind,
                    Some(Kind::Opened(Opened { client_sockets: 0 }))
                ));
                let answered = match refuses {
                    false => send_documents(&mut stream.send, None).await,
                    true => refuse_documents(&mut stream.send, RefusalReason::Overloaded, "no").await,
                };
                answered.unwrap();
            };
            let (measured, ()) = tokio::join!(echo(&near), answering);
            assert!(measured.unwrap() > Duration::ZERO);
        }
        drop(far);
        assert!(echo(&near).await.is_err());
    }
}
