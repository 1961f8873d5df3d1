//! The table that mesh DNS and the egress share: one writer at a time behind a lock, readers on an immutable value.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::{ArcSwap, Guard};
use causeway_federation::{
    name::ServiceName,
    topology::{Topology, Vips},
};
use causeway_routing::{
    snapshot::Snapshot,
    target::{Bindings, Target},
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    allocator::{Allocation, Allocator, ranges},
    bindings::bindings,
    error::VipsError,
    former::{FormerVips, end_of, moved},
    known::{Contested, contested, exists, in_use, visible_services},
    labels::{TagIndex, tag_label},
    listening::Listening,
    names::{LastAsked, NarrowedName, Vip, VipNames},
    pool::RangeFull,
    room::{HeldName, make_room},
    store::{VipStore, VipStoreError},
};

/// File name below the data folder.
const FILE: &str = "vips.redb";
/// Interval at which the times at which names were last known are brought up to date, in seconds: an hour.
pub(super) const TOUCH_SECONDS: u64 = 3600;

/// Table of which virtual address stands for which name. Shared by mesh DNS, the egress and the admin API.
#[derive(Debug)]
pub struct VipTable {
    names: ArcSwap<VipNames>,
    writer: Mutex<Writer>,
    bindings: watch::Sender<Bindings>,
    listening: Arc<Listening>,
    /// Time for which former addresses are taken, in seconds.
    keep_former: u64,
}

#[derive(Debug)]
struct Writer {
    store: Option<VipStore>,
    /// The mode and ranges that `allocator` works with; `None` until the first refresh.
    vips: Option<Vips>,
    allocator: Allocator,
    /// Content of the file, until the first refresh takes it over.
    loaded: Vec<(Target, Allocation)>,
    topology: Option<Arc<Topology>>,
    visible: Vec<ServiceName>,
    tags: TagIndex,
    contested: Contested,
    former: FormerVips,
    /// Addresses of names before the last change of `vips`, until it is known which of them these still have.
    before: Vec<(Target, Vip)>,
    /// One for each name by tag and by zone.
    asked: BTreeMap<Target, LastAsked>,
    touched: u64,
}

/// Effect of one change to the allocations, to be written to disk.
#[derive(Debug, Default)]
struct Change {
    changed: Vec<(Target, Allocation)>,
    removed: Vec<Target>,
    failed: Option<RangeFull>,
}

fn unix_seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl VipTable {
    /// Opens `vips.redb` below `data`, the folder that outlives a restart. Nothing has an address until the first
    /// [`VipTable::refresh`].
    ///
    /// # Errors
    /// When the file cannot be opened. A corrupt one is set aside instead.
    pub fn open(data: &Path, now: SystemTime) -> Result<Self, VipStoreError> {
        let (store, loaded) = VipStore::open(&data.join(FILE), unix_seconds(now))?;
        let former = FormerVips::read(&store);
        let table = Self::with(Some(store), loaded);
        table.writer.lock().former = former;
        Ok(table)
    }

    /// Has the addresses that names had before a change of `vips` taken for `time` after it; without this they are not.
    #[must_use]
    pub fn keep_former(self, time: Duration) -> Self {
        Self {
            keep_former: time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)),
            ..self
        }
    }

    /// A table that forgets everything when it is dropped.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::with(None, Vec::new())
    }

    fn with(store: Option<VipStore>, loaded: Vec<(Target, Allocation)>) -> Self {
        Self {
            names: ArcSwap::default(),
            writer: Mutex::new(Writer {
                store,
                vips: None,
                allocator: Allocator::new(&Vips::Routed { ranges: Vec::new() }, []),
                loaded,
                topology: None,
                visible: Vec::new(),
                tags: TagIndex::default(),
                contested: Contested::new(),
                former: FormerVips::default(),
                before: Vec::new(),
                asked: BTreeMap::new(),
                touched: 0,
            }),
            bindings: watch::Sender::default(),
            listening: Arc::default(),
            keep_former: 0,
        }
    }

    /// Every name that has an address now. Never waits for a writer.
    #[must_use]
    pub fn names(&self) -> Guard<Arc<VipNames>> {
        self.names.load()
    }

    /// Bindings of the egress: each virtual address with each port of its service.
    #[must_use]
    pub fn bindings(&self) -> watch::Receiver<Bindings> {
        self.bindings.subscribe()
    }

    /// Addresses that the egress listens on by now, as the egress tells.
    #[must_use]
    pub fn listening(&self) -> &Arc<Listening> {
        &self.listening
    }

    /// Takes up a new snapshot: gives addresses to services that it brought and frees those of names long gone.
    /// Cheap when nothing that matters changed. May wait for the disk.
    ///
    /// # Errors
    /// When a range is full or the disk refuses; every name that could have an address has one all the same.
    pub fn refresh(&self, snapshot: &Snapshot, now: SystemTime) -> Result<(), VipsError> {
        let mut writer = self.writer.lock();
        let now = unix_seconds(now);
        let Some(zone) = snapshot.topology.zones.get(&snapshot.zone) else {
            return Err(VipsError::UnknownName(snapshot.zone.to_string()));
        };
        writer.take_up_ranges(&zone.vips);
        let visible = visible_services(snapshot);
        let touch = now.saturating_sub(writer.touched) >= TOUCH_SECONDS;
        let same_topology = writer
            .topology
            .as_ref()
            .is_some_and(|held| Arc::ptr_eq(held, &snapshot.topology));
        let learned = writer.tags.update(snapshot);
        let narrowed = writer.allocator.allocations().map(|(target, _)| target);
        let contested = contested(writer.tags.known(), narrowed);
        let same_names = same_topology && writer.visible == visible && writer.contested == contested;
        let ended = writer.former.forget_ended(now, self.keep_former);
        if ended {
            writer.former.save(writer.store.as_ref());
        }
        if same_names && !touch {
            if learned || ended {
                self.publish(&mut writer, snapshot, now);
            }
            return Ok(());
        }
        for (service, (key, value)) in contested.difference(&writer.contested) {
            tracing::warn!(
                %service, tag = format_args!("{key}: {value}"), label = tag_label(key, value).unwrap_or_default(),
                "another tag has the DNS label of this one: no name stands for either while both are there"
            );
        }
        writer.contested = contested;
        writer.topology = Some(snapshot.topology.clone());
        writer.visible = visible;
        let mut change = writer.allocate_services(snapshot, now);
        writer.keep_moved(now, self.keep_former, &mut change);
        if touch {
            writer.touch(snapshot, now, &mut change);
        }
        let stored = writer.save(&change);
        self.publish(&mut writer, snapshot, now);
        match change.failed {
            Some(full) => Err(VipsError::RangeFull(full)),
            None => stored,
        }
    }

    /// Time at which the next former addresses end, from when on a [`VipTable::refresh`] has them taken no more.
    pub(super) fn former_end(&self) -> Option<SystemTime> {
        let end = self.writer.lock().former.next_end()?;
        UNIX_EPOCH.checked_add(Duration::from_secs(end))
    }

    /// Gives a name by tag or by zone its address when it is first asked for, and publishes it before it returns. May
    /// wait for the disk.
    ///
    /// # Errors
    /// When the name can have none.
    pub fn claim(&self, snapshot: &Snapshot, target: &Target, now: SystemTime) -> Result<Vip, VipsError> {
        let mut writer = self.writer.lock();
        let names = self.names.load();
        if let Some(vip) = names.vip(target) {
            return Ok(vip);
        }
        if !names.can_narrow() {
            return Err(VipsError::SharedAddress);
        }
        if !exists(snapshot, target) {
            return Err(VipsError::UnknownName(target.to_string()));
        }
        let now = unix_seconds(now);
        let (vip, change) = writer.claim(snapshot, target, now);
        let stored = writer.save(&change);
        self.publish(&mut writer, snapshot, now);
        if let Err(error) = stored {
            tracing::warn!(name = %target, error = &error as &dyn std::error::Error, "a virtual address was not stored");
        }
        vip
    }

    /// Lets go of the file, which a successor opens. What is given out from now on does not outlive this process.
    pub fn let_go(&self) {
        self.writer.lock().store = None;
    }

    /// Notes that a client was told the address of a name: one by tag or by zone then keeps it for a while.
    pub(crate) fn told(&self, target: &Target, now: SystemTime) {
        if let Some(name) = self.names.load().narrowed.get(target) {
            name.last_asked.asked(unix_seconds(now));
        }
    }

    fn publish(&self, writer: &mut Writer, snapshot: &Snapshot, now: u64) {
        writer.keep_times(now);
        let names = writer.names(snapshot);
        let bindings: Bindings = Arc::new(bindings(&names, &writer.former, snapshot));
        if **self.names.load() != names {
            self.names.store(Arc::new(names));
        }
        self.bindings.send_if_modified(|held| {
            let differs = *held != bindings;
            if differs {
                *held = bindings;
            }
            differs
        });
    }
}

impl Writer {
    fn take_up_ranges(&mut self, vips: &Vips) {
        if self.vips.as_ref() == Some(vips) {
            return;
        }
        let mut earlier = std::mem::take(&mut self.loaded);
        earlier.extend(
            self.allocator
                .allocations()
                .map(|(target, held)| (target.clone(), *held)),
        );
        self.before = earlier
            .iter()
            .map(|(target, held)| (target.clone(), held.vip))
            .collect();
        if let Some(address) = self.shares_address() {
            let vip = Vip::of(Some(address), None);
            let services = self.visible.iter().cloned();
            self.before
                .extend(services.map(|name| (Target::service(name), vip)));
        }
        self.allocator = Allocator::new(vips, earlier);
        self.vips = Some(vips.clone());
        self.topology = None;
    }

    /// Has the addresses that names lost by a change of `vips` taken for `time` more, and forgets on disk that they had them: else the
    /// next process would find them lost once more.
    fn keep_moved(&mut self, now: u64, time: u64, change: &mut Change) {
        let before = std::mem::take(&mut self.before);
        for (target, had) in &before {
            match self.allocator.allocation(target) {
                None => change.removed.push(target.clone()),
                Some(held) if held.vip != *had => change.changed.push((target.clone(), held)),
                Some(_) => {}
            }
        }
        let shared = self.shares_address().map(|address| Vip::of(Some(address), None));
        let has = |target: &Target| self.allocator.allocation(target).map(|held| held.vip).or(shared);
        let moved = moved(&before, has);
        if moved.is_empty() {
            return;
        }
        tracing::warn!(
            names = moved.len(), taken_for = ?Duration::from_secs(time),
            "names have other addresses than before: clients that hold one of before are served for so long, and then \
             refused until they ask again"
        );
        if time > 0 {
            self.former.keep(moved, end_of(now, time));
            self.former.save(self.store.as_ref());
        }
    }

    fn shares_address(&self) -> Option<IpAddr> {
        match &self.vips {
            Some(Vips::Address { address }) => Some(*address),
            _ => None,
        }
    }

    fn allocate_services(&mut self, snapshot: &Snapshot, now: u64) -> Change {
        let mut change = Change::default();
        if self.shares_address().is_some() {
            return change;
        }
        // Of all services and not only of those that this zone may see now, so that what a gateway has seen does not matter.
        let services = snapshot.topology.services.keys();
        let services = services.map(|name| Target::service(name.clone())).collect();
        let derived = self.allocator.derive(&services, now);
        change.changed = derived.changed;
        change.removed = derived.removed;
        change.failed = derived.failed;
        change
    }

    fn allocate(
        &mut self,
        snapshot: &Snapshot,
        target: &Target,
        now: u64,
        change: &mut Change,
    ) -> Result<Vip, RangeFull> {
        let tags = self.tags.known();
        let (vip, released) = self
            .allocator
            .allocate(target, now, |other| in_use(tags, snapshot, other));
        change.removed.extend(released);
        let vip = vip?;
        change
            .changed
            .push((target.clone(), Allocation { vip, seen: now }));
        Ok(vip)
    }

    /// Brings up to date when names were last known, and frees those that have been gone for long.
    fn touch(&mut self, snapshot: &Snapshot, now: u64, change: &mut Change) {
        self.touched = now;
        let tags = self.tags.known();
        let known: Vec<Target> = self
            .allocator
            .allocations()
            .map(|(target, _)| target)
            .filter(|target| in_use(tags, snapshot, target))
            .cloned()
            .collect();
        for target in known {
            self.allocator.touch(&target, now);
            let allocation = self.allocator.allocation(&target);
            change.changed.extend(allocation.map(|held| (target, held)));
        }
        change.removed.extend(
            self.allocator
                .release_gone(now, |target| in_use(tags, snapshot, target)),
        );
    }

    fn claim(&mut self, snapshot: &Snapshot, target: &Target, now: u64) -> (Result<Vip, VipsError>, Change) {
        let mut change = Change::default();
        let tags = self.tags.known();
        let narrowed = self.allocator.allocations().filter(|(held, _)| !held.is_whole());
        let held: Vec<HeldName<'_>> = narrowed
            .map(|(target, _)| HeldName {
                target,
                asked: self.asked.get(target).map_or(now, LastAsked::seconds),
                exists: in_use(tags, snapshot, target),
            })
            .collect();
        match make_room(&held, target, now) {
            Ok(None) => {}
            Ok(Some(gone)) => {
                self.allocator.release(&gone);
                change.removed.push(gone);
            }
            Err(full) => return (Err(VipsError::NoRoom(full)), change),
        }
        let vip = self
            .allocate(snapshot, target, now, &mut change)
            .map_err(VipsError::RangeFull);
        (vip, change)
    }

    fn save(&self, change: &Change) -> Result<(), VipsError> {
        if change.changed.is_empty() && change.removed.is_empty() {
            return Ok(());
        }
        match &self.store {
            Some(store) => store
                .write(&change.changed, &change.removed)
                .map_err(VipsError::Store),
            None => Ok(()),
        }
    }

    /// Remembers when each name by tag and by zone was asked for, and forgets those that have none any more.
    fn keep_times(&mut self, now: u64) {
        let mut held = std::mem::take(&mut self.asked);
        let narrowed = self.allocator.allocations().map(|(target, _)| target);
        self.asked = narrowed
            .filter(|target| !target.is_whole())
            .map(|target| {
                let asked = held.remove(target).unwrap_or_else(|| LastAsked::at(now));
                (target.clone(), asked)
            })
            .collect();
    }

    fn names(&self, snapshot: &Snapshot) -> VipNames {
        let mut names = VipNames {
            ranges: self.vips.as_ref().map(ranges).unwrap_or_default(),
            gateway_address: self.shares_address(),
            known: self.tags.known().clone(),
            ..VipNames::default()
        };
        if let Some(address) = names.gateway_address {
            let vip = Vip::of(Some(address), None);
            names.services = self.visible.iter().map(|name| (name.clone(), vip)).collect();
            return names;
        }
        let visible: BTreeSet<&ServiceName> = self.visible.iter().collect();
        for (target, allocation) in self.allocator.allocations() {
            if !target.is_whole() {
                if !exists(snapshot, target) {
                    continue;
                }
                let name = NarrowedName {
                    vip: allocation.vip,
                    last_asked: self.asked.get(target).cloned().unwrap_or_default(),
                };
                names.narrowed.insert(target.clone(), name);
                self.hold_tags(target, &mut names);
            } else if visible.contains(&target.service) {
                names.services.insert(target.service.clone(), allocation.vip);
            } else {
                continue;
            }
            names.by_address.extend(
                allocation
                    .vip
                    .addresses()
                    .map(|address| (address, target.clone())),
            );
        }
        names
    }

    /// Lets `names` stand for the tags of `target` by their labels, also when their last instance is gone.
    fn hold_tags(&self, target: &Target, names: &mut VipNames) {
        for (key, value) in target.tags.iter() {
            let tag = (target.service.clone(), (key.to_owned(), value.to_owned()));
            if !self.contested.contains(&tag) {
                let held = names.held.entry(target.service.clone()).or_default();
                held.add(key, value);
            }
        }
    }
}
