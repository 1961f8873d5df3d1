//! Choice of what `get` shows of a list, and of its order. Pure, and the same for tables and for programs, of one zone and of all.

use std::{cmp::Ordering, collections::BTreeSet};

use causeway_api::{admin::view::Envelope, elsewhere::EveryZoneView};
use causeway_federation::name::{ServiceName, Tags, ZoneName, natural_order};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Failure, register::Tag, tables::Tabular};

/// Items that are asked for, and their order.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct ChoiceArgs {
    /// Only those of these names: `west`, `west/gw1`, of instances an id, SERVICE/ID or address
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// Only what has to do with this zone
    #[arg(long, value_name = "ZONE")]
    pub(super) zone: Option<ZoneName>,
    /// Only what has to do with this service
    #[arg(long, value_name = "NAME")]
    pub(super) service: Option<ServiceName>,
    /// Only what carries this tag, or of services and shifts what leads to it; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(super) tags: Vec<Tag>,
    /// Only what somebody should look at
    #[arg(long)]
    pub(super) unhealthy: bool,
    /// Order by a column, also one that only `-o wide` shows; with a `-` before it from the end, as in --sort=-rtt
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    pub(super) sort: Option<String>,
}

/// Part of a choice, as a kind of item may know it or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChoosableBy {
    Name,
    Zone,
    Service,
    Tag,
    Health,
    Column,
}

impl ChoosableBy {
    const ALL: [Self; 6] = [
        Self::Name,
        Self::Zone,
        Self::Service,
        Self::Tag,
        Self::Health,
        Self::Column,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Name => "a name",
            Self::Zone => "--zone",
            Self::Service => "--service",
            Self::Tag => "--tag",
            Self::Health => "--unhealthy",
            Self::Column => "--sort",
        }
    }
}

/// Item that can be chosen out of a list.
pub(super) trait Choosable: Tabular {
    /// One of them, in words.
    const KIND: &'static str;
    const BY: &'static [ChoosableBy];

    fn has_name(&self, name: &str) -> bool;
    /// `own` is the zone that answers.
    fn is_of_zone(&self, _zone: &str, _own: &str) -> bool {
        false
    }
    fn is_of_service(&self, _service: &str) -> bool {
        false
    }
    fn carries(&self, _tags: &Tags) -> bool {
        false
    }
    fn is_unhealthy(&self) -> bool {
        false
    }
}

/// Column by which items are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SortColumn {
    title: &'static str,
    index: usize,
    from_the_end: bool,
}

impl SortColumn {
    /// Compares two items. One that has nothing in the column comes last, either way.
    pub(super) fn compare<T: Tabular>(self, one: &T, other: &T) -> Ordering {
        let (one, other) = (self.key(one), self.key(other));
        let order = match (&one, &other) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => return Ordering::Greater,
            (Some(_), None) => return Ordering::Less,
            (Some((Some(one), _)), Some((Some(other), _))) => one.total_cmp(other),
            (Some((_, one)), Some((_, other))) => natural_order(one, other),
        };
        match self.from_the_end {
            true => order.reverse(),
            false => order,
        }
    }

    fn key<T: Tabular>(self, item: &T) -> Option<(Option<f64>, String)> {
        let mut cells = item.row().into_iter().chain(item.wide());
        let text = cells.nth(self.index).map(|word| word.0).unwrap_or_default();
        (!text.is_empty()).then(|| (item.rank(self.title), text))
    }
}

impl ChoiceArgs {
    fn given(&self) -> impl Iterator<Item = ChoosableBy> + '_ {
        ChoosableBy::ALL.into_iter().filter(|by| match by {
            ChoosableBy::Name => !self.names.is_empty(),
            ChoosableBy::Zone => self.zone.is_some(),
            ChoosableBy::Service => self.service.is_some(),
            ChoosableBy::Tag => !self.tags.is_empty(),
            ChoosableBy::Health => self.unhealthy,
            ChoosableBy::Column => self.sort.is_some(),
        })
    }

    /// Tells whether anything may be left out.
    fn leaves_out(&self) -> bool {
        self.given().any(|by| by != ChoosableBy::Column)
    }

    /// Refuses what says nothing about items of this kind.
    pub(super) fn check(&self, plural: &str, by: &[ChoosableBy]) -> Result<(), Failure> {
        let Some(odd) = self.given().find(|given| !by.contains(given)) else {
            return Ok(());
        };
        let words: Vec<_> = by.iter().map(|by| by.word()).collect();
        let failure = Failure::usage(format!("{plural} are not chosen by {}", odd.word()));
        Err(match (words.is_empty(), plural) {
            (_, "instances") if odd == ChoosableBy::Zone => failure.hint(
                "a gateway has those of its own zone: `--at ZONE` asks another one through it, `--all` every zone",
            ),
            (true, _) => failure.hint("they are shown as a whole"),
            (false, _) => failure.hint(format!("they are by {}", words.join(", "))),
        })
    }

    /// The column by which items are ordered, by its title: `rtt`, `last-failure`.
    pub(super) fn column<T: Tabular>(&self) -> Result<Option<SortColumn>, Failure> {
        let Some(asked) = &self.sort else {
            return Ok(None);
        };
        let (name, from_the_end) = match asked.strip_prefix('-') {
            Some(name) => (name, true),
            None => (asked.as_str(), false),
        };
        let plain = |text: &str| text.to_lowercase().replace(['-', '_'], " ").replace(" / ", " ");
        let titles = || T::HEADER.iter().chain(T::WIDE).copied();
        let found = titles().position(|title| plain(title) == plain(name));
        let column = found.zip(found.and_then(|index| titles().nth(index)));
        let (index, title) = column.ok_or_else(|| {
            let titles: Vec<_> = titles().map(|title| plain(title).replace(' ', "-")).collect();
            Failure::usage(format!("there is no column `{name}` to sort by"))
                .hint(format!("one of {}", titles.join(", ")))
        })?;
        Ok(Some(SortColumn {
            title,
            index,
            from_the_end,
        }))
    }

    fn has_any_name<T: Choosable>(&self, item: &T) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| item.has_name(name))
    }

    /// Tells whether an item that has one of the names is asked for.
    fn fits<T: Choosable>(&self, item: &T, own: &str) -> bool {
        let tags: Tags = self.tags.iter().map(|Tag(key, value)| (key, value)).collect();
        let zone = self
            .zone
            .as_ref()
            .is_none_or(|zone| item.is_of_zone(zone.as_str(), own));
        let service = self.service.as_ref();
        zone && service.is_none_or(|service| item.is_of_service(service.as_str()))
            && (tags.is_empty() || item.carries(&tags))
            && (!self.unhealthy || item.is_unhealthy())
    }

    /// Leaves in `items` what is asked for, in its order, and notes which names were there.
    fn pick<T: Choosable, I>(
        &self,
        items: &mut Vec<I>,
        own: &str,
        item: impl Fn(&I) -> &T,
        found: &mut BTreeSet<String>,
    ) -> Result<(), Failure> {
        for one in items.iter().map(&item) {
            found.extend(self.names.iter().filter(|name| one.has_name(name)).cloned());
        }
        items.retain(|one| self.has_any_name(item(one)) && self.fits(item(one), own));
        if let Some(column) = self.column::<T>()? {
            items.sort_by(|one, other| column.compare(item(one), item(other)));
        }
        Ok(())
    }

    /// Chooses out of what one zone says.
    ///
    /// # Errors
    /// The column is none.
    pub(super) fn choose<T: Choosable>(&self, envelope: &mut Envelope<T>) -> Result<Chosen, Failure> {
        let (of, mut found) = (envelope.items.len(), BTreeSet::new());
        self.pick(&mut envelope.items, &envelope.zone, |item| item, &mut found)?;
        let place = format!("in zone {}", envelope.zone);
        Ok(Chosen {
            of: self.leaves_out().then_some(of),
            missing: self.missing::<T>(&found, &place),
        })
    }

    /// Chooses out of what all zones say. What cannot be understood is left as it is, to be shown as that.
    ///
    /// # Errors
    /// The column is none.
    pub(super) fn choose_everywhere<T: Choosable + DeserializeOwned>(
        &self,
        view: &mut EveryZoneView,
    ) -> Result<Chosen, Failure> {
        let (mut of, mut found) = (0, BTreeSet::new());
        for zone in &mut view.zones {
            let last = zone.last.as_mut().map(|last| &mut last.answer);
            let Some(items) = zone
                .answer
                .as_mut()
                .or(last)
                .and_then(|answer| answer.get_mut("items"))
            else {
                continue;
            };
            let Some(list) = items.as_array() else {
                continue;
            };
            let read = |value: &Value| Some((T::deserialize(value).ok()?, value.clone()));
            let Some(mut both) = list.iter().map(read).collect::<Option<Vec<_>>>() else {
                continue;
            };
            of += both.len();
            self.pick(&mut both, &zone.zone, |(item, _)| item, &mut found)?;
            *items = both.into_iter().map(|(_, value)| value).collect();
        }
        Ok(Chosen {
            of: self.leaves_out().then_some(of),
            missing: self.missing::<T>(&found, "in any zone that answered"),
        })
    }

    fn missing<T: Choosable>(&self, found: &BTreeSet<String>, place: &str) -> Option<Failure> {
        let missing: Vec<_> = self
            .names
            .iter()
            .filter(|name| !found.contains(*name))
            .map(|name| format!("`{name}`"))
            .collect();
        (!missing.is_empty()).then(|| {
            Failure::new(format!(
                "no {} is called {} {place}",
                T::KIND,
                missing.join(" or ")
            ))
            .hint("without a name all of them are listed")
            .not_found()
        })
    }
}

/// Result of a choice; the default: of everything.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Number of items that there are, if some may have been left out.
    pub(super) of: Option<usize>,
    /// Names that nothing has.
    pub(super) missing: Option<Failure>,
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
