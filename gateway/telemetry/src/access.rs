//! Access log: one line per connection, or per request where a gateway looks at them, when it ends.
//!
//! Lines go through a [`LineWriter`]: a slow disk or a stopped terminal costs lines, which are counted, and never holds up
//! the data path.

use std::{
    fmt::{Display, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_federation::name::{GatewayId, PortName, ServiceName, Tags, ZoneName};
use causeway_routing::permit::{Caller, Rule};
use serde::{Serialize, Serializer};

use super::{ConnectionId, ConnectionOutcome, LineWriter, RequestFacts, TraceId, request::grpc_word};

/// End of a cross-zone connection that writes the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Egress,
    Ingress,
}

impl Role {
    /// The word that logs and metrics use.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// One finished connection. Durations are written in milliseconds with three decimals.
#[derive(Debug, Clone, Serialize)]
pub struct AccessRecord {
    pub role: Role,
    pub service: ServiceName,
    /// Port of the service, where its ports have names.
    pub port: Option<PortName>,
    /// Tags asked for: by the name that was resolved, and by the split arm that was picked.
    pub tags: Tags,
    /// The client's socket address (egress), or none.
    pub client: Option<SocketAddr>,
    /// Zone that the connection came from.
    pub from_zone: ZoneName,
    /// Zone that it was given to, or that had been asked and had not answered; `None`: none.
    pub to_zone: Option<ZoneName>,
    /// The gateway on the other side of the tunnel.
    #[serde(serialize_with = "optional_text")]
    pub peer: Option<GatewayId>,
    /// The instance that took it (known in its own zone only).
    pub instance: Option<String>,
    /// `served`, or why not: a refusal reason, `no_candidate`, `client_gone`, …
    pub outcome: ConnectionOutcome,
    /// Candidates that were asked, 1 when the first one answered.
    pub attempts: u32,
    /// From accept to `ready`; `None` if there was none.
    #[serde(rename = "ready_after_ms", serialize_with = "optional_milliseconds")]
    pub ready_after: Option<Duration>,
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// From the client to the instance.
    pub bytes_up: u64,
    /// From the instance to the client.
    pub bytes_down: u64,
    /// Caller, as `web@east`; `None` for a request that cannot be read.
    #[serde(serialize_with = "optional_text")]
    pub caller: Option<Arc<Caller>>,
    /// Rule that decided that it may call, or may not; `None` when nothing of this zone decided.
    pub rule: Option<Rule>,
    /// Route of its service that ruled a request; `None` when none did.
    pub route: Option<Arc<str>>,
    /// No instance was healthy anywhere, and it was given to one that is ill.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub panic: bool,
    /// Of a request: what was asked for and answered.
    #[serde(flatten)]
    pub request: Option<RequestFacts>,
    /// Trace that it is in; `None`: traces are off.
    pub trace_id: Option<TraceId>,
    /// The same in the lines of both gateways, and in their logs.
    pub connection: ConnectionId,
}

/// Destination of access records, and their form. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub enum AccessLog {
    #[default]
    Off,
    Text(LineWriter),
    Json(LineWriter),
}

impl AccessLog {
    /// Writes one line, or drops and counts it when the writer cannot keep up.
    pub fn write(&self, record: &AccessRecord) {
        self.write_at(SystemTime::now(), record);
    }

    /// Tells whether anything is written.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Lines lost since the start, because they could not be written or the writer could not keep up.
    #[must_use]
    pub fn lost(&self) -> u64 {
        match self {
            Self::Off => 0,
            Self::Text(writer) | Self::Json(writer) => writer.lost(),
        }
    }

    fn write_at(&self, time: SystemTime, record: &AccessRecord) {
        match self {
            Self::Off => {}
            Self::Text(writer) => writer.send(text_line(time, record)),
            Self::Json(writer) => writer.send(json_line(time, record)),
        }
    }
}

fn json_line(time: SystemTime, record: &AccessRecord) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        #[serde(flatten)]
        record: &'a AccessRecord,
    }
    let time = humantime::format_rfc3339_micros(time).to_string();
    // Serialising plain fields into a string cannot fail; an empty line would be the trace of it.
    let mut line = serde_json::to_string(&Line { time, record }).unwrap_or_default();
    line.push('\n');
    line
}

/// `TIME ROLE SERVICE{TAGS} FROM->TO OUTCOME key=value …`, a dash standing for nothing.
fn text_line(time: SystemTime, record: &AccessRecord) -> String {
    let port = record
        .port
        .as_ref()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let mut line = format!(
        "{} {} {}{}{} {}->{} {}",
        humantime::format_rfc3339_micros(time),
        record.role.word(),
        record.service,
        port,
        record.tags,
        record.from_zone,
        or_dash(record.to_zone.as_ref()),
        record.outcome.word(),
    );
    let ready = record
        .ready_after
        .map(|after| format!("{}ms", thousandths(after)));
    // Writing to a string cannot fail, here and below.
    let _ = write!(
        line,
        " client={} peer={} instance={} attempts={} ready={} duration={}ms up={} down={} caller={} rule={} route={}",
        or_dash(record.client.as_ref()),
        or_dash(record.peer.as_ref()),
        or_dash(record.instance.as_ref()),
        record.attempts,
        or_dash(ready.as_ref()),
        thousandths(record.duration),
        record.bytes_up,
        record.bytes_down,
        or_dash(record.caller.as_ref()),
        or_dash(record.rule.as_ref()),
        or_dash(record.route.as_ref()),
    );
    if record.panic {
        line.push_str(" panic=true");
    }
    if let Some(request) = &record.request {
        request_text(&mut line, request);
    }
    let trace = or_dash(record.trace_id.as_ref());
    let _ = writeln!(line, " trace_id={trace} connection={}", record.connection);
    line
}

/// Fields that only lines of requests have.
fn request_text(line: &mut String, request: &RequestFacts) {
    let first_byte = request
        .first_byte
        .map(|after| format!("{}ms", thousandths(after)));
    // Writing to a string cannot fail.
    let _ = write!(
        line,
        " method={} path={} status={} grpc_status={} first_byte={}",
        or_dash(request.method.as_ref()),
        or_dash(request.path.as_ref()),
        or_dash(request.status.as_ref()),
        request.grpc_status.map_or("-", grpc_word),
        or_dash(first_byte.as_ref()),
    );
}

fn or_dash(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// Milliseconds with exactly three decimals.
fn thousandths(duration: Duration) -> String {
    format!("{}.{:03}", duration.as_millis(), duration.as_micros() % 1000)
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Microseconds of any real duration are exact in a float, so the division rounds to three decimals.
    serializer.serialize_f64(duration.as_micros() as f64 / 1000.0)
}

pub(crate) fn optional_milliseconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => milliseconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}

fn optional_text<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> AccessRecord {
        let zone = |name: &str| ZoneName::new(name).unwrap();
        AccessRecord {
            role: Role::Egress,
            service: ServiceName::new("orders").unwrap(),
            port: None,
            tags: [("version", "v2")].into_iter().collect(),
            client: Some("127.0.0.1:40000".parse().unwrap()),
            from_zone: zone("east"),
            to_zone: Some(zone("west")),
            peer: Some(GatewayId::new(zone("west"), "gw1".parse().unwrap())),
            instance: None,
            outcome: ConnectionOutcome::Served,
            attempts: 2,
            ready_after: Some(Duration::from_micros(1503)),
            duration: Duration::from_micros(20_000_042),
            bytes_up: 78,
            bytes_down: 1024,
            caller: Some(Arc::new(Caller::anonymous(zone("east")))),
            rule: Some(Rule::Default),
            route: Some("canary".into()),
            panic: false,
            request: None,
            trace_id: None,
            connection: ConnectionId::new(0xc0ffee),
        }
    }

    fn time() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456)
    }

    #[test]
    fn a_text_line_has_every_field_in_a_fixed_place() {
        insta::assert_snapshot!(text_line(time(), &record()), @"2023-11-14T22:13:20.123456Z egress orders{version=v2} east->west served client=127.0.0.1:40000 peer=west/gw1 instance=- attempts=2 ready=1.503ms duration=20000.042ms up=78 down=1024 caller=anonymous@east rule=permissions.default route=canary trace_id=- connection=0000000000c0ffee");
    }

    #[test]
    fn a_line_of_a_request_says_what_was_asked_for_and_answered() {
        let mut request = RequestFacts {
            status: Some(200),
            grpc_status: Some(14),
            first_byte: Some(Duration::from_micros(2500)),
            ..RequestFacts::default()
        };
        request.asks("POST", "/shop.Orders/Place");
        let with = |request| AccessRecord {
            request: Some(request),
            ..record()
        };
        let text = text_line(time(), &with(request.clone()));
        let told = " route=canary method=POST path=/shop.Orders/Place status=200 grpc_status=UNAVAILABLE first_byte=2.500ms trace_id=- connection=0000000000c0ffee\n";
        assert!(text.ends_with(told), "{text}");
        let json = json_line(time(), &with(request));
        let told = r#""route":"canary","method":"POST","path":"/shop.Orders/Place","status":200,"grpc_status":"UNAVAILABLE","first_byte_ms":2.5,"trace_id":null,"connection""#;
        assert!(json.contains(told), "{json}");
        let text = text_line(time(), &with(RequestFacts::default()));
        assert!(
            text.contains(" method=- path=- status=- grpc_status=- first_byte=- "),
            "{text}"
        );
    }

    #[test]
    fn a_line_says_that_it_was_a_panic_only_where_it_was() {
        let record = AccessRecord {
            panic: true,
            ..record()
        };
        let text = text_line(time(), &record);
        assert!(
            text.contains(" route=canary panic=true trace_id=- connection="),
            "{text}"
        );
        assert!(json_line(time(), &record).contains(r#""route":"canary","panic":true,"#));
    }

    #[test]
    fn a_port_with_a_name_stands_behind_its_service() {
        let record = AccessRecord {
            port: Some(PortName::new("admin").unwrap()),
            ..record()
        };
        let text = text_line(time(), &record);
        assert!(
            text.contains(" egress orders:admin{version=v2} east->west "),
            "{text}"
        );
        assert!(json_line(time(), &record).contains(r#""port":"admin""#));
    }

    #[test]
    fn a_json_line_is_one_object_with_durations_in_milliseconds() {
        insta::assert_snapshot!(json_line(time(), &record()), @r#"{"time":"2023-11-14T22:13:20.123456Z","role":"egress","service":"orders","port":null,"tags":{"version":"v2"},"client":"127.0.0.1:40000","from_zone":"east","to_zone":"west","peer":"west/gw1","instance":null,"outcome":"served","attempts":2,"ready_after_ms":1.503,"duration_ms":20000.042,"bytes_up":78,"bytes_down":1024,"caller":"anonymous@east","rule":"permissions.default","route":"canary","trace_id":null,"connection":"0000000000c0ffee"}"#);
    }
}
