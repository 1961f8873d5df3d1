//! The columns of the table of shifts.

use causeway_api::admin::view::ShiftView;

use super::tables::{Tabular, tags};
use crate::output::{Tone, Word};

impl Tabular for ShiftView {
    const HEADER: &'static [&'static str] = &[
        "SERVICE", "TO", "STEP", "PERCENT", "STATE", "NEXT", "REQUESTS", "DRIVER",
    ];
    const WIDE: &'static [&'static str] = &["STEPS", "EVERY", "GATE", "AGAINST IT", "BECAUSE", "BEGUN"];

    fn row(&self) -> Vec<Word> {
        vec![
            self.service.as_str().into(),
            tags(&self.to).into(),
            format!("{}/{}", self.step, self.steps.len()).into(),
            self.percent.into(),
            state(self),
            self.due.clone().unwrap_or_default().into(),
            self.requests.into(),
            match self.driver_gone {
                true => Word::doubtful(format!("{} (gone)", self.driver)),
                false => self.driver.as_str().into(),
            },
        ]
    }

    fn wide(&self) -> Vec<Word> {
        let steps: Vec<String> = self.steps.iter().map(ToString::to_string).collect();
        let against: Vec<String> = self.against.iter().map(ToString::to_string).collect();
        vec![
            steps.join(",").into(),
            self.every.as_str().into(),
            self.abort_if.join(" ").into(),
            against.join(",").into(),
            self.because.clone().unwrap_or_default().into(),
            self.begun.as_str().into(),
        ]
    }

    fn rank(&self, title: &str) -> Option<f64> {
        let every = (title == "EVERY").then(|| humantime::parse_duration(&self.every).ok());
        every.flatten().map(|every| every.as_secs_f64())
    }
}

fn state(shift: &ShiftView) -> Word {
    match (shift.state.as_str(), shift.taken_back) {
        (state, true) => Word::doubtful(format!("{state}, taken back here")),
        (state @ "running", false) => Word(state.to_owned(), Tone::Good),
        (state @ "done", false) => state.into(),
        (state, false) => Word::doubtful(state.to_owned()),
    }
}
