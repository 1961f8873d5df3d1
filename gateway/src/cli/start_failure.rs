//! Advice for whoever starts a gateway that does not start.

use super::{Exit, Failure};
use crate::gateway::GatewayStartError;

/// Advice where something in the data folder cannot be opened.
pub(super) const DATA_HINT: &str =
    "is there room on the disk of --data, and does no other gateway use the same folder?";

/// Says what can be done about it.
pub(super) fn explain(error: &GatewayStartError) -> Failure {
    let failure = Failure::new("cannot start the gateway").because(error);
    match error {
        GatewayStartError::UnknownZone(_) => failure
            .exit(Exit::BadInput)
            .hint("add the zone to the topology, or issue a certificate for a zone that is in it"),
        GatewayStartError::DataDir { .. } | GatewayStartError::EndpointKeys(_) => {
            failure.hint("--data must be a folder that this user may write")
        }
        GatewayStartError::Admin(source) => failure.hint(source.hint()),
        GatewayStartError::Registration(source) => failure.hint(source.hint()),
        GatewayStartError::Dns(_) => {
            failure.hint("is the address this host's own and the port free? set --dns")
        }
        GatewayStartError::Tunnels(_) => {
            failure.hint("is the address this host's own and the UDP port free? set --listen")
        }
        GatewayStartError::Redirect(source) => failure.hint(source.advice()),
        GatewayStartError::Instances(_) | GatewayStartError::Vips(_) => failure.hint(DATA_HINT),
        GatewayStartError::Identity(_) => {
            failure.hint("the key must be one that can sign: ECDSA, Ed25519 or RSA")
        }
        GatewayStartError::Otlp(_) => failure.hint(
            "--otlp-endpoint and the OTEL_EXPORTER_OTLP_ variables of the environment say how it is sent",
        ),
        GatewayStartError::Threads { .. } | GatewayStartError::ZoneSync(_) => failure,
    }
}
