//! Places for questions to other zones that are under way. One caller may have twice as many as are free, two thirds of all at most: each question
//! takes as long as the slowest zone, so whoever asks without end would leave nobody else a place.

use std::{sync::Arc, time::Duration};

use causeway_host::share::{ShareHolder, ShareTable, ShareUse};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};

/// Questions that are under way at once, each to one zone or to all.
const MAX_QUESTIONS: u64 = 16;
/// Longest wait for a place among them.
const PLACE_WITHIN: Duration = Duration::from_secs(2);

/// Places for questions. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Questions(Arc<AskedQuestions>);

#[derive(Debug, Default)]
struct AskedQuestions {
    taken: Mutex<ShareTable>,
    freed: Notify,
}

/// Place of one question. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct QuestionPlace {
    questions: Questions,
    holder: ShareHolder,
}

impl Questions {
    /// Waits for a place; `None`: there is none in time.
    pub(super) async fn place(&self, holder: &ShareHolder) -> Option<QuestionPlace> {
        let waiting = async {
            loop {
                let freed = self.0.freed.notified();
                tokio::pin!(freed);
                // Before the look, so that a place that is freed meanwhile is not missed.
                freed.as_mut().enable();
                if let Some(place) = self.take(holder) {
                    return place;
                }
                freed.await;
            }
        };
        timeout(PLACE_WITHIN, waiting).await.ok()
    }

    fn take(&self, holder: &ShareHolder) -> Option<QuestionPlace> {
        let mut taken = self.0.taken.lock();
        let free = MAX_QUESTIONS.saturating_sub(taken.total());
        taken.take(holder, free, ShareUse::Traffic).ok()?;
        Some(QuestionPlace {
            questions: self.clone(),
            holder: holder.clone(),
        })
    }
}

impl Drop for QuestionPlace {
    fn drop(&mut self) {
        self.questions.0.taken.lock().give_back(&self.holder);
        self.questions.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_without_end_leaves_places_to_others_and_waits_for_its_own() {
        let questions = Questions::default();
        let (one, other) = (ShareHolder::User(1), ShareHolder::User(2));
        let mut held: Vec<_> = std::iter::from_fn(|| questions.take(&one)).collect();
        assert_eq!(held.len(), 11);
        let others: Vec<_> = std::iter::from_fn(|| questions.take(&other)).collect();
        assert!(others.len() >= 3, "{others:?}");
        drop(others);
        // The next one waits until one of the eleven is back.
        let next = questions.place(&one);
        tokio::pin!(next);
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        held.pop();
        assert!(next.await.is_some());
    }
}
