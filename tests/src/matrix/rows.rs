//! The credentials, good and bad, and what each entrance makes of them.

use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

use super::{
    Cell::{self, Admitted, Impossible},
    Credential, Row,
};
use crate::authority::{Authority, Validity, Wish};

/// Of the certificate that every list of revoked ones holds.
pub const REVOKED_SERIAL: u64 = 0x7e57;

/// Of the certificate of gateway gw1 of zone east that has ended, which the CA knows to have issued.
pub const FORMER_SERIAL: u64 = 0x7e58;

/// Authorities that sign.
#[derive(Debug)]
pub struct Issuers {
    /// The federation's.
    pub right: Authority,
    /// Another one, of the same trust domain by its own account.
    pub stranger: Authority,
    /// Tokens of the gateway: with the scope `register`, with `read`, and one that has expired.
    pub tokens: [String; 3],
    /// Join tokens for zone east.
    pub joins: Joins,
}

/// Join tokens, each with its fate.
#[derive(Debug, Default)]
pub struct Joins {
    /// Two that nobody has used: one is taken by an attempt, and one was stolen.
    pub fresh: String,
    pub stolen: String,
    pub used: String,
    pub expired: String,
    pub revoked: String,
    /// Two by which gateways of zone east come back.
    pub rejoin: String,
    pub revoked_rejoin: String,
}

const fn refused(word: &'static str, told: &'static str) -> Cell {
    Cell::Refused { word, told }
}

/// The handshake fails: over QUIC with the alert of this number, over TCP with the one of this name.
const fn alert(word: &'static str, quic: &'static str, tcp: &'static str) -> [Cell; 8] {
    let (quic, tcp) = (refused(word, quic), refused(word, tcp));
    [quic, quic, tcp, tcp, tcp, tcp, tcp, tcp]
}

/// Whatever a certificate says, nobody joins with it: that takes a token.
const NO_TOKEN: Cell = refused("token_unknown", "token_unknown");
/// Let in everywhere but where it takes a token.
const EVERYWHERE: [Cell; 8] = [
    Admitted, Admitted, Admitted, Admitted, Admitted, Admitted, Admitted, NO_TOKEN,
];

/// Refused once it is known who it is: tunnels with a reason in the close, the APIs with an answer, callers with an alert. At
/// the CA it is `ca`.
const fn after(word: &'static str, told: &'static str, ca: Cell) -> [Cell; 8] {
    let (tunnel, end) = (refused(word, told), refused(word, "the connection ended"));
    let caller = refused(word, "CertificateUnknown");
    [
        tunnel,
        tunnel,
        end,
        refused(word, "403"),
        refused(word, word),
        ca,
        caller,
        NO_TOKEN,
    ]
}

/// The same, but for the CA, whose alert says less than a gateway's.
const fn at_ca(mut cells: [Cell; 8], ca: Cell) -> [Cell; 8] {
    cells[5] = ca;
    cells[7] = ca;
    cells
}

fn good(issuers: &Issuers, zone: &str) -> anyhow::Result<Credential> {
    wished(issuers, zone, |_| {})
}

fn wished(issuers: &Issuers, zone: &str, change: impl FnOnce(&mut Wish)) -> anyhow::Result<Credential> {
    let mut wish = issuers.right.wish(zone, "gw1");
    change(&mut wish);
    let mut credential = Credential::of(issuers.right.sign(&wish)?);
    credential.uri = wish.uris.first().cloned().unwrap_or_default();
    Ok(credential)
}

/// Every row.
#[must_use]
pub fn rows() -> Vec<Row> {
    [
        certificates(),
        names(),
        purposes(),
        protocols(),
        tokens(),
        join_tokens(),
        rejoin_tokens(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn certificates() -> Vec<Row> {
    vec![
        Row {
            name: "right",
            make: good,
            cells: EVERYWHERE,
        },
        Row {
            name: "of another CA",
            make: |issuers, zone| {
                let leaf = issuers.stranger.leaf(zone, "gw1", Validity::Current)?;
                Ok(Credential::of(leaf))
            },
            cells: at_ca(
                alert("unknown_issuer", "error 48", "UnknownCA"),
                refused("unknown_issuer", "DecryptError"),
            ),
        },
        Row {
            name: "not valid yet",
            make: |issuers, zone| wished(issuers, zone, |wish| wish.years = (2190, 2199)),
            cells: at_ca(
                alert("not_yet_valid", "error 46", "CertificateUnknown"),
                refused("not_yet_valid", "CertificateExpired"),
            ),
        },
        Row {
            name: "expired",
            make: |issuers, zone| wished(issuers, zone, |wish| wish.years = (2020, 2021)),
            cells: alert("expired", "error 45", "CertificateExpired"),
        },
        Row {
            name: "revoked",
            make: |issuers, zone| wished(issuers, zone, |wish| wish.serial = Some(REVOKED_SERIAL)),
            cells: {
                let cells = alert("revoked", "error 44", "CertificateRevoked");
                let mut cells = at_ca(cells, refused("revoked", "was revoked"));
                cells[7] = NO_TOKEN;
                cells
            },
        },
    ]
}

fn names() -> Vec<Row> {
    // The CA certifies whatever zone it is told to; a renewal is for whom it certified.
    let mut other_zone = after("wrong_zone", "dialled zone", Admitted);
    let nobody = refused("no_certificate", "URI names");
    other_zone[0] = refused("unknown_zone", "not in the topology");
    other_zone[3] = refused("not_granted", "403");
    other_zone[4] = refused("not_granted", "not_granted");
    other_zone[6] = refused("wrong_zone", "CertificateUnknown");
    vec![
        Row {
            name: "of another zone",
            make: |issuers, _| good(issuers, "nowhere"),
            cells: other_zone,
        },
        Row {
            name: "of another trust domain",
            make: |issuers, zone| {
                let uri = format!("spiffe://evil.example/zone/{zone}/gateway/gw1");
                wished(issuers, zone, |wish| wish.uris = vec![uri])
            },
            cells: {
                let ca = refused("wrong_trust_domain", "this is the CA of test.internal");
                let mut cells = after("wrong_trust_domain", "is not of test.internal", ca);
                cells[7] = ca;
                cells
            },
        },
        Row {
            name: "without a SAN",
            make: |issuers, zone| wished(issuers, zone, |wish| wish.uris.clear()),
            cells: after("bad_identity", "carries 0 URI names", nobody),
        },
        Row {
            name: "with two SANs",
            make: |issuers, zone| {
                let second = format!("spiffe://test.internal/zone/{zone}/gateway/gw2");
                wished(issuers, zone, |wish| wish.uris.push(second))
            },
            cells: after("bad_identity", "carries 2 URI names", nobody),
        },
    ]
}

fn purposes() -> Vec<Row> {
    let unsupported = alert("bad_certificate", "error 43", "UnsupportedCertificate");
    vec![
        Row {
            name: "a CA's certificate",
            make: |issuers, zone| wished(issuers, zone, |wish| wish.is_ca = true),
            cells: at_ca(
                alert("bad_certificate", "error 42", "BadCertificate"),
                refused("bad_certificate", "CertificateUnknown"),
            ),
        },
        Row {
            name: "only for servers",
            make: |issuers, zone| wished(issuers, zone, |wish| wish.purposes = vec![ServerAuth]),
            cells: {
                let mut cells = unsupported;
                cells[1] = Admitted;
                cells
            },
        },
        Row {
            name: "only for clients",
            make: |issuers, zone| wished(issuers, zone, |wish| wish.purposes = vec![ClientAuth]),
            cells: {
                let mut cells = EVERYWHERE;
                cells[1] = unsupported[1];
                cells
            },
        },
        Row {
            name: "none",
            make: |_, _| Ok(Credential::default()),
            cells: [
                refused("no_certificate", "error 116"),
                Impossible,
                refused("no_certificate", "CertificateRequired"),
                refused("no_credentials", "401"),
                refused("no_credentials", "no_credentials"),
                refused("no_certificate", "needs the certificate"),
                refused("no_certificate", "CertificateRequired"),
                NO_TOKEN,
            ],
        },
    ]
}

fn protocols() -> Vec<Row> {
    let old = refused("tls_version", "ProtocolVersion");
    vec![
        Row {
            name: "TLS 1.2",
            make: |issuers, zone| {
                Ok(Credential {
                    is_tls12: true,
                    ..good(issuers, zone)?
                })
            },
            // QUIC has no TLS before 1.3 (RFC 9001 §4.2).
            cells: [Impossible, Impossible, old, old, old, old, old, old],
        },
        Row {
            name: "another ALPN",
            make: |issuers, zone| {
                Ok(Credential {
                    has_other_alpn: true,
                    ..good(issuers, zone)?
                })
            },
            cells: alert("wrong_alpn", "error 120", "NoApplicationProtocol"),
        },
        Row {
            name: "X25519 alone, where post-quantum is required",
            make: |issuers, zone| {
                Ok(Credential {
                    is_classical: true,
                    ..good(issuers, zone)?
                })
            },
            // It is required of tunnels; the one that is dialled refuses by itself, as it has nothing that was offered.
            cells: [
                refused("not_post_quantum", "error 71"),
                refused("not_post_quantum", "NoKxGroupsInCommon"),
                Admitted,
                Admitted,
                Admitted,
                Admitted,
                Admitted,
                NO_TOKEN,
            ],
        },
    ]
}

fn tokens() -> Vec<Row> {
    let only_apis = |admin, registration| {
        [
            Impossible,
            Impossible,
            Impossible,
            admin,
            registration,
            Impossible,
            Impossible,
            Impossible,
        ]
    };
    vec![
        Row {
            name: "a token with the scope `register`",
            make: |issuers, _| Ok(Credential::token(&issuers.tokens[0])),
            cells: only_apis(Admitted, Admitted),
        },
        Row {
            name: "a token with the scope `read`",
            make: |issuers, _| Ok(Credential::token(&issuers.tokens[1])),
            cells: only_apis(refused("scope", "403"), refused("scope", "scope")),
        },
        Row {
            name: "an expired token",
            make: |issuers, _| Ok(Credential::token(&issuers.tokens[2])),
            cells: only_apis(
                refused("expired_token", "401"),
                refused("expired_token", "expired_token"),
            ),
        },
        Row {
            name: "an unknown token",
            make: |_, _| Ok(Credential::token("cwa_nobody_00")),
            cells: only_apis(refused("bad_token", "401"), refused("bad_token", "bad_token")),
        },
    ]
}

/// A join token opens nothing but the CA.
const fn at_the_ca_alone(cell: Cell) -> [Cell; 8] {
    let mut cells = [Impossible; 8];
    cells[3] = refused("bad_token", "401");
    cells[4] = refused("bad_token", "bad_token");
    cells[7] = cell;
    cells
}

/// Those that serve once. Each is for zone east.
fn join_tokens() -> Vec<Row> {
    let at_ca = at_the_ca_alone;
    let no = |word| at_ca(refused(word, word));
    vec![
        Row {
            name: "a join token",
            make: |issuers, _| Ok(Credential::token(&issuers.joins.fresh)),
            cells: at_ca(Admitted),
        },
        Row {
            name: "a join token that was used: a replay, or stolen since",
            make: |issuers, _| Ok(Credential::token(&issuers.joins.used)),
            cells: no("token_used"),
        },
        Row {
            name: "a stolen join token, for another zone",
            make: |issuers, _| {
                Ok(Credential {
                    uri: "spiffe://test.internal/zone/nowhere/gateway/gw1".to_owned(),
                    ..Credential::token(&issuers.joins.stolen)
                })
            },
            cells: no("wrong_zone"),
        },
        Row {
            name: "an expired join token",
            make: |issuers, _| Ok(Credential::token(&issuers.joins.expired)),
            cells: no("token_expired"),
        },
        Row {
            name: "a revoked join token",
            make: |issuers, _| Ok(Credential::token(&issuers.joins.revoked)),
            cells: no("token_revoked"),
        },
        Row {
            name: "a forged join token",
            make: |issuers, _| {
                Ok(Credential {
                    has_other_secret: true,
                    ..Credential::token(&issuers.joins.stolen)
                })
            },
            cells: no("token_forged"),
        },
    ]
}

/// Those that serve a gateway which had a certificate, and nobody else. Each is for zone east.
fn rejoin_tokens() -> Vec<Row> {
    let no = |word| at_the_ca_alone(refused(word, word));
    vec![
        Row {
            name: "a rejoin token, and the key of the gateway's ended certificate",
            make: |issuers, _| coming_back(issuers, &issuers.joins.rejoin),
            cells: at_the_ca_alone(Admitted),
        },
        Row {
            name: "a stolen rejoin token, without that key",
            make: |issuers, _| Ok(Credential::token(&issuers.joins.rejoin)),
            cells: no("no_proof"),
        },
        Row {
            name: "a revoked rejoin token, and that key",
            make: |issuers, _| coming_back(issuers, &issuers.joins.revoked_rejoin),
            cells: no("token_revoked"),
        },
    ]
}

fn coming_back(issuers: &Issuers, token: &str) -> anyhow::Result<Credential> {
    let former = issuers.right.sign(&Wish {
        years: (2020, 2021),
        serial: Some(FORMER_SERIAL),
        ..issuers.right.wish("east", "gw1")
    });
    Ok(Credential {
        former: Some(former?),
        ..Credential::token(token)
    })
}
