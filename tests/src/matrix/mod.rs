//! The matrix of who can talk to whom: every kind of credential at every entrance of a zone, and what each side is told of it.
//!
//! Adding a row: a line in [`rows`], with what each entrance makes of it. Adding an entrance: a variant of [`Entrance`],
//! a column of [`Row`], and how one goes through it, in `world`.

pub mod at_ca;
pub mod clients;
pub mod held;
mod rows;
mod world;

use std::fmt::Write as _;

pub use clients::{Credential, Trial};
pub use rows::{Issuers, rows};
pub use world::World;

/// Entrance at which somebody can try to get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// Dials the gateway.
    TunnelIn,
    /// Is dialled by the gateway.
    TunnelOut,
    /// Attaches to `causeway zone-sync`.
    ZoneSync,
    /// Asks the admin API for a change, over TLS.
    Admin,
    /// Registers an instance over gRPC, over TLS.
    Registration,
    /// Asks `causeway ca serve` for its next certificate.
    Renewal,
    /// Calls a service through the gateway's TLS listener.
    Caller,
    /// Asks `causeway ca serve` for a first certificate, with a join token or none.
    Join,
}

impl Entrance {
    pub const ALL: [Self; 8] = [
        Self::TunnelIn,
        Self::TunnelOut,
        Self::ZoneSync,
        Self::Admin,
        Self::Registration,
        Self::Renewal,
        Self::Caller,
        Self::Join,
    ];

    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::TunnelIn => "dials a gateway",
            Self::TunnelOut => "is dialled",
            Self::ZoneSync => "zone-sync",
            Self::Admin => "admin API",
            Self::Registration => "registration",
            Self::Renewal => "CA, to renew",
            Self::Caller => "TLS listener",
            Self::Join => "CA, to join",
        }
    }
}

/// Verdict of an entrance on a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    Admitted,
    /// `word`: in the log and metrics of whoever refuses; `told`: a part of what the other side is told.
    Refused {
        word: &'static str,
        told: &'static str,
    },
    /// It cannot be tried there.
    Impossible,
}

/// One kind of credential.
pub struct Row {
    pub name: &'static str,
    /// Makes it for a zone; tunnels are tried from another zone, and everything else from the own one.
    pub make: fn(&Issuers, &str) -> anyhow::Result<Credential>,
    /// In the order of [`Entrance::ALL`].
    pub cells: [Cell; 8],
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The whole as a table for people, in Markdown.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let titles = Entrance::ALL.map(Entrance::title).join(" | ");
    let mut text = format!("| credential | {titles} |\n|{}\n", " --- |".repeat(9));
    for row in rows {
        let cells = row.cells.map(|cell| match cell {
            Cell::Admitted => "yes".to_owned(),
            Cell::Refused { word, .. } => format!("`{word}`"),
            Cell::Impossible => "-".to_owned(),
        });
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {} |", row.name, cells.join(" | "));
    }
    text
}
