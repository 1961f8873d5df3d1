//! Source of the identity of `causeway gateway` and `causeway zone-sync`: a folder, or the SPIFFE Workload API.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use causeway_control::renewal::{JoinTokenFile, Renewal};
use causeway_federation::name::ZoneName;
#[cfg(feature = "spiffe-workload-api")]
use causeway_identity::workload_api::WorkloadApi;
use causeway_identity::{
    HeldIdentity, IdentityFolder,
    workload_api::{EndpointAddress, EndpointAddressError, STANDARD_VARIABLE},
};
use tokio_util::sync::CancellationToken;

use super::{Exit, Failure, kept_folder::KeptFolder, signals::Signals};

/// The value that means what [`STANDARD_VARIABLE`] says.
const FROM_ENVIRONMENT: &str = "env";

/// Address of the Workload API, as it is given on the command line.
#[derive(Debug, Clone)]
enum Endpoint {
    At(EndpointAddress),
    Environment,
}

impl FromStr for Endpoint {
    type Err = EndpointAddressError;

    fn from_str(text: &str) -> Result<Self, EndpointAddressError> {
        match text {
            FROM_ENVIRONMENT => Ok(Self::Environment),
            text => Ok(Self::At(text.parse()?)),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct WorkloadApiArgs {
    /// Instead of --identity, take the identity from the SPIFFE Workload API that an agent on this host, such as SPIRE's, serves at
    /// unix:///PATH; without a value, or with `env`, at what SPIFFE_ENDPOINT_SOCKET says. It is waited for, and renewed from there
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAUSEWAY_SPIFFE_ENDPOINT_SOCKET",
        num_args = 0..=1,
        default_missing_value = FROM_ENVIRONMENT,
        conflicts_with = "identity"
    )]
    spiffe_endpoint_socket: Option<Endpoint>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct JoinTokenArgs {
    /// File with a token of `causeway token issue --rejoin`, its owner's alone: with it and the key that it has the process comes back by
    /// itself after its certificate has ended, for which it needs renew.json beside the identity
    #[arg(long, value_name = "FILE", env = "CAUSEWAY_JOIN_TOKEN", requires = "identity")]
    join_token: Option<PathBuf>,
}

impl JoinTokenArgs {
    /// Looks at the file before anything starts.
    pub(super) fn open(&self, zone: &ZoneName) -> Result<Option<JoinTokenFile>, Failure> {
        let Some(path) = &self.join_token else {
            return Ok(None);
        };
        let file = JoinTokenFile::open(path, zone).map_err(|error| {
            Failure::new("cannot use the join token")
                .because(&error)
                .exit(Exit::BadInput)
                .hint("the file holds what `causeway token issue --rejoin` printed for this zone, with the mode 600")
        })?;
        Ok(Some(file))
    }
}

impl WorkloadApiArgs {
    pub(super) fn is_given(&self) -> bool {
        self.spiffe_endpoint_socket.is_some()
    }
}

/// Source of the identity of a running process.
pub(super) enum IdentitySource {
    Folder(Arc<IdentityFolder>),
    #[cfg(feature = "spiffe-workload-api")]
    WorkloadApi(Box<WorkloadApi>),
}

impl IdentitySource {
    /// From whichever of the two was given, for a process of `zone`; `None`: neither was, or a signal came while the
    /// Workload API was waited for.
    pub(super) async fn open(
        folder: Option<&Path>,
        workload_api: &WorkloadApiArgs,
        zone: &ZoneName,
        signals: &mut Signals,
    ) -> Result<Option<Self>, Failure> {
        match (folder, &workload_api.spiffe_endpoint_socket) {
            (Some(folder), _) => Ok(Some(Self::Folder(open_folder(folder)?))),
            (None, None) => Ok(None),
            (None, Some(endpoint)) => {
                let endpoint = match endpoint {
                    Endpoint::At(endpoint) => endpoint.clone(),
                    Endpoint::Environment => from_environment(std::env::var(STANDARD_VARIABLE).ok())?,
                };
                ask(endpoint, zone, signals).await
            }
        }
    }

    pub(super) fn held(&self) -> &Arc<HeldIdentity> {
        match self {
            Self::Folder(folder) => folder.held(),
            #[cfg(feature = "spiffe-workload-api")]
            Self::WorkloadApi(api) => api.held(),
        }
    }

    /// Returns the renewal, which asks the CA; `None`: an agent gives out the next one.
    pub(super) fn renewal(&self, join_token: Option<JoinTokenFile>) -> Option<Renewal> {
        match self {
            Self::Folder(folder) => Some(Renewal::new(folder.clone(), join_token)),
            #[cfg(feature = "spiffe-workload-api")]
            Self::WorkloadApi(_) => None,
        }
    }

    /// Takes up changes until `stop`.
    pub(super) async fn watch(
        self,
        metrics: Arc<causeway_identity::IdentityMetrics>,
        stop: CancellationToken,
    ) {
        match self {
            Self::Folder(folder) => folder.watch(metrics, stop).await,
            #[cfg(feature = "spiffe-workload-api")]
            Self::WorkloadApi(api) => api.watch(metrics, stop).await,
        }
    }
}

fn open_folder(path: &Path) -> Result<Arc<IdentityFolder>, Failure> {
    KeptFolder::Identity.check(path)?;
    let folder = IdentityFolder::open(path).map_err(|error| {
        Failure::new(format!("cannot use the identity in {}", path.display()))
            .because(&error)
            .exit(Exit::BadInput)
            .hint("`causeway join` makes one; each file must be readable by this user")
    })?;
    Ok(Arc::new(folder))
}

fn from_environment(value: Option<String>) -> Result<EndpointAddress, Failure> {
    let hint = format!(
        "set {STANDARD_VARIABLE} to unix:///PATH, or give the address with --spiffe-endpoint-socket itself"
    );
    let value = value.ok_or_else(|| {
        let wanted =
            format!("--spiffe-endpoint-socket is to be read from {STANDARD_VARIABLE}, which is not set");
        Failure::usage(wanted).hint(&hint)
    })?;
    value.parse().map_err(|error: EndpointAddressError| {
        Failure::usage(format!("cannot use {STANDARD_VARIABLE}"))
            .because(&error)
            .hint(hint)
    })
}

#[cfg(feature = "spiffe-workload-api")]
async fn ask(
    endpoint: EndpointAddress,
    zone: &ZoneName,
    signals: &mut Signals,
) -> Result<Option<IdentitySource>, Failure> {
    tokio::select! {
        api = WorkloadApi::open(endpoint, zone) => Ok(Some(IdentitySource::WorkloadApi(Box::new(api)))),
        () = signals.next() => Ok(None),
    }
}

#[cfg(not(feature = "spiffe-workload-api"))]
async fn ask(
    endpoint: EndpointAddress,
    _zone: &ZoneName,
    _signals: &mut Signals,
) -> Result<Option<IdentitySource>, Failure> {
    Err(Failure::usage(format!(
        "cannot take an identity from {endpoint}: this causeway was built without the SPIFFE Workload API"
    ))
    .hint("build it with the feature `spiffe-workload-api`, or give files with --identity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_variable_is_read_when_that_is_asked_for_and_mistakes_in_it_are_told() {
        assert!(matches!("env".parse(), Ok(Endpoint::Environment)));
        let given = from_environment(Some("unix:///run/spire/agent.sock".to_owned())).unwrap();
        assert_eq!(given.to_string(), "unix:///run/spire/agent.sock");
        for bad in [
            None,
            Some(String::new()),
            Some("/run/spire/agent.sock".to_owned()),
        ] {
            assert!(from_environment(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
