//! Export for the mtree(8) program, so that a node can be checked without our tools.

use std::io::{self, Write};

use super::{Manifest, line};

impl Manifest {
    /// Writes the plain mtree(5) text that `mtree -f` of Debian's mtree-netbsd accepts.
    ///
    /// That program aborts on unknown keywords. So the text has neither extended attributes nor
    /// hard-link groups.
    pub fn export_mtree(&self, mut to: impl Write) -> io::Result<()> {
        to.write_all(b"#mtree\n")?;
        let mut text = Vec::new();
        for entry in self.entries() {
            text.clear();
            line::write_plain(&mut text, entry);
            text.push(b'\n');
            to.write_all(&text)?;
        }
        to.flush()
    }
}
