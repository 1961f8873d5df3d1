//! Means that every source shares: handing over all that it knows, and saying what does not work.

use std::{collections::BTreeMap, sync::Arc};

use causeway_federation::registry::{InstanceSource, Registration};
use parking_lot::Mutex;

use crate::Instances;

/// Refusals that one log line names.
const MAX_REFUSALS_LOGGED: usize = 10;
/// Troubles that are remembered at once; a source that is broken in more places is broken enough.
const MAX_TROUBLES: usize = 1_000;

/// One source's way into the registry.
#[derive(Debug)]
pub struct SourceFeed {
    source: InstanceSource,
    instances: Instances,
    troubles: Troubles,
    told: Option<Vec<Registration>>,
}

impl SourceFeed {
    #[must_use]
    pub fn new(source: InstanceSource, instances: Instances, troubles: Troubles) -> Self {
        Self {
            source,
            instances,
            troubles,
            told: None,
        }
    }

    /// Makes the source hold exactly `known`. Does nothing when that was said last, and all of it taken.
    pub async fn hand_over(&mut self, known: Vec<Registration>) {
        if self.told.as_ref() == Some(&known) {
            return;
        }
        let place = format!("{}: registry", self.source);
        let replaced = match self.instances.replace(self.source.clone(), known.clone()).await {
            Ok((replaced, _)) => replaced,
            Err(error) => {
                // Said again at the next look: a registry that the zone shares may be away for a while.
                if self.troubles.set(place, Some(error.to_string())) {
                    tracing::warn!(source = %self.source, %error, "instances cannot be handed over now");
                }
                return;
            }
        };
        self.troubles.set(place, None);
        let refused = &replaced.refused;
        // Another topology may allow what this one does not.
        self.told = refused.is_empty().then_some(known);
        let named = refused.iter().take(MAX_REFUSALS_LOGGED);
        let named: Vec<String> = named.map(|(key, error)| format!("{key}: {error}")).collect();
        let (count, named) = (refused.len(), named.join("; "));
        let trouble = (count > 0).then(|| format!("{count} instances were refused: {named}"));
        if self.troubles.set(format!("{}: refused", self.source), trouble) && count > 0 {
            tracing::warn!(source = %self.source, refused = count, "instances were refused: {named}");
        }
    }
}

/// Troubles of the sources at present, by where they are. Clones share it.
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
