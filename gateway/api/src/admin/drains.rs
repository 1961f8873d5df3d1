//! Drains of single instances over HTTP: `POST /v1/instances/{service}/{id}/drain?deadline=10m&force=true` and `…/undrain`. What a drain means
//! is the registry's business; zones are drained in the topology.

use std::time::SystemTime;

use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use causeway_federation::{registry::InstanceKey, topology::Drain};
use causeway_host::moment::written_after;
use causeway_routing::snapshot::Snapshot;
use causeway_telemetry::Check;
use serde::{Deserialize, Serialize};

use super::{
    AdminState,
    api::answer,
    error::ApiError,
    instances::{durability_word, service_name},
    topology::{Parameters, understood},
    view::{Envelope, moment},
};

/// Drained instances that are told one by one.
const MAX_TOLD: usize = 20;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainParameters {
    /// Time after which open connections are closed, such as `10m`.
    deadline: Option<String>,
    /// Also if no other instance of the service takes traffic in this zone.
    #[serde(default)]
    force: bool,
}

/// Outcome of a drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainedView {
    pub service: String,
    pub id: String,
    /// Moment at which what is open is closed (RFC 3339); absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Connections and requests under way at it, as far as this gateway knows.
    pub open: u32,
    /// As in [`super::RegisteredView`].
    pub durability: String,
}

pub(super) async fn drain(
    State(state): State<AdminState>,
    Path((service, id)): Path<(String, String)>,
    parameters: Parameters<DrainParameters>,
) -> Result<Response, ApiError> {
    let example = "/v1/instances/orders/10.1.0.11:8080/drain?deadline=10m";
    let Query(wish) = understood(parameters, example)?;
    let by = wish
        .deadline
        .as_deref()
        .map(|text| moment_after(text, SystemTime::now()));
    let drain = Drain { by: by.transpose()? };
    marked(&state, &service, id, Some(drain), wish.force).await
}

pub(super) async fn undrain(
    State(state): State<AdminState>,
    Path((service, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    marked(&state, &service, id, None, false).await
}

fn moment_after(text: &str, now: SystemTime) -> Result<SystemTime, ApiError> {
    let shown: String = text.chars().take(40).collect();
    let bad = || {
        let error = format!("`{}` is no deadline", shown.escape_debug());
        ApiError::bad_request(error).hint("such as `deadline=10m`")
    };
    let after = humantime::parse_duration(text).map_err(|_| bad())?;
    written_after(now, after).ok_or_else(bad)
}

async fn marked(
    state: &AdminState,
    service: &str,
    id: String,
    drain: Option<Drain>,
    force: bool,
) -> Result<Response, ApiError> {
    let key = InstanceKey {
        service: service_name(service)?,
        id,
    };
    let by = drain.as_ref().and_then(|drain| drain.by);
    let durability = state.instances.drain(key.clone(), drain, force).await?;
    let snapshot = state.snapshots.load_full();
    let list = snapshot.instances.get(&key.service);
    let instance = list.and_then(|list| list.iter().find(|instance| instance.id == key.id));
    let view = DrainedView {
        service: key.service.to_string(),
        id: key.id,
        by: by.map(moment),
        open: instance.map_or(0, |instance| instance.load.outstanding()),
        durability: durability_word(durability).to_owned(),
    };
    Ok(answer(Envelope::new("drained", &snapshot, vec![view])))
}

/// Tells of the instances of this zone that are drained.
pub(super) fn drained_instances(snapshot: &Snapshot, now: SystemTime) -> Vec<Check> {
    let all = snapshot.instances.values().filter(|list| list.has_drained());
    let drained: Vec<_> = all
        .flat_map(|list| list.iter())
        .filter_map(|instance| Some((instance, instance.drain.as_ref()?)))
        .collect();
    let told = drained.iter().take(MAX_TOLD).map(|(instance, drain)| {
        let name = format!("{}/{}", instance.service, instance.id);
        let open = instance.load.outstanding();
        let message = drain_message(open, drain.by, now);
        let hint = format!("`causeway undrain {name}` when the work there is done");
        Check::warn("drained instances", name, message, hint)
    });
    let mut told: Vec<Check> = told.collect();
    if let Some(more @ 1..) = drained.len().checked_sub(MAX_TOLD) {
        let message = format!("{more} more are drained");
        told.push(Check::warn(
            "drained instances",
            "more",
            message,
            "`causeway get instances` lists them",
        ));
    }
    told
}

/// Says how long what is open at a drained instance stays so; `by` is a moment in words.
#[must_use]
pub fn stays_open(open: u32, by: Option<&str>) -> String {
    match by {
        None => format!("{open} open at it here stay until they end"),
        Some(by) => format!(
            "{open} open at it here; from {by} on they are closed, but for requests of clients of this zone, which end with their answers"
        ),
    }
}

/// Says how far a drain of an instance with so many open connections and requests has come.
fn drain_message(open: u32, by: Option<SystemTime>, now: SystemTime) -> String {
    let what = match (open, by) {
        (0, _) => "nothing is open at it here any more: it can be taken out".to_owned(),
        (_, None) => stays_open(open, None),
        (_, Some(by)) if now < by => stays_open(open, Some(&moment(by))),
        (_, Some(by)) => format!(
            "{open} still open at it here, though its deadline {} is over: connections are being closed, a twentieth in a second, and requests of \
             clients of this zone end with their answers",
            moment(by)
        ),
    };
    format!("drained: nothing new goes to it; {what}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_drain_says_what_is_closed_and_when_it_is_over() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000 + seconds);
        let by = Some(at(30));
        let before = drain_message(6, by, at(0));
        assert!(
            before.contains("6 open at it here; from 2026-11-18T11:07:10Z on they are closed, but for requests of clients of this zone"),
            "{before}"
        );
        let after = drain_message(1, by, at(30));
        assert!(
            after.contains("1 still open at it here, though its deadline 2026-11-18T11:07:10Z is over"),
            "{after}"
        );
        for (by, now) in [(by, 0), (by, 60), (None, 0)] {
            let none = drain_message(0, by, at(now));
            assert_eq!(
                none,
                "drained: nothing new goes to it; nothing is open at it here any more: it can be taken out"
            );
        }
        let unbounded = drain_message(2, None, at(0));
        assert!(
            unbounded.ends_with("2 open at it here stay until they end"),
            "{unbounded}"
        );
    }

    #[test]
    fn a_deadline_is_a_time_from_now_that_can_be_written() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        assert_eq!(moment_after("10m", now).unwrap(), now + Duration::from_secs(600));
        for bad in ["", "soon", "-1s", "9000y", "\u{1b}[2J"] {
            let refused = moment_after(bad, now).unwrap_err();
            assert!(!refused.error.contains('\u{1b}'), "{refused:?}");
        }
    }
}
