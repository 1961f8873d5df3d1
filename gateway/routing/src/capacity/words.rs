//! Words of gateways, by who says them. A gateway of another zone speaks for itself; what one of the own zone says is passed on by other
//! zones, each of which is believed as far as a service is exported to it. So of one gateway there may be several words, and for each
//! service one of them counts. Pure.

use std::{collections::BTreeMap, time::Duration};

use causeway_federation::{
    name::{GatewayId, ServiceName, ZoneName},
    topology::Topology,
};

/// Most zones whose words about one gateway are kept: of more, those that speak later count.
const MAX_PASSING: usize = 8;

/// Gateway whose word it is, and the way it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeardFrom {
    pub gateway: GatewayId,
    /// Zone that has passed it on; `None`: the gateway has said so itself.
    pub through: Option<ZoneName>,
}

impl From<GatewayId> for HeardFrom {
    fn from(gateway: GatewayId) -> Self {
        Self {
            gateway,
            through: None,
        }
    }
}

/// Word of a gateway.
#[derive(Debug)]
pub(super) struct HeardWord<T> {
    pub(super) at: Duration,
    pub(super) word: T,
}

type WordsByWay<T> = BTreeMap<Option<ZoneName>, HeardWord<T>>;

/// Last words of all gateways.
#[derive(Debug)]
pub(super) struct HeardWords<T>(BTreeMap<GatewayId, WordsByWay<T>>);

impl<T> Default for HeardWords<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> HeardWords<T> {
    /// Takes a word that was said at `at`, unless a later one has come the same way.
    pub(super) fn hear(&mut self, from: HeardFrom, at: Duration, word: T) {
        let HeardFrom { gateway, through } = from;
        let words = self.0.entry(gateway).or_default();
        if words.get(&through).is_none_or(|known| known.at < at) {
            words.insert(through, HeardWord { at, word });
        }
        if words.len() > MAX_PASSING {
            let passed_on = words.iter().filter(|(through, _)| through.is_some());
            let oldest = passed_on.min_by_key(|(_, heard)| heard.at);
            if let Some(oldest) = oldest.map(|(through, _)| through.clone()) {
                words.remove(&oldest);
            }
        }
    }

    /// Keeps the words that `keeps` says, by the gateway and the time at which it spoke.
    pub(super) fn retain(&mut self, keeps: impl Fn(&GatewayId, Duration) -> bool) {
        self.0.retain(|gateway, words| {
            words.retain(|_, heard| keeps(gateway, heard.at));
            !words.is_empty()
        });
    }

    /// Words that gateways have said themselves.
    pub(super) fn own(&self) -> impl Iterator<Item = (&GatewayId, &HeardWord<T>)> {
        let words = self.0.iter();
        words.filter_map(|(gateway, words)| Some((gateway, words.get(&None)?)))
    }

    /// The word that a gateway has said itself.
    pub(super) fn own_of(&self, gateway: &GatewayId) -> Option<&T> {
        Some(&self.0.get(gateway)?.get(&None)?.word)
    }

    /// Items of all words, as `items` gives them, each about a service: of each gateway those of the word that counts for it. Its own word counts
    /// before any that is passed on, and of these the last one by a zone that the service is exported to.
    pub(super) fn counting<'t, I: 't>(
        &'t self,
        topology: &'t Topology,
        items: impl Fn(&'t T) -> &'t [I] + Copy + 't,
        service: impl Fn(&'t I) -> &'t ServiceName + Copy + 't,
    ) -> impl Iterator<Item = (&'t GatewayId, &'t HeardWord<T>, &'t I)> {
        self.0.iter().flat_map(move |(gateway, words)| {
            words.iter().flat_map(move |(through, heard)| {
                let counts = move |item: &&'t I| {
                    let counting = counting_way(words, topology, service(item));
                    counting.is_some_and(|counting| counting == through)
                };
                let items = items(&heard.word).iter().filter(counts);
                items.map(move |item| (gateway, heard, item))
            })
        })
    }
}

fn counting_way<'w, T>(
    words: &'w WordsByWay<T>,
    topology: &Topology,
    service: &ServiceName,
) -> Option<&'w Option<ZoneName>> {
    if let Some((own, _)) = words.get_key_value(&None) {
        return Some(own);
    }
    let service = topology.services.get(service)?;
    let is_told = |through: &Option<ZoneName>| {
        let zone = through.as_ref();
        zone.is_some_and(|zone| service.is_exported_to(zone))
    };
    let told = words.iter().filter(|(through, _)| is_told(through));
    let last = told.max_by_key(|(_, heard)| heard.at);
    last.map(|(through, _)| through)
}
