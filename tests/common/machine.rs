//! A tree that is the root of everything for the programs that run in it, as on a real machine: in a
//! mount namespace of its own, so that nothing of it is left when they have ended.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{copy_program, run};

/// What it takes to run something in such a tree.
pub const PROGRAMS: [super::Need; 4] = [
    super::Need::Root,
    super::Need::Program("unshare"),
    super::Need::Program("chroot"),
    super::Need::Program("ldd"),
];

/// Puts a program to `path` below `top`, and the shared libraries that it needs to their own places.
pub fn install(program: &Path, top: &Path, path: &str) {
    install_script(program, top, path);
    for library in libraries(program) {
        put(&library, &top.join(library.strip_prefix("/").expect("an absolute path")));
    }
}

/// The shared libraries of a program; none if it is static.
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

/// Puts a script, or another file, to `path` below `top`.
pub fn install_script(script: &Path, top: &Path, path: &str) {
    put(script, &top.join(path));
}

/// The path of a program of this machine.
pub fn program(name: &str) -> PathBuf {
    let path = run(Command::new("sh").args([
        "-c",
        "PATH=$PATH:/usr/sbin:/sbin; command -v \"$1\"",
        "sh",
        name,
    ]));
    fs::canonicalize(path.trim()).expect("a program")
}

/// Puts busybox below `top`, under each of `names`.
pub fn install_busybox(top: &Path, names: &[&str]) {
    install(&program("busybox"), top, "bin/busybox");
    for name in names {
        let _ = symlink("busybox", top.join("bin").join(name));
    }
}

/// A second name where that is possible: programs with all their symbols are large.
fn put(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a path with a directory")).expect("makes the directory");
    let from = fs::canonicalize(from).expect("is there");
    if !to.exists() && fs::hard_link(&from, to).is_err() {
        copy_program(&from, to);
    }
}

/// The command that runs a program where `top` is the root; the program and its arguments are still to
/// be added. `before` is done outside, in the same namespace: a line of sh, to which `$1` is `top`.
pub fn chroot_command_after(top: &Path, before: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!(
        "mount --bind \"$1\" \"$1\" && mkdir -p \"$1/proc\" \"$1/dev\" && mount -t proc proc \"$1/proc\" &&
        mount --rbind /dev \"$1/dev\" && {before} && exec chroot \"$@\""
    );
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(top);
    command
}

/// As [`chroot_command_after`], with nothing before.
pub fn chroot_command(top: &Path) -> Command {
    chroot_command_after(top, ":")
}
