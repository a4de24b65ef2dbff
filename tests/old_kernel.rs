//! Kernels from 3.10 on, and filters of containers that refuse newer system calls.
//!
//! strace makes each call that Linux 3.10 lacks fail: with ENOSYS as such a kernel does, and with
//! EPERM as old filters of containers do. rsync and the programs of hooks get the same errors.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::common::interrupted::{STRACE, interrupted_site};
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Tree};
use crate::common::{judge, require, tardiff, updateclient};

/// System calls of Linux 3.11 and later that these programs, their libraries, or glibc use.
///
/// A question mark precedes calls that an older strace does not know.
const NEWER: &str = "renameat2,getrandom,memfd_create,execveat,copy_file_range,membarrier,mlock2,\
    preadv2,pwritev2,statx,rseq,pidfd_send_signal,pidfd_open,/^io_uring,open_tree,move_mount,\
    fsopen,fsconfig,fsmount,close_range,openat2,faccessat2,process_madvise,epoll_pwait2,\
    mount_setattr,/^landlock,?fchmodat2,?futex_waitv,?cachestat,?setxattrat,?getxattrat";

/// Errors for the newer calls, and further calls that get them.
///
/// glibc needs clone3 or ENOSYS: with EPERM no thread of any program starts.
const CASES: [(&str, &str); 2] = [("ENOSYS", ",clone3,seccomp"), ("EPERM", "")];

/// A kernel without the newer system calls.
struct OldKernel {
    error: &'static str,
    calls: String,
    log: PathBuf,
}

impl OldKernel {
    fn new(site: &Site, (error, more): (&'static str, &str)) -> Self {
        let log = site.dir.path().join("strace.log");
        OldKernel { error, calls: format!("{NEWER}{more}"), log }
    }

    /// The kernel with one of the calls.
    fn with(self, call: &str) -> Self {
        let calls = self.calls.replace(&format!("{call},"), "");
        OldKernel { calls, ..self }
    }

    /// Runs a command, which must succeed. Each of `refused` must have been called.
    #[track_caller]
    fn run(&self, command: &Command, refused: &[&str]) -> Run {
        let mut strace = Command::new("strace");
        strace.args(["-f", "--seccomp-bpf", "-qq", "-o"]).arg(&self.log);
        strace.args(["-e", &format!("trace={}", self.calls)]);
        strace.args(["-e", &format!("inject={}:error={}", self.calls, self.error)]);
        strace.arg(command.get_program()).args(command.get_args());
        let run = Run::from_output(strace.output().expect("strace runs"));

        assert_eq!(run.code, 0, "{}: {run:#?}", self.error);
        let log = fs::read_to_string(&self.log).expect("a log");
        for call in refused {
            let is_refused = |line: &str| line.contains(&format!("{call}("));
            assert!(log.lines().any(is_refused), "{call} was not called: {run:#?}");
        }
        assert!(!log.contains(") = 0"), "a call was not refused: {log}");
        run
    }
}

fn tree(round: u32) -> Tree {
    let mut tree = trees::everything();
    for round in 0..=round {
        tree = trees::mutate(&tree, round);
    }
    tree
}

/// The command that publishes the image.
fn publish_command(site: &Site) -> Command {
    let mut command = Command::new(tardiff());
    command
        .args(["publish", "--image", "node", "--images-dir"])
        .arg(site.dir.path().join("images"));
    command.arg("--repo").arg(site.repo());
    command
}

#[test]
fn image_is_published_updated_and_rolled_back_without_newer_calls() {
    require!(STRACE);

    for case in CASES {
        let site = Site::new().with_rsync();
        let kernel = OldKernel::new(&site, case);
        trees::write(&tree(0), &site.image());
        kernel.run(&publish_command(&site), &["statx"]);
        site.install_node();
        kernel.run(site.command().arg("--adopt"), &["openat2", "statx"]);
        let first = site.snapshot();
        fs::remove_dir_all(site.image()).expect("removes");
        trees::write(&tree(1), &site.image());
        kernel.run(&publish_command(&site), &["statx"]);

        let mut update = site.command();
        update.args(["--no-fallback", "--max-delete", "100%"]);
        kernel.run(&update, &["openat2", "renameat2", "statx"]);
        site.same();

        let mut rollback = site.rollback_command();
        kernel.run(rollback.args(["--max-delete", "100%"]), &["openat2", "renameat2"]);
        judge::same(&first, &site.node(), &[]);

        // By rsync, from any state. Debian's rsync 3.2.7 reads no file if openat2 fails with EPERM.
        let (kernel, refused) = match case.0 {
            "EPERM" => (kernel.with("openat2"), &["renameat2"][..]),
            _ => (kernel, &["openat2", "renameat2"][..]),
        };
        let mut full = Command::new(updateclient());
        full.args(["--yes", "--image", "node", "--exclude-file", "/dev/null", "--server"]);
        full.args(["127.0.0.1", "--rsync-port", &site.rsync_port().expect("a daemon").to_string()]);
        full.args(["--max-delete", "100%", "--root"]).arg(site.node());
        kernel.run(&full, refused);
        site.same();
    }
}

#[test]
fn interrupted_update_is_completed_without_newer_calls() {
    require!(STRACE);

    for case in CASES {
        let site = interrupted_site();
        let kernel = OldKernel::new(&site, case);

        let mut recover = Command::new(updateclient());
        recover.args(["--recover", "--root"]).arg(site.node());
        kernel.run(&recover, &["openat2"]);

        site.same();
    }
}
