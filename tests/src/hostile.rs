//! A gateway that was taken over, or whose key was: it holds certificates that the federation has given out, ended and revoked ones
//! too, and says with them what suits it.

use std::sync::Arc;

use anyhow::Context;
use causeway_federation::{
    edition::Edition,
    signing::{Credential, SignError, Signature, Signer},
    topology::applied::TopologyDocument,
};
use causeway_proto::tunnel::{
    FRAME_PREFIX_BYTES, Ready, StreamHeader, StreamReply, Topology, decode_frame, encode_frame, frame_length,
    stream_header::Kind, stream_reply::Outcome,
};
use quinn::RecvStream;
use rcgen::{KeyPair, SigningKey as _};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::task::JoinHandle;

use crate::{authority::Leaf, peer::Peer};

/// Bytes of each of the two numbers in an ECDSA signature with P-256.
const NUMBER_BYTES: usize = 32;

/// Signs what it is told with the key of a leaf, whatever has become of that.
#[derive(Debug)]
pub struct LeafSigner {
    key: KeyPair,
    credential: Arc<Credential>,
}

impl LeafSigner {
    /// # Errors
    /// When the leaf cannot be read.
    pub fn new(leaf: &Leaf) -> anyhow::Result<Self> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect();
        let chain = chain.context("read the certificate")?;
        Ok(Self {
            key: KeyPair::from_pem(&leaf.key).context("read the key")?,
            credential: Arc::new(Credential(chain.iter().map(|one| one.to_vec()).collect())),
        })
    }
}

impl Signer for LeafSigner {
    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let der = self
            .key
            .sign(message)
            .map_err(|error| SignError(Box::new(error)))?;
        let bytes = numbers(&der).ok_or_else(|| SignError("it made no ECDSA signature".into()))?;
        Ok(Signature {
            bytes,
            credential: self.credential.clone(),
        })
    }

    fn credential(&self) -> Arc<Credential> {
        self.credential.clone()
    }
}

/// The two numbers of an ECDSA signature as gateways send them: 32 bytes each.
fn numbers(der: &[u8]) -> Option<Vec<u8>> {
    let mut rest = der.get(2..)?;
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let length = usize::from(*rest.get(1)?);
        let number = rest.get(2..2 + length)?;
        let digits = &number[number.iter().take_while(|byte| **byte == 0).count()..];
        numbers.resize(numbers.len() + NUMBER_BYTES.checked_sub(digits.len())?, 0);
        numbers.extend_from_slice(digits);
        rest = &rest[2 + length..];
    }
    Some(numbers)
}

async fn read_header(recv: &mut RecvStream) -> Option<StreamHeader> {
    let mut prefix = [0; FRAME_PREFIX_BYTES];
    recv.read_exact(&mut prefix).await.ok()?;
    let mut body = vec![0; frame_length(prefix).ok()?];
    recv.read_exact(&mut body).await.ok()?;
    decode_frame(&body).ok()
}

impl Peer {
    /// Says that it has this topology in force, by asking for what rules over it. Whatever comes as an answer is not read.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn claim(&self, edition: Edition) -> anyhow::Result<()> {
        let header = StreamHeader {
            kind: Some(Kind::Topology(Topology {
                generation: edition.generation,
                fingerprint: edition.fingerprint.0.to_vec(),
                only: false,
            })),
        };
        self.ask(&header).await.map(drop)
    }

    /// Answers every question for a page with these bytes behind its `ready`, until the connection ends, and keeps the streams open. Says no
    /// word on other streams.
    pub fn hand_out_pages(&self, answer: Vec<u8>) -> JoinHandle<()> {
        let connection = self.connection.clone();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let header = read_header(&mut recv).await;
                if let Some(Kind::Page(_)) = header.and_then(|header| header.kind) {
                    let ready = StreamReply {
                        outcome: Some(Outcome::Ready(Ready::default())),
                    };
                    let Ok(reply) = encode_frame(&ready) else { continue };
                    let _ = send.write_all(&[&reply[..], &answer].concat()).await;
                }
                kept.push((send, recv));
            }
        })
    }

    /// Answers every question for a topology with this one, until the connection ends. Gives how often it did.
    pub fn hand_out(&self, document: &TopologyDocument) -> JoinHandle<usize> {
        let (connection, document) = (self.connection.clone(), document.encode());
        tokio::spawn(async move {
            let mut answers = 0;
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let header = read_header(&mut recv).await;
                let Some(Kind::Topology(_)) = header.and_then(|header| header.kind) else {
                    continue;
                };
                let ready = StreamReply {
                    outcome: Some(Outcome::Ready(Ready::default())),
                };
                let Ok(reply) = encode_frame(&ready) else { continue };
                let length = u32::try_from(document.len()).unwrap_or(u32::MAX).to_be_bytes();
                let answer = [&reply[..], &length, &document].concat();
                if send.write_all(&answer).await.is_ok() && send.finish().is_ok() {
                    answers += 1;
                }
            }
            answers
        })
    }
}
