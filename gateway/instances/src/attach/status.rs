//! The state of the attachment, for `causeway check`, `/readyz` and the refusals of registrations.

use std::time::Instant;

use super::ServerAddress;

/// The attachment at one moment.
#[derive(Debug, Clone)]
pub struct AttachStatus {
    pub servers: Vec<String>,
    /// The server, once it has told everything that it knows; else why there is none.
    pub attached: Result<AttachedServer, Detached>,
    /// Number of times that this gateway has attached, the first time included.
    pub attachments: u64,
}

/// Attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedServer {
    pub server: String,
    pub since: Instant,
    /// The store's revision that the view is as of; 0 when the store has none.
    pub revision: u64,
    /// The gateways of the zone that are present.
    pub gateways: Vec<String>,
    /// Reason why the server can register nothing at the moment; `None`: it can.
    pub trouble: Option<String>,
}

/// Not attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detached {
    pub since: Instant,
    /// Last failure; empty when nothing has yet.
    pub failure: String,
}

impl AttachStatus {
    pub(super) fn new(servers: &[ServerAddress]) -> Self {
        Self {
            servers: servers.iter().map(ToString::to_string).collect(),
            attached: Err(Detached {
                since: Instant::now(),
                failure: String::new(),
            }),
            attachments: 0,
        }
    }

    /// Notes a failure; the time since when there is no attachment stays.
    pub(super) fn detach(&mut self, now: Instant, failure: String) {
        let since = match &self.attached {
            Ok(_) => now,
            Err(detached) => detached.since,
        };
        self.attached = Err(Detached { since, failure });
    }
}
