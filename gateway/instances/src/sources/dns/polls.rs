//! The schedule of questions, and what their last answers come to. Pure: told the time.
//!
//! What was found stays until DNS says otherwise, and a while longer: a name that is suddenly empty may be an operator's
//! slip or a resolver's, and emptying a service for it would be the worse mistake.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use causeway_federation::topology::DnsQuestion;

use super::ask::{DnsAnswer, DnsInstance};

/// Questions under way at once.
pub(super) const MAX_ASKING: usize = 16;
/// Shortest time between two askings, whatever the records say.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);
/// Longest time between two askings, whatever the records say: a change is noticed within it.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// Between two askings while there is nothing, or no answer.
pub(super) const RETRY: Duration = Duration::from_secs(5);
/// Time for which DNS must say that there is nothing before what was there is given up.
pub(super) const GRACE: Duration = Duration::from_secs(30);
/// After which a question that was never answered is asked again. The resolver gives up long before.
const LOST: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct Polls {
    polls: BTreeMap<DnsQuestion, Poll>,
    changed: bool,
}

#[derive(Debug)]
struct Poll {
    due: Instant,
    asking: bool,
    found: BTreeSet<DnsInstance>,
    /// Since when DNS has said that there is nothing.
    empty_since: Option<Instant>,
}

impl Polls {
    /// Takes up what is to be asked. What stays keeps its answers; what is gone is returned.
    pub(super) fn set_questions(&mut self, now: Instant, wanted: BTreeSet<DnsQuestion>) -> Vec<DnsQuestion> {
        let gone: Vec<_> = self
            .polls
            .keys()
            .filter(|question| !wanted.contains(question))
            .cloned()
            .collect();
        for question in &gone {
            self.polls.remove(question);
        }
        for question in wanted {
            self.polls.entry(question).or_insert_with(|| Poll {
                due: now,
                asking: false,
                found: BTreeSet::new(),
                empty_since: None,
            });
        }
        // Tags and weights may differ even where the questions are the same.
        self.changed = true;
        gone
    }

    /// A question to ask now.
    pub(super) fn poll_question(&mut self, now: Instant) -> Option<DnsQuestion> {
        if self
            .polls
            .values()
            .filter(|poll| poll.asking && poll.due > now)
            .count()
            >= MAX_ASKING
        {
            return None;
        }
        let due = self.polls.iter_mut().filter(|(_, poll)| poll.due <= now);
        let (question, poll) = due.min_by_key(|(_, poll)| poll.due)?;
        poll.asking = true;
        poll.due = now + LOST;
        Some(question.clone())
    }

    pub(super) fn handle_answer(&mut self, now: Instant, question: &DnsQuestion, answer: DnsAnswer) {
        let Some(poll) = self.polls.get_mut(question) else {
            return;
        };
        poll.asking = false;
        let before = poll.found.clone();
        let failed = answer.failure.is_some();
        if !answer.found.is_empty() {
            poll.empty_since = None;
            // What an incomplete answer does not tell of may still be there.
            let kept = if failed {
                std::mem::take(&mut poll.found)
            } else {
                BTreeSet::new()
            };
            let addresses: BTreeSet<_> = answer.found.iter().map(|found| found.address).collect();
            poll.found = answer.found;
            poll.found
                .extend(kept.into_iter().filter(|kept| !addresses.contains(&kept.address)));
        } else if !failed {
            poll.empty_since.get_or_insert(now);
        }
        let wait = match failed || poll.empty_since.is_some() {
            true => answer.lifetime.min(RETRY),
            false => answer.lifetime,
        };
        poll.due = now + wait.clamp(SHORTEST, LONGEST);
        self.changed |= poll.found != before;
    }

    /// Tells whether what was found is different from the last call; gives up what has been gone for long enough.
    pub(super) fn take_changed(&mut self, now: Instant) -> bool {
        for poll in self.polls.values_mut() {
            let gone = poll.empty_since.is_some_and(|since| now >= since + GRACE);
            if gone && !poll.found.is_empty() {
                poll.found.clear();
                self.changed = true;
            }
        }
        std::mem::take(&mut self.changed)
    }

    /// Time at which there is something to do next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let all_busy = self.polls.values().filter(|poll| poll.asking).count() >= MAX_ASKING;
        let due = self
            .polls
            .values()
            .filter(|poll| poll.asking || !all_busy)
            .map(|poll| poll.due);
        let given_up = self.polls.values().filter(|poll| !poll.found.is_empty());
        let given_up = given_up.filter_map(|poll| Some(poll.empty_since? + GRACE));
        due.chain(given_up).min()
    }

    /// Addresses that the last answers to a question come to.
    pub(super) fn found(&self, question: &DnsQuestion) -> impl Iterator<Item = &DnsInstance> {
        self.polls.get(question).into_iter().flat_map(|poll| &poll.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(n: usize) -> DnsQuestion {
        DnsQuestion::Addresses {
            name: format!("n{n}.acme.internal"),
            port: 80,
        }
    }

    fn answer(last: &[u8], seconds: u64, failure: Option<&str>) -> DnsAnswer {
        let found = last.iter().map(|&last| DnsInstance {
            address: ([10, 0, 0, last], 80).into(),
            weight: None,
        });
        DnsAnswer {
            found: found.collect(),
            lifetime: Duration::from_secs(seconds),
            failure: failure.map(str::to_owned),
        }
    }

    struct Bench {
        polls: Polls,
        start: Instant,
    }

    impl Bench {
        fn new(questions: usize) -> Self {
            let (mut polls, start) = (Polls::default(), Instant::now());
            polls.set_questions(start, (0..questions).map(question).collect());
            Self { polls, start }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        /// Asks at this second, and answers at once.
        fn step(&mut self, seconds: u64, answer: DnsAnswer) {
            let now = self.at(seconds);
            assert_eq!(self.polls.poll_question(now), Some(question(0)), "at {seconds} s");
            self.polls.handle_answer(now, &question(0), answer);
        }

        fn found(&mut self, seconds: u64) -> usize {
            let now = self.at(seconds);
            self.polls.take_changed(now);
            self.polls.found(&question(0)).count()
        }

        fn next(&self) -> u64 {
            (self.polls.poll_timeout().unwrap() - self.start).as_secs()
        }
    }

    #[test]
    fn it_asks_again_when_the_answer_runs_out_within_bounds() {
        for (lifetime, expected) in [(20, 20), (0, 1), (100_000, 300)] {
            let mut bench = Bench::new(1);
            bench.step(0, answer(&[1], lifetime, None));
            assert_eq!(bench.next(), expected);
            assert_eq!(bench.polls.poll_question(bench.at(expected - 1)), None);
            assert!(bench.polls.take_changed(bench.at(0)) && !bench.polls.take_changed(bench.at(0)));
        }
    }

    #[test]
    fn a_name_that_is_empty_keeps_its_instances_for_a_grace() {
        let mut bench = Bench::new(1);
        bench.step(0, answer(&[1, 2], 10, None));
        bench.step(10, answer(&[], 60, None));
        assert_eq!(bench.next(), 15, "asked again soon");
        bench.step(15, answer(&[], 60, None));
        assert_eq!(bench.found(39), 2);
        assert_eq!(bench.found(40), 0);
        // One that comes back within the grace was never gone.
        let mut bench = Bench::new(1);
        bench.step(0, answer(&[1], 10, None));
        bench.step(10, answer(&[], 60, None));
        bench.step(15, answer(&[1], 60, None));
        assert_eq!(bench.found(100), 1);
    }

    #[test]
    fn a_failure_keeps_what_was_known_for_as_long_as_it_lasts() {
        let mut bench = Bench::new(1);
        bench.step(0, answer(&[1], 10, None));
        for n in 0..100 {
            bench.step(10 + 5 * n, answer(&[], 0, Some("no answer")));
            bench
                .polls
                .polls
                .values_mut()
                .for_each(|poll| poll.due = bench.start);
        }
        assert_eq!(bench.found(10_000), 1);
        bench.step(10_000, answer(&[2], 10, Some("no AAAA")));
        assert_eq!(
            bench.found(10_000),
            2,
            "what an incomplete answer leaves out may be there"
        );
        bench.step(10_005, answer(&[2], 10, None));
        assert_eq!(bench.found(10_005), 1);
    }

    #[test]
    fn only_so_many_questions_are_under_way_and_none_is_forgotten() {
        let mut bench = Bench::new(MAX_ASKING + 5);
        let now = bench.at(0);
        let asked: Vec<_> = std::iter::from_fn(|| bench.polls.poll_question(now)).collect();
        assert_eq!(asked.len(), MAX_ASKING);
        assert!(
            bench.polls.poll_timeout().unwrap() > now,
            "it does not spin while all are busy"
        );
        bench.polls.handle_answer(now, &asked[0], answer(&[1], 60, None));
        assert!(bench.polls.poll_timeout().unwrap() <= now);
        let next = bench.polls.poll_question(now).unwrap();
        assert!(!asked.contains(&next));
        // One whose answer is lost is asked again.
        let late = now + LOST;
        let again: Vec<_> = std::iter::from_fn(|| bench.polls.poll_question(late)).collect();
        assert!(again.contains(&asked[1]));
    }

    #[test]
    fn a_question_that_is_dropped_takes_its_answers_along() {
        let mut bench = Bench::new(2);
        bench.step(0, answer(&[1], 60, None));
        let gone = bench.polls.set_questions(bench.start, [question(1)].into());
        assert_eq!(gone, [question(0)]);
        assert_eq!(bench.found(0), 0);
        // An answer that was under way is nobody's.
        bench
            .polls
            .handle_answer(bench.start, &question(0), answer(&[1], 60, None));
        assert_eq!(bench.found(0), 0);
    }
}
