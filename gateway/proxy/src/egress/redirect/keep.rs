//! Keeps the table of a redirect in force, and mesh DNS from giving out what is not redirected.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use causeway_routing::target::Bindings;
use tokio::sync::watch;

use super::{super::EgressShared, Redirect, RedirectError, nft::TableContent, plan::RedirectPlan};

/// Table that was put in place.
#[derive(Debug)]
pub(super) struct InstalledTable {
    plan: Arc<RedirectPlan>,
    /// Content that the kernel showed right after that.
    content: TableContent,
    looked: Instant,
}

/// Progress of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RedirectStep {
    /// A listener is not bound yet.
    Waiting,
    InForce,
}

impl Redirect {
    /// Puts the table in place for the first time.
    ///
    /// # Errors
    /// A table that cannot be put in place: nothing of it is left then.
    pub(in crate::egress) async fn start(
        &self,
        shared: &EgressShared,
        bindings: &watch::Receiver<Bindings>,
    ) -> Result<(), RedirectError> {
        loop {
            let mut places = shared.places.changed();
            let bound = bindings.borrow().clone();
            let step = self.step(shared, &bound).await?;
            if step == RedirectStep::InForce {
                self.tell(&Ok(step));
                return Ok(());
            }
            tokio::select! {
                _ = places.changed() => {}
                () = self.listener_failed.notified() => {}
            }
        }
    }

    /// Keeps the table as `bindings` and the topology say. Runs until it is dropped, or the egress is closed.
    pub(in crate::egress) async fn keep(
        &self,
        shared: &EgressShared,
        mut bindings: watch::Receiver<Bindings>,
    ) {
        let mut places = shared.places.changed();
        loop {
            let wanted = bindings.borrow_and_update().clone();
            places.borrow_and_update();
            let step = self.step(shared, &wanted).await;
            self.tell(&step);
            let woken = async {
                tokio::select! {
                    changed = bindings.changed() => changed.is_ok(),
                    changed = places.changed() => changed.is_ok(),
                    () = self.listener_failed.notified() => true,
                    () = tokio::time::sleep(self.config.look_every) => true,
                }
            };
            if shared.closed.run_until_cancelled(woken).await != Some(true) {
                // Connections that are open need the table to their end.
                return std::future::pending().await;
            }
        }
    }

    /// Removes the table, at the end of the gateway.
    pub(in crate::egress) async fn remove(&self) {
        let mut installed = self.installed.lock().await;
        if installed.take().is_none() {
            return;
        }
        self.in_force.send_replace(None);
        if let Err(error) = self.nft.remove(&self.config.table).await {
            tracing::warn!(
                table = self.config.table,
                error = error.line(),
                "the redirect of clients could not be removed; `nft delete table inet NAME` does it, and the next start replaces it"
            );
        }
    }

    /// Looks whether all is as it should be, and puts in place what is not.
    async fn step(&self, shared: &EgressShared, bindings: &Bindings) -> Result<RedirectStep, RedirectError> {
        let wanted = self.plan(shared, bindings);
        let mut installed = self.installed.lock().await;
        let step = match self.listens(shared, &wanted) {
            Ok(true) => self.bring_about(wanted, &mut installed).await,
            Ok(false) => Ok(RedirectStep::Waiting),
            Err(error) => Err(error),
        };
        let now = installed.as_ref().map(|installed| installed.plan.clone());
        if now.is_some() {
            self.has_begun.store(true, Ordering::Relaxed);
        }
        self.in_force.send_if_modified(|before| {
            let is_other = *before != now;
            *before = now.clone();
            is_other
        });
        self.keep_from_dns(shared, bindings, now.as_deref(), step.is_err());
        step
    }

    /// Tells whether this gateway listens where clients would be redirected to: a table that leads to somebody else's port would
    /// give them away.
    ///
    /// # Errors
    /// A port that cannot be listened on, and why.
    fn listens(&self, shared: &EgressShared, wanted: &RedirectPlan) -> Result<bool, RedirectError> {
        let bound = shared.places.changed();
        let missing = wanted
            .listeners()
            .into_iter()
            .find(|at| !bound.borrow().contains(at));
        let Some(address) = missing else {
            return Ok(true);
        };
        match shared.bind_failures.lock().get(&address) {
            Some(failure) => Err(RedirectError::Listener {
                address,
                error: failure.error.clone(),
                advice: failure.advice,
            }),
            None => Ok(false),
        }
    }

    async fn bring_about(
        &self,
        wanted: RedirectPlan,
        installed: &mut Option<InstalledTable>,
    ) -> Result<RedirectStep, RedirectError> {
        let table = &self.config.table;
        if let Some(held) = installed {
            let is_wanted = *held.plan == wanted;
            if is_wanted && held.looked.elapsed() < self.config.look_every {
                return Ok(RedirectStep::InForce);
            }
            let is_lost = self.nft.content(table).await?.as_ref() != Some(&held.content);
            held.looked = Instant::now();
            if is_wanted && !is_lost {
                return Ok(RedirectStep::InForce);
            }
            if is_lost {
                tracing::warn!(
                    table,
                    "somebody has removed or changed the redirect of clients, who may have gone astray; it is put back"
                );
                self.status.lock().lost = Some(Instant::now());
                *installed = None;
            }
        }
        self.nft.apply(&wanted.ruleset(table)).await?;
        // Afterwards: of two gateways that start together one at least sees the other.
        if let Some((other, range)) = self.nft.overlap(table, &wanted).await? {
            *installed = None;
            self.nft.remove(table).await?;
            return Err(RedirectError::Overlap { table: other, range });
        }
        let content = self.nft.content(table).await?;
        let content = content.ok_or_else(|| RedirectError::refused("the table is gone again"))?;
        tracing::info!(table, port = self.config.port, ranges = ?wanted.ranges(), "clients of the virtual addresses are redirected");
        *installed = Some(InstalledTable {
            plan: Arc::new(wanted),
            content,
            looked: Instant::now(),
        });
        Ok(RedirectStep::InForce)
    }

    /// Has mesh DNS give out no address whose clients cannot be redirected: they would get to a program of the host.
    fn keep_from_dns(
        &self,
        shared: &EgressShared,
        bindings: &Bindings,
        in_force: Option<&RedirectPlan>,
        is_failing: bool,
    ) {
        let listening = &shared.config.listening;
        let is_astray = |address: &&SocketAddr| !in_force.is_some_and(|plan| plan.covers(**address));
        let astray: BTreeSet<SocketAddr> = match is_failing {
            true => bindings.keys().filter(is_astray).copied().collect(),
            false => BTreeSet::new(),
        };
        let mut failed = self.failed.lock();
        failed
            .difference(&astray)
            .for_each(|address| listening.given_up(*address));
        astray
            .difference(&failed)
            .for_each(|address| listening.failed(*address));
        *failed = astray;
    }

    /// Notes the outcome of a step for `check`, and tells the log what has changed.
    fn tell(&self, step: &Result<RedirectStep, RedirectError>) {
        let mut status = self.status.lock();
        status.in_force = self.in_force.borrow().is_some();
        match step {
            Ok(RedirectStep::Waiting) => {}
            Ok(RedirectStep::InForce) => status.failure = None,
            Err(error) => {
                let failure = (error.line(), error.advice());
                if status.failure.as_ref() != Some(&failure) {
                    let (error, advice) = &failure;
                    tracing::warn!(
                        table = self.config.table,
                        error,
                        advice,
                        "clients cannot be redirected; it is tried again"
                    );
                }
                status.failure = Some(failure);
            }
        }
    }
}
