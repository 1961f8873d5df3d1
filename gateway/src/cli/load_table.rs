//! The columns of the table of loads.

use causeway_api::admin::view::LoadView;

use super::tables::{Tabular, tags};
use crate::output::Word;

impl Tabular for LoadView {
    const HEADER: &'static [&'static str] = &["FROM", "SERVICE", "TAGS", "CRITICALITY", "PER SECOND"];
    const WIDE: &'static [&'static str] = &["GATEWAY", "OVER SECONDS"];

    fn row(&self) -> Vec<Word> {
        vec![
            self.zone.as_str().into(),
            self.service.as_str().into(),
            tags(&self.tags).into(),
            self.criticality.word().into(),
            format!("{:.1}", self.per_second).into(),
        ]
    }

    fn wide(&self) -> Vec<Word> {
        vec![
            self.gateway.as_str().into(),
            format!("{:.0}", self.over_seconds).into(),
        ]
    }
}
