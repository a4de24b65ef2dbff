//! Builds, publishes, shows, verifies and serves image diffs.

use std::process::ExitCode;

fn main() -> ExitCode {
    systemimager::cli::tardiff::run(std::env::args_os())
}
