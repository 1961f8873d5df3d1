//! The columns of the table of loads, and flags that they are chosen by.

use causeway_api::admin::view::LoadView;
use causeway_federation::name::Tags;

use super::{
    choose::{Choosable, ChoosableBy},
    tables::{Tabular, tags},
};
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

impl Choosable for LoadView {
    const KIND: &'static str = "load";
    const BY: &'static [ChoosableBy] = &[
        ChoosableBy::Name,
        ChoosableBy::Zone,
        ChoosableBy::Service,
        ChoosableBy::Tag,
        ChoosableBy::Column,
    ];

    fn has_name(&self, name: &str) -> bool {
        self.service == name
    }

    fn is_of_zone(&self, zone: &str, _own: &str) -> bool {
        self.zone == zone
    }

    fn is_of_service(&self, service: &str) -> bool {
        self.service == service
    }

    fn carries(&self, tags: &Tags) -> bool {
        self.tags.matches(tags)
    }
}
