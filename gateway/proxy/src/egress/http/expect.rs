//! The time before an answer: interim answers (1xx) go on to the client, and a body that its client holds back goes once the
//! instance has asked for it (`Expect: 100-continue`).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use http::{Request, StatusCode, header};
use hyper::{body::Body as _, ext::on_informational};
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};

use super::{body::RequestBody, record::RequestRecord};
use crate::http::limits::CONTINUE_WAIT;

/// Time of one request between its head and its answer.
pub(super) struct BeforeAnswer {
    /// `None`: its body does not wait.
    gate: Option<Arc<ContinueGate>>,
}

impl BeforeAnswer {
    /// Has interim answers go to the client, and a body that its client holds back wait.
    pub(super) fn attend(request: &mut Request<RequestBody>, record: &RequestRecord) -> Self {
        if !record.takes_interim() {
            return Self { gate: None };
        }
        let expects = request.headers().get(header::EXPECT);
        let waits = expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let gate = (waits && !request.body().is_end_stream()).then(Arc::<ContinueGate>::default);
        if let Some(gate) = &gate {
            request.body_mut().wait(ContinueWait::new(gate.clone()));
        }
        let connection = record.connection();
        let (word, interim, watch) = (gate.clone(), connection.interim.clone(), connection.watch.clone());
        on_informational(request, move |answer| match answer.status() {
            // Hyper tells the client when its body is read.
            StatusCode::CONTINUE => {
                if let Some(gate) = &word {
                    gate.say(ContinueWord::Go);
                }
            }
            status => {
                interim.push(status, answer.headers());
                watch.wake();
            }
        });
        Self { gate }
    }

    /// The answer has come: nothing is to come before it any more.
    pub(super) async fn answered(self, record: &mut RequestRecord) {
        if self
            .gate
            .is_some_and(|gate| gate.say(ContinueWord::Answered) == ContinueWord::Answered)
        {
            record.leaves_body();
        }
        record.connection().interim.written().await;
    }
}

/// Word of the instance on a body that waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContinueWord {
    /// It has asked for the body.
    Go,
    /// It has answered without it.
    Answered,
}

/// Place where the word is left.
#[derive(Debug, Default)]
pub(super) struct ContinueGate {
    word: Mutex<Option<ContinueWord>>,
    waker: AtomicWaker,
}

impl ContinueGate {
    /// Leaves a word, if there is none. Returns the one that stands.
    pub(super) fn say(&self, word: ContinueWord) -> ContinueWord {
        let stands = *self.word.lock().get_or_insert(word);
        self.waker.wake();
        stands
    }
}

/// Wait of a body for the word. Servers that know nothing of it wait for the body, so it ends by itself.
#[derive(Debug)]
pub(super) struct ContinueWait {
    gate: Arc<ContinueGate>,
    longest: Pin<Box<Sleep>>,
}

impl ContinueWait {
    pub(super) fn new(gate: Arc<ContinueGate>) -> Self {
        Self {
            gate,
            longest: Box::pin(sleep(CONTINUE_WAIT)),
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ContinueWord> {
        self.gate.waker.register(cx.waker());
        let word = *self.gate.word.lock();
        match word {
            Some(word) => Poll::Ready(word),
            None => self
                .longest
                .as_mut()
                .poll(cx)
                .map(|()| self.gate.say(ContinueWord::Go)),
        }
    }
}
