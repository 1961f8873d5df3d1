//! The flags of traces.

use causeway_telemetry::{OtlpProtocol, OtlpSettings};
use clap::ValueEnum as _;

use super::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct TraceArgs {
    /// Send a trace of connections and requests to this receiver, over OTLP: http://127.0.0.1:4317, without TLS; a collector of this host.
    /// OTEL_TRACES_SAMPLER says which, OTEL_EXPORTER_OTLP_HEADERS what to send along [default: none are made]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// Protocol that the receiver speaks: grpc or http/protobuf
    #[arg(
        long,
        value_name = "NAME",
        env = "OTEL_EXPORTER_OTLP_PROTOCOL",
        default_value = "grpc"
    )]
    otlp_protocol: String,
}

impl TraceArgs {
    /// The receiver of traces, if there is one.
    ///
    /// # Errors
    /// Names what cannot be done.
    pub(super) fn settings(&self) -> Result<Option<OtlpSettings>, Failure> {
        // A variable that is empty says as much as none.
        let Some(endpoint) = self.otlp_endpoint.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        // The variable is meant for other programs too: it is looked at only where there is a receiver.
        let protocol = match self.otlp_protocol.as_str() {
            "" => OtlpProtocol::default(),
            name => OtlpProtocol::from_str(name, false).map_err(|_| {
                Failure::usage(format!("traces are not sent by the protocol `{name}`"))
                    .hint("grpc and http/protobuf are the two that --otlp-protocol and OTEL_EXPORTER_OTLP_PROTOCOL may say")
            })?,
        };
        let variable = |name: &str| std::env::var(name).ok();
        let settings = OtlpSettings::new(endpoint, protocol, variable);
        settings.map(Some).map_err(|error| {
            Failure::usage("cannot send traces as --otlp-endpoint and the environment say").because(&error)
        })
    }
}
