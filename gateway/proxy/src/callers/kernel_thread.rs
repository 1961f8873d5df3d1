//! A thread that asks the kernel, so that no data thread waits for it.

use std::sync::OnceLock;

use causeway_host::tasks::Tasks;
use tokio::sync::{mpsc, oneshot};

/// Jobs that wait for the thread. Further clients wait for room, each in its own task.
const MAX_WAITING: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// The thread, begun with the first job. It ends when this is dropped.
#[derive(Debug, Default)]
pub(super) struct KernelThread {
    jobs: OnceLock<Option<mpsc::Sender<Job>>>,
    tasks: Tasks,
}

impl KernelThread {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self {
            jobs: OnceLock::new(),
            tasks,
        }
    }

    /// Has the thread answer. `None`: there is no such thread.
    pub(super) async fn run<T: Send + 'static>(&self, ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let jobs = self.jobs.get_or_init(|| begin(&self.tasks)).as_ref()?;
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            // A client that is gone needs no answer.
            let _ = answer.send(ask());
        });
        jobs.send(job).await.ok()?;
        answered.await.ok()
    }
}

fn begin(tasks: &Tasks) -> Option<mpsc::Sender<Job>> {
    let (jobs, mut asked) = mpsc::channel::<Job>(MAX_WAITING);
    let begun = tasks.thread("callers", move || {
        while let Some(job) = asked.blocking_recv() {
            job();
        }
    });
    match begun {
        Ok(_) => Some(jobs),
        Err(error) => {
            tracing::error!(%error, "no thread can be started to ask the kernel for callers; they stay anonymous");
            None
        }
    }
}
