//! The routes of the admin API. Each handler reads state once and shows it; nothing here waits for anything but the
//! registry.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Extension, Json, Router,
    extract::{RawQuery, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use causeway_host::uptime::uptime;
use causeway_routing::{
    route::{self, route},
    snapshot::Snapshot,
};
use causeway_telemetry::{Check, Status, log};
use http::{StatusCode, Uri, header};
use rand::{SeedableRng, rngs::SmallRng};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    AdminState,
    arm_checks::tell_of_arms,
    bulk,
    checks::diagnose,
    drains::{self, drained_instances},
    entry::{self, GatedListener},
    error::ApiError,
    explain, explain_query,
    explain_request::Ruling,
    guard, history,
    instances::{deregister, register, renew},
    large::{JsonItems, LargeAnswers},
    netcheck, ping,
    reader::PageReader,
    shift_checks::shifts_under_way,
    shifts, topology, trust,
    view::{self, Envelope, SocketView},
};
use crate::admin::{ProcessReading, ScrapeState, TunnelReading, scrape};
use crate::{credentials::ListenerProof, elsewhere};

/// For one request from its head to its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn router(
    state: AdminState,
    entry: GatedListener,
    hosts: guard::Hosts,
    stop: CancellationToken,
) -> Router {
    let elsewhere = state.elsewhere.clone();
    routes()
        .layer(Extension(PageReader::Whole))
        .layer(Extension(bulk::Slots::default()))
        .layer(Extension(LargeAnswers::default()))
        .layer(Extension(history::StreamStop(stop)))
        .layer(Extension(history::StreamPlaces::default()))
        .layer(Extension(entry.clone()))
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn_with_state(elsewhere.clone(), elsewhere::pass))
        .layer(middleware::from_fn_with_state((entry, elsewhere), entry::pass))
        .layer(middleware::from_fn_with_state(hosts, guard::check))
        .with_state(state)
}

/// The same for gateways of other zones, whose requests were looked at before: no more than a page of the list is asked of it.
pub(crate) fn pages(state: AdminState, reader: PageReader) -> Router {
    let entry = GatedListener {
        gate: state.gate.clone(),
        access: ListenerProof::Proved,
    };
    routes()
        .layer(Extension(reader))
        .layer(Extension(bulk::Slots::default()))
        .layer(Extension(LargeAnswers::default()))
        .layer(Extension(entry))
        .with_state(state)
}

fn routes() -> Router<AdminState> {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/zones", get(zones))
        .route("/v1/services", get(services))
        .route("/v1/instances", get(instances).post(bulk::register))
        .route("/v1/instances/renew", post(bulk::renew))
        .route("/v1/instances/deregister", post(bulk::deregister))
        .route("/v1/sources/{name}", put(bulk::replace))
        .route("/v1/tunnels", get(tunnels))
        .route("/v1/exports", get(exports))
        .route("/v1/loads", get(loads))
        .route("/v1/catalog", get(catalog))
        .route("/v1/topology", get(topology::shown).put(topology::apply))
        .route("/v1/topology/history", get(topology::history))
        .route("/v1/topology/diff", post(topology::difference))
        .route("/v1/shifts", get(shifts::shown))
        .route("/v1/shifts/{service}", post(shifts::begin))
        .route("/v1/shifts/{service}/{change}", post(shifts::change))
        .route("/v1/events", get(history::events))
        .route("/v1/figures", get(history::figures))
        .route("/v1/events/stream", get(history::stream))
        .route("/v1/trust", get(trust::shown).put(trust::hand_in))
        .route("/v1/checks", get(checks))
        .route("/v1/explain", get(explained))
        .route("/v1/ping", get(ping::ping))
        .route(
            "/v1/netcheck",
            get(netcheck::netcheck).layer(Extension(Arc::<netcheck::Prober>::default())),
        )
        .route("/v1/socket", get(socket))
        .route("/v1/settings", get(settings))
        .route("/v1/instances/{service}/{id}", put(register).delete(deregister))
        .route("/v1/instances/{service}/{id}/renew", post(renew))
        .merge(crate::dashboard::routes())
        .route("/v1/instances/{service}/{id}/drain", post(drains::drain))
        .route("/v1/instances/{service}/{id}/undrain", post(drains::undrain))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
}

async fn in_time(request: Request, next: Next) -> Result<Response, ApiError> {
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    answer.map_err(|_| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the request took too long"))
}

async fn not_found(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::not_found(format!("there is nothing at {path}"))
        .hint("the API is under /v1/: zones, services, instances, tunnels, exports, loads, catalog, topology, shifts, trust, events, figures, checks, explain, ping, netcheck, sources, socket, settings")
}

async fn wrong_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this method is not allowed here")
}

/// Alive: the control runtime answers. Deliberately nothing else, for what fails here gets restarted.
async fn livez() -> &'static str {
    "ok\n"
}

/// Ready: no check fails. With `?verbose`, a line for each.
async fn readyz(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Response {
    let checks = state.readiness.read();
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    let status = if failed {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    let verbose = query.is_some_and(|query| {
        query
            .split('&')
            .any(|part| part == "verbose" || part == "verbose=true")
    });
    let mut text = if verbose {
        check_lines(&checks)
    } else {
        String::new()
    };
    text.push_str(if failed { "not ready\n" } else { "ok\n" });
    (status, text).into_response()
}

fn check_lines(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let word = match check.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "[{word}] {}: {}", check.group, check.name);
        if !check.message.is_empty() {
            let _ = write!(text, ": {}", check.message);
        }
        text.push('\n');
        if let (Some(hint), true) = (&check.hint, check.status != Status::Ok) {
            let _ = writeln!(text, "       hint: {hint}");
        }
    }
    text
}

async fn metrics(
    State(state): State<AdminState>,
    Extension(large): Extension<LargeAnswers>,
) -> Result<Response, ApiError> {
    large.make(move || scraped(&state)).await?
}

impl AdminState {
    /// Gives what `/metrics` shows at this moment.
    ///
    /// # Errors
    /// Never in practice: writing to a `String` does not fail.
    pub fn metrics_text(&self) -> Result<String, fmt::Error> {
        scrape(
            &self.metrics,
            &self.tunnel_metrics,
            &ScrapeState {
                snapshot: &self.snapshots.load_full(),
                tunnels: &readings(self),
                sync: &(self.sync)(),
                process: &ProcessReading::now(),
                access_dropped: self.access.lost(),
                log_dropped: log::lost_lines(),
                tasks_ended: self.tasks.ended().count,
                up_seconds: self.started.elapsed().as_secs_f64(),
            },
        )
    }
}

fn scraped(state: &AdminState) -> Result<Response, ApiError> {
    let text = state.metrics_text();
    let text = text.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response())
}

async fn zones(State(state): State<AdminState>) -> Response {
    let snapshot = state.snapshots.load_full();
    let items = view::zones(
        &snapshot,
        &readings(&state),
        &(state.sync)(),
        state.tunnels.last_words(),
        &state.tunnels.siblings_apart(),
    );
    answer(Envelope::new("zones", &snapshot, items))
}

async fn settings(State(state): State<AdminState>) -> Response {
    let snapshot = state.snapshots.load_full();
    answer(Envelope::new("settings", &snapshot, state.settings.to_vec()))
}

async fn services(
    State(state): State<AdminState>,
    Extension(reader): Extension<PageReader>,
    Extension(large): Extension<LargeAnswers>,
) -> Result<Response, ApiError> {
    let (snapshot, bindings) = (state.snapshots.load_full(), (state.bindings)());
    let list = move |snapshot: &Snapshot, items: &mut JsonItems| {
        view::services(snapshot, &bindings, uptime(), |view| {
            items.add(&*reader.service(view))
        });
    };
    large.answer(("services", snapshot), list).await
}

async fn instances(
    State(state): State<AdminState>,
    Extension(large): Extension<LargeAnswers>,
) -> Result<Response, ApiError> {
    let statuses = state.instances.status(None).await?;
    let snapshot = state.snapshots.load_full();
    let list = move |snapshot: &Snapshot, items: &mut JsonItems| {
        view::instances(snapshot, &statuses, uptime(), |view| items.add(view));
    };
    large.answer(("instances", snapshot), list).await
}

async fn tunnels(State(state): State<AdminState>) -> Response {
    let snapshot = state.snapshots.load_full();
    answer(Envelope::new(
        "tunnels",
        &snapshot,
        view::tunnels(&readings(&state)),
    ))
}

async fn exports(
    State(state): State<AdminState>,
    Extension(large): Extension<LargeAnswers>,
) -> Result<Response, ApiError> {
    let (snapshot, sync) = (state.snapshots.load_full(), (state.sync)());
    let list = move |snapshot: &Snapshot, items: &mut JsonItems| {
        view::exports(snapshot, &sync, |view| items.add(view));
    };
    large.answer(("exports", snapshot), list).await
}

async fn loads(State(state): State<AdminState>) -> Response {
    let snapshot = state.snapshots.load_full();
    let items = view::loads(state.identity.gateway(), state.demand.loads());
    answer(Envelope {
        capacities: view::measured_capacities(&snapshot),
        ..Envelope::new("loads", &snapshot, items)
    })
}

async fn catalog(
    State(state): State<AdminState>,
    Extension(large): Extension<LargeAnswers>,
) -> Result<Response, ApiError> {
    let (snapshot, sync) = (state.snapshots.load_full(), (state.sync)());
    let list = move |snapshot: &Snapshot, items: &mut JsonItems| {
        view::records(snapshot, &sync, |view| items.add(view));
    };
    large.answer(("catalog", snapshot), list).await
}

/// Always 200: it reports; whether the gateway is ready is `/readyz`'s answer.
async fn checks(
    State(state): State<AdminState>,
    Extension(reader): Extension<PageReader>,
    Extension(large): Extension<LargeAnswers>,
) -> Result<Response, ApiError> {
    // Every service in every zone is looked at.
    large.make(move || checked(&state, reader)).await
}

fn checked(state: &AdminState, reader: PageReader) -> Response {
    let snapshot = state.snapshots.load_full();
    let zones = view::zones(
        &snapshot,
        &readings(state),
        &(state.sync)(),
        state.tunnels.last_words(),
        &state.tunnels.siblings_apart(),
    );
    let mut services = Vec::new();
    view::services(&snapshot, &(state.bindings)(), uptime(), |view| {
        services.push(reader.service(view).into_owned());
    });
    let mut items = reader.checks(state.readiness.read_apart());
    items.extend(diagnose(&zones, &services, &ProcessReading::now()));
    tell_of_arms(&snapshot, &services, &mut items);
    if reader == PageReader::Whole {
        // Their names are those of instances.
        items.extend(drained_instances(&snapshot, SystemTime::now()));
    }
    items.extend(shifts_under_way(&view::shifts(
        &snapshot,
        state.identity.gateway(),
    )));
    answer(Envelope::new("checks", &snapshot, items))
}

async fn explained(
    State(state): State<AdminState>,
    Extension(reader): Extension<PageReader>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let asked = explain_query::request(&state, &uri)?;
    let snapshot = state.snapshots.load_full();
    let (topology, service) = (&snapshot.topology, &asked.target.service);
    let port = topology.port_of(service, asked.port.as_ref());
    let port = port.and_then(|port| port.name.clone());
    let ruling = match topology.services.get(service) {
        Some(declared) => {
            let caller = asked.caller.as_ref();
            Ruling::of(
                topology,
                (service.as_str(), declared, asked.port.as_ref()),
                asked.request.as_ref(),
                caller,
            )?
        }
        None => Ruling::default(),
    };
    // Drawn anew for each question, as for each connection.
    let request = route::Request::explained(asked.target.clone())
        .at_port(port)
        .with_split(ruling.split())
        .with_criticality(ruling.criticality())
        .with_key(ruling.key());
    let decision = route(&snapshot, &request, SmallRng::from_os_rng());
    let trust = state.identity.trust();
    let revoked = trust
        .document
        .as_ref()
        .map(|document| &document.content().revoked_names);
    let explanation = explain::explanation(&decision.complete(), &snapshot.zone, revoked);
    let explanation = explain::with_port(explanation, &asked);
    let policies_of = ruling.route_timeout();
    let service = snapshot.topology.services.get(&asked.target.service);
    let of_requests = service.map(|service| ruling.policies(service));
    let explanation = ruling.add_to(explanation);
    let line = match service {
        Some(service) => ruling.line(service)?,
        None => None,
    };
    let explanation = explain::with_caller(explanation, &snapshot, &asked, line.as_ref());
    let asked_for = (service, asked.port.as_ref());
    let mut explanation = explain::with_policies(explanation, &snapshot.topology, asked_for, policies_of);
    explanation = explain::with_criticality(explanation, ruling.criticality_in_words());
    let shift = view::shift_in_words(&snapshot, &asked.target.service);
    explanation.policies.extend(of_requests.into_iter().flatten());
    explanation.policies.splice(0..0, shift);
    let ejected = reader.ejections(view::ejections(&snapshot, &asked.target.service, uptime()));
    let explanation = explain::with_ejected(explanation, &ejected);
    Ok(answer(Envelope::new("explanation", &snapshot, vec![explanation])))
}

/// Socket over which the commands of this host change something: none where no proof is wanted.
async fn socket(State(state): State<AdminState>, Extension(entry): Extension<GatedListener>) -> Response {
    let path = match entry.access {
        ListenerProof::Open => None,
        ListenerProof::Proved => entry.gate.socket(),
    };
    let items = path.map(|path| SocketView {
        path: path.display().to_string(),
    });
    let snapshot = state.snapshots.load_full();
    answer(Envelope::new("socket", &snapshot, items.into_iter().collect()))
}

fn readings(state: &AdminState) -> Vec<TunnelReading> {
    state
        .tunnels
        .all()
        .iter()
        .map(|tunnel| TunnelReading::of(tunnel))
        .collect()
}

pub(super) fn answer<T: Serialize>(envelope: Envelope<T>) -> Response {
    Json(envelope).into_response()
}
