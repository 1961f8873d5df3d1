//! Parameters of `/v1/explain`, checked against what the topology names.

use axum::extract::Query;
use causeway_federation::name::{PortName, ServiceName, ZoneName};
use causeway_routing::{permit::Caller, target::Target};
use http::Uri;

use super::{
    AdminState, error::ApiError, explain_request::AskedRequest, instances::service_name, permission,
};

/// Question that is to be explained.
pub(super) struct Asked {
    pub(super) target: Target,
    /// Port of the service; `None`: its primary one.
    pub(super) port: Option<PortName>,
    pub(super) caller: Option<Caller>,
    /// `None`: nothing is said of a request.
    pub(super) request: Option<AskedRequest>,
}

/// Reads `service=orders&port=admin&from=east&tag=version=v2&zone=west&caller=web@east&method=GET&path=/beta&host=shop.example&header=x-a:1`;
/// `tag`, `caller_tag` and `header` may come several times.
pub(super) fn request(state: &AdminState, uri: &Uri) -> Result<Asked, ApiError> {
    let hint = "for example /v1/explain?service=orders&from=east&tag=version=v2&zone=west&caller=web";
    let mut service = None;
    let (mut port, mut zone, mut tags) = (None, None, Vec::new());
    let (mut caller, mut caller_tags) = (None, Vec::new());
    let mut asked: Option<AskedRequest> = None;
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let Query(pairs) = pairs.map_err(|error| ApiError::bad_request(error.to_string()).hint(hint))?;
    for (key, value) in pairs {
        match key.as_str() {
            "service" => service = Some(known_service(state, &value)?),
            "from" => check_from(state, &known_zone(state, &value)?)?,
            "port" => port = Some(value),
            "zone" => zone = Some(known_zone(state, &value)?),
            "caller" => caller = Some(value),
            "method" | "path" | "host" | "header" => {
                asked
                    .get_or_insert_with(AskedRequest::default)
                    .take(&key, value)?;
            }
            "tag" | "caller_tag" => match value.split_once('=') {
                Some(pair) if key == "tag" => tags.push(owned(pair)),
                Some(pair) => caller_tags.push(owned(pair)),
                None => {
                    return Err(ApiError::bad_request(format!("`{value}` is not a tag key=value")).hint(hint));
                }
            },
            _ => return Err(ApiError::bad_request(format!("unknown parameter `{key}`")).hint(hint)),
        }
    }
    let service =
        service.ok_or_else(|| ApiError::bad_request("the parameter `service` is missing").hint(hint))?;
    let port = port.map(|port| known_port(state, &service, &port)).transpose()?;
    let tags = tags.into_iter().collect();
    let target = Target { service, tags, zone };
    let caller = match caller {
        Some(text) => Some(permission::read_caller(
            &state.snapshots.load(),
            &text,
            caller_tags.into_iter().collect(),
        )?),
        None if !caller_tags.is_empty() => {
            return Err(ApiError::bad_request("`caller_tag` needs a `caller`").hint(hint));
        }
        None => None,
    };
    Ok(Asked {
        target,
        port,
        caller,
        request: asked,
    })
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// Another zone's gateway decides by its own tunnels and health, which are not known here; a guess would mislead.
fn check_from(state: &AdminState, from: &ZoneName) -> Result<(), ApiError> {
    let own = &state.snapshots.load().zone;
    if from == own {
        return Ok(());
    }
    let error =
        format!("this is a gateway of zone {own}; only a gateway of {from} knows what a client there meets");
    Err(ApiError::bad_request(error).hint(format!("ask a gateway of {from}: --admin names its address")))
}

/// A service that the topology names: any other would only be explained as unknown.
fn known_service(state: &AdminState, text: &str) -> Result<ServiceName, ApiError> {
    let service = service_name(text)?;
    let services = &state.snapshots.load().topology.services;
    if services.contains_key(&service) {
        return Ok(service);
    }
    let known: Vec<_> = services.keys().map(ServiceName::as_str).collect();
    let error = ApiError::not_found(format!("the topology has no service `{service}`"));
    Err(error.hint(named("services", &known)))
}

/// A port that the topology names.
fn known_port(state: &AdminState, service: &ServiceName, text: &str) -> Result<PortName, ApiError> {
    let snapshot = state.snapshots.load();
    let declared = snapshot.topology.services.get(service).into_iter();
    let names = declared.flat_map(|service| service.ports.iter());
    let names: Vec<&PortName> = names.filter_map(|port| port.name.as_ref()).collect();
    if let Some(known) = names.iter().find(|name| name.as_str() == text) {
        return Ok((*known).clone());
    }
    let error = ApiError::not_found(format!("`{service}` has no port `{text}`"));
    let known: Vec<&str> = names.into_iter().map(PortName::as_str).collect();
    Err(error.hint(match known.is_empty() {
        true => "its only port has no name".to_owned(),
        false => named("ports", &known),
    }))
}

fn known_zone(state: &AdminState, text: &str) -> Result<ZoneName, ApiError> {
    let zone = ZoneName::new(text).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let zones = &state.snapshots.load().topology.zones;
    if zones.contains_key(&zone) {
        return Ok(zone);
    }
    let known: Vec<_> = zones.keys().map(ZoneName::as_str).collect();
    let error = ApiError::not_found(format!("the topology has no zone `{zone}`"));
    Err(error.hint(named("zones", &known)))
}

/// The names there are, as far as they fit on a line.
fn named(what: &str, known: &[&str]) -> String {
    /// More names than this help nobody.
    const SHOWN: usize = 12;
    match known.len() {
        0 => format!("the topology has no {what}"),
        count if count <= SHOWN => format!("its {what} are {}", known.join(", ")),
        count => format!(
            "its {what} are {} and {} more",
            known[..SHOWN].join(", "),
            count - SHOWN
        ),
    }
}
