//! `causeway demo`: a federation on this machine, told as a story.

use std::path::PathBuf;

use causeway_control::reload::load_for;
use causeway_federation::topology::Style;
use causeway_host::tasks::Tasks;
use causeway_telemetry::log::{self, LogFormat};

use super::{Exit, Failure, signals};
use crate::demo::{self, DemoPace};

const AFTER_HELP: &str = "\
Examples:
  causeway demo
  causeway demo topologies/vm-to-kubernetes.yaml
  causeway demo --serve

Exit codes: 0 every promise held, 1 one was broken, 65 the file has errors.";

/// Run every zone of a topology on this machine, cut one off, and show the failover as it happens
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DemoArgs {
    /// Topology file [default: a built-in one of three zones, one of which only dials out]
    topology: Option<PathBuf>,
    /// Leave everything running after the story, to play with
    #[arg(long)]
    serve: bool,
    /// Send fewer requests
    #[arg(long)]
    fast: bool,
    /// Detail that the gateways log to standard error: a level, or levels by module
    #[arg(long, value_name = "FILTER", env = "CAUSEWAY_LOG", default_value = "off")]
    log_level: String,
}

/// Runs the story, and waits for Ctrl-C after it if that is wanted.
pub(crate) fn run(args: &DemoArgs) -> Result<Exit, Failure> {
    let _last_words = log::start(LogFormat::Text, &args.log_level, &Tasks::default())
        .map_err(|error| Failure::usage("cannot start the log").because(&error))?;
    let (parsed, name) = match &args.topology {
        // Low ports are moved.
        Some(path) => match load_for(path, 0) {
            Ok(parsed) => (parsed, path.display().to_string()),
            Err(error) => {
                // It has its own `error:` and `hint:` lines, one for each finding.
                crate::output::tell(&error.render(Style::Colour));
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
        crate::output::tell(&parsed.warnings.render(Style::Colour));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("demo")
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::new("cannot start the async runtime").because(&error))?;
    let pace = if args.fast {
        DemoPace::FAST
    } else {
        DemoPace::STEADY
    };
    let played = args.serve.then_some(async {
        // Without a signal handler there is nothing to wait for.
        let _ = tokio::signal::ctrl_c().await;
    });
    let told = async {
        match demo::run((&parsed.topology, &name), pace, played).await {
            Ok(true) => Ok(Exit::Done),
            Ok(false) => Ok(Exit::Failed),
            Err(demo::DemoError::Output(error)) => Err(error.into()),
            Err(error) => Err(Failure::new("the demo cannot go on").because(&error)),
        }
    };
    runtime.block_on(signals::unless_ended(told))
}
