//! The gateway's key as far as the own record needs it: signatures, each made once for all peers.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use causeway_federation::{
    catalog::{Export, ExportsDigest, encode},
    name::GatewayId,
    signing::{Credential, Purpose, Signed, Signer},
};
use causeway_proto::sync as proto;

use super::{
    head::{self, Beat, Head},
    limits::{BEAT_REUSE, MAX_SIGNED_HEADS},
    wire::Stamp,
};

/// Signs the own words.
#[derive(Debug)]
pub(super) struct OwnKeys {
    /// `None`: what is told is not signed, and nobody passes it on.
    signer: Option<Arc<dyn Signer>>,
    /// That of the signer when it was last looked at.
    credential: Option<Arc<Credential>>,
    /// Fields that a program newer than this one would add to every export and statement; empty outside tests.
    more: Arc<[u8]>,
    /// By version, of the present incarnation.
    heads: BTreeMap<u64, Arc<Signed>>,
    beat: Option<(Instant, Stamp, proto::Beat)>,
    beats: u64,
    failure: Option<String>,
}

impl OwnKeys {
    pub(super) fn new(signer: Option<Arc<dyn Signer>>, more: Arc<[u8]>) -> Self {
        Self {
            credential: signer.as_ref().map(|signer| signer.credential()),
            signer,
            more,
            heads: BTreeMap::new(),
            beat: None,
            beats: 0,
            failure: None,
        }
    }

    /// The encoding of an own export, when it is not the usual one.
    pub(super) fn foreign(&self, export: &Export) -> Option<Arc<[u8]>> {
        let more = !self.more.is_empty();
        more.then(|| [encode(export).as_slice(), &self.more].concat().into())
    }

    pub(super) fn encode(&self, export: &Export) -> Vec<u8> {
        let mut bytes = encode(export);
        bytes.extend_from_slice(&self.more);
        bytes
    }

    /// The signed head of one own version.
    pub(super) fn signed(&mut self, origin: &GatewayId, head: &Head) -> Arc<Signed> {
        if let Some(known) = self.heads.get(&head.stamp.version) {
            return known.clone();
        }
        let signed = Arc::new(self.sign(Purpose::Record, origin, &head.words(&self.more)));
        self.heads.insert(head.stamp.version, signed.clone());
        if self.heads.len() > MAX_SIGNED_HEADS {
            self.heads.pop_first();
        }
        signed
    }

    /// A proof that the origin lives, no older than [`BEAT_REUSE`].
    pub(super) fn beat(
        &mut self,
        now: Instant,
        origin: &GatewayId,
        stamp: Stamp,
        digest: ExportsDigest,
    ) -> proto::Beat {
        if let Some((made, of, beat)) = &self.beat
            && *of == stamp
            && now < *made + BEAT_REUSE
        {
            return beat.clone();
        }
        self.beats += 1;
        let count = self.beats;
        let words = Beat { stamp, digest, count }.words(&self.more);
        let signed = self.sign(Purpose::Beat, origin, &words);
        let beat = proto::Beat {
            origin: None,
            signed: Some(head::signed_message(&signed, Some(&signed.credential))),
        };
        self.beat = Some((now, stamp, beat.clone()));
        beat
    }

    /// A new incarnation: nothing of the earlier one is told again.
    pub(super) fn forget(&mut self) {
        self.heads.clear();
        self.beat = None;
    }

    pub(super) fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// Tells whether the certificate was renewed since this was last asked; then nothing signed before is told again.
    pub(super) fn renewed(&mut self) -> bool {
        let now = self.signer.as_ref().map(|signer| signer.credential());
        if now == self.credential {
            return false;
        }
        self.credential = now;
        self.forget();
        true
    }

    /// Tells whether this was signed with the certificate that [`OwnKeys::renewed`] last saw: it may have changed since.
    pub(super) fn is_present(&self, signed: &Signed) -> bool {
        let present = self.credential.as_ref();
        present.is_none_or(|present| *present == signed.credential)
    }

    fn sign(&mut self, purpose: Purpose, origin: &GatewayId, words: &[u8]) -> Signed {
        let signed = self
            .signer
            .as_ref()
            .map(|signer| Signed::by(&**signer, purpose, origin, words));
        match signed {
            Some(Ok(signed)) => return signed,
            Some(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                self.failure = Some(cause.unwrap_or_default());
            }
            None => {}
        }
        Signed {
            words: words.into(),
            signature: Arc::default(),
            credential: Arc::default(),
        }
    }
}
