//! Draws by weight without replacement from groups of instances: their weights are laid end to end, and what was drawn is
//! left out of the length that is drawn over.

use causeway_federation::name::Tags;
use rand::Rng;

use super::list::{InstanceList, WeightedPlaces};

/// Draws over instances with any tags before those with the right ones are looked up one by one. With a twentieth of the
/// weight on them, six in a thousand choices need more.
const MAX_REJECTED: usize = 100;

/// The weights that one choice draws over.
#[derive(Debug)]
pub(super) struct WeightPool<'a> {
    /// Each with the point at which it begins.
    parts: Vec<(u64, &'a WeightedPlaces)>,
    total: u64,
    /// Tags that an instance must carry beyond being in the pool.
    test: Option<&'a Tags>,
}

/// A stretch of the weights that belongs to one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    begin: u64,
    end: u64,
}

impl<'a> WeightPool<'a> {
    /// All of these.
    pub(super) fn exact(groups: impl IntoIterator<Item = &'a WeightedPlaces>) -> Self {
        let mut pool = Self {
            parts: Vec::new(),
            total: 0,
            test: None,
        };
        for group in groups.into_iter().filter(|group| group.weight() > 0) {
            pool.parts.push((pool.total, group));
            pool.total = pool.total.saturating_add(group.weight());
        }
        pool
    }

    /// Those of them that carry `selector`.
    pub(super) fn by_rejection(group: &'a WeightedPlaces, selector: &'a Tags) -> Self {
        Self {
            test: Some(selector),
            ..Self::exact([group])
        }
    }

    /// The place of an instance that is not in `out`; `None` when there is no other.
    pub(super) fn draw(&mut self, list: &'a InstanceList, out: &[u32], rng: &mut impl Rng) -> Option<u32> {
        if let Some(selector) = self.test {
            let fits = |place: &u32| list.at(*place).is_some_and(|i| i.tags.matches(selector));
            let mut draws = (0..MAX_REJECTED).map_while(|_| self.draw_any(out, rng));
            if let Some(place) = draws.find(fits) {
                return Some(place);
            }
            *self = Self::exact(list.takers(selector));
        }
        self.draw_any(out, rng)
    }

    fn draw_any(&self, out: &[u32], rng: &mut impl Rng) -> Option<u32> {
        let mut out: Vec<Span> = out.iter().filter_map(|place| self.span(*place)).collect();
        out.sort_unstable();
        let gone: u64 = out.iter().map(|span| span.end - span.begin).sum();
        let left = self.total.checked_sub(gone).filter(|left| *left > 0)?;
        let mut point = rng.random_range(0..left);
        for span in out {
            if point >= span.begin {
                point += span.end - span.begin;
            }
        }
        self.at(point)
    }

    /// The place of the instance whose span holds `point`.
    fn at(&self, point: u64) -> Option<u32> {
        let part = self.parts.partition_point(|(begin, _)| *begin <= point);
        let (begin, group) = self.parts.get(part.checked_sub(1)?)?;
        let member = group.ends.partition_point(|end| *end <= point - begin);
        group.places.get(member).copied()
    }

    fn span(&self, place: u32) -> Option<Span> {
        self.parts.iter().find_map(|(begin, group)| {
            let member = group.places.binary_search(&place).ok()?;
            let before = member.checked_sub(1).and_then(|before| group.ends.get(before));
            Some(Span {
                begin: begin + before.copied().unwrap_or(0),
                end: begin + group.ends.get(member)?,
            })
        })
    }
}
