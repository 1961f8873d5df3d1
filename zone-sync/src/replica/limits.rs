//! Every limit of zone sync, in one place. Both sides of a session hold to them, so that what one gateway may say is
//! exactly what another accepts.

use std::time::Duration;

/// The oldest sync protocol that this program speaks: no signatures, no relaying.
pub(crate) const OLDEST_PROTOCOL: u32 = 1;
/// The newest sync protocol that this program speaks.
pub const PROTOCOL: u32 = 2;
/// Largest encoded message in bytes that is accepted.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;
/// Bytes that the exports of one snapshot part or delta may take, encoded: room is left for the rest of a message.
pub const MAX_PART_BYTES: usize = 64 * 1024;
/// Most exports in one origin's record.
pub const MAX_EXPORTS: usize = 100_000;
/// Most that one origin's record may take, in bytes as [`causeway_federation::catalog::Exports::bytes`] counts.
pub(crate) const MAX_RECORD_BYTES: usize = 32 * 1024 * 1024;
/// Most bytes that are accepted: a version in the middle of a large change may hold the larger half of it first.
pub const MAX_HELD_BYTES: usize = 2 * MAX_RECORD_BYTES;
/// Most parts of one snapshot: a part is at least a third full, because no export is larger than 40 KiB.
pub(crate) const MAX_PARTS: u32 = 2_048;
/// Longest encoding of one export in bytes, with what only newer programs understand: it must fit a part.
pub(crate) const MAX_EXPORT_BYTES: usize = 48 * 1024;
/// Longest statement in bytes: a sixth more than this program says with figures on eight shifts, so that newer ones can say more.
pub(crate) const MAX_STATEMENT_BYTES: usize = 512;
/// Longest tag key in bytes.
pub const MAX_TAG_KEY_BYTES: usize = 128;
/// Longest tag value in bytes.
pub const MAX_TAG_VALUE_BYTES: usize = 1_024;
/// Most origins that one message speaks of.
pub const MAX_KNOWN: usize = 256;
/// Most peers that have a session at one time, and most origins that are held.
pub const MAX_PEERS: usize = 1_024;
/// Most zones that a peer may want, and most that are wanted.
pub(crate) const MAX_WANTED_ZONES: usize = MAX_PEERS;
/// Longest text in bytes that is kept of what a refusing peer wrote.
pub const MAX_REFUSAL_BYTES: usize = 256;

/// Most changed exports that are kept so that a peer which fell behind can be sent a delta.
pub(crate) const MAX_HISTORY_CHANGES: usize = 8_192;
/// Most versions that are kept for the same purpose.
pub(crate) const MAX_HISTORY_STEPS: usize = 1_024;

/// Time for which a session is quiet before it says that it lives.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Time for which a session may be silent before it is closed, to be opened anew.
pub const SILENCE: Duration = Duration::from_secs(15);
/// Time for which a withdrawn record stays visible before it is forgotten.
pub const FORGET: Duration = Duration::from_secs(3600);
/// At most one new incarnation in this time because a peer knows a later one.
pub const RAISE_INTERVAL: Duration = Duration::from_secs(10);
/// Most that one claim of a peer moves the own incarnation, in milliseconds: 139 years, more than any two clocks differ.
pub const RAISE_STRIDE: u64 = 1 << 42;
/// Incarnations are Unix milliseconds or counted up from there. Nothing honest comes near this, and a peer that lies about
/// what it holds gets there in a million strides only, which take months.
pub const MAX_INCARNATION: u64 = 1 << 62;

/// Time for which a zone is without a session before peers are asked to pass its records on: a tunnel that is dialled anew
/// takes less.
pub const WANT_AFTER: Duration = Duration::from_secs(2);
/// Time for which a peer that was asked may pass on no sign of life of a zone before another is asked.
pub const WANT_PATIENCE: Duration = Duration::from_secs(4);
/// Number of peers that are asked for one zone: one can go without a gap.
pub(crate) const WANT_PEERS: usize = 2;
/// Time after which what is wanted is said again, should it have been lost.
pub(crate) const WANT_AGAIN: Duration = Duration::from_secs(10);
/// At most one beat of an origin is passed on to a peer in this time: three fit into the 5 s that make a record suspect.
pub(crate) const RELAY_BEAT: Duration = Duration::from_millis(1_500);
/// A relay passes on as a sign of life only what it heard within this time, so that each adds no more to the age of it.
pub(crate) const RELAY_DELAY: Duration = Duration::from_millis(2_000);
/// An own beat that is younger than this is told to further peers as it is, so that their number costs no signatures.
pub(crate) const BEAT_REUSE: Duration = Duration::from_millis(500);
/// Signed heads of own versions that are kept for further peers.
pub(crate) const MAX_SIGNED_HEADS: usize = 64;
/// Words about refused records that wait for one peer.
pub(crate) const MAX_NOTICES: usize = 16;
/// At most one word in this time about the same origin's refused records, passed on or told to the caller.
pub(crate) const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// One data version of an origin is sent to a peer in this time, once [`SEND_BURST`] is used up; changes gather meanwhile.
pub(crate) const SEND_INTERVAL: Duration = Duration::from_millis(10);
/// Data versions of an origin that may be sent at once.
pub(crate) const SEND_BURST: u32 = 8;
/// One data version of an origin is taken from a peer in this time, once [`RECEIVE_BURST`] is used up: five times what is
/// sent, for peers whose clock runs fast and networks that bunch.
pub(crate) const RECEIVE_INTERVAL: Duration = Duration::from_millis(2);
/// Data versions of an origin that are taken at once.
pub(crate) const RECEIVE_BURST: u32 = 256;
/// One heartbeat, want or other word without data is taken from a peer in this time, once [`WORD_BURST`] is used up.
pub(crate) const WORD_INTERVAL: Duration = Duration::from_millis(20);
/// Words without data that are taken at once.
pub(crate) const WORD_BURST: u32 = 256;
/// The same whole record is not sent again to the same peer before this time.
pub(crate) const SNAPSHOT_AGAIN: Duration = Duration::from_millis(900);
/// One record that a relay passed on is refused in this time, once [`REFUSAL_BURST`] is used up; then the relay itself is.
pub(crate) const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);
/// Relayed records that are refused before the relay is.
pub(crate) const REFUSAL_BURST: u32 = 32;
