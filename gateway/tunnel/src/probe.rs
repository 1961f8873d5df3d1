//! Probes of an address where a gateway should be: packets in a version of QUIC that nobody speaks. Every server of QUIC answers them with
//! the versions that it does speak (RFC 9000 §6), before there is a connection and before anybody says who it is. So they tell whether UDP
//! of the size that a tunnel needs gets there and back, and how long it takes, whatever is wrong with identities.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    time::{Instant, sleep_until, timeout_at},
};

/// Packets that are sent to an address.
const PROBES: u8 = 5;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for answers after the last.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Bytes of a probe: the least that QUIC wants to pass, and what a tunnel begins with.
const PROBE_BYTES: usize = 1_200;
/// A version of the pattern that is reserved so that nobody speaks it (RFC 9000 §15).
const NOBODYS_VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];
/// Bytes of each connection id.
const ID_BYTES: u8 = 8;

/// Outcome of the probes of one address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbeReport {
    pub sent: u32,
    /// Round trip of each that was answered, in the order of their sending.
    pub round_trips: Vec<Duration>,
    /// The host is there and says that nothing listens (ICMP).
    pub refused: bool,
    /// Reason that this host could not send.
    pub unsent: Option<String>,
}

/// Sends a few probes to an address and waits for their answers, for 1.5 s at most.
pub async fn probe(address: SocketAddr) -> ProbeReport {
    let mut report = ProbeReport::default();
    if let Err(error) = ask(address, &mut report).await {
        report.unsent = Some(error.to_string());
    }
    report
}

/// Probes that are under way on one socket.
struct Probes {
    socket: UdpSocket,
    /// Tells this run's probes from those of others.
    nonce: u32,
    sent: Vec<Instant>,
    answered: Vec<Option<Duration>>,
}

async fn ask(address: SocketAddr, report: &mut ProbeReport) -> io::Result<()> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // A connected socket is told what ICMP says.
    socket.connect(address).await?;
    let mut probes = Probes {
        socket,
        nonce: rand::random(),
        sent: Vec::new(),
        answered: vec![None; usize::from(PROBES)],
    };
    let asked = probes.run(report).await;
    report.round_trips = probes.answered.into_iter().flatten().collect();
    asked
}

impl Probes {
    async fn run(&mut self, report: &mut ProbeReport) -> io::Result<()> {
        for number in 0..PROBES {
            let now = Instant::now();
            match self.socket.send(&packet(self.nonce, number)).await {
                // What ICMP said of the one before.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => report.refused = true,
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            self.sent.push(now);
            report.sent += 1;
            let last = number + 1 == PROBES;
            let until = now + if last { ANSWER_WITHIN } else { PAUSE };
            self.hear(until, report).await?;
            if report.refused {
                return Ok(());
            }
            if !last {
                sleep_until(until).await;
            }
        }
        Ok(())
    }

    /// Takes answers until that moment, or until all that was sent is answered.
    async fn hear(&mut self, until: Instant, report: &mut ProbeReport) -> io::Result<()> {
        let mut answer = [0; 512];
        while self.answered.iter().flatten().count() < self.sent.len() {
            let length = match timeout_at(until, self.socket.recv(&mut answer)).await {
                Err(_) => return Ok(()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    report.refused = true;
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error),
                Ok(Ok(length)) => length,
            };
            let number = answer
                .get(..length)
                .and_then(|answer| answered(answer, self.nonce));
            let number = number.map(usize::from);
            let sent = number.and_then(|number| self.sent.get(number)).copied();
            if let (Some(number), Some(sent)) = (number, sent)
                && let Some(slot @ None) = self.answered.get_mut(number)
            {
                *slot = Some(sent.elapsed());
            }
        }
        Ok(())
    }
}

/// The connection id of a probe.
fn id(nonce: u32, number: u8) -> [u8; ID_BYTES as usize] {
    let [a, b, c, d] = nonce.to_be_bytes();
    [a, b, c, d, 0, 0, 0, number]
}

/// A probe: a long header with ids of its own, and nothing in it.
fn packet(nonce: u32, number: u8) -> Vec<u8> {
    let mut packet = Vec::with_capacity(PROBE_BYTES);
    packet.push(0xc0);
    packet.extend(NOBODYS_VERSION);
    packet.push(ID_BYTES);
    packet.extend(id(!nonce, number));
    packet.push(ID_BYTES);
    packet.extend(id(nonce, number));
    packet.resize(PROBE_BYTES, 0);
    packet
}

/// Number of the probe that a packet answers; `None`: it is no such answer.
fn answered(packet: &[u8], nonce: u32) -> Option<u8> {
    let (first, rest) = packet.split_first()?;
    let rest = rest.strip_prefix(&[0; 4]).filter(|_| first & 0x80 != 0)?;
    let rest = rest.strip_prefix(&[ID_BYTES])?;
    let (to, rest) = rest.split_at_checked(usize::from(ID_BYTES))?;
    let rest = rest.strip_prefix(&[ID_BYTES])?;
    let (from, versions) = rest.split_at_checked(usize::from(ID_BYTES))?;
    let number = *to.last()?;
    let is_ours = to == id(nonce, number) && from == id(!nonce, number) && !versions.is_empty();
    is_ours.then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testbed;

    #[tokio::test]
    async fn a_server_of_quic_answers_and_a_port_where_nothing_listens_is_refused() {
        let (config, _) = testbed::credentials();
        let server = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = server.local_addr().unwrap();
        let report = probe(address).await;
        assert_eq!((report.sent, report.round_trips.len()), (5, 5), "{report:?}");
        assert_eq!((report.refused, report.unsent), (false, None));
        drop(server);
        let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let free = taken.local_addr().unwrap();
        drop(taken);
        let report = probe(free).await;
        assert!(report.refused && report.round_trips.is_empty(), "{report:?}");
    }

    #[tokio::test]
    async fn who_listens_and_says_nothing_of_use_has_not_answered() {
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = other.local_addr().unwrap();
        let echoing = async {
            let mut packet = [0; 2_000];
            loop {
                let (length, from) = other.recv_from(&mut packet).await.unwrap();
                assert_eq!(length, PROBE_BYTES);
                other.send_to(&packet[..length.min(400)], from).await.unwrap();
            }
        };
        let report = tokio::select! {
            report = probe(address) => report,
            () = echoing => unreachable!(),
        };
        assert_eq!((report.sent, report.round_trips.len()), (5, 0), "{report:?}");
        assert_eq!((report.refused, report.unsent), (false, None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..64), nonce: u32) {
            answered(&bytes, nonce);
        }
    }

    #[test]
    fn the_answer_to_a_probe_is_told_from_those_of_others() {
        let mut answer = vec![0x80, 0, 0, 0, 0, ID_BYTES];
        answer.extend(id(7, 3));
        answer.push(ID_BYTES);
        answer.extend(id(!7, 3));
        assert_eq!(answered(&answer, 7), None, "no version");
        answer.extend([0, 0, 0, 1]);
        assert_eq!((answered(&answer, 7), answered(&answer, 8)), (Some(3), None));
    }
}
