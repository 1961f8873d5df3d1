//! The two calls of the CA: `Join` and `Renew`. Each is checked from the outside in, and every refusal is logged with its
//! word, who asked, and the id of the token, never with a secret.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use causeway_proto::ca::{
    Certificates, JoinRequest, RenewRequest, certificate_authority_server::CertificateAuthority,
};
use causeway_zone_sync::name::GatewayId;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tonic::{Request, Response, Status};

use super::{
    current::Served,
    listen::Peer,
    rate::{Asker, Rates},
};
use crate::{
    identity::{
        DnsName, Serial, SpiffeId,
        ca::{
            CaError,
            request::{RequestError, SigningRequest},
            revoked::Revoked,
            tokens::{self, Secret, TokenId, TokenRefusal},
        },
        dns_names_of, identify,
    },
    join::Refusal,
    tunnel::Quiet,
};

/// Answers the calls; there is one for the process.
pub(super) struct Service {
    folder: PathBuf,
    leaf_lifetime: Duration,
    rates: Mutex<Rates>,
    /// Keeps an address that is refused all the time from filling the log.
    quiet: Mutex<Quiet<(std::net::IpAddr, &'static str)>>,
    refused: AtomicU64,
    issued: AtomicU64,
}

/// Why a call is refused, and what to say about it.
struct Refused {
    refusal: Refusal,
    text: String,
}

impl Refused {
    fn new(refusal: Refusal, text: impl Into<String>) -> Self {
        Self {
            refusal,
            text: text.into(),
        }
    }
}

/// What happens in one call, off the async threads: it reads and writes files.
struct Call {
    folder: PathBuf,
    leaf_lifetime: Duration,
    served: Arc<Served>,
}

impl Service {
    pub fn new(folder: PathBuf, leaf_lifetime: Duration) -> Self {
        Self {
            folder,
            leaf_lifetime,
            rates: Mutex::default(),
            quiet: Mutex::new(Quiet::new()),
            refused: AtomicU64::new(0),
            issued: AtomicU64::new(0),
        }
    }

    fn call(&self, peer: &Peer) -> Call {
        Call {
            folder: self.folder.clone(),
            leaf_lifetime: self.leaf_lifetime,
            served: peer.served.clone(),
        }
    }

    fn allow(&self, asker: Asker) -> Result<(), Refused> {
        match self.rates.lock().allows(asker, Instant::now()) {
            true => Ok(()),
            false => Err(Refused::new(
                Refusal::TooMany,
                "too many calls in too short a time",
            )),
        }
    }

    /// Logs what became of a call and makes the answer.
    fn answer(
        &self,
        peer: &Peer,
        token: Option<TokenId>,
        outcome: Result<(GatewayId, Certificates), Refused>,
    ) -> Result<Response<Certificates>, Status> {
        let token = token.map(|id| id.to_string());
        let address = peer.address;
        match outcome {
            Ok((gateway, certificates)) => {
                let total = self.issued.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::info!(%gateway, %address, token, total, "issued a certificate");
                Ok(Response::new(certificates))
            }
            Err(Refused { refusal, text }) => {
                let total = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
                let kind = (address.ip().to_canonical(), refusal.word());
                if let Some(repeats) = self.quiet.lock().admit(Instant::now(), kind) {
                    tracing::warn!(reason = refusal.word(), %address, token, detail = text, repeats, total,
                        "refused to issue a certificate");
                }
                Err(refusal.status(text))
            }
        }
    }
}

/// Who called; every connection is one of `listen`'s.
fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    let peer = request.extensions().get::<Peer>().cloned();
    peer.ok_or_else(|| Status::internal("the connection is not known"))
}

/// Runs the part of a call that blocks.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Refused::new(Refusal::Unavailable, "the CA could not do its work")))
}

#[tonic::async_trait]
impl CertificateAuthority for Service {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Certificates>, Status> {
        let peer = peer(&request)?;
        let request = request.into_inner();
        let token = request.token_id.as_slice().try_into().ok().map(TokenId);
        let outcome = match self.allow(Asker::at(peer.address.ip())) {
            Ok(()) => {
                let call = self.call(&peer);
                off_thread(move || call.join(&request, SystemTime::now())).await
            }
            Err(refused) => Err(refused),
        };
        self.answer(&peer, token, outcome)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certificates>, Status> {
        let peer = peer(&request)?;
        let outcome = match holder(&peer) {
            Ok(holder) => match self.allow(Asker::Gateway(holder.gateway.clone())) {
                Ok(()) => {
                    let (call, request) = (self.call(&peer), request.into_inner());
                    let peer_chain = peer.chain.clone();
                    off_thread(move || call.renew(&holder, &peer_chain, &request)).await
                }
                Err(refused) => Err(refused),
            },
            Err(refused) => Err(refused),
        };
        self.answer(&peer, None, outcome)
    }
}

/// Whom the certificate names that was shown in the handshake, where it was verified.
fn holder(peer: &Peer) -> Result<SpiffeId, Refused> {
    let no_certificate = |text: &str| Refused::new(Refusal::NoCertificate, text);
    let leaf = peer
        .chain
        .first()
        .ok_or_else(|| no_certificate("a renewal needs the certificate that is to be renewed"))?;
    identify(leaf).map_err(|error| no_certificate(&error.to_string()))
}

impl Call {
    fn join(&self, request: &JoinRequest, now: SystemTime) -> Result<(GatewayId, Certificates), Refused> {
        let bad_request = |text: &str| Refused::new(Refusal::BadRequest, text);
        let id = request.token_id.as_slice().try_into().map(TokenId);
        let id = id.map_err(|_| bad_request("the token's id has the wrong length"))?;
        let secret = request.secret.as_slice().try_into().map(Secret);
        let secret = secret.map_err(|_| bad_request("the token's secret has the wrong length"))?;
        let signing = self.read(&request.request)?;
        let gateway = signing.id().gateway.clone();
        let grant = tokens::use_up(&self.folder, (id, secret), &gateway, now).map_err(token_refused)?;
        let certificates = self.sign(&signing, &grant.dns_names, &format!("token {id}"));
        let certificates = certificates.map_err(|mut refused| {
            refused
                .text
                .push_str("; the token is used up all the same, issue another");
            refused
        })?;
        Ok((gateway, certificates))
    }

    fn renew(
        &self,
        holder: &SpiffeId,
        shown: &[CertificateDer<'_>],
        request: &RenewRequest,
    ) -> Result<(GatewayId, Certificates), Refused> {
        let revoked =
            Revoked::read(&self.folder).map_err(|error| unavailable(CaError::Revocations(error)))?;
        let serial = shown.first().and_then(|leaf| Serial::of(leaf));
        if let Some(serial) = serial.filter(|serial| revoked.holds(serial)) {
            let text = format!("the certificate with serial number {serial} was revoked");
            return Err(Refused::new(Refusal::Revoked, text));
        }
        let signing = self.read(&request.request)?;
        if signing.id() != holder {
            let text = format!(
                "the certificate is {holder}'s, and the request is for {}",
                signing.id()
            );
            return Err(Refused::new(Refusal::OtherGateway, text));
        }
        // Neither more names nor fewer than it has.
        let names = shown.first().and_then(|leaf| dns_names_of(leaf).ok());
        let certificates = self.sign(&signing, &names.unwrap_or_default(), "renewal")?;
        Ok((holder.gateway.clone(), certificates))
    }

    /// Everything about a request that can be known before anything is used up.
    fn read(&self, der: &[u8]) -> Result<SigningRequest, Refused> {
        let signing = SigningRequest::from_der(der).map_err(|error| {
            let refusal = match &error {
                RequestError::Signature => Refusal::BadSignature,
                RequestError::Key(_) => Refusal::BadKey,
                RequestError::TooLarge(_)
                | RequestError::Malformed(_)
                | RequestError::NotOneUri(_)
                | RequestError::Spiffe(_) => Refusal::BadRequest,
            };
            Refused::new(refusal, error.to_string())
        })?;
        let (own, asked) = (self.served.ca.trust_domain(), &signing.id().trust_domain);
        if asked != own {
            let text = format!("this is the CA of {own}, and the request is for {asked}");
            return Err(Refused::new(Refusal::WrongTrustDomain, text));
        }
        Ok(signing)
    }

    fn sign(&self, signing: &SigningRequest, names: &[DnsName], how: &str) -> Result<Certificates, Refused> {
        let ca = &self.served.ca;
        let certified = ca.sign(signing, self.leaf_lifetime, names);
        let certified = certified.map_err(unavailable)?;
        ca.record(&self.folder, &certified, how).map_err(unavailable)?;
        Ok(Certificates {
            chain: vec![certified.certificate.to_vec()],
            roots: ca.roots().iter().map(|root| root.to_vec()).collect(),
        })
    }
}

/// What whoever asked is told of an error that is this CA's.
fn unavailable(error: CaError) -> Refused {
    if let CaError::Revoked { .. } = error {
        return Refused::new(Refusal::Revoked, error.to_string());
    }
    tracing::error!(
        error = &error as &dyn std::error::Error,
        "cannot issue a certificate"
    );
    Refused::new(
        Refusal::Unavailable,
        "the CA cannot issue certificates at the moment",
    )
}

fn token_refused(error: TokenRefusal) -> Refused {
    let refusal = match &error {
        TokenRefusal::Unknown => Refusal::TokenUnknown,
        TokenRefusal::Forged => Refusal::TokenForged,
        TokenRefusal::Used => Refusal::TokenUsed,
        TokenRefusal::Revoked => Refusal::TokenRevoked,
        TokenRefusal::Expired(_) => Refusal::TokenExpired,
        TokenRefusal::WrongZone(_) => Refusal::WrongZone,
        TokenRefusal::WrongGateway(_) => Refusal::WrongGateway,
        TokenRefusal::Io { .. } => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot use a token");
            let text = "the CA cannot read or use up tokens at the moment";
            return Refused::new(Refusal::Unavailable, text);
        }
    };
    Refused::new(refusal, error.to_string())
}
