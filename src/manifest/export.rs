//! A manifest for the mtree program that a node already has.

use std::io::{self, Write};

use super::{Manifest, line};

impl Manifest {
    /// Writes plain mtree, which `mtree -f` of Debian's mtree-netbsd accepts: it aborts on keywords
    /// that it does not know, so extended attributes and hardlink groups stay out.
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
