//! What every source shares: handing over all that it knows, and saying what does not work.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use causeway_zone_sync::registry::{Registration, RegistryError, Replaced, Source};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::instances::Instances;

/// Refusals that one log line names.
const MAX_REFUSALS_LOGGED: usize = 10;
/// Troubles that are remembered at once; a source that is broken in more places is broken enough.
const MAX_TROUBLES: usize = 1_000;

/// How long a list waits that nobody could take, before it is offered again.
const OFFERED_EVERY: Duration = Duration::from_secs(1);

/// One source's way into the registry.
#[derive(Debug)]
pub struct Feed {
    source: Source,
    instances: Instances,
    troubles: Troubles,
    told: Option<Vec<Registration>>,
}

impl Feed {
    #[must_use]
    pub fn new(source: Source, instances: Instances, troubles: Troubles) -> Self {
        Self {
            source,
            instances,
            troubles,
            told: None,
        }
    }

    /// Makes the source hold exactly `known`. Does nothing when that was said last.
    pub async fn hand_over(&mut self, known: Vec<Registration>) {
        if self.told.as_ref() == Some(&known) {
            return;
        }
        let Some(replaced) = self.replace(&known).await else {
            return;
        };
        self.told = Some(known);
        let refused = &replaced.refused;
        let named = refused.iter().take(MAX_REFUSALS_LOGGED);
        let named: Vec<String> = named.map(|(key, error)| format!("{key}: {error}")).collect();
        let trouble = (!refused.is_empty()).then(|| {
            let named = named.join("; ");
            tracing::warn!(source = %self.source, refused = refused.len(), "instances were refused: {named}");
            format!("{} instances were refused: {named}", refused.len())
        });
        self.troubles.set(format!("{}: refused", self.source), trouble);
    }
}

impl Feed {
    /// Where the registry is shared and nobody can take the list, it is offered again until somebody does. `None`: the
    /// gateway is shutting down.
    async fn replace(&self, known: &[Registration]) -> Option<Replaced> {
        let place = format!("{}: handed over", self.source);
        loop {
            match self.instances.replace(self.source.clone(), known.to_vec()).await {
                Ok((replaced, _)) => {
                    self.troubles.set(place, None);
                    return Some(replaced);
                }
                Err(error @ RegistryError::Away(_)) => {
                    let trouble = format!("the instances are not handed over yet: {error}");
                    if self.troubles.set(place.clone(), Some(trouble)) {
                        tracing::warn!(source = %self.source, %error, "the instances of a source are not handed over yet");
                    }
                    sleep(OFFERED_EVERY).await;
                }
                Err(_) => return None,
            }
        }
    }
}

/// What does not work at present in any source, by where it does not. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Arc<Mutex<BTreeMap<String, String>>>);

impl Troubles {
    /// Notes or clears what is wrong at one place; says whether that is another word than before.
    pub fn set(&self, place: String, trouble: Option<String>) -> bool {
        let mut troubles = self.0.lock();
        match trouble {
            Some(trouble) if troubles.get(&place) == Some(&trouble) => false,
            Some(_) if troubles.len() >= MAX_TROUBLES && !troubles.contains_key(&place) => false,
            Some(trouble) => {
                troubles.insert(place, trouble);
                true
            }
            None => troubles.remove(&place).is_some(),
        }
    }

    /// All of it, by place.
    #[must_use]
    pub fn list(&self) -> Vec<(String, String)> {
        let troubles = self.0.lock();
        troubles
            .iter()
            .map(|(place, trouble)| (place.clone(), trouble.clone()))
            .collect()
    }
}
