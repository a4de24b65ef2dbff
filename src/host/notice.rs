//! Notices and warnings about programs of the node, and their wording.

use std::fmt;

use crate::tree_path::TreePath;

/// A notice or warning of this layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostNotice<'a> {
    /// Boot files changed, and no program is known that updates the boot loader.
    UnknownBootLoader,
    /// A line that a program printed.
    ProgramOutput { program: &'a TreePath, line: &'a str },
    /// The program prints more lines than are reported.
    MoreOutput { program: &'a TreePath },
}

impl fmt::Display for HostNotice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostNotice::UnknownBootLoader => f.write_str(
                "boot files changed, and no program of this tree is known that updates its boot \
                 loader; name one as bootloader in /etc/systemimager/updateclient.toml, or set \
                 bootloader = \"never\" if none is needed",
            ),
            HostNotice::ProgramOutput { program, line } => write!(f, "{program}: {line}"),
            HostNotice::MoreOutput { program } => {
                write!(f, "{program} prints more lines, which are not reported")
            }
        }
    }
}
