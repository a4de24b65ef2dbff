//! Updates a node to the published state of its image.

use std::process::ExitCode;

fn main() -> ExitCode {
    systemimager::cli::updateclient::main()
}
