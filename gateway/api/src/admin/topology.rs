//! Applying a topology over HTTP: `PUT /v1/topology?generation=6&dry_run=true` and `POST /v1/topology/diff` with the file
//! as the body; `GET /v1/topology?text=true` and `GET /v1/topology/history`. What may be applied is decided elsewhere;
//! here a request becomes a text, and a refusal an answer.

use axum::{
    Extension,
    extract::{Query, Request, State},
    response::Response,
};
use causeway_control::topology::{
    AppliedTopology, ApplyError, Applying, HandedText, OverShifts, TEXT_NAME, base,
};
use causeway_federation::{
    registry::InstanceSource,
    topology::{
        CarriedTags, ChangeableParts, Diagnostics, EditError, MAX_FILE_BYTES, ServiceBlocks, Style,
        Surroundings, Topology,
        applied::{MAX_REASON_BYTES, TopologyRefusal},
        diff, parse_among, settled,
    },
};
use causeway_host::privileged_ports::lowest_port;
use causeway_routing::snapshot::Snapshot;
use causeway_telemetry::log::in_one_line;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;

use super::{
    AdminState,
    api::answer,
    entry::{noted, rights},
    error::ApiError,
    large::LargeAnswers,
    view::{self, ChangesView, Envelope},
};
use crate::audit::Note;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopologyParameters {
    /// The whole file as well.
    #[serde(default)]
    text: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyParameters {
    /// The generation that must be in force for this to be done; without it the one that the text's first line names.
    generation: Option<u64>,
    /// The text's first line does not count, and shifts of services that it changes end.
    #[serde(default)]
    force: bool,
    /// Only say what would change.
    #[serde(default)]
    dry_run: bool,
    /// Reason, for people.
    #[serde(default)]
    reason: String,
}

/// Hint for an operator when somebody else was faster.
const LOST_UPDATE: &str = "the first line of the text names the generation it was taken from: make the change in what \
    `causeway get topology` prints now, or give `--force` to undo what was applied since";

pub(super) type Parameters<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Refused(refusal) => refused(&refusal),
            ApplyError::Disk(ref source) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!("{error}: {}", in_one_line(source)),
            )
            .hint("is the --data folder full or read-only?"),
            ApplyError::Sign(ref source) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("{error}: {}", in_one_line(source)),
            )
            .hint("is the key of this gateway's identity one that can sign?"),
            ApplyError::Interrupted(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
                .hint("see the log of the gateway"),
        }
    }
}

fn refused(refusal: &TopologyRefusal) -> ApiError {
    let status = match refusal {
        TopologyRefusal::Stale { .. }
        | TopologyRefusal::UnderShift(_)
        | TopologyRefusal::Behind { .. }
        | TopologyRefusal::LastGeneration(_) => StatusCode::CONFLICT,
        TopologyRefusal::NotAllowed { .. }
        | TopologyRefusal::Unsigned { .. }
        | TopologyRefusal::Lapsed { .. }
        | TopologyRefusal::BeyondRights(_)
        | TopologyRefusal::LongBlock
        | TopologyRefusal::Unproven { .. } => StatusCode::FORBIDDEN,
        TopologyRefusal::Block(_)
        | TopologyRefusal::Invalid(_)
        | TopologyRefusal::NoOwnZone(_)
        | TopologyRefusal::TrustDomain { .. } => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let error = ApiError::new(status, refusal.to_string())
        .hint(refusal.hint())
        .word(refusal.word());
    match refusal {
        TopologyRefusal::Invalid(findings) => error.details(findings.render(Style::Plain)),
        _ => error,
    }
}

pub(super) async fn shown(
    State(state): State<AdminState>,
    parameters: Parameters<TopologyParameters>,
) -> Result<Response, ApiError> {
    let Query(TopologyParameters { text }) = understood(parameters, "/v1/topology?text=true")?;
    let snapshot = state.snapshots.load_full();
    let item = view::topology(&snapshot, &state.topology, text);
    Ok(answer(Envelope::new("topology", &snapshot, vec![item])))
}

pub(super) async fn history(State(state): State<AdminState>) -> Result<Response, ApiError> {
    let items = view::generations(&applied(&state)?.view());
    let snapshot = state.snapshots.load_full();
    Ok(answer(Envelope::new("generations", &snapshot, items)))
}

pub(super) async fn apply(
    State(state): State<AdminState>,
    parameters: Parameters<ApplyParameters>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(wish) = understood(parameters, "/v1/topology?generation=6&dry_run=true")?;
    let applied = applied(&state)?;
    check_reason(&wish.reason)?;
    let may = rights(&request).changeable();
    let text = read_text(request).await?;
    let applying = match wish.dry_run {
        true => Applying::Dry,
        false => Applying::Now,
    };
    let whole = text.clone();
    let (base, text) = base::split(&text);
    let base = base.filter(|_| !wish.force).map(|base| base.generation);
    let expected = wish.generation.or(base);
    let over = match wish.force {
        true => OverShifts::Abort,
        false => OverShifts::Refuse,
    };
    let handed = HandedText {
        text: text.to_owned(),
        may,
        reason: wish.reason,
    };
    let named = handed.clone();
    // A long text takes longer to look at than a runtime thread should be held.
    let object = tokio::task::spawn_blocking(move || object(&named.text, &named.may));
    let object = object.await.unwrap_or_default();
    let outcome = applied.apply(expected, handed, applying, over).await;
    let outcome = outcome.map_err(|error| {
        let error = match error {
            ApplyError::Refused(refusal @ TopologyRefusal::Stale { .. }) if base == expected => {
                refused(&refusal).hint(LOST_UPDATE)
            }
            error => error.into(),
        };
        error.object(object.clone())
    })?;
    // Of a whole file as it was handed in, so that lines are counted as there.
    let warned = match object.is_some() {
        true => outcome.draft.text.to_string(),
        false => whole,
    };
    let item = view::outcome(&outcome, warnings(&state, warned).await);
    let note = Note {
        object,
        generation: Some(item.generation),
        ..Note::default()
    };
    let snapshot = state.snapshots.load_full();
    Ok(noted(Envelope::new("changes", &snapshot, vec![item]), note))
}

/// Refuses a reason that is not a line.
fn check_reason(reason: &str) -> Result<(), ApiError> {
    if reason.len() > MAX_REASON_BYTES || reason.chars().any(char::is_control) {
        return Err(ApiError::bad_request(format!(
            "a reason is one line of at most {MAX_REASON_BYTES} bytes"
        ))
        .hint("say it in short, and where the whole of it is to be read"));
    }
    Ok(())
}

/// Names the services of which blocks were handed in; `None`: a whole topology was, by somebody who may change all of it.
fn object(text: &str, may: &ChangeableParts) -> Option<String> {
    let blocks = ServiceBlocks::read(text, TEXT_NAME).ok().flatten();
    let names: Vec<String> = match (&blocks, may) {
        (Some(blocks), _) => blocks.names().map(ToString::to_string).collect(),
        (None, ChangeableParts::Blocks(services)) => services.iter().map(ToString::to_string).collect(),
        (None, ChangeableParts::Everything) => return None,
    };
    Some(format!("topology: {}", names.join(", ")))
}

/// Answers where a file rules, too.
pub(super) async fn difference(
    State(state): State<AdminState>,
    Extension(large): Extension<LargeAnswers>,
    request: Request,
) -> Result<Response, ApiError> {
    let text = read_text(request).await?;
    let snapshot = state.snapshots.load_full();
    let latest = state.topology.applied().map(AppliedTopology::topology);
    let current = latest.map_or_else(|| snapshot.topology.clone(), |latest| latest.borrow().clone());
    let registered = registered(&snapshot);
    let in_force = state.topology.text();
    let compared = large.read(move || {
        let around = around(&registered);
        let text = whole(text, in_force.as_deref(), &current)?;
        let parse = |text: &str| {
            parse_among(text, TEXT_NAME, around)
                .map_err(|findings| TopologyRefusal::Invalid(Box::new(findings)))
        };
        let parsed = parse(base::split(&text).1)?;
        // With the line that names the base, so that lines are counted as in the file.
        let whole = parse(&text)?;
        Ok::<_, TopologyRefusal>(ChangesView {
            applied: false,
            same: parsed.topology.fingerprint == current.fingerprint,
            generation: current.generation,
            fingerprint: current.fingerprint.to_string(),
            changes: view::changes(&diff(&current, &parsed.topology)),
            warnings: in_words(&whole.warnings),
        })
    });
    let item = compared.await?.map_err(|refusal| refused(&refusal))?;
    Ok(answer(Envelope::new("changes", &snapshot, vec![item])))
}

/// The whole topology that a text stands for: itself, unless it holds blocks of services.
fn whole(text: String, in_force: Option<&str>, current: &Topology) -> Result<String, TopologyRefusal> {
    let handed = base::split(&text).1;
    match (ServiceBlocks::read(handed, TEXT_NAME), in_force) {
        (Ok(None), _) => Ok(text),
        (_, Some(in_force)) => {
            let onto = (base::split(in_force).1, current);
            settled(onto, handed, TEXT_NAME, &ChangeableParts::Everything)
        }
        (_, None) => Err(EditError::Unreadable.into()),
    }
}

/// Warnings about a text where the instances are known that this gateway knows of.
async fn warnings(state: &AdminState, text: String) -> String {
    let registered = registered(&state.snapshots.load());
    let parsing = tokio::task::spawn_blocking(move || parse_among(&text, TEXT_NAME, around(&registered)));
    match parsing.await {
        Ok(Ok(parsed)) => in_words(&parsed.warnings),
        // Whoever applies it hears of its errors.
        Ok(Err(_)) | Err(_) => String::new(),
    }
}

/// Facts about this gateway and its host that decide what is to be said about a topology.
fn around(registered: &CarriedTags) -> Surroundings<'_> {
    Surroundings {
        registered: Some(registered),
        lowest_port: lowest_port(),
    }
}

/// Sets of tags that instances carry which are in no topology file: registered here, or exported by other zones.
fn registered(snapshot: &Snapshot) -> CarriedTags {
    let mut carried = CarriedTags::new();
    let own = snapshot.instances.values().flat_map(|list| list.iter());
    for instance in own.filter(|instance| instance.source != InstanceSource::Topology) {
        let tags = carried.entry(instance.service.clone()).or_default();
        tags.insert(instance.tags.clone());
    }
    for export in snapshot
        .catalog
        .entries()
        .flat_map(|entry| entry.record.exports.iter())
    {
        let tags = carried.entry(export.service.clone()).or_default();
        tags.insert(export.tags.clone());
    }
    carried
}

fn in_words(warnings: &Diagnostics) -> String {
    warnings.render(Style::Plain)
}

pub(super) fn applied(state: &AdminState) -> Result<&AppliedTopology, ApiError> {
    state.topology.applied().ok_or_else(|| {
        ApiError::new(
            StatusCode::FORBIDDEN,
            "a file rules the topology of this gateway, so nothing can be applied to it",
        )
        .hint("edit the file that --topology names; or start every gateway with --initial-topology instead")
    })
}

pub(super) fn understood<T>(parameters: Parameters<T>, example: &str) -> Result<Query<T>, ApiError> {
    parameters
        .map_err(|error| ApiError::bad_request(error.body_text()).hint(format!("for example {example}")))
}

/// The whole body, which has to be UTF-8 and within the limit of a topology.
async fn read_text(request: Request) -> Result<String, ApiError> {
    let body = Limited::new(request.into_body(), MAX_FILE_BYTES);
    let bytes = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let error = format!("the topology is longer than {MAX_FILE_BYTES} bytes");
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error));
        }
        Err(error) => return Err(ApiError::bad_request(format!("the body cannot be read: {error}"))),
    };
    String::from_utf8(bytes.into()).map_err(|_| {
        ApiError::bad_request("the body is not UTF-8 text")
            .hint("send the file itself: curl --unix-socket admin.sock -T topology.yaml 'http://localhost/v1/topology?generation=6'")
    })
}
