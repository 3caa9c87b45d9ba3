//! The command line.

use std::process::ExitCode;

/// Sessions are many small allocations that live for minutes: the system's allocator keeps their pages, mimalloc
/// gives them back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Huge pages make every arena of the allocator resident as a whole: half as much again per idle stream.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    outlast::app::cli::main()
}
