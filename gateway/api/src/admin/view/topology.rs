//! The topology in force, those before it, and what another one would change.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_control::{
    TopologySource,
    topology::{AppliedTopology, ApplyOutcome, RulingTopology, base},
};
use causeway_federation::topology::{
    Diff,
    applied::{HistoryEntry, TopologyDocument},
};
use causeway_host::moment::LAST_MOMENT;
use causeway_routing::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyView {
    /// Counts up with every `causeway apply`; 0 while the topology comes from a file.
    #[serde(default)]
    pub generation: u64,
    /// The first digits of the SHA-256 of the file.
    pub fingerprint: String,
    /// `file`: it rules, and nothing can be applied; `initial`: nothing was applied yet; `applied`.
    #[serde(default)]
    pub source: String,
    /// The gateway that took it, such as `east/gw1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_by: Option<String>,
    /// By that gateway's clock (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<String>,
    /// In the words of whoever applied it; absent: they did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub trust_domain: String,
    pub dns_domain: String,
    pub dns_ttl_seconds: u64,
    pub zones: Vec<String>,
    pub services: Vec<String>,
    /// The whole file, if it was asked for and is known here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationView {
    pub generation: u64,
    pub fingerprint: String,
    /// `in force`, `former`, `overruled` (another of its generation rules) or `unusable` (by this program).
    pub standing: String,
    pub applied_by: String,
    /// By that gateway's clock (RFC 3339).
    pub applied_at: String,
    /// In the words of whoever applied it; absent: they did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The generation on top of which it was applied.
    pub follows: u64,
    pub text: String,
}

/// One change of a topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeView {
    /// `added`, `removed` or `changed`.
    pub kind: String,
    /// Subject of the change: `service orders: split`.
    pub subject: String,
    pub before: Option<String>,
    pub after: Option<String>,
    /// All of it in one line, for people.
    pub line: String,
}

/// Changes that an apply made or would make, or by which a text differs from what is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesView {
    /// Tells whether it is in force now, and was not before.
    pub applied: bool,
    /// Tells whether the text is the very one in force, so that there is nothing to apply.
    pub same: bool,
    /// In force now.
    pub generation: u64,
    pub fingerprint: String,
    pub changes: Vec<ChangeView>,
    /// Warnings of the gateway about the text, with lines; empty when all is well.
    pub warnings: String,
}

/// `with_text`: the whole file as well, where it is known.
#[must_use]
pub fn topology(snapshot: &Snapshot, source: &TopologySource, with_text: bool) -> TopologyView {
    let view = source.applied().map(AppliedTopology::view);
    // Not the snapshot's own, which may be a moment older than what an `apply` was answered with.
    let latest = view.as_ref().and_then(|view| view.applied.topology());
    let topology = latest.unwrap_or(&snapshot.topology);
    let text = with_text.then(|| source.text()).flatten();
    let document = view.as_ref().and_then(|view| view.applied.document());
    let ruling = match (&view, &document) {
        (None, _) => "file",
        (Some(_), None) => "initial",
        (Some(_), Some(_)) => "applied",
    };
    TopologyView {
        generation: topology.generation,
        fingerprint: topology.fingerprint.to_string(),
        source: ruling.to_owned(),
        applied_by: document.map(|document| document.by().to_string()),
        applied_at: document.map(applied_at),
        reason: document.and_then(|document| document.reason().map(str::to_owned)),
        trust_domain: topology.trust_domain.clone(),
        dns_domain: topology.dns.domain.clone(),
        dns_ttl_seconds: topology.dns.ttl.as_secs(),
        zones: topology.zones.keys().map(ToString::to_string).collect(),
        services: topology.services.keys().map(ToString::to_string).collect(),
        // The line that names the base is made anew each time.
        text: text.map(|text| base::split(&text).1.to_owned()),
    }
}

/// Newest first.
#[must_use]
pub fn generations(view: &RulingTopology) -> Vec<GenerationView> {
    let one = |entry: HistoryEntry| GenerationView {
        generation: entry.document.edition().generation,
        fingerprint: entry.document.edition().fingerprint.to_string(),
        standing: entry.standing.word().to_owned(),
        applied_by: entry.document.by().to_string(),
        applied_at: applied_at(&entry.document),
        reason: entry.document.reason().map(str::to_owned),
        follows: entry.document.parent().generation,
        text: entry.document.text().to_string(),
    };
    view.applied.history().into_iter().map(one).collect()
}

#[must_use]
pub fn changes(diff: &Diff) -> Vec<ChangeView> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let one = |change: &causeway_federation::topology::TopologyChange| ChangeView {
        kind: change.kind.as_str().to_owned(),
        subject: change.subject.clone(),
        before: some(&change.before),
        after: some(&change.after),
        line: change.to_string(),
    };
    diff.changes.iter().map(one).collect()
}

#[must_use]
pub fn outcome(outcome: &ApplyOutcome, warnings: String) -> ChangesView {
    ChangesView {
        applied: outcome.edition != outcome.draft.parent,
        same: outcome.draft.same,
        generation: outcome.edition.generation,
        fingerprint: outcome.edition.fingerprint.to_string(),
        changes: changes(&outcome.draft.changes),
        warnings,
    }
}

/// RFC 3339, to the second. A time that cannot be one, from a gateway with a broken clock, is shown as 1970.
fn applied_at(document: &Arc<TopologyDocument>) -> String {
    let since = Duration::from_millis(document.applied_at_milliseconds());
    let since = if since > LAST_MOMENT {
        Duration::ZERO
    } else {
        since
    };
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}
