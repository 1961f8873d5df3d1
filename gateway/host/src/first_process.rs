//! Process 1 of a host or a container.

/// Tells whether this is process 1: the kernel does not end it by itself, and every other process of its container ends with it.
#[must_use]
pub fn is_first_process() -> bool {
    std::process::id() == 1
}
