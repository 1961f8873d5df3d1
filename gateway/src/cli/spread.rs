//! Handing a trust document to the federation by way of one gateway, and waiting until the others have it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use causeway_api::admin::view::{Envelope, TopologyView, TrustSummary};
use causeway_federation::{name::ZoneName, trust::TrustDocument};

use super::{Failure, client::Endpoint};
use crate::cli::rotation::{Goal, Lack, lacking};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Longest time that the gateway may be away while it is waited for.
const AWAY_LIMIT: Duration = Duration::from_secs(30);

/// A federation, as one of its gateways sees it.
pub(super) struct FederationView<'a> {
    pub admin: &'a Endpoint,
    /// Zones that are not waited for.
    pub without: BTreeSet<ZoneName>,
}

/// End of a wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Reached,
    /// The time was over, or the caller had enough; these zones lack something.
    Stopped(Vec<(String, Lack)>),
}

impl FederationView<'_> {
    pub(crate) async fn look(&self) -> Result<TrustSummary, Failure> {
        let answer: Envelope<TrustSummary> = self.admin.get("/v1/trust").await?;
        first(answer, self.admin)
    }

    /// Hands the document over, unless it is in force there.
    pub(crate) async fn hand(&self, document: &TrustDocument) -> Result<TrustSummary, Failure> {
        let put = self.admin.put_bytes("/v1/trust", document.encode()).await;
        first(put?, self.admin)
    }

    /// Waits until every zone has reached `goal`, or `enough` says so. Tells on standard error what changes.
    pub(crate) async fn wait(
        &self,
        goal: &Goal,
        mut enough: impl FnMut(&[(String, Lack)]) -> bool,
    ) -> Result<Waited, Failure> {
        let mut told: Option<Vec<(String, Lack)>> = None;
        let mut away_since: Option<Instant> = None;
        loop {
            match self.look().await {
                Ok(view) => {
                    away_since = None;
                    let lacks = lacking(&view, goal, &self.without);
                    let lacks: Vec<_> = lacks
                        .into_iter()
                        .map(|(zone, lack)| (zone.to_owned(), lack))
                        .collect();
                    if told.as_ref() != Some(&lacks) {
                        tell(told.as_deref().unwrap_or_default(), &lacks)?;
                        told = Some(lacks.clone());
                    }
                    if lacks.is_empty() {
                        return Ok(Waited::Reached);
                    }
                    if enough(&lacks) {
                        return Ok(Waited::Stopped(lacks));
                    }
                }
                Err(failure) => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > AWAY_LIMIT {
                        return Err(failure);
                    }
                    if enough(told.as_deref().unwrap_or_default()) {
                        return Ok(Waited::Stopped(told.unwrap_or_default()));
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// After a change of whom to believe: tells on standard error if the applied topology was signed by a gateway that is
/// believed no more, for gateways to come. `by`: only if that one did it.
pub(super) async fn note_topology(admin: &Endpoint, by: Option<&str>) -> Result<(), Failure> {
    let answer: Envelope<TopologyView> = admin.get("/v1/topology").await?;
    let applied_by = answer.items.into_iter().find_map(|topology| topology.applied_by);
    let Some(applied_by) = applied_by.filter(|applied_by| by.is_none_or(|by| applied_by.starts_with(by)))
    else {
        return Ok(());
    };
    say(&format!(
        "note: the topology in force was applied at {applied_by}, whose certificate is believed no more. Gateways of zones that may \
         apply (`apply_from`) have signed it again, and it reaches new gateways from them; if there are none, `causeway apply` it \
         again, with a change, if only of a comment\n"
    ))
}

fn first(answer: Envelope<TrustSummary>, admin: &Endpoint) -> Result<TrustSummary, Failure> {
    let item = answer.items.into_iter().next();
    item.ok_or_else(|| Failure::new(format!("{admin} says nothing of what it trusts")))
}

/// Tells what a zone lacks now that it did not, and what it has now that it lacked.
fn tell(before: &[(String, Lack)], now: &[(String, Lack)]) -> Result<(), Failure> {
    let mut text = String::new();
    for (zone, _) in before {
        if !now.iter().any(|(still, _)| still == zone) {
            text.push_str(&format!("zone {zone} is ready\n"));
        }
    }
    for lack in now.iter().filter(|lack| !before.contains(lack)) {
        text.push_str(&format!("zone {} {}\n", lack.0, lack.1));
    }
    say(&text)
}

/// Progress goes to standard error; standard output is for the result.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    crate::output::tell(text);
    Ok(())
}
