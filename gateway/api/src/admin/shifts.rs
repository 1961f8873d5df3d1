//! Shifts over HTTP: `GET /v1/shifts`, `POST /v1/shifts/{service}` with a [`ShiftOrder`] as the body, and `POST /v1/shifts/{service}/pause`,
//! `/resume` and `/abort`. What may be begun is decided elsewhere.

use std::collections::BTreeMap;

use axum::{
    extract::{Path, Query, Request, State},
    response::Response,
};
use causeway_control::topology::{ApplyOutcome, Applying, SteerError};
use causeway_federation::{
    catalog::Catalog,
    name::{ServiceName, Tags},
    topology::{
        DEFAULT_MIN_REQUESTS, EditError, GateCondition, Service, Shift, ShiftPlan, ShiftRefusal, ShiftState,
    },
};
use causeway_routing::snapshot::Snapshot;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    AdminState,
    api::answer,
    entry::{noted, rights},
    error::ApiError,
    instances::{MAX_BODY_BYTES, read_body, service_name},
    topology::{Parameters, applied, understood},
    view::{self, Envelope},
};
use crate::audit::Note;

/// Body of a request to begin a shift.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShiftOrder {
    /// Tags of the instances that the traffic moves to.
    pub to: BTreeMap<String, String>,
    /// Percent for them, rising.
    pub steps: Vec<u32>,
    /// Time of a step: `5m`.
    pub every: String,
    /// Conditions of the gate: `success<99%`, `p99>300ms`.
    #[serde(default)]
    pub abort_if: Vec<String>,
    /// Requests in a step without which the gate says nothing. Default: 100, and without a gate none.
    #[serde(default)]
    pub min_requests: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShiftParameters {
    /// Only say what would change.
    #[serde(default)]
    dry_run: bool,
}

impl ShiftParameters {
    fn applying(&self) -> Applying {
        match self.dry_run {
            true => Applying::Dry,
            false => Applying::Now,
        }
    }
}

impl From<SteerError> for ApiError {
    fn from(error: SteerError) -> Self {
        match error {
            SteerError::Refused(refusal) => {
                let status = match refusal {
                    ShiftRefusal::UnderWay(_) | ShiftRefusal::NoShift | ShiftRefusal::Ended { .. } => {
                        StatusCode::CONFLICT
                    }
                    _ => StatusCode::UNPROCESSABLE_ENTITY,
                };
                Self::new(status, refusal.to_string()).hint(refusal.hint())
            }
            SteerError::Edit(error) => {
                let status = match error {
                    EditError::UnknownService(_) => StatusCode::NOT_FOUND,
                    _ => StatusCode::UNPROCESSABLE_ENTITY,
                };
                Self::new(status, error.to_string()).hint(error.hint())
            }
            SteerError::Apply(error) => error.into(),
        }
    }
}

fn plan(order: ShiftOrder) -> Result<ShiftPlan, ApiError> {
    let every = humantime::parse_duration(&order.every);
    let every = every.map_err(|error| {
        ApiError::bad_request(format!("`{}` is not a time: {error}", order.every)).hint("such as `5m`")
    })?;
    let abort_if: Result<Vec<GateCondition>, _> = order.abort_if.iter().map(|text| text.parse()).collect();
    let abort_if = abort_if.map_err(|error| ApiError::bad_request(format!("{error}")))?;
    let least = match abort_if.is_empty() {
        true => 0,
        false => DEFAULT_MIN_REQUESTS,
    };
    Ok(ShiftPlan {
        to: order.to.into_iter().collect::<Tags>(),
        steps: order.steps,
        every,
        min_requests: order.min_requests.unwrap_or(least),
        abort_if,
    })
}

pub(super) async fn shown(State(state): State<AdminState>) -> Response {
    let snapshot = state.snapshots.load_full();
    let items = view::shifts(&snapshot, state.identity.gateway());
    answer(Envelope::new("shifts", &snapshot, items))
}

pub(super) async fn begin(
    State(state): State<AdminState>,
    Path(service): Path<String>,
    parameters: Parameters<ShiftParameters>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(wish) = understood(parameters, "/v1/shifts/orders?dry_run=true")?;
    let service = service_name(&service)?;
    let may = rights(&request).changeable();
    let body = read_body(request, MAX_BODY_BYTES).await?;
    let order = serde_json::from_slice(&body).map_err(|error| {
        ApiError::bad_request(format!("the body is no shift: {error}")).hint(
            r#"for example {"to":{"version":"v2"},"steps":[5,25,50,100],"every":"5m","abort_if":["success<99%"]}"#,
        )
    })?;
    let plan = plan(order)?;
    let applied = applied(&state)?;
    let snapshot = state.snapshots.load_full();
    if snapshot.topology.services.contains_key(&service) && !is_carried(&snapshot, &service, &plan.to) {
        let to = &plan.to;
        return Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("no instance of {service} carries {to}, as far as this gateway knows"),
        )
        .hint("register one first; `causeway get instances` and `causeway get exports` show what there is"));
    }
    let begun = applied.steer(service.clone(), may, wish.applying(), |known, by, now| {
        Shift::begin(known, plan, by.clone(), now)
    });
    Ok(done(&state, &service, &begun.await?))
}

/// Tells whether some zone has an instance with these tags, healthy or not.
fn is_carried(snapshot: &Snapshot, service: &ServiceName, to: &Tags) -> bool {
    let here = snapshot.instances.get(service);
    here.is_some_and(|list| list.health(to).instances > 0)
        || snapshot.catalog.exporters(service).any(|entry| {
            let mut exports = Catalog::exports(entry, service, to);
            exports.any(|export| export.instances > 0)
        })
}

pub(super) async fn change(
    State(state): State<AdminState>,
    Path((service, change)): Path<(String, String)>,
    parameters: Parameters<ShiftParameters>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(wish) = understood(parameters, "/v1/shifts/orders/abort?dry_run=true")?;
    let may = rights(&request).changeable();
    let service = service_name(&service)?;
    let state_wanted = match change.as_str() {
        "pause" => ShiftState::Paused,
        "resume" => ShiftState::Running,
        "abort" => ShiftState::Aborted,
        _ => {
            let error = ApiError::not_found(format!("`{change}` is nothing that becomes of a shift"));
            return Err(error.hint("it is paused, resumed or aborted: /v1/shifts/orders/abort"));
        }
    };
    let applied = applied(&state)?;
    let changed = applied.steer(service.clone(), may, wish.applying(), move |known, by, now| {
        let shift = shift_of(known)?;
        let by_hand = format!("by hand at {by}");
        match state_wanted {
            ShiftState::Paused => shift.paused(now, &by_hand),
            ShiftState::Aborted => shift.aborted(now, &by_hand),
            _ => shift.resumed(now, by.clone()),
        }
    });
    Ok(done(&state, &service, &changed.await?))
}

fn shift_of(service: &Service) -> Result<&Shift, ShiftRefusal> {
    service.shift.as_deref().ok_or(ShiftRefusal::NoShift)
}

fn done(state: &AdminState, service: &ServiceName, outcome: &ApplyOutcome) -> Response {
    let item = view::outcome(outcome, String::new());
    let note = Note {
        object: Some(service.to_string()),
        generation: Some(item.generation),
        ..Note::default()
    };
    let snapshot = state.snapshots.load_full();
    noted(Envelope::new("changes", &snapshot, vec![item]), note)
}
