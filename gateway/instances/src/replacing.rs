//! The whole lists of sources that wait for the task, and the one under way: taken in part by part, one list after the
//! other, so that probes and renewals go on meanwhile.

use std::{collections::VecDeque, time::Instant};

use causeway_federation::registry::{InstanceSource, Registration, Replaced, Replacement};
use causeway_zone_sync::registry::Writer;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{addresses::AddressCheck, bulk::BULK_PART, table::Table, task::Receipt};

/// Told when a list has been taken in.
pub(super) type Reply = oneshot::Sender<(Replaced, Receipt<()>)>;

#[derive(Debug, Default)]
pub(super) struct Replacing {
    waiting: VecDeque<Waiting>,
    under_way: Option<(Replacement, OwnedSemaphorePermit, Reply)>,
}

#[derive(Debug)]
struct Waiting {
    source: InstanceSource,
    wanted: Vec<Registration>,
    turn: OwnedSemaphorePermit,
    reply: Reply,
}

impl Replacing {
    pub(super) fn push(
        &mut self,
        source: InstanceSource,
        wanted: Vec<Registration>,
        turn: OwnedSemaphorePermit,
        reply: Reply,
    ) {
        self.waiting.push_back(Waiting {
            source,
            wanted,
            turn,
            reply,
        });
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_none()
    }

    /// Takes the next part in.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        table: &mut Table,
        writer: &mut Writer,
        addresses: &AddressCheck,
    ) {
        let next = self.under_way.take().or_else(|| {
            let next = self.waiting.pop_front()?;
            let replacement = table.replacement(next.source, next.wanted, |wanted| addresses.check(wanted));
            Some((replacement, next.turn, next.reply))
        });
        let Some((mut replacement, turn, reply)) = next else {
            return;
        };
        let source = replacement.source().clone();
        let done = table.advance(now, &mut replacement, BULK_PART, |key, says| {
            if !source.is_stored() {
                return;
            }
            match says {
                Some(registration) => writer.put(source.clone(), registration.clone(), None),
                None => writer.remove((source.clone(), key.clone()), None),
            }
        });
        let Some(replaced) = done else {
            self.under_way = Some((replacement, turn, reply));
            return;
        };
        if replaced.is_change() || !replaced.refused.is_empty() {
            tracing::info!(%source, added = replaced.added, changed = replaced.changed,
                removed = replaced.removed, refused = replaced.refused.len(), "took in what a source knows");
        }
        let (answer, written) = oneshot::channel();
        match source.is_stored() {
            true => writer.wait(Some(answer)),
            // It comes again by itself after a restart.
            false => drop(answer.send(causeway_zone_sync::registry::Durability::NoStore)),
        }
        // A caller that no longer listens is nothing to report.
        drop(reply.send((replaced, Receipt::new(Vec::new(), written))));
    }
}
