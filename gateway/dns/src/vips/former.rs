//! Addresses that names had until the zone's `vips` changed. Clients hold them, so they are taken for a while longer, and are told to
//! nobody.

use std::collections::BTreeMap;

use causeway_routing::target::Target;
use serde::{Deserialize, Serialize};

use super::{names::Vip, store::VipStore};

/// Most names whose former addresses are kept; those that were kept first go first.
const MAX_FORMER: usize = 65_536;

/// Former addresses of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FormerVip {
    pub(super) target: Target,
    pub(super) vip: Vip,
    /// Time from which on they are taken no more, in seconds since the Unix epoch.
    pub(super) until: u64,
}

/// All of them, those of the earliest change first.
#[derive(Debug, Default)]
pub(super) struct FormerVips(Vec<FormerVip>);

impl FormerVips {
    /// Those of the process before. Where they cannot be read there are none: they are for minutes.
    pub(super) fn read(store: &VipStore) -> Self {
        Self(store.former().unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "former virtual addresses are not taken any more"
            );
            Vec::new()
        }))
    }

    pub(super) fn save(&self, store: Option<&VipStore>) {
        if let Some(Err(error)) = store.map(|store| store.write_former(&self.0)) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "former virtual addresses will not outlive a restart"
            );
        }
    }

    pub(super) fn keep(&mut self, moved: BTreeMap<Target, Vip>, until: u64) {
        self.0
            .retain(|former| moved.get(&former.target) != Some(&former.vip));
        let moved = moved.into_iter();
        self.0
            .extend(moved.map(|(target, vip)| FormerVip { target, vip, until }));
        let over = self.0.len().saturating_sub(MAX_FORMER);
        self.0.drain(..over);
    }

    /// Forgets those whose time is over, and has none taken for longer than `longest` from now on: the clock may have been set back, or the
    /// setting be another than it was. Returns whether anything changed.
    pub(super) fn forget_ended(&mut self, now: u64, longest: u64) -> bool {
        let latest = end_of(now, longest);
        let mut changed = false;
        for former in &mut self.0 {
            changed |= former.until > latest;
            former.until = former.until.min(latest);
        }
        let before = self.0.len();
        self.0.retain(|former| former.until > now);
        changed || self.0.len() < before
    }

    /// Time at which the next ones end.
    pub(super) fn next_end(&self) -> Option<u64> {
        self.0.iter().map(|former| former.until).min()
    }

    pub(super) fn all(&self) -> &[FormerVip] {
        &self.0
    }
}

/// Time at which what begins now ends after `seconds`: times are whole seconds, and the one that has begun is not counted.
pub(super) fn end_of(now: u64, seconds: u64) -> u64 {
    match seconds {
        0 => now,
        seconds => now.saturating_add(seconds).saturating_add(1),
    }
}

/// Addresses that names had `before` and do not have any more.
pub(super) fn moved(before: &[(Target, Vip)], has: impl Fn(&Target) -> Option<Vip>) -> BTreeMap<Target, Vip> {
    let lost = before.iter().map(|(target, had)| {
        let has = has(target).unwrap_or_default();
        let lost = had.only(|address| has.addresses().all(|kept| kept != address));
        (target.clone(), lost)
    });
    lost.filter(|(_, lost)| !lost.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> Target {
        Target::service(name.parse().unwrap())
    }

    fn vip(last: u8) -> Vip {
        Vip::of(Some([127, 64, 0, last].into()), None)
    }

    fn kept(former: &FormerVips) -> Vec<(&str, u64)> {
        let kept = former.all().iter();
        kept.map(|former| (former.target.service.as_str(), former.until))
            .collect()
    }

    #[test]
    fn nothing_is_kept_longer_than_the_setting_says_whatever_the_clock_or_the_file_say() {
        let mut former = FormerVips::default();
        former.keep([(target("orders"), vip(1))].into(), 1_600);
        assert!(!former.forget_ended(1_000, 600));
        assert!(former.forget_ended(100, 600), "the clock was set back");
        assert_eq!(kept(&former), [("orders", 701)]);
        assert!(former.forget_ended(100, 0), "the setting is another");
        assert_eq!(kept(&former), []);
    }

    #[test]
    fn what_is_kept_again_is_there_once_and_those_that_were_kept_first_make_room() {
        let mut former = FormerVips::default();
        former.keep([(target("orders"), vip(1)), (target("web"), vip(2))].into(), 600);
        former.keep([(target("orders"), vip(1))].into(), 700);
        assert_eq!(kept(&former), [("web", 600), ("orders", 700)]);
        let many = (0..MAX_FORMER - 1).map(|number| (target(&format!("s{number}")), vip(3)));
        former.keep(many.collect(), 800);
        assert_eq!(former.all().len(), MAX_FORMER);
        assert_eq!(former.all()[0].target, target("orders"));
    }
}
