//! Receiver of traces, as it is configured.

use std::str::FromStr;

use http::Uri;

/// Samplers that `OTEL_TRACES_SAMPLER` may name.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// Protocol that the receiver speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OtlpProtocol {
    /// OTLP over gRPC; the usual port is 4317
    #[default]
    #[value(name = "grpc")]
    Grpc,
    /// OTLP over HTTP, to the path /v1/traces; the usual port is 4318
    #[value(name = "http/protobuf")]
    Http,
}

/// Reason that traces cannot be sent as it is said.
#[derive(Debug, thiserror::Error)]
pub enum OtlpSettingsError {
    #[error("`{0}` is no URL such as http://127.0.0.1:4317")]
    Endpoint(String),
    #[error(
        "`{0}` asks for TLS, which traces are not sent over: name a collector of this host, which sends them on"
    )]
    Tls(String),
    #[error("OTEL_TRACES_SAMPLER is `{said}`; it is one of {}", SAMPLERS.join(", "))]
    Sampler { said: String },
    #[error("OTEL_TRACES_SAMPLER_ARG is `{0}`; of a sampler by ratio it is a number from 0 to 1")]
    Ratio(String),
}

/// Receiver of traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpSettings {
    /// Scheme, host and port, and a path where the receiver has one.
    pub(super) endpoint: String,
    pub(super) protocol: OtlpProtocol,
}

impl OtlpSettings {
    /// Checks what is asked for, and what the environment says of samplers (`variable`): the crate that reads it would be silent.
    ///
    /// # Errors
    /// Says what cannot be done.
    pub fn new(
        endpoint: &str,
        protocol: OtlpProtocol,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, OtlpSettingsError> {
        let no_url = || OtlpSettingsError::Endpoint(endpoint.to_owned());
        let uri = Uri::from_str(endpoint).map_err(|_| no_url())?;
        match (uri.scheme_str(), uri.host()) {
            (Some("http"), Some(host)) if !host.is_empty() && uri.query().is_none() => {}
            (Some("https"), Some(_)) => return Err(OtlpSettingsError::Tls(endpoint.to_owned())),
            _ => return Err(no_url()),
        }
        check_sampler(variable)?;
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            protocol,
        })
    }
}

fn check_sampler(variable: impl Fn(&str) -> Option<String>) -> Result<(), OtlpSettingsError> {
    let Some(sampler) = variable("OTEL_TRACES_SAMPLER") else {
        return Ok(());
    };
    if !SAMPLERS.contains(&sampler.as_str()) {
        return Err(OtlpSettingsError::Sampler { said: sampler });
    }
    if sampler.ends_with("traceidratio") {
        let ratio = variable("OTEL_TRACES_SAMPLER_ARG").unwrap_or_default();
        let read: Option<f64> = ratio.parse().ok();
        if !read.is_some_and(|read| (0.0..=1.0).contains(&read)) {
            return Err(OtlpSettingsError::Ratio(ratio));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(endpoint: &str, sampler: &str, ratio: &str) -> Result<OtlpSettings, String> {
        let variable = |name: &str| match name {
            "OTEL_TRACES_SAMPLER" => Some(sampler.to_owned()).filter(|text| !text.is_empty()),
            _ => Some(ratio.to_owned()).filter(|text| !text.is_empty()),
        };
        OtlpSettings::new(endpoint, OtlpProtocol::Grpc, variable).map_err(|error| error.to_string())
    }

    #[test]
    fn a_receiver_has_a_url_and_no_tls() {
        let settings = with("http://127.0.0.1:4317/", "", "").unwrap();
        assert_eq!(settings.endpoint, "http://127.0.0.1:4317");
        with("http://[::1]:4317", "", "").unwrap();
        for endpoint in [
            "",
            "127.0.0.1:4317",
            "/v1/traces",
            "ftp://host",
            "http://host?a=b",
        ] {
            let error = with(endpoint, "", "").unwrap_err();
            assert!(
                error.ends_with("is no URL such as http://127.0.0.1:4317"),
                "{error}"
            );
        }
        let error = with("https://collector:4317", "", "").unwrap_err();
        assert!(error.contains("asks for TLS"), "{error}");
    }

    #[test]
    fn a_sampler_that_is_none_is_told_of() {
        let with = |sampler, ratio| with("http://127.0.0.1:4317", sampler, ratio);
        with("parentbased_traceidratio", "0.01").unwrap();
        with("always_off", "").unwrap();
        let error = with("sometimes", "").unwrap_err();
        assert!(error.contains("`sometimes`; it is one of always_on"), "{error}");
        for ratio in ["", "2", "NaN", "half"] {
            let error = with("traceidratio", ratio).unwrap_err();
            assert!(error.contains("a number from 0 to 1"), "{error}");
        }
    }
}
