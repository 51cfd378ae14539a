//! The `kflash` command.

use std::process::ExitCode;

/// musl's own gives every small group of allocations back to the kernel at once, which costs more than the work between.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    ExitCode::from(kflash_cli::run(std::env::args_os()))
}
