//! Confirmation of a change by the person at the terminal.

use std::io::{self, IsTerminal};

use crate::autoinstall::{AutoinstallRequest, Flavor};
use crate::cli::updateclient::error::ArgumentError;
use crate::cli::{console, signals};
use crate::update::{RollbackRequest, SyncMode, UpdateError, UpdateRequest};

/// Asks for confirmation; an error if the answer is no, or if there is no terminal.
pub fn confirm(question: &str) -> Result<(), UpdateError> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(ArgumentError::NoTerminal { question: question.to_owned() }.into());
    }

    console::print_question(&format!("{question}? (y / N) "));
    let mut answer = String::new();
    if signals::is_input_ready() {
        let _ = io::stdin().read_line(&mut answer);
    }

    if answer.trim().starts_with(['y', 'Y']) { Ok(()) } else { Err(UpdateError::Cancelled) }
}

/// Question before an update.
pub fn update_question(request: &UpdateRequest) -> String {
    let overrides: String =
        request.overrides.iter().map(|name| format!(", override {name}")).collect();
    if let SyncMode::Repair(scope) = &request.mode {
        let paths: Vec<String> = scope.paths.iter().map(|path| path.to_string()).collect();
        let root = request.root.display();
        let tree = if paths.is_empty() {
            root.to_string()
        } else {
            format!("{} of {root}", paths.join(", "))
        };
        return format!("repair {tree} to the recorded generation of image {}", request.image);
    }
    let source = match (&request.mode, &request.rsync) {
        (SyncMode::Diffs(repo), _) => repo.to_string(),
        (SyncMode::Rsync(_), Some(server)) => server.to_string(),
        (SyncMode::Rsync(_) | SyncMode::Repair(_), _) => String::new(),
    };
    let root = request.root.display();
    let tree = match &request.mode {
        SyncMode::Rsync(sync) if !sync.directory.is_root() => {
            format!("{} of {root}", sync.directory)
        }
        _ => root.to_string(),
    };

    format!("update {tree} to image {}{overrides} from {source}", request.image)
}

/// Question before a rollback.
pub fn rollback_question(request: &RollbackRequest) -> String {
    format!("undo the last update of {}", request.root.display())
}

/// Question before a reinstallation.
pub fn autoinstall_question(request: &AutoinstallRequest, flavor: &Flavor) -> String {
    format!(
        "reinstall {} at its next boot, which may destroy all data on its disks, with boot files \
         {} for {} from {}",
        request.root.display(),
        flavor.name,
        flavor.arch,
        request.server
    )
}
