//! Calls of the CA with whatever credential somebody has.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use causeway_federation::{
    name::GatewayId,
    signing::{Purpose, bytes_to_sign},
};
use causeway_proto::ca::{
    JoinRequest, RenewRequest, certificate_authority_client::CertificateAuthorityClient,
};
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use rcgen::{CertificateParams, KeyPair, SanType, SigningKey};
use tokio::time::timeout;

use super::clients::{Credential, PATIENCE, Trial, channel, parts};
use crate::authority::Leaf;

/// Of a join token.
const TOKEN_ID_BYTES: usize = 8;
const TOKEN_SECRET_BYTES: usize = 32;

/// Asks the CA for the next certificate.
///
/// # Errors
/// When nothing comes of it in time.
pub async fn renew(credential: &Credential, from: SocketAddr, to: SocketAddr) -> anyhow::Result<Trial> {
    let channel = match channel(credential, from, to).await? {
        Ok(channel) => channel,
        Err(why) => return Ok(Trial::Refused(why)),
    };
    let request = RenewRequest {
        request: signing_request(credential)?,
    };
    let mut client = CertificateAuthorityClient::new(channel);
    let renewed = timeout(PATIENCE, client.renew(request)).await;
    Ok(match renewed.context("wait for an answer")? {
        Ok(_) => Trial::Admitted,
        Err(status) => Trial::Refused(status.message().to_owned()),
    })
}

/// Asks the CA for a first certificate, with the join token that is shown, or one that nobody was given.
///
/// # Errors
/// When nothing comes of it in time.
pub async fn join(credential: &Credential, from: SocketAddr, to: SocketAddr) -> anyhow::Result<Trial> {
    let channel = match channel(credential, from, to).await? {
        Ok(channel) => channel,
        Err(why) => return Ok(Trial::Refused(why)),
    };
    let (token_id, mut secret) = match &credential.token {
        Some(token) => join_token(token).context("a join token")?,
        None => (vec![0; TOKEN_ID_BYTES], vec![0; TOKEN_SECRET_BYTES]),
    };
    if credential.has_other_secret {
        secret.reverse();
    }
    let mut request = JoinRequest {
        token_id,
        secret,
        request: signing_request(credential)?,
        ..JoinRequest::default()
    };
    if let Some(former) = &credential.former {
        let words = [&request.token_id[..], &request.request].concat();
        request.former = parts(former)?.0.iter().map(|der| der.to_vec()).collect();
        request.proof = proof(former, &words)?;
    }
    let mut client = CertificateAuthorityClient::new(channel);
    let joined = timeout(PATIENCE, client.join(request)).await;
    Ok(match joined.context("wait for an answer")? {
        Ok(_) => Trial::Admitted,
        Err(status) => {
            let word = status.metadata().get("causeway-refusal");
            let word = word.and_then(|word| word.to_str().ok()).unwrap_or_default();
            Trial::Refused(format!("{word}: {}", status.message()))
        }
    })
}

/// Signature of gateway gw1 of zone east under a request to come back: the two numbers of an ECDSA signature, 32 bytes each.
fn proof(former: &Leaf, words: &[u8]) -> anyhow::Result<Vec<u8>> {
    let gateway = GatewayId::new("east".parse()?, "gw1".parse()?);
    let message = bytes_to_sign(Purpose::Rejoin, &gateway, words);
    let signature = KeyPair::from_pem(&former.key)?.sign(&message)?;
    let [0x30, _, numbers @ ..] = &signature[..] else {
        bail!("no ECDSA signature in DER");
    };
    let (mut rest, mut proof) = (numbers, Vec::new());
    while let [0x02, length, bytes @ ..] = rest {
        let (number, after) = bytes.split_at_checked(usize::from(*length)).context("a number")?;
        // Without the zero that keeps it positive, or with those that it does without.
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        proof.resize(proof.len() + 32_usize.saturating_sub(number.len()), 0);
        proof.extend_from_slice(number);
        rest = after;
    }
    Ok(proof)
}

/// A request for a certificate, DER.
fn signing_request(credential: &Credential) -> anyhow::Result<Vec<u8>> {
    let uri = match credential.uri.as_str() {
        "" => "spiffe://test.internal/zone/east/gateway/gw1",
        uri => uri,
    };
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().context("a URI in ASCII")?)];
    let key = KeyPair::generate().context("make a key")?;
    let request = params.serialize_request(&key).context("make a request")?;
    Ok(request.der().to_vec())
}

/// The id of a join token, as commands name it.
#[must_use]
pub fn token_id(token: &str) -> Option<String> {
    join_token(token).map(|(id, _)| HEXLOWER.encode(&id))
}

/// The id and the secret in a join token: after `cwjoin`, base 32 of a version, these two, and more.
fn join_token(text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let body = text.strip_prefix("cwjoin")?.to_ascii_uppercase();
    let bytes = BASE32_NOPAD.decode(body.as_bytes()).ok()?;
    let (id, rest) = bytes.get(1..)?.split_at_checked(TOKEN_ID_BYTES)?;
    let (secret, _) = rest.split_at_checked(TOKEN_SECRET_BYTES)?;
    Some((id.to_vec(), secret.to_vec()))
}
