//! The flags of telemetry that is sent.

use std::{path::PathBuf, time::Duration};

use causeway_telemetry::{OtlpChoice, OtlpProtocol, OtlpSettings, OtlpSignal};
use clap::ValueEnum as _;

use super::Failure;

/// Default of the specification of OpenTelemetry.
const DEFAULT_INTERVAL: &str = "60s";

#[derive(Debug, clap::Args)]
pub(super) struct OtlpArgs {
    /// Send traces of connections and requests, metrics and the log to this receiver, over OTLP: http://127.0.0.1:4317, or https:// with TLS.
    /// OTEL_TRACES_SAMPLER says which traces, OTEL_EXPORTER_OTLP_HEADERS what to send along [default: nothing is sent, and no traces are made]
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
    /// Kinds of telemetry that are sent to it
    #[arg(
        long,
        value_name = "KINDS",
        env = "CAUSEWAY_OTLP_SIGNALS",
        value_delimiter = ',',
        default_value = "traces,metrics,logs"
    )]
    otlp_signals: Vec<OtlpSignal>,
    /// PEM file with the CAs that may vouch for a receiver at https:// [default: those that this host believes]
    #[arg(long, value_name = "FILE", env = "OTEL_EXPORTER_OTLP_CERTIFICATE")]
    otlp_ca: Option<String>,
    /// Time between two exports of metrics; a number without a unit is of milliseconds
    #[arg(long, value_name = "TIME", env = "OTEL_METRIC_EXPORT_INTERVAL", default_value = DEFAULT_INTERVAL)]
    otlp_metrics_interval: String,
}

impl OtlpArgs {
    /// The receiver of telemetry, if there is one.
    ///
    /// # Errors
    /// Names what cannot be done.
    pub(super) fn settings(&self) -> Result<Option<OtlpSettings>, Failure> {
        // A variable that is empty says as much as none.
        let Some(endpoint) = self.otlp_endpoint.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        // The variables are meant for other programs too: they are looked at only where there is a receiver.
        let protocol = match self.otlp_protocol.as_str() {
            "" => OtlpProtocol::default(),
            name => OtlpProtocol::from_str(name, false).map_err(|_| {
                Failure::usage(format!("telemetry is not sent by the protocol `{name}`"))
                    .hint("grpc and http/protobuf are the two that --otlp-protocol and OTEL_EXPORTER_OTLP_PROTOCOL may say")
            })?,
        };
        let text = self.otlp_metrics_interval.as_str();
        let metrics_interval = interval(text).ok_or_else(|| {
            Failure::usage(format!("`{text}` is no time between two exports of metrics"))
                .hint("--otlp-metrics-interval and OTEL_METRIC_EXPORT_INTERVAL say it: 60s, or 60000")
        })?;
        let choice = OtlpChoice {
            endpoint,
            protocol,
            signals: self.otlp_signals.clone(),
            ca: self
                .otlp_ca
                .as_ref()
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            metrics_interval,
        };
        let settings = OtlpSettings::new(choice, |name| std::env::var(name).ok());
        settings.map(Some).map_err(|error| {
            Failure::usage("cannot send telemetry as the --otlp flags and the environment say")
                .because(&error)
        })
    }
}

/// Reads a time, as flags have them or as the specification's variable has it.
fn interval(text: &str) -> Option<Duration> {
    match text {
        "" => interval(DEFAULT_INTERVAL),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok().map(Duration::from_millis),
        _ => humantime::parse_duration(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_time_or_a_number_of_milliseconds() {
        for (text, expected) in [
            ("", Some(60_000)),
            ("60s", Some(60_000)),
            ("2500", Some(2_500)),
            ("1m 30s", Some(90_000)),
            ("soon", None),
            ("-1", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(interval(text), expected.map(Duration::from_millis), "{text}");
        }
    }

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        otlp: OtlpArgs,
    }

    fn refused(flags: &[&str]) -> String {
        let line = ["causeway", "--otlp-endpoint", "https://localhost:4317"];
        let line = line.iter().chain(flags).copied();
        let Line { otlp } = clap::Parser::try_parse_from(line).unwrap();
        format!("{:?}", otlp.settings().unwrap_err())
    }

    #[test]
    fn what_cannot_be_done_is_told_at_the_start() {
        let error = refused(&["--otlp-ca", "/nowhere/ca.pem"]);
        assert!(
            error.contains("cannot read the certificates of /nowhere/ca.pem"),
            "{error}"
        );
        let error = refused(&["--otlp-metrics-interval", "soon"]);
        assert!(error.contains("`soon` is no time"), "{error}");
        let error = refused(&["--otlp-protocol", "udp"]);
        assert!(error.contains("protocol `udp`"), "{error}");
    }
}
