//! Programs that run with a tree as their root, as on a real machine.
//!
//! Each runs in a mount namespace of its own, so that no mount is left when it has ended.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::site::Site;
use super::{copy_program, run, write_program};

/// Needs of a test that runs programs in a tree.
pub const PROGRAMS: [super::Need; 4] = [
    super::Need::Root,
    super::Need::Program("unshare"),
    super::Need::Program("chroot"),
    super::Need::Program("ldd"),
];

/// The file in which scripts record their calls.
const RECORDS: &str = "var/log/notes";

/// A node that runs scripts in place of programs.
pub struct ScriptedNode {
    pub site: Site,
}

impl ScriptedNode {
    /// Installs the shell and `more` names of busybox in the node of `site`.
    pub fn new(site: Site, more: &[&str]) -> Self {
        install_busybox(&site.node(), &["sh", "cat"]);
        install_busybox(&site.node(), more);
        ScriptedNode { site }
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.site.node().join(path)
    }

    pub fn script(&self, path: &str, lines: &str) {
        write_program(&self.at(path), &format!("#!/bin/sh\n{lines}\n"));
    }

    /// Installs a script that records its name and arguments.
    pub fn record_calls(&self, path: &str) {
        self.script(path, &format!("echo \"${{0##*/}} $*\" >>/{RECORDS}"));
    }

    /// Returns the lines that were recorded since the last call.
    pub fn take_records(&self) -> Vec<String> {
        let records = fs::read_to_string(self.at(RECORDS)).unwrap_or_default();
        let _ = fs::remove_file(self.at(RECORDS));
        records.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

/// Installs a program as `path` below `top`, and its shared libraries at their own paths.
pub fn install(program: &Path, top: &Path, path: &str) {
    install_script(program, top, path);
    for library in libraries(program) {
        put(&library, &top.join(library.strip_prefix("/").expect("an absolute path")));
    }
}

/// Shared libraries of a program; none if it is static.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().expect("ldd runs");
    let [text, error] =
        [output.stdout, output.stderr].map(|stream| String::from_utf8(stream).expect("text"));
    let is_static = [&text, &error]
        .iter()
        .any(|stream| stream.contains("not a dynamic") || stream.contains("statically linked"));
    assert!(output.status.success() || is_static, "{}: {text}{error}", program.display());

    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    if is_static { Vec::new() } else { paths.map(PathBuf::from).collect() }
}

/// Installs a script, or another file, as `path` below `top`.
pub fn install_script(script: &Path, top: &Path, path: &str) {
    put(script, &top.join(path));
}

/// Path of a program of this machine.
pub fn program(name: &str) -> PathBuf {
    let path = run(Command::new("sh").args([
        "-c",
        "PATH=$PATH:/usr/sbin:/sbin; command -v \"$1\"",
        "sh",
        name,
    ]));
    fs::canonicalize(path.trim()).expect("a program")
}

/// Installs busybox below `top`, under each of `names`.
pub fn install_busybox(top: &Path, names: &[&str]) {
    install(&program("busybox"), top, "bin/busybox");
    for name in names {
        let _ = symlink("busybox", top.join("bin").join(name));
    }
}

/// Links a file if possible, because programs with debugging symbols are large; copies it if not.
fn put(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a path with a directory")).expect("makes the directory");
    let from = fs::canonicalize(from).expect("is there");
    if !to.exists() && fs::hard_link(&from, to).is_err() {
        copy_program(&from, to);
    }
}

/// Command that runs a program with `top` as its root; the caller adds the program and its
/// arguments.
///
/// `before` is a line of shell script, with `top` as `$1`. It runs in the same namespace before the
/// change of root.
pub fn chroot_command_after(top: &Path, before: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!(
        "mount --bind \"$1\" \"$1\" && mkdir -p \"$1/proc\" \"$1/dev\" &&
        mount -t proc proc \"$1/proc\" &&
        mount --rbind /dev \"$1/dev\" && {before} && exec chroot \"$@\""
    );
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(top);
    command
}

/// [`chroot_command_after`] without a script.
pub fn chroot_command(top: &Path) -> Command {
    chroot_command_after(top, ":")
}
