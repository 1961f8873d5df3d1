//! The protocol between a CA and those who ask it, as both sides need it: where it is served, how large an answer may be, and
//! why a call is refused.

mod refusal;

pub use refusal::AuthorityRefusal;
pub(crate) use refusal::told;

/// Port at which a CA is served unless something else is said.
pub const DEFAULT_PORT: u16 = 7830;
/// Largest answer in bytes: a chain and a handful of roots.
pub const MAX_ANSWER_BYTES: usize = 256 * 1024;
