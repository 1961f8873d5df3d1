//! The `causeway` program: parses the command line and calls the command.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, of which most stays unused: half of what an idle gateway would hold. A kernel that does
    // not know the switch gives them or not as it is set up.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    causeway::cli::run()
}
