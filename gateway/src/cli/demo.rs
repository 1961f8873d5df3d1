//! `causeway demo`: a federation on this machine, told as a story.

use std::{io::Write, path::PathBuf};

use causeway_zone_sync::topology::Style;

use super::{Exit, Failure};
use crate::{
    demo::{self, Pace},
    reload::load,
    telemetry::log::{self, LogFormat},
};

const AFTER_HELP: &str = "\
Examples:
  causeway demo
  causeway demo topologies/vm-to-kubernetes.yaml
  causeway demo --serve

Exit codes: 0 every promise held, 1 one was broken, 65 the file has errors.";

/// Run every zone of a topology on this machine, cut one off, and show the failover as it happens
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Topology file [default: a built-in one of three zones, one of which only dials out]
    topology: Option<PathBuf>,
    /// Leave everything running after the story, to play with
    #[arg(long)]
    serve: bool,
    /// Send fewer requests
    #[arg(long)]
    fast: bool,
    /// What the gateways log to standard error: a level, or levels by module
    #[arg(long, value_name = "FILTER", env = "CAUSEWAY_LOG", default_value = "off")]
    log_level: String,
}

/// Runs the story, and waits for Ctrl-C after it if that is wanted.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    log::start(LogFormat::Text, &args.log_level)
        .map_err(|error| Failure::usage("cannot start the log").because(&error))?;
    let (parsed, name) = match &args.topology {
        Some(path) => match load(path) {
            Ok(parsed) => (parsed, path.display().to_string()),
            Err(error) => {
                // It has its own `error:` and `hint:` lines, one for each finding.
                anstream::stderr().write_all(error.render(Style::Colour).as_bytes())?;
                return Ok(Exit::BadInput);
            }
        },
        None => {
            let parsed = demo::default_topology();
            let parsed = parsed.ok_or_else(|| Failure::new("the built-in topology cannot be read"))?;
            (parsed, demo::default_file().to_owned())
        }
    };
    if !parsed.warnings.is_empty() {
        anstream::stderr().write_all(parsed.warnings.render(Style::Colour).as_bytes())?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("demo")
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::new("cannot start the async runtime").because(&error))?;
    let pace = if args.fast { Pace::FAST } else { Pace::STEADY };
    let played = args.serve.then_some(async {
        // Without a signal handler there is nothing to wait for.
        let _ = tokio::signal::ctrl_c().await;
    });
    let told = runtime.block_on(demo::run((&parsed.topology, &name), pace, played));
    match told {
        Ok(true) => Ok(Exit::Done),
        Ok(false) => Ok(Exit::Failed),
        Err(demo::DemoError::Output(error)) => Err(error.into()),
        Err(error) => Err(Failure::new("the demo cannot go on").because(&error)),
    }
}
