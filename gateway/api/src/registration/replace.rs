//! Reading the stream of a Replace: everything that one source knows, checked as it comes and bounded in size and time.

use std::time::Duration;

use causeway_federation::registry::{
    InstanceSource, MAX_INSTANCES_PER_ZONE, Registration, Replaced,
    wire::{self, MAX_LIST},
};
use causeway_proto::registry::{Outcome, ReplaceReply, ReplaceRequest};
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;
use tonic::Status;

/// Longest silence within the stream.
const MAX_SILENCE: Duration = Duration::from_secs(10);
/// Refusals that the answer tells; the rest is counted in a last one.
const MAX_REFUSALS_TOLD: usize = 1_000;

/// Content of a whole stream.
#[derive(Debug)]
pub(super) struct StreamedRegistrations {
    pub source: InstanceSource,
    pub wanted: Vec<Registration>,
    /// Elements that are no registrations at all.
    refused: Vec<Outcome>,
    refused_count: usize,
}

/// Reads the stream to its end.
///
/// # Errors
/// When it breaks off, is too slow or too long, or does not keep to one source. Nothing has been replaced then.
pub(super) async fn read(
    mut stream: impl Stream<Item = Result<ReplaceRequest, Status>> + Unpin,
) -> Result<StreamedRegistrations, Status> {
    let mut handed: Option<StreamedRegistrations> = None;
    let mut elements = 0;
    loop {
        let next = timeout(MAX_SILENCE, stream.next()).await;
        let next = next.map_err(|_| {
            let seconds = MAX_SILENCE.as_secs();
            Status::deadline_exceeded(format!("nothing came for {seconds} s; nothing was replaced"))
        })?;
        let Some(message) = next.transpose()? else { break };
        elements += message.registrations.len();
        check_length(message.registrations.len(), elements)?;
        let handed = match &mut handed {
            Some(handed) if handed.source.as_str() != message.source => {
                let error = format!("the stream names `{}` and another source", handed.source);
                return Err(Status::invalid_argument(error));
            }
            Some(handed) => handed,
            None => handed.insert(StreamedRegistrations::of(&message.source)?),
        };
        for registration in message.registrations {
            handed.take(registration);
        }
    }
    handed.ok_or_else(|| {
        Status::invalid_argument(
            "the stream names no source; to remove everything, send one message without instances",
        )
    })
}

fn check_length(list: usize, elements: usize) -> Result<(), Status> {
    if list > MAX_LIST {
        return Err(Status::invalid_argument(format!(
            "{list} instances in one message are more than {MAX_LIST}; send several"
        )));
    }
    if elements > MAX_INSTANCES_PER_ZONE {
        return Err(Status::resource_exhausted(format!(
            "zone_full: a zone holds {MAX_INSTANCES_PER_ZONE} instances at most"
        )));
    }
    Ok(())
}

impl StreamedRegistrations {
    fn of(source: &str) -> Result<Self, Status> {
        let source = InstanceSource::named(source);
        let source =
            source.map_err(|error| Status::invalid_argument(format!("{}: {error}", error.word())))?;
        Ok(Self {
            source,
            wanted: Vec::new(),
            refused: Vec::new(),
            refused_count: 0,
        })
    }

    fn take(&mut self, message: causeway_proto::registry::Registration) {
        let name = format!("{}/{}", message.service, message.id);
        match wire::registration(message) {
            Ok(registration) => self.wanted.push(registration),
            Err(error) => {
                self.refused_count += 1;
                if self.refused.len() < MAX_REFUSALS_TOLD {
                    let name: String = name.chars().take(80).collect();
                    self.refused
                        .push(outcome(error.word(), format!("{}: {error}", name.escape_debug())));
                }
            }
        }
    }
}

/// The answer: what was done, and all refusals, those of reading first.
pub(super) fn reply(mut refused: Refusals, replaced: &Replaced) -> ReplaceReply {
    let room = MAX_REFUSALS_TOLD - refused.told.len().min(MAX_REFUSALS_TOLD);
    let later = replaced.refused.iter().take(room);
    refused
        .told
        .extend(later.map(|(key, error)| outcome(error.word(), format!("{key}: {error}"))));
    let count = refused.count + replaced.refused.len();
    if let Some(more @ 1..) = count.checked_sub(refused.told.len()) {
        refused
            .told
            .push(outcome("more", format!("{more} more were refused")));
    }
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    ReplaceReply {
        added: number(replaced.added),
        changed: number(replaced.changed),
        removed: number(replaced.removed),
        refused: refused.told,
    }
}

/// Refusals while reading.
#[derive(Debug)]
pub(super) struct Refusals {
    told: Vec<Outcome>,
    count: usize,
}

impl StreamedRegistrations {
    pub(super) fn split(self) -> (InstanceSource, Vec<Registration>, Refusals) {
        let refusals = Refusals {
            told: self.refused,
            count: self.refused_count,
        };
        (self.source, self.wanted, refusals)
    }
}

fn outcome(word: &str, message: String) -> Outcome {
    Outcome {
        refusal: word.to_owned(),
        message,
    }
}
