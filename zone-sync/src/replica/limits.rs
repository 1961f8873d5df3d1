//! Every limit of zone sync, in one place. Both sides of a session hold to them, so that what one gateway may say is
//! exactly what another accepts.

use std::time::Duration;

/// Version of the sync protocol that this program speaks.
pub const PROTOCOL: u32 = 1;
/// Largest encoded message in bytes that is accepted.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;
/// What the exports of one snapshot part or delta may take, encoded, in bytes: room is left for the rest of a message.
pub const MAX_PART_BYTES: usize = 64 * 1024;
/// Most exports in one origin's record.
pub const MAX_EXPORTS: usize = 100_000;
/// Most that one origin's record may take, in bytes as [`crate::catalog::Exports::bytes`] counts.
pub const MAX_RECORD_BYTES: usize = 32 * 1024 * 1024;
/// Most bytes that are accepted: a version in the middle of a large change may hold the larger half of it first.
pub const MAX_HELD_BYTES: usize = 2 * MAX_RECORD_BYTES;
/// Most parts of one snapshot: a part is at least a third full, because no export is larger than 40 KiB.
pub const MAX_PARTS: u32 = 2_048;
/// Longest tag key in bytes.
pub const MAX_TAG_KEY_BYTES: usize = 128;
/// Longest tag value in bytes.
pub const MAX_TAG_VALUE_BYTES: usize = 1_024;
/// Most origins that one message speaks of.
pub const MAX_KNOWN: usize = 256;
/// Most peers that have a session at one time, and most origins that are held.
pub const MAX_PEERS: usize = 1_024;
/// Longest text in bytes that is kept of what a refusing peer wrote.
pub const MAX_REFUSAL_BYTES: usize = 256;

/// Most changed exports that are kept so that a peer which fell behind can be sent a delta.
pub const MAX_HISTORY_CHANGES: usize = 8_192;
/// Most versions that are kept for the same purpose.
pub const MAX_HISTORY_STEPS: usize = 1_024;

/// How long a session is quiet before it says that it lives.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a session may be silent before it is closed, to be opened anew.
pub const SILENCE: Duration = Duration::from_secs(15);
/// How long a withdrawn record stays visible before it is forgotten.
pub const FORGET: Duration = Duration::from_secs(3600);
/// At most one new incarnation in this time because a peer knows a later one.
pub const RAISE_INTERVAL: Duration = Duration::from_secs(10);
/// How far one claim of a peer moves the own incarnation, in milliseconds: 139 years, more than any two clocks differ.
pub const RAISE_STRIDE: u64 = 1 << 42;
/// Incarnations are Unix milliseconds or counted up from there. Nothing honest comes near this, and a peer that lies about
/// what it holds gets there in a million strides only, which take months.
pub const MAX_INCARNATION: u64 = 1 << 62;
