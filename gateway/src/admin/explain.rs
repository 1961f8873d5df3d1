//! `/v1/explain`: where a request would go now, and why. The decision is made elsewhere, by the very function that the
//! data path calls; these are the words for it.

use axum::extract::Query;
use causeway_zone_sync::name::{Tags, ZoneName};
use http::Uri;
use serde::{Deserialize, Serialize};

use super::{AdminState, error::ApiError, instances::known_service};
use crate::target::Target;

/// What is asked: a target, as if a client in zone `from` had connected to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainRequest {
    pub target: Target,
    /// `None`: this zone.
    pub from: Option<ZoneName>,
}

/// A routing decision in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The target, as `orders{version=v2}@west`.
    pub target: String,
    /// The zone that the request comes from.
    pub from: String,
    /// What was considered, in the order in which the data path considers it.
    pub steps: Vec<Step>,
    /// Who would be asked, first to last; empty when nobody can serve it.
    pub candidates: Vec<Candidate>,
}

/// One filter and what it made of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Steps of the same filter in a row are shown together: `split`, `tier 1`, …
    pub filter: String,
    /// What was looked at: a split arm, a zone, a gateway.
    pub subject: String,
    pub verdict: Verdict,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Taken,
    PassedOver,
}

/// One place that would be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub zone: String,
    /// The gateway that would be asked; `None` in the own zone.
    pub gateway: Option<String>,
    /// Tags that the instance must carry.
    pub tags: Tags,
    pub reason: String,
}

/// Reads `service=orders&from=east&tag=version=v2&zone=west`; `tag` may come several times.
pub(super) fn request(state: &AdminState, uri: &Uri) -> Result<ExplainRequest, ApiError> {
    let hint = "for example /v1/explain?service=orders&from=east&tag=version=v2&zone=west";
    let mut service = None;
    let (mut from, mut zone, mut tags) = (None, None, Vec::new());
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let Query(pairs) = pairs.map_err(|error| ApiError::bad_request(error.to_string()).hint(hint))?;
    for (key, value) in pairs {
        match key.as_str() {
            "service" => service = Some(known_service(state, &value)?),
            "from" => from = Some(known_zone(state, &value)?),
            "zone" => zone = Some(known_zone(state, &value)?),
            "tag" => match value.split_once('=') {
                Some((key, value)) => tags.push((key.to_owned(), value.to_owned())),
                None => {
                    return Err(ApiError::bad_request(format!("`{value}` is not a tag key=value")).hint(hint));
                }
            },
            _ => return Err(ApiError::bad_request(format!("unknown parameter `{key}`")).hint(hint)),
        }
    }
    let service =
        service.ok_or_else(|| ApiError::bad_request("the parameter `service` is missing").hint(hint))?;
    let tags = tags.into_iter().collect();
    Ok(ExplainRequest {
        target: Target { service, tags, zone },
        from,
    })
}

fn known_zone(state: &AdminState, text: &str) -> Result<ZoneName, ApiError> {
    let zone = ZoneName::new(text).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let topology = &state.snapshots.load().topology;
    if topology.zones.contains_key(&zone) {
        return Ok(zone);
    }
    let known: Vec<_> = topology.zones.keys().map(ZoneName::as_str).collect();
    let error = ApiError::not_found(format!("the topology has no zone `{zone}`"));
    Err(error.hint(format!("its zones are {}", known.join(", "))))
}
