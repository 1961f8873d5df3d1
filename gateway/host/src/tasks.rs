//! The long-lived tasks and threads of a program, each under a name. One that ends although nobody asked it to is logged
//! and remembered, whatever ended it: a return, a panic, or a runtime that is gone. What follows from that is for whoever
//! holds the [`Tasks`]: a gateway is no longer ready, other programs end.

use std::{
    borrow::Cow,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;
use tokio::sync::watch;

#[cfg(feature = "test-util")]
use self::told::TaskLine;

/// Most tasks that are remembered by name. Further ones are logged and counted.
const MAX_REMEMBERED: usize = 64;

/// Name of a task: what it does, in words that an operator understands.
pub type TaskName = Cow<'static, str>;

/// Manner in which a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskEnding {
    Returned,
    Panicked,
    /// It was ended from outside: aborted, or its runtime or thread is gone.
    Dropped,
}

impl fmt::Display for TaskEnding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Returned => "it returned",
            Self::Panicked => "it panicked",
            Self::Dropped => "it was dropped",
        })
    }
}

/// Task that ended although nobody asked it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedTask {
    pub name: TaskName,
    pub ending: TaskEnding,
}

/// Every task that ended although nobody asked it to.
#[derive(Debug, Clone, Default)]
pub struct EndedTasks {
    /// The first ones, each name once, in the order in which they ended.
    pub first: Vec<EndedTask>,
    /// Number of all of them.
    pub count: u64,
}

/// The tasks of one gateway, or of one program. Clones are the same.
#[derive(Debug, Clone)]
pub struct Tasks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Set once they are to end.
    stopping: AtomicBool,
    ended: watch::Sender<EndedTasks>,
    starting: Mutex<HeldBack>,
    #[cfg(feature = "test-util")]
    told: told::Switchboard,
}

/// Ends of tasks while their program starts. Where it cannot start what it has started is ended, and the one error to tell is why.
#[derive(Debug, Default)]
struct HeldBack {
    /// Parts of the program that are starting.
    parts: u32,
    ended: Vec<EndedTask>,
}

/// Endings that are a fault while nothing is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Faults {
    Every,
    Panics,
}

impl Default for Tasks {
    fn default() -> Self {
        Self(Arc::new(Shared {
            stopping: AtomicBool::new(false),
            ended: watch::Sender::new(EndedTasks::default()),
            starting: Mutex::default(),
            #[cfg(feature = "test-util")]
            told: told::Switchboard::default(),
        }))
    }
}

impl Tasks {
    /// Wraps a task that runs until the tasks are stopped. From here on, that it ends earlier is a fault: also if it is
    /// dropped before it was ever run.
    pub fn keep<F: Future, N: Into<TaskName>>(
        &self,
        name: N,
        future: F,
    ) -> impl Future<Output = ()> + use<F, N> {
        let watched = self.watch_over(name.into(), Faults::Every);
        async move {
            watched.run(future).await;
        }
    }

    /// Wraps a task that has an end of its own, and may be ended from outside: only that it panics is a fault. For what
    /// comes and goes, yet stays away once it panicked. `None`: it was told to end by a test.
    pub fn guard<F: Future, N: Into<TaskName>>(
        &self,
        name: N,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> + use<F, N> {
        let watched = self.watch_over(name.into(), Faults::Panics);
        async move { watched.run(future).await }
    }

    /// Starts a thread that ends once nobody needs it any more: only that it panics is a fault.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn thread(
        &self,
        name: &'static str,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let watched = self.watch_over(name.into(), Faults::Panics);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _watched = watched;
            body();
        })
    }

    /// Says that the tasks are about to be ended: what ends from now on was asked to.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Calls [`Tasks::stop`] when the guard is dropped: however a function is left, what it started is to end then.
    pub fn stop_when_dropped(&self) -> StopGuard {
        StopGuard(self.clone())
    }

    /// Says that the program, or a part of it, starts: that a task has ended is told once it has started, and not at all if it cannot.
    pub fn starting(&self) -> Starting {
        self.0.starting.lock().parts += 1;
        Starting(Some(self.clone()))
    }

    /// Tasks that have ended although nobody asked them to.
    #[must_use]
    pub fn ended(&self) -> EndedTasks {
        self.0.ended.borrow().clone()
    }

    /// Waits until a task has ended although nobody asked it to, for as long as that takes.
    pub async fn first_ended(&self) -> EndedTask {
        let mut ended = self.0.ended.subscribe();
        loop {
            if let Some(first) = ended.borrow_and_update().first.first() {
                return first.clone();
            }
            // The sender lives as long as `self`.
            let _ = ended.changed().await;
        }
    }

    fn watch_over(&self, name: TaskName, faults: Faults) -> Watched {
        Watched {
            tasks: self.clone(),
            #[cfg(feature = "test-util")]
            told: self.0.told.enter(&name),
            name,
            faults,
            returned: false,
        }
    }

    fn has_ended(&self, name: &TaskName, ending: TaskEnding) {
        let task = EndedTask {
            name: name.clone(),
            ending,
        };
        let mut starting = self.0.starting.lock();
        match starting.parts {
            0 => {
                drop(starting);
                self.tell(task);
            }
            _ if starting.ended.len() < MAX_REMEMBERED => starting.ended.push(task),
            _ => {}
        }
    }

    fn tell(&self, task: EndedTask) {
        let EndedTask { name, ending } = &task;
        tracing::error!(task = %name, %ending, "a task has ended that this process needs; start the process again");
        self.0.ended.send_modify(|ended| {
            ended.count += 1;
            let is_known = ended.first.iter().any(|known| known.name == task.name);
            if !is_known && ended.first.len() < MAX_REMEMBERED {
                ended.first.push(task);
            }
        });
    }
}

/// Stops tasks when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct StopGuard(Tasks);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Start of a program or a part of it. Dropped before that is up, it stops the tasks.
#[derive(Debug)]
#[must_use]
pub struct Starting(Option<Tasks>);

impl Starting {
    /// Says that the part is up: from now on it needs its tasks.
    pub fn up(mut self) {
        let Some(tasks) = self.0.take() else { return };
        let ended = {
            let mut starting = tasks.0.starting.lock();
            starting.parts -= 1;
            match starting.parts {
                0 => std::mem::take(&mut starting.ended),
                _ => Vec::new(),
            }
        };
        for task in ended {
            tasks.tell(task);
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let Some(tasks) = self.0.take() else { return };
        tasks.stop();
        let mut starting = tasks.0.starting.lock();
        starting.parts -= 1;
        starting.ended.clear();
    }
}

/// Lives as long as the task that it is about.
struct Watched {
    tasks: Tasks,
    name: TaskName,
    faults: Faults,
    returned: bool,
    #[cfg(feature = "test-util")]
    told: TaskLine,
}

impl Watched {
    #[cfg(not(feature = "test-util"))]
    async fn run<F: Future>(mut self, future: F) -> Option<F::Output> {
        let output = future.await;
        self.returned = true;
        Some(output)
    }

    #[cfg(feature = "test-util")]
    async fn run<F: Future>(mut self, future: F) -> Option<F::Output> {
        let output = self.told.unless_told(future).await;
        self.returned = true;
        output
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let ending = match self.returned {
            true => TaskEnding::Returned,
            false if thread::panicking() => TaskEnding::Panicked,
            false => TaskEnding::Dropped,
        };
        let is_fault = self.faults == Faults::Every || ending == TaskEnding::Panicked;
        if is_fault && !self.tasks.0.stopping.load(Ordering::Relaxed) {
            self.tasks.has_ended(&self.name, ending);
        }
    }
}

/// The handle that tests alone have: it ends a task by its name.
#[cfg(feature = "test-util")]
mod told {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex, PoisonError},
    };

    use tokio::sync::watch;

    use super::{TaskEnding, TaskName, Tasks};

    type Orders = BTreeMap<TaskName, Vec<watch::Sender<Option<TaskEnding>>>>;

    #[derive(Debug, Clone, Default)]
    pub(super) struct Switchboard(Arc<Mutex<Orders>>);

    /// A task's end of the line.
    pub(super) struct TaskLine(watch::Receiver<Option<TaskEnding>>);

    impl Switchboard {
        pub(super) fn enter(&self, name: &TaskName) -> TaskLine {
            let (order, orders) = watch::channel(None);
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.entry(name.clone()).or_default().push(order);
            TaskLine(orders)
        }
    }

    impl TaskLine {
        pub(super) async fn unless_told<F: Future>(&mut self, future: F) -> Option<F::Output> {
            let told = self.0.wait_for(Option::is_some);
            tokio::select! {
                biased;
                Ok(how) = told => match *how {
                    Some(TaskEnding::Panicked) => std::panic::panic_any("a test told it to"),
                    _ => None,
                },
                output = future => Some(output),
            }
        }
    }

    impl Tasks {
        /// Names of the tasks that run, threads left out.
        #[must_use]
        pub fn names(&self) -> Vec<TaskName> {
            let mut lines = self.0.told.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.retain(|_, orders| {
                orders.retain(|order| !order.is_closed());
                !orders.is_empty()
            });
            lines.keys().cloned().collect()
        }

        /// Has every task of this name return or panic.
        pub fn end(&self, name: &str, ending: TaskEnding) {
            let lines = self.0.told.0.lock().unwrap_or_else(PoisonError::into_inner);
            for order in lines.get(name).into_iter().flatten() {
                order.send_replace(Some(ending));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn ending_of(tasks: &Tasks) -> TaskEnding {
        let first = tokio::time::timeout(PATIENCE, tasks.first_ended()).await;
        let first = first.expect("a task that has ended");
        assert_eq!(first.name, "work");
        first.ending
    }

    #[tokio::test]
    async fn however_a_task_ends_it_is_remembered_by_name() {
        let tasks = Tasks::default();
        tokio::spawn(tasks.keep("work", async {}));
        assert_eq!(ending_of(&tasks).await, TaskEnding::Returned);

        let tasks = Tasks::default();
        tokio::spawn(tasks.keep("work", async { std::panic::panic_any("as a test wants it") }));
        assert_eq!(ending_of(&tasks).await, TaskEnding::Panicked);

        let tasks = Tasks::default();
        tokio::spawn(tasks.keep("work", std::future::pending::<()>())).abort();
        assert_eq!(ending_of(&tasks).await, TaskEnding::Dropped);
        assert_eq!(tasks.ended().count, 1);
    }

    #[tokio::test]
    async fn what_has_an_end_of_its_own_is_remembered_only_when_it_panics() {
        let tasks = Tasks::default();
        assert_eq!(tasks.guard("work", async { 7 }).await, Some(7));
        drop(tasks.guard("work", std::future::pending::<()>()));
        let thread = tasks.thread("work", || {}).unwrap();
        thread.join().unwrap();
        assert_eq!(tasks.ended().count, 0);
        let thread = tasks.thread("work", || std::panic::panic_any("as a test wants it"));
        assert!(thread.unwrap().join().is_err());
        assert_eq!(ending_of(&tasks).await, TaskEnding::Panicked);
    }

    #[tokio::test]
    async fn what_ends_while_everything_is_stopped_is_no_fault() {
        let tasks = Tasks::default();
        let work = tasks.keep("work", async {});
        tasks.stop();
        work.await;
        assert_eq!(tasks.ended().count, 0);
    }

    #[tokio::test]
    async fn that_a_task_ended_is_told_once_the_program_is_up_and_never_if_it_cannot_start() {
        let tasks = Tasks::default();
        let (program, part) = (tasks.starting(), tasks.starting());
        tasks.keep("work", async {}).await;
        part.up();
        assert_eq!(tasks.ended().count, 0);
        program.up();
        assert_eq!(ending_of(&tasks).await, TaskEnding::Returned);
        tasks.keep("work", async {}).await;
        assert_eq!(tasks.ended().count, 2);

        let tasks = Tasks::default();
        let (program, part) = (tasks.starting(), tasks.starting());
        let cut_short = tasks.keep("work", async {});
        tasks.keep("other", async {}).await;
        drop(part);
        drop(cut_short);
        program.up();
        assert_eq!(tasks.ended().count, 0);
    }

    #[tokio::test]
    async fn names_without_end_are_counted_and_not_kept() {
        let tasks = Tasks::default();
        for number in 0..2 * MAX_REMEMBERED {
            tasks.keep(number.to_string(), async {}).await;
            tasks.keep("again", async {}).await;
        }
        assert_eq!(tasks.ended().first.len(), MAX_REMEMBERED);
        assert_eq!(tasks.ended().count, 4 * MAX_REMEMBERED as u64);
    }
}
