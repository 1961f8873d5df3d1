//! Check of the memory that is taken by what nobody reads.

use causeway_telemetry::Check;
use causeway_tunnel::MemoryBudget;

const BYTES_PER_MIB: u64 = 1024 * 1024;

/// Warns once other zones were held back because what they sent is not taken here.
pub(super) fn check(memory: MemoryBudget) -> impl Fn() -> Check + Send + Sync {
    move || match memory.lack() {
        None => Check::ok(
            "zones",
            "memory",
            "what other zones send is taken, or there is room for it",
        ),
        Some(lack) => Check::warn(
            "zones",
            "memory",
            format!(
                "what {} has sent is not taken, and its part of --memory-budget is spent: {} of {} MiB are unread in all; new connections \
                 from it are slow",
                lack.peer,
                lack.unread_bytes / BYTES_PER_MIB,
                lack.budget_bytes / BYTES_PER_MIB
            ),
            "which clients or instances here do not read? --stall-timeout ends their connections, and the access log names them (`stalled`)",
        ),
    }
}
