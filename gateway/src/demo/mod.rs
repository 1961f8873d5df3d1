//! `causeway demo`: a whole federation on this host, told as a story.
//!
//! Every zone of a topology runs as it would on its own hosts: real gateways, tunnels, mesh DNS and zone sync over
//! loopback, with a throw-away CA. Three things are replaced: the paths between gateways by links that can be cut, the
//! instances by small HTTP services, and the virtual addresses by a range of each gateway's own. Every request is
//! counted, and a promise that is broken is told and makes the demo fail.

mod ask;
mod chapters;
mod client;
mod federation;
mod instance;
mod layout;
mod link;
mod ranges;
mod records;
mod share;
mod sockets;
mod story;
mod tally;
mod traffic;

use std::{io, time::Duration};

use causeway_federation::{
    name::ZoneName,
    topology::{Parsed, Topology, parse},
};
use causeway_identity::ca::CaError;

use crate::gateway::GatewayStartError;
use chapters::Stage;
pub use client::ClientError;
use federation::DemoFederation;
use story::Story;

/// Topology that the demo shows when no file is named.
const DEFAULT_FILE: &str = "three-zones-dial-out.yaml";
const DEFAULT_TEXT: &str = include_str!("../../../topologies/three-zones-dial-out.yaml");

/// Numbers of requests in each chapter, and the pause between two.
#[derive(Debug, Clone, Copy)]
pub struct DemoPace {
    /// From each zone to each service in the chapter on ordinary traffic.
    ordinary_requests: usize,
    /// To measure a split.
    split_requests: usize,
    /// To measure each step of a shift.
    step_requests: usize,
    /// While a zone is cut off: before, after the move, and after the return.
    settled_requests: usize,
    /// Between two requests of steady traffic.
    every: Duration,
}

impl DemoPace {
    /// For people: about 20 s in all.
    pub const STEADY: Self = Self {
        ordinary_requests: 20,
        split_requests: 1000,
        step_requests: 200,
        settled_requests: 60,
        every: Duration::from_millis(10),
    };
    /// For tests: few requests, and everything shown all the same.
    pub const FAST: Self = Self {
        ordinary_requests: 6,
        split_requests: 200,
        step_requests: 60,
        settled_requests: 15,
        every: Duration::from_millis(20),
    };
}

/// Reason why the demo could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("cannot write the story")]
    Output(#[from] io::Error),
    #[error("cannot make identities")]
    Ca(#[from] CaError),
    #[error("cannot start an instance")]
    Instance(#[source] io::Error),
    #[error("cannot open a link between two gateways")]
    Link(#[source] io::Error),
    #[error("cannot find free virtual addresses in 127.128.0.0/10")]
    Range(#[source] io::Error),
    #[error("cannot start the access log")]
    AccessLog(#[source] io::Error),
    #[error("cannot start a gateway of zone {zone}")]
    Gateway {
        zone: ZoneName,
        #[source]
        source: Box<GatewayStartError>,
    },
    #[error("cannot resolve a service in zone {zone}")]
    Resolve {
        zone: ZoneName,
        #[source]
        source: ClientError,
    },
    #[error("no gateway of zone {0} runs")]
    NoSuchZone(ZoneName),
    #[error("waited in vain until {0}")]
    Late(&'static str),
}

/// The topology that is shown when none is named.
#[must_use]
pub fn default_topology() -> Option<Parsed> {
    parse(DEFAULT_TEXT, DEFAULT_FILE).ok()
}

/// Runs the demo; `true` when every promise held. `played` resolves when a person has seen enough of what runs; `None`
/// ends everything with the story.
///
/// # Errors
/// When a part could not be started, or the story could not be written.
pub async fn run(
    (topology, file): (&Topology, &str),
    pace: DemoPace,
    played: Option<impl Future<Output = ()>>,
) -> Result<bool, DemoError> {
    let story = Story::default();
    let title = format!("Causeway runs {file} on this machine: every zone in one process, over loopback.");
    story.title(&title)?;
    let federation = DemoFederation::start(topology).await?;
    let mut stage = Stage::new(federation, story, pace);
    let held = stage.tell().await?;
    if let Some(played) = played {
        stage.invite()?;
        stage.play(played).await?;
    }
    stage.end().await;
    Ok(held)
}

/// The name of the file that is shown when none is named.
#[must_use]
pub fn default_file() -> &'static str {
    DEFAULT_FILE
}
