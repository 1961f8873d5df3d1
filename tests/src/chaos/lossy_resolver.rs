//! A resolver that loses bursts: of many questions at once it answers the first few, and of the others nobody hears. Every name
//! that it answers for is at an address where nobody is.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::net::UdpSocket;

/// Questions that are answered in each [`WINDOW`].
const ANSWERED: u32 = 4;
const WINDOW: Duration = Duration::from_millis(200);
/// An address of TEST-NET-1, which no host has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Bytes of a header, and those of a question after its name: type and class (RFC 1035 §4.1).
const HEADER_BYTES: usize = 12;
const QUESTION_END_BYTES: usize = 4;
const TYPE_A: [u8; 2] = [0, 1];
/// A response, and recursion was available.
const FLAGS: [u8; 2] = [0x81, 0x80];
/// Largest question in bytes.
const MAX_QUESTION_BYTES: usize = 512;
/// The name of the question, class IN, for five seconds, four bytes.
const ANSWER: [u8; 12] = [0xc0, HEADER_BYTES as u8, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4];

/// Answers at `address` until the end of the process.
///
/// # Errors
/// When the socket cannot be had.
pub async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(address).await;
    let socket = socket.with_context(|| format!("listen on {address}"))?;
    let (mut since, mut answered) = (Instant::now(), 0);
    let mut question = [0; MAX_QUESTION_BYTES];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut question).await else {
            continue;
        };
        if since.elapsed() >= WINDOW {
            (since, answered) = (Instant::now(), 0);
        }
        answered += 1;
        if answered <= ANSWERED
            && let Some(answer) = answer(&question[..length])
        {
            // Whoever asked may be gone.
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// Makes the answer to a question; `None`: it is none.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let mut end = HEADER_BYTES;
    while *question.get(end)? != 0 {
        end += 1 + usize::from(question[end]);
    }
    let kind = question.get(end + 1..end + 3)?;
    let asked = question.get(HEADER_BYTES..end + 1 + QUESTION_END_BYTES)?;
    let answers = u8::from(kind == TYPE_A);
    let mut message = question.get(..2)?.to_vec();
    message.extend(FLAGS);
    message.extend([0, 1, 0, answers, 0, 0, 0, 0]);
    message.extend(asked);
    if answers == 1 {
        message.extend(ANSWER);
        message.extend(NOBODY.octets());
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_for_an_address_is_answered_with_one_where_nobody_is() {
        let question = |kind| {
            let mut question = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            question.extend(b"\x02gw\x04test\x00");
            question.extend([0, kind, 0, 1]);
            question
        };
        let said = answer(&question(1)).unwrap();
        assert_eq!(said[..8], [7, 9, 0x81, 0x80, 0, 1, 0, 1]);
        assert!(said.ends_with(&NOBODY.octets()));
        let said = answer(&question(28)).unwrap();
        assert_eq!((said[7], said.len()), (0, question(28).len()));
        assert_eq!(answer(&[0; 5]), None);
    }
}
