//! Fields that a request may not have behind its body: what frames or routes it, shows who asks, or tells where it came from. A program that takes
//! trailers for fields of the head would believe them, after the gateway has judged the head alone (RFC 9110, section 6.5.1).

use super::names::{begins_as, reads_as};

/// Names that are no trailers.
const NEVER: [&str; 12] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
/// Beginnings of names that are no trailers: what gateways tell of a client, and what ends with a connection.
const NEVER_BEGIN: [&str; 4] = ["causeway-", "proxy-", "x-forwarded-", "x-real-"];

/// Tells whether a request may have a trailer of that name, however programs read it.
pub(crate) fn may_trail(name: &[u8]) -> bool {
    let is = |no: &&str| reads_as(name, no.as_bytes());
    let begins = |no: &&str| begins_as(name, no.as_bytes());
    !NEVER.iter().any(is) && !NEVER_BEGIN.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frames_routes_or_identifies_a_request_comes_before_its_body() {
        for (name, may) in [
            ("Content-Length", false),
            ("transfer_encoding", false),
            ("Cookie", false),
            ("X-Forwarded-Client-Cert", false),
            ("x_forwarded_client_cert", false),
            ("X.Forwarded~Client-Cert", false),
            ("causeway.criticality", false),
            ("x-forwarded-for", false),
            ("x-real-ip", false),
            ("Forwarded", false),
            ("Causeway-Zone", false),
            ("proxy-authorization", false),
            ("grpc-status", true),
            ("x-checksum", true),
            ("x-forward", true),
            ("viable", true),
            ("", true),
        ] {
            assert_eq!(may_trail(name.as_bytes()), may, "{name}");
        }
    }
}
