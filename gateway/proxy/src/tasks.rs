//! Tasks of connections of HTTP/2: hyper asks for one for each request and for each connection to an instance.

use std::sync::Arc;

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::open::ConnectionHandle;

/// Starter of tasks that end when the client's connection is cut, if not before, and log in its span.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionTasks {
    cut: CancellationToken,
    /// The connection, and what ends them instead where it is cut for a shutdown.
    lasting: Option<(Arc<ConnectionHandle>, CancellationToken)>,
    span: Span,
}

impl ConnectionTasks {
    pub(crate) fn until(cut: CancellationToken) -> Self {
        let span = Span::current();
        Self {
            cut,
            lasting: None,
            span,
        }
    }

    /// Tasks of this connection's requests, which have until `over` to tell their client of a shutdown.
    pub(crate) fn of_requests(connection: Arc<ConnectionHandle>, over: CancellationToken) -> Self {
        let tasks = Self::until(connection.cut().clone());
        Self {
            lasting: Some((connection, over)),
            ..tasks
        }
    }

    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let (cut, lasting) = (self.cut.clone(), self.lasting.clone());
        // Boxed: each future around it would hold room for it twice, and there is one for each request.
        let mut task = Box::pin(task);
        let task = async move {
            // What a request came to is in its record.
            if cut.run_until_cancelled(task.as_mut()).await.is_none()
                && let Some((connection, over)) = lasting
                && connection.is_cut()
            {
                let _ = over.run_until_cancelled(task).await;
            }
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
