//! One view over the federation: pages of the admin API of other zones, asked for over the tunnels through whichever gateway somebody talks
//! to, and the answers to gateways that ask for this one's.
//!
//! A request says where it is meant ([`pages`], pure); [`Elsewhere`] asks, within limits of size, time and number, and remembers what a zone
//! said last ([`memory`], pure), so that one that is away is shown with its last word; [`merged`] makes one answer of them, and is pure.
//! [`PageServer`] answers. What may be read is decided by the zone that answers (`credentials::asked`), which asks nobody on.
//!
//! Adding a page: a line in [`pages`], which says what others may read of it without a grant.

mod asking;
mod entrance;
mod json;
mod memory;
mod merged;
pub(crate) mod pages;
mod questions;
mod server;
mod words;

pub use asking::Elsewhere;
pub(crate) use entrance::{RefusedHere, pass};
pub use merged::{EveryZoneView, LastAnswerView, ZoneAnswerState, ZoneAnswerView};
pub use server::PageServer;

/// Longest page in bytes that is taken of another zone or given to one: what 100,000 exports have.
const MAX_PAGE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of pages that are held at once on either side.
const MAX_HELD_BYTES: usize = 64 * 1024 * 1024;
/// Unit in which they are counted.
const HELD_UNIT_BYTES: usize = 1024;
/// Questions under way at once with the gateways of one zone, on either side.
const MAX_WITH_ZONE: usize = 16;
/// With those of all zones.
const MAX_IN_ALL: usize = 128;
