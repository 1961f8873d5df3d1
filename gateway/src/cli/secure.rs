//! The client's side of an admin API over TLS: the server has to be a gateway of the zone that was meant, by its SPIFFE
//! id, before a token is sent to it.

use std::{fs, io, path::Path, sync::Arc};

use causeway_federation::name::ZoneName;
use causeway_identity::{ApiClient, SpiffeId, handshake_word, identify};
use http::HeaderValue;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Exit, Failure, admin_args::Credentials};

/// Rustls wants a name; a gateway is known by its SPIFFE id, and the name is not sent.
const NAME: &str = "admin.causeway.invalid";
/// Longest token file in bytes.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Identity that the answering server has to have.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    /// `None`: whatever the roots vouch for.
    trust_domain: Option<String>,
    zone: ZoneName,
}

pub(super) async fn secure(
    stream: TcpStream,
    credentials: &Credentials,
) -> Result<TlsStream<TcpStream>, Failure> {
    let client = client(credentials)?;
    let expected = expected(credentials, &client)?;
    let mut config = client.tls().map_err(|error| unusable().because(&error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(NAME).map_err(|error| unusable().because(&error))?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = connecting.await.map_err(|error| refused(&error))?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let found = leaf.and_then(|leaf| identify(leaf).ok());
    check(&expected, found.as_ref())?;
    Ok(stream)
}

/// Finds out whether a secure connection could be begun, before anything is done that ends with one.
///
/// # Errors
/// What is missing or cannot be used.
pub(super) fn check_credentials(credentials: &Credentials) -> Result<(), Failure> {
    expected(credentials, &client(credentials)?)?;
    authorization(credentials).map(drop)
}

fn client(credentials: &Credentials) -> Result<ApiClient, Failure> {
    let loaded = match (&credentials.identity, &credentials.ca) {
        (Some(folder), None) => ApiClient::load(folder),
        (Some(folder), Some(roots)) => ApiClient::load_with_roots(folder, roots),
        (None, Some(roots)) => ApiClient::anonymous(roots),
        (None, None) => {
            return Err(Failure::usage("whom to believe at an https:// address has to be said")
                .hint("give --admin-ca FILE (the federation's ca.pem) and --admin-zone ZONE, or --admin-identity FOLDER"));
        }
    };
    loaded.map_err(|error| unusable().because(&error))
}

fn unusable() -> Failure {
    Failure::new("cannot set up TLS for the admin API").exit(Exit::BadInput)
}

fn expected(credentials: &Credentials, client: &ApiClient) -> Result<Expected, Failure> {
    let own = client.own_id();
    let own_zone = || own.as_ref()?.1.parse::<SpiffeId>().ok().map(|id| id.gateway.zone);
    let zone = credentials.zone.clone().or_else(own_zone);
    let zone = zone.ok_or_else(|| {
        Failure::usage("which zone's gateway has to answer must be said")
            .hint("give --admin-zone ZONE: the gateway of another zone must not get to see your token")
    })?;
    Ok(Expected {
        trust_domain: own.map(|(domain, _)| domain),
        zone,
    })
}

fn check(expected: &Expected, found: Option<&SpiffeId>) -> Result<(), Failure> {
    let Some(found) = found else {
        return Err(Failure::new("the server's certificate names no gateway")
            .hint("does a gateway of the federation listen there?"));
    };
    let right_domain = expected
        .trust_domain
        .as_ref()
        .is_none_or(|domain| *domain == found.trust_domain);
    if right_domain && found.gateway.zone == expected.zone {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the server is {found}, and not a gateway of zone {}",
        expected.zone
    ))
    .hint("correct --admin, or say with --admin-zone whose gateway is meant"))
}

/// A failed handshake, in words: who refused whom, as far as it is known.
fn refused(error: &io::Error) -> Failure {
    let hint = match handshake_word(error) {
        "unknown_issuer" => {
            "one side's certificate leads to no root of the other: compare --admin-ca and the certificates"
        }
        "expired" => "a certificate has expired: renew it, or set the clock",
        "revoked" => "a certificate was revoked: issue a new one for whoever may come back",
        "not_yet_valid" => "a certificate is not valid yet: compare the clocks",
        "bad_certificate" => "a certificate is no gateway's or client's: issue one with `causeway ca issue`",
        _ => "does the admin API listen there with TLS? without it, leave https:// out",
    };
    Failure::new("cannot make a secure connection to the admin API")
        .because(error)
        .hint(hint)
}

/// The header that shows the token; `None`: there is none.
pub(super) fn authorization(credentials: &Credentials) -> Result<Option<HeaderValue>, Failure> {
    let Some(path) = &credentials.token_file else {
        return Ok(None);
    };
    let text = read_token(path).map_err(|error| {
        Failure::new(format!("cannot read the token in {}", path.display()))
            .because(&error)
            .hint("the file holds what `causeway admin-token issue` printed, and nothing else")
    })?;
    let value = HeaderValue::try_from(format!("Bearer {}", text.trim()));
    let mut value = value.map_err(|_| {
        Failure::new(format!("{} holds no token", path.display()))
            .exit(Exit::BadInput)
            .hint("the file holds what `causeway admin-token issue` printed, and nothing else")
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn read_token(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_TOKEN_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is longer than {MAX_TOKEN_BYTES} bytes"),
        ));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(domain: Option<&str>) -> Expected {
        Expected {
            trust_domain: domain.map(str::to_owned),
            zone: "east".parse().unwrap(),
        }
    }

    #[test]
    fn only_a_gateway_of_the_zone_that_was_meant_will_do() {
        let good: SpiffeId = "spiffe://acme.internal/zone/east/gateway/gw2".parse().unwrap();
        let west: SpiffeId = "spiffe://acme.internal/zone/west/gateway/gw1".parse().unwrap();
        let evil: SpiffeId = "spiffe://evil.example/zone/east/gateway/gw1".parse().unwrap();
        assert!(check(&expected(None), Some(&good)).is_ok());
        assert!(check(&expected(Some("acme.internal")), Some(&good)).is_ok());
        assert!(check(&expected(None), Some(&west)).is_err());
        assert!(check(&expected(Some("acme.internal")), Some(&evil)).is_err());
        assert!(check(&expected(None), None).is_err());
    }

    #[test]
    fn without_roots_or_a_zone_nothing_is_sent() {
        assert!(client(&Credentials::default()).is_err());
    }
}
