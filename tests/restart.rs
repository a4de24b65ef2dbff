//! What still uses replaced files, with real processes: told after an update of the running system, and when
//! it is asked for.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::site::{Run, Site};
use common::trees::{self, Item, Tree};
use common::{Need, copy_program, machine, require, scratch};
use systemimager::host::restart::RestartVerdict;
use systemimager::root::Root;

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");

const NEEDED: [&[Need]; 2] =
    [&machine::PROGRAMS, &[Need::Program("busybox"), Need::Program("rsync")]];

/// A process that ends with the test.
struct Running(Child);

impl Running {
    /// Waits until it is the program that it is to be.
    #[track_caller]
    fn start(command: &mut Command, name: &str) -> Self {
        let running = Running(command.stdin(Stdio::null()).spawn().expect("starts"));
        let comm = PathBuf::from(format!("/proc/{}/comm", running.0.id()));
        for _ in 0..500 {
            if fs::read_to_string(&comm).is_ok_and(|found| found.trim() == name) {
                // its libraries are mapped in no time
                std::thread::sleep(Duration::from_millis(100));
                return running;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{name} does not come up");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A copy, and no second name: what is replaced has to be the tree's own.
fn own_copy(path: &Path) {
    let copy = path.with_extension("copy");
    copy_program(path, &copy);
    fs::rename(&copy, path).expect("renames the copy");
}

#[test]
fn a_process_is_named_whose_program_was_replaced_or_moved_aside() {
    require!(NEEDED);

    let dir = scratch();
    let tree = fs::canonicalize(dir.path()).expect("is there").join("tree");
    machine::install_busybox(&tree, &["sleep"]);
    let program = tree.join("bin/busybox");
    own_copy(&program);
    let process = Running::start(
        Command::new("chroot").arg(&tree).args(["/bin/busybox", "sleep", "60"]),
        "busybox",
    );
    let root = Root::open(&tree).expect("opens");
    let verdict = || RestartVerdict::of(Path::new("/proc"), &root, "").expect("is found out");
    assert!(verdict().services.is_empty(), "{:?}", verdict());

    fs::create_dir(tree.join(".si-undo")).expect("makes");
    fs::rename(&program, tree.join(".si-undo/0")).expect("renames");
    let aside = verdict();
    assert_eq!(aside.services[0].files[0], "/.si-undo/0");
    fs::rename(tree.join(".si-undo/0"), &program).expect("renames");
    assert!(verdict().services.is_empty());

    own_copy(&program);
    let replaced = verdict();
    assert_eq!(replaced.services.len(), 1, "{replaced:?}");
    assert_eq!(replaced.services[0].pids, [process.0.id()]);
    assert_eq!(replaced.services[0].files, ["/bin/busybox"]);
    assert!(replaced.lines()[0].contains("busybox"), "{replaced:?}");
    drop(process);
    assert!(verdict().services.is_empty());
}

/// A node that runs a program of the image, which the second generation brings anew.
struct Node {
    site: Site,
}

impl Node {
    fn new() -> Self {
        let busybox = fs::read(machine::program("busybox")).expect("reads");
        let tree = |content: Vec<u8>| -> Tree {
            let mut tree = trees::system();
            for dir in ["proc", "dev", "bin", "lib64", "opt"] {
                trees::put(&mut tree, dir, Item::dir());
            }
            let mut program = Item::file(content);
            program.mode = 0o755;
            trees::put(&mut tree, "opt/busybox", program);
            tree
        };
        let site = Site::at(&tree(busybox.clone()));
        machine::install(Path::new(AGENT), &site.node(), "bin/agent");
        machine::install(&machine::program("busybox"), &site.node(), "bin/busybox");
        site.publish(&tree([&busybox[..], b"a newer one"].concat()));
        fs::create_dir_all(site.node().join("mnt/repo")).expect("makes");
        Node { site }
    }

    /// Runs the agent where the node is the root of everything, and its program with it.
    fn agent(&self, arguments: &[&str]) -> Run {
        let program = "chroot \"$1\" /opt/busybox sleep 60 >/dev/null 2>&1 & echo $! >>\"$1/../pids\"; sleep 0.5";
        let repo = self.site.repo().display().to_string();
        let before = format!("mount --bind '{repo}' \"$1/mnt/repo\" && {{ {program}; }}");
        let mut command = machine::chroot_command_after(&self.site.node(), &before);
        command.args(["/bin/agent", "--yes"]).args(arguments).stdin(Stdio::null());
        Run::from_output(command.output().expect("runs"))
    }

    fn update(&self, more: &[&str]) -> Run {
        let url = [
            "--diff",
            "--image",
            "node",
            "--repo",
            "file:///mnt/repo/",
            "--exclude-file",
            "/dev/null",
        ];
        self.agent(&[&url, more].concat())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let pids = fs::read_to_string(self.site.dir.path().join("pids")).unwrap_or_default();
        for pid in
            pids.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[test]
fn an_update_of_the_running_system_tells_what_to_restart() {
    require!(NEEDED);

    let node = Node::new();
    let told = "uses /opt/busybox, which was replaced";
    let run = node.update(&[]);
    run.ended(0, &["updated to node", "busybox (pid ", told, "\nno reboot needed\n"]);
    // The next run does nothing, and says nothing of it.
    let run = node.update(&[]);
    assert!(
        run.code == 0 && !run.out.contains("reboot") && !run.out.contains("restart"),
        "{run:#?}"
    );
}

#[test]
fn with_json_the_verdict_is_in_the_last_object() {
    require!(NEEDED);

    let node = Node::new();
    let run = node.update(&["--json"]);
    let last: serde_json::Value =
        serde_json::from_str(run.out.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["event"], "done", "{run:#?}");
    assert_eq!(last["restart"]["services"][0]["files"][0], "/opt/busybox", "{run:#?}");
    assert_eq!(last["restart"]["reboot"], serde_json::json!([]), "{run:#?}");
}

#[test]
fn a_tree_that_does_not_run_has_no_verdict() {
    let site = Site::at(&trees::system());
    site.publish(&Tree::from([(b"etc/motd".to_vec(), Item::file("new"))]));
    let run = site.updated(&["--max-delete", "100%"]);
    assert!(!run.out.contains("restart") && !run.out.contains("reboot"), "{run:#?}");
    let mut command = Command::new(AGENT);
    command.arg("--needs-restarting").arg("--root").arg(site.node()).stdin(Stdio::null());
    Run::from_output(command.output().expect("runs")).ended(2, &["is about the running system"]);
}

#[test]
fn the_running_system_is_asked_about() {
    let mut command = Command::new(AGENT);
    let run = Run::from_output(
        command.arg("--needs-restarting").stdin(Stdio::null()).output().expect("runs"),
    );
    let last = run.out.lines().last().unwrap_or_default();
    assert_eq!(run.code, 0, "{run:#?}");
    let known = ["nothing needs restarting", "no reboot needed", "reboot needed: "];
    assert!(known.iter().any(|words| last.starts_with(words)), "{run:#?}");
}
