//! docs/metrics.md, made of what the program registers: a metric, label or help text that changes changes the page, and a label of
//! which nothing is said fails. `BLESS=1 cargo test -p causeway --test cli metrics_page` writes it anew: read the difference.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf};

use causeway::gateway::GatewayMetrics;
use causeway_api::{
    admin::{ProcessReading, ScrapeState, SyncReadings, read_metrics},
    zone_sync::figures,
};
use causeway_routing::{limits::UseKind, testbed};
use causeway_telemetry::MetricDescription;
use causeway_tunnel::TunnelRefusal;
use causeway_zone_sync::registry::etcd::Figures;

/// Meanings of labels: the label, the metric at which it means this (none: any other that has it), and the meaning.
const LABELS: &[(&str, &str, &str)] = &[
    (
        "arm",
        "",
        "Tags of the arm that a request was given to, as `version=v2`; `other`: tags of no arm; nothing: any tags",
    ),
    (
        "direction",
        "",
        "`up`, towards the instance, or `down`, towards the client",
    ),
    (
        "gateway",
        "",
        "Name of the gateway at the other side, within its zone",
    ),
    (
        "grpc_status",
        "",
        "Name of the status of a gRPC call, as `OK`, `UNAVAILABLE`; nothing where it is none",
    ),
    (
        "health",
        "",
        "`healthy`, `unhealthy`, or `unknown`: not checked yet",
    ),
    (
        "kind",
        "causeway_dns_answers",
        "`mesh`: a name of the mesh; `forwarded`, `cached`: any other; `refused`: not answered",
    ),
    (
        "limit",
        "",
        "The limit that was reached: LIMITS, `rate`, or `capacity`",
    ),
    (
        "outcome",
        "",
        "How it ended: [the words](watching.md#the-access-log) of the access log",
    ),
    (
        "part",
        "",
        "`instance`, or `zone`: a zone's instances with the same tags",
    ),
    (
        "rcode",
        "",
        "`noerror`, `nxdomain`, `servfail`, `refused`, `formerr`, `notimp` or `other`",
    ),
    (
        "reason",
        "causeway_api_refused",
        "`no_credentials`, `bad_token`, `expired_token`, `not_granted`, `scope` (no right to that), `other_user`, `own_connection`; what is wrong with a certificate, as `unknown_issuer`, `expired`; `slow` and `crowded` for handshakes",
    ),
    (
        "reason",
        "causeway_decisions",
        "Why the first choice was taken, or that there is none, as `own_zone`, `first_tier`, `later_tier`, `spilled`, `panic`, `shed`, `no_candidate`; `causeway explain` says it in words",
    ),
    (
        "reason",
        "causeway_dial_failed",
        "`resolve`: its name has no address; `timeout`: nobody answered; `reset`; `local`, `undiallable`: this host cannot send there",
    ),
    (
        "reason",
        "causeway_peer_broke_protocol",
        "What it broke, as `garbage`, `bad_reply`",
    ),
    (
        "reason",
        "causeway_redirect_refused",
        "`not_redirected`: it connected to `--redirect-port` itself; `unknown_address`: no service has the address that it wanted",
    ),
    (
        "reason",
        "causeway_stream_refused",
        "Words of [outcomes](watching.md#the-access-log), as `not_exported`, `forbidden`, `overloaded`",
    ),
    (
        "reason",
        "causeway_sync_refused",
        "[The limits between zones](watching-zone-sync.md#limits-between-zones) by their words",
    ),
    (
        "reason",
        "causeway_telemetry_dropped",
        "`queue_full`: the receiver is slow; `failed`: it did not take them; `rejected`: it took the message without them; `shutdown`: the gateway ended first",
    ),
    (
        "reason",
        "causeway_tls_refused",
        "[The words](topology.md#callers-with-a-certificate) for clients with a certificate",
    ),
    ("reason", "causeway_tunnel_refused", "REFUSALS"),
    ("result", "causeway_audit_lines", "`ok`: written; `failed`: lost"),
    (
        "result",
        "causeway_forbidden",
        "`refused`; `closed`: it was open, and a change forbade it; `dry_run`: let through all the same",
    ),
    ("result", "causeway_health_checks", "`ok` or `failed`"),
    ("result", "causeway_identity_rejoins", "`ok` or `failed`"),
    (
        "result",
        "causeway_identity_reloads",
        "`ok`: taken up; `failed`: bad, and the one before it stays",
    ),
    ("result", "causeway_identity_renewals", "`ok` or `failed`"),
    (
        "result",
        "causeway_instance_connect_seconds",
        "`connected` or `failed`",
    ),
    (
        "result",
        "causeway_pages_answered",
        "`answered`, `refused`, `failed` or `overloaded`",
    ),
    (
        "result",
        "causeway_pages_asked",
        "`answered`, `refused` or `away`",
    ),
    (
        "result",
        "causeway_topology_documents",
        "`applied`, here; `taken` from another gateway; `overruled` by another of the same generation; `refused`; `fetch_failed`",
    ),
    (
        "result",
        "causeway_topology_reloads",
        "`ok`: taken up; `failed`: bad, and the one before it stays",
    ),
    (
        "result",
        "causeway_trust_documents",
        "`handed_in`, here; `taken` from another gateway; `overruled`, `refused`, `fetch_failed`",
    ),
    (
        "result",
        "causeway_tunnel_relayed_packets",
        "`ok`: handed on; `failed`: lost, because that process did not take them in time",
    ),
    (
        "role",
        "",
        "`egress`: the client connected to this gateway; `ingress`: it came from another gateway to an instance here",
    ),
    ("route", "", "Name of the route, or its place in the topology"),
    (
        "rule",
        "",
        "`deny`, `allow`, `default`, `run_in`, `identity` or `export_to`",
    ),
    (
        "service",
        "",
        "A service of the topology; `other`: a name that it does not have",
    ),
    ("side", "", "Who refused: `local`, this gateway, or `peer`"),
    (
        "signal",
        "",
        "`traces`, `metrics` or `logs`, which are sent over OTLP",
    ),
    ("state", "causeway_link", "`up`, `stalled` or `draining`"),
    (
        "state",
        "causeway_shift_state",
        "`running`, `paused`, `aborted` or `done`",
    ),
    (
        "status",
        "",
        "Class of the answer's status, `1xx` to `5xx`; `other`; `none`: the client had left before",
    ),
    ("version", "", "Version of the program"),
    ("way", "", "`sent` or `received`"),
    (
        "why",
        "causeway_followed",
        "`arm_weight_zero`, `draining`, `better_tier` or `max_age`",
    ),
    (
        "why",
        "causeway_mirrored",
        "`answered`, `forbidden`, `unreached`, `broken`, `late`, or `no_place`: too many are under way, none was made",
    ),
    (
        "why",
        "causeway_moved",
        "`hedged`: the one before is slow, both are asked; or the outcome of the one before",
    ),
    (
        "why",
        "causeway_retried",
        "End of the try before: `connect_failure`, `reset`, `late` or `answer`; `no_budget`: not tried again",
    ),
    ("zone", "causeway_build", "The own zone"),
    (
        "zone",
        "causeway_capacity_per_second",
        "The zone of the instances",
    ),
    ("zone", "causeway_ejections_active", "The zone of what is ejected"),
    (
        "zone",
        "causeway_headroom_per_second",
        "The zone of the instances",
    ),
    (
        "zone",
        "causeway_requests",
        "The zone that a request was given to, or that did not answer in time; nothing: none",
    ),
    ("zone", "", "The other zone"),
];

const HEAD: &str = "\
# Metrics

Every metric of the program, made of what it registers by a test (`gateway/tests/cli/metrics_page.rs`): change it there, not here.
[watching.md](watching.md) says which of them to look at, and when.

`GET /metrics` of the admin API is OpenMetrics text. A counter grows by what its line says, and never falls while the process lives; its
samples end with `_total`. A histogram has `_bucket`, `_sum` and `_count`; of those that name a trace, `trace_id` is in an exemplar. An info is always 1,
and its sample ends with `_info`. A series appears with the first thing that is counted in it, so that alerts on one that may never have been there need `or vector(0)`.
Series of services, arms, routes and zones that the topology does not name any more are dropped. No label takes what a client or a peer may choose: each has one of
a few words, or a name of the topology.
";

fn gateway_metrics() -> Vec<MetricDescription> {
    let topology = testbed::topology("  home: {}", "  orders: { port: 80 }");
    let state = ScrapeState {
        snapshot: &testbed::snapshot("home", &topology, Vec::new(), Vec::new(), &[]),
        tunnels: &[],
        sync: &SyncReadings::default(),
        process: &ProcessReading {
            resident_bytes: Some(1),
            open_files: Some(1),
            open_files_limit: Some(1),
            cpu_seconds: Some(1.0),
            threads: Some(1),
        },
        access_dropped: 0,
        log_dropped: 0,
        tasks_ended: 0,
        up_seconds: 0.0,
    };
    let counted = GatewayMetrics::default().registry.described().to_vec();
    let [own, process] = read_metrics(&state);
    sorted([counted, own.described().to_vec(), process.described().to_vec()].concat())
}

fn zone_sync_metrics() -> Vec<MetricDescription> {
    let none = Figures {
        instances: 0,
        gateways: 0,
        attached: 0,
        watchers: 0,
        leases: 0,
        revision: 0,
        written: 0,
        failed: 0,
        heartbeats: 0,
        lost: 0,
        strange: 0,
    };
    sorted(figures(&none, 0.0).described().to_vec())
}

fn sorted(mut metrics: Vec<MetricDescription>) -> Vec<MetricDescription> {
    metrics.sort_by(|a, b| a.name.cmp(&b.name));
    metrics
}

/// The unit that a name ends with.
fn unit(name: &str) -> &'static str {
    let units = [
        ("_per_second", "per second"),
        ("_seconds", "seconds"),
        ("_bytes", "bytes"),
        ("_percent", "percent"),
    ];
    let unit = units.iter().find(|(end, _)| name.ends_with(end));
    unit.map_or("", |(_, unit)| unit)
}

fn table(metrics: &[MetricDescription]) -> String {
    let mut page =
        "| metric | type | unit | labels | what it says |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for metric in metrics {
        let end = match metric.kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let labels: Vec<_> = metric.labels().iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, unit) = (&metric.name, metric.kind.as_str(), unit(&metric.name));
        let row = format!(
            "| `{name}{end}` | {kind} | {unit} | {} | {} |",
            labels.join(", "),
            metric.help
        );
        writeln!(page, "{}", row.replace("  ", " ")).unwrap();
    }
    page
}

fn in_words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn labels() -> String {
    let limits = in_words(UseKind::ALL.iter().map(|limit| limit.word()));
    let refusals = in_words(TunnelRefusal::ALL.iter().map(|refusal| refusal.word()));
    let mut page = "| label | of | what it says |\n| --- | --- | --- |\n".to_owned();
    for (label, metric, text) in LABELS {
        let of = if metric.is_empty() {
            String::new()
        } else {
            format!("`{metric}`")
        };
        let text = text.replace("LIMITS", &limits).replace("REFUSALS", &refusals);
        let row = format!("| `{label}` | {of} | {text} |");
        writeln!(page, "{}", row.replace("  ", " ")).unwrap();
    }
    page
}

fn page() -> String {
    let (gateway, zone_sync) = (table(&gateway_metrics()), table(&zone_sync_metrics()));
    let labels = labels();
    format!(
        "{HEAD}\n## Of a gateway\n\n{gateway}\n## Labels\n\nAn empty second column: at any metric that is not named.\n\n{labels}\n## Of a zone-sync\n\nAt `/metrics` of its `--admin` port; none has a label.\n\n{zone_sync}"
    )
}

fn documents() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[test]
fn the_metrics_page_is_what_the_program_registers() {
    let (path, page) = (documents().join("metrics.md"), page());
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == page,
        "docs/metrics.md is not what the program registers: `BLESS=1 cargo test -p causeway --test cli metrics_page` writes it"
    );
}

#[test]
fn the_metrics_page_explains_every_label_and_no_other() {
    let mut used = BTreeSet::new();
    for metric in gateway_metrics() {
        for label in metric.labels() {
            let said = |at: &str| {
                LABELS
                    .iter()
                    .position(|(name, of, _)| *name == label && *of == at)
            };
            let row = said(&metric.name).or_else(|| said(""));
            let row = row.unwrap_or_else(|| panic!("nothing is said of {label} at {}", metric.name));
            used.insert(row);
        }
    }
    let unused = (0..LABELS.len())
        .filter(|row| !used.contains(row))
        .map(|row| LABELS[row]);
    assert_eq!(unused.collect::<Vec<_>>(), [], "no metric has these");
    assert!(
        zone_sync_metrics()
            .iter()
            .all(|metric| metric.labels().is_empty())
    );
}

/// Names of metrics in a text, each with the names of labels that follow it in braces.
fn named(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for code in text.split('`').skip(1).step_by(2) {
        for (at, _) in code.match_indices("causeway_") {
            let rest = &code[at..];
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            // Tables of nft and sockets have numbers in their names.
            if name.len() == "causeway_".len() || name.contains(|c: char| c.is_ascii_digit()) {
                continue;
            }
            let labels = after.strip_prefix('{').and_then(|after| after.split_once('}'));
            let labels = labels.map(|(labels, _)| labels.split(',')).into_iter().flatten();
            let label = |label: &str| {
                label
                    .split(['=', '!'])
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            };
            found.push((name.to_owned(), labels.map(label).collect()));
        }
    }
    found
}

#[test]
fn documents_name_metrics_and_labels_that_there_are() {
    let metrics = [gateway_metrics(), zone_sync_metrics()].concat();
    let mut offenders = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(documents()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        for (name, labels) in named(&fs::read_to_string(&path).unwrap()) {
            let ends = ["_total", "_info", "_bucket", "_sum", "_count"];
            let base = ends
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(&name);
            let metric = metrics
                .iter()
                .find(|metric| metric.name == base || metric.name == name);
            let known = metric.map(MetricDescription::labels);
            let fits = known.is_some_and(|known| labels.iter().all(|label| known.contains(label)));
            count += 1;
            if !fits {
                offenders.push(format!("{}: {name}{labels:?}", path.display()));
            }
        }
    }
    assert!(count > 50, "documents name metrics: {count}");
    assert!(
        offenders.is_empty(),
        "no such metric, or label:\n  {}",
        offenders.join("\n  ")
    );
}
