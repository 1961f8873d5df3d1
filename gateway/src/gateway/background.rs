//! The tasks of one gateway that live as long as it does: each has a name, so that one which ends is told of, and all are
//! ended together.
//!
//! A gateway whose task has ended is not ready any more, and goes on: the connections that it carries, and what its other
//! tasks do, are worth more than a clean slate, and whoever runs it decides when it is started again. `causeway zone-sync`
//! and `causeway ca serve` carry nobody's connections, and another takes over or nothing waits: they end.

use std::borrow::Cow;

use causeway_host::tasks::Tasks;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerWaitFuture},
};

/// The tasks of the control runtime. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct BackgroundTasks {
    /// Of the whole gateway: also those that run elsewhere.
    tasks: Tasks,
    running: TaskTracker,
    stop: CancellationToken,
    /// Ends those that a successor does in this process's place.
    hand_over: CancellationToken,
}

/// Ends the tasks when it is dropped, because a gateway could not be started.
#[must_use]
pub(crate) struct EndUnlessUp(Option<BackgroundTasks>);

impl EndUnlessUp {
    pub(crate) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for EndUnlessUp {
    fn drop(&mut self) {
        if let Some(background) = &self.0 {
            background.stop();
        }
    }
}

impl BackgroundTasks {
    pub(crate) fn new(tasks: Tasks) -> Self {
        let stop = CancellationToken::new();
        Self {
            tasks,
            running: TaskTracker::new(),
            hand_over: stop.child_token(),
            stop,
        }
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    pub(crate) fn end_unless_up(&self) -> EndUnlessUp {
        EndUnlessUp(Some(self.clone()))
    }

    /// Starts a task that runs until [`BackgroundTasks::stop`], or until a successor does it.
    pub(crate) fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.spawn_until(&self.hand_over, name, future);
    }

    /// Starts a task that open connections need to their end: it runs until [`BackgroundTasks::stop`].
    pub(crate) fn spawn_to_the_end<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.spawn_until(&self.stop, name, future);
    }

    fn spawn_until<F>(&self, stop: &CancellationToken, name: &'static str, future: F)
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let until_stopped = stop.clone().run_until_cancelled_owned(future);
        self.running
            .spawn(self.tasks.keep(Cow::Borrowed(name), until_stopped));
    }

    /// Ends what a successor does from now on.
    pub(crate) fn hand_over(&self) {
        self.tasks.stop();
        self.hand_over.cancel();
    }

    /// Ends every task. What ends from now on, here and elsewhere in the gateway, was asked to.
    pub(crate) fn stop(&self) {
        self.tasks.stop();
        self.stop.cancel();
    }

    /// Waits until all have ended.
    pub(crate) fn ended(&self) -> TaskTrackerWaitFuture<'_> {
        self.running.close();
        self.running.wait()
    }
}
