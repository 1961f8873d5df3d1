//! Tasks of connections of HTTP/2: hyper asks for one for each request and for each connection to an instance.

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

/// Starter of tasks that end when the client's connection is cut, if not before, and log in its span.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionTasks {
    cut: CancellationToken,
    span: Span,
}

impl ConnectionTasks {
    pub(crate) fn until(cut: CancellationToken) -> Self {
        let span = Span::current();
        Self { cut, span }
    }

    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let cut = self.cut.clone();
        // Boxed: each future around it would hold room for it twice, and there is one for each request.
        let task = Box::pin(task);
        let task = async move {
            // What a request came to is in its record.
            let _ = cut.run_until_cancelled(task).await;
        };
        tokio::spawn(task.instrument(self.span.clone()));
    }
}

impl<F> Executor<F> for ConnectionTasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}
