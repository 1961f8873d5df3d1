//! Receiver of telemetry, as it is configured.

use std::{path::PathBuf, str::FromStr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::tls::{OtlpTls, OtlpTlsError};

/// Samplers that `OTEL_TRACES_SAMPLER` may name.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];
/// Shortest time between two exports of metrics.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Protocol that the receiver speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OtlpProtocol {
    /// OTLP over gRPC; the usual port is 4317
    #[default]
    #[value(name = "grpc")]
    Grpc,
    /// OTLP over HTTP, to paths such as /v1/traces; the usual port is 4318
    #[value(name = "http/protobuf")]
    Http,
}

/// Kind of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum OtlpSignal {
    Traces,
    Metrics,
    Logs,
}

impl OtlpSignal {
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// Word of it in flags, labels and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// Reason that telemetry cannot be sent as it is said.
#[derive(Debug, thiserror::Error)]
pub enum OtlpSettingsError {
    #[error("`{0}` is no URL such as http://127.0.0.1:4317 or https://collector.example:4317")]
    Endpoint(String),
    #[error("OTEL_TRACES_SAMPLER is `{said}`; it is one of {}", SAMPLERS.join(", "))]
    Sampler { said: String },
    #[error("OTEL_TRACES_SAMPLER_ARG is `{0}`; of a sampler by ratio it is a number from 0 to 1")]
    Ratio(String),
    #[error(
        "field {0} of OTEL_EXPORTER_OTLP_HEADERS cannot be sent; it is a list such as `name=value,name=value`"
    )]
    Headers(usize),
    #[error("metrics are sent once a second at most")]
    Interval,
    #[error(transparent)]
    Tls(#[from] OtlpTlsError),
}

/// Choices of whoever starts a gateway.
#[derive(Debug, Clone)]
pub struct OtlpChoice<'a> {
    pub endpoint: &'a str,
    pub protocol: OtlpProtocol,
    /// Kinds that are sent.
    pub signals: Vec<OtlpSignal>,
    /// File with the certificates that the receiver's is checked with; `None`: those of the host.
    pub ca: Option<PathBuf>,
    /// Time between two exports of metrics.
    pub metrics_interval: Duration,
}

/// Receiver of telemetry.
#[derive(Debug, Clone)]
pub struct OtlpSettings {
    /// Scheme, host and port, and a path where the receiver has one.
    pub(super) endpoint: String,
    pub(super) protocol: OtlpProtocol,
    pub(super) signals: Vec<OtlpSignal>,
    pub(super) metrics_interval: Duration,
    /// Fields of each message; what they say is kept out of logs.
    pub(super) headers: HeaderMap,
    /// Without effect where the receiver is reached in the clear.
    pub(super) tls: OtlpTls,
}

impl OtlpSettings {
    /// Checks what is asked for, and what the environment says of samplers and fields (`variable`): the crate that reads the first would be
    /// silent. Reads the certificates that are believed.
    ///
    /// # Errors
    /// Says what cannot be done.
    pub fn new(
        choice: OtlpChoice<'_>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, OtlpSettingsError> {
        let endpoint = choice.endpoint;
        let no_url = || OtlpSettingsError::Endpoint(endpoint.to_owned());
        let uri = Uri::from_str(endpoint).map_err(|_| no_url())?;
        if uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
            return Err(no_url());
        }
        if choice.metrics_interval < MIN_INTERVAL {
            return Err(OtlpSettingsError::Interval);
        }
        check_sampler(&variable)?;
        let headers = headers(&variable("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default())?;
        let tls = match uri.scheme_str() {
            Some("http") => OtlpTls::believing_nobody()?,
            Some("https") => OtlpTls::believing(choice.ca.as_deref())?,
            _ => return Err(no_url()),
        };
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            protocol: choice.protocol,
            signals: choice.signals,
            metrics_interval: choice.metrics_interval,
            headers,
            tls,
        })
    }

    /// Tells whether this is sent.
    pub(super) fn sends(&self, signal: OtlpSignal) -> bool {
        self.signals.contains(&signal)
    }
}

/// Reads fields as the specification has them: names and values with `=` between them, as of W3C Baggage.
fn headers(text: &str) -> Result<HeaderMap, OtlpSettingsError> {
    let mut headers = HeaderMap::new();
    for (number, member) in (1_usize..).zip(text.split(',')) {
        if member.trim().is_empty() {
            continue;
        }
        let read = member.split_once('=').and_then(|(name, value)| {
            let name = HeaderName::from_str(name.trim()).ok()?;
            let mut value = HeaderValue::from_bytes(&decoded(value.trim())?).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let (name, value) = read.ok_or(OtlpSettingsError::Headers(number))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// The bytes that percent-encoded text stands for.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let are_digits = digits.iter().all(u8::is_ascii_hexdigit);
        let digits = str::from_utf8(digits).ok().filter(|_| are_digits)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    Some(bytes)
}

fn check_sampler(variable: &impl Fn(&str) -> Option<String>) -> Result<(), OtlpSettingsError> {
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

    fn choice(endpoint: &str) -> OtlpChoice<'_> {
        OtlpChoice {
            endpoint,
            protocol: OtlpProtocol::Grpc,
            signals: OtlpSignal::ALL.to_vec(),
            ca: None,
            metrics_interval: MIN_INTERVAL,
        }
    }

    fn with(endpoint: &str, sampler: &str, ratio: &str) -> Result<OtlpSettings, String> {
        let variable = |name: &str| match name {
            "OTEL_TRACES_SAMPLER" => Some(sampler.to_owned()).filter(|text| !text.is_empty()),
            "OTEL_TRACES_SAMPLER_ARG" => Some(ratio.to_owned()).filter(|text| !text.is_empty()),
            _ => None,
        };
        OtlpSettings::new(choice(endpoint), variable).map_err(|error| error.to_string())
    }

    #[test]
    fn a_receiver_has_a_url() {
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
                error.contains("is no URL such as http://127.0.0.1:4317"),
                "{error}"
            );
        }
        let fast = OtlpChoice {
            metrics_interval: MIN_INTERVAL / 2,
            ..choice("http://127.0.0.1:4317")
        };
        let error = OtlpSettings::new(fast, |_| None).unwrap_err();
        assert!(matches!(error, OtlpSettingsError::Interval), "{error}");
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

    #[test]
    fn fields_are_read_as_baggage_and_shown_to_nobody() {
        let read = headers("authorization=Bearer%20s3cret%21, x-scope = a=b ,,").unwrap();
        assert_eq!(read["authorization"], "Bearer s3cret!");
        assert_eq!(read["x-scope"], "a=b");
        assert!(!format!("{read:?}").contains("s3cret"));
        assert_eq!(headers("").unwrap().len(), 0);
        for (text, number) in [
            ("a=1,b", 2),
            ("=1", 1),
            ("a=%4", 1),
            ("a=%+1", 1),
            ("a=%0a", 1),
            ("\u{e4}=1", 1),
        ] {
            let error = headers(text).unwrap_err();
            assert!(
                matches!(error, OtlpSettingsError::Headers(at) if at == number),
                "{text}: {error}"
            );
        }
    }
}
