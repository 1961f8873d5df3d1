//! The data threads: one current-thread runtime each, so that a connection's bytes never change cores and a busy control
//! runtime cannot stall them.

use std::{io, thread};

use causeway_host::tasks::Tasks;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use super::{GatewayConfig, GatewayStartError};

/// Starts the data threads of a gateway.
pub(super) fn start_threads(config: &GatewayConfig) -> Result<DataThreads, GatewayStartError> {
    let count = config.threads;
    DataThreads::start(count, &config.tasks).map_err(|source| GatewayStartError::Threads { count, source })
}

/// Data threads that run until they are stopped or dropped.
#[derive(Debug, Default)]
pub(crate) struct DataThreads {
    handles: Vec<Handle>,
    stop: CancellationToken,
    threads: Vec<thread::JoinHandle<()>>,
}

impl DataThreads {
    /// # Errors
    /// When the operating system gives no thread or no reactor.
    pub(crate) fn start(count: usize, tasks: &Tasks) -> io::Result<Self> {
        let mut started = Self {
            handles: Vec::new(),
            stop: CancellationToken::new(),
            threads: Vec::new(),
        };
        for index in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let stop = started.stop.clone();
            started.handles.push(runtime.handle().clone());
            // Its tasks end with the thread; each of those says so itself as well.
            let running = tasks.keep(format!("data thread {index}"), stop.cancelled_owned());
            let body = move || runtime.block_on(running);
            started
                .threads
                .push(thread::Builder::new().name(format!("data-{index}")).spawn(body)?);
        }
        Ok(started)
    }

    /// The runtimes, by thread index.
    #[must_use]
    pub(crate) fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// Ends every thread, and with it every task that still runs there. Blocks until they are gone.
    pub(crate) fn stop(mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a data thread panicked; the connections it carried are lost");
            }
        }
    }
}

impl Drop for DataThreads {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_data_thread_runs_its_own_tasks_and_ends_when_stopped() {
        let threads = DataThreads::start(2, &Tasks::default()).unwrap();
        let mut names = Vec::new();
        for handle in threads.handles() {
            let name = handle.spawn(async { thread::current().name().map(str::to_owned) });
            names.push(name.await.unwrap().unwrap());
        }
        assert_eq!(names, ["data-0", "data-1"]);
        tokio::task::spawn_blocking(move || threads.stop()).await.unwrap();
    }
}
