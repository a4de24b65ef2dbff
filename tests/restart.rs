//! Processes that still use replaced files.
//!
//! They are listed after an update of the running system, and on request.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree};
use crate::common::{Need, copy_program, machine, require, scratch};
use systemimager::host::restart::RestartVerdict;
use systemimager::root::Root;

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");

const NEEDED: [&[Need]; 2] =
    [&machine::PROGRAMS, &[Need::Program("busybox"), Need::Program("rsync")]];

/// A process that is killed on drop.
struct Running(Child);

impl Running {
    /// Starts the command, and waits until the process runs the named program.
    #[track_caller]
    fn start(command: &mut Command, name: &str) -> Self {
        let running = Running(command.stdin(Stdio::null()).spawn().expect("starts"));
        let comm = PathBuf::from(format!("/proc/{}/comm", running.0.id()));

        for _ in 0..500 {
            if fs::read_to_string(&comm).is_ok_and(|found| found.trim() == name) {
                // Wait a moment for the mapping of its libraries.
                std::thread::sleep(Duration::from_millis(100));
                return running;
            }
            std::thread::sleep(Duration::from_millis(10));
        }

        panic!("{name} does not start");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a copy instead of a hard link, because the replaced file must belong to the tree alone.
fn replace_by_copy(path: &Path) {
    let copy = path.with_extension("copy");
    copy_program(path, &copy);
    fs::rename(&copy, path).expect("renames the copy");
}

#[test]
fn process_with_replaced_program_is_listed() {
    require!(NEEDED);

    let dir = scratch();
    let tree = fs::canonicalize(dir.path()).expect("is there").join("tree");
    machine::install_busybox(&tree, &["sleep"]);
    let program = tree.join("bin/busybox");
    replace_by_copy(&program);
    let process = Running::start(
        Command::new("chroot").arg(&tree).args(["/bin/busybox", "sleep", "60"]),
        "busybox",
    );
    let root = Root::open(&tree).expect("opens");
    let verdict = || RestartVerdict::inspect(Path::new("/proc"), &root, "").expect("is found out");

    assert!(verdict().services.is_empty(), "{:?}", verdict());

    fs::create_dir(tree.join(".si-undo")).expect("makes");
    fs::rename(&program, tree.join(".si-undo/0")).expect("renames");
    let moved = verdict();

    assert_eq!(moved.services[0].files[0], "/.si-undo/0");

    fs::rename(tree.join(".si-undo/0"), &program).expect("renames");
    assert!(verdict().services.is_empty());

    replace_by_copy(&program);
    let replaced = verdict();

    assert_eq!(replaced.services.len(), 1, "{replaced:?}");
    assert_eq!(replaced.services[0].pids, [process.0.id()]);
    assert_eq!(replaced.services[0].files, ["/bin/busybox"]);
    assert!(replaced.lines()[0].contains("busybox"), "{replaced:?}");

    drop(process);
    assert!(verdict().services.is_empty());
}

/// A node that runs a program of the image, which the second generation replaces.
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

    /// Runs the program with the node as the root directory, then the agent, for each list of
    /// arguments in turn; returns the last run.
    ///
    /// All of them share a mount namespace, as the processes of a machine do.
    fn agents(&self, runs: &[&[&str]]) -> Run {
        let program = "chroot \"$1\" /opt/busybox sleep 60 >/dev/null 2>&1 &
        echo $! >>\"$1/../pids\"; sleep 0.5";
        let repo = self.site.repo().display().to_string();
        let (last, earlier) = runs.split_last().expect("a run");
        let mut before = format!("mount --bind '{repo}' \"$1/mnt/repo\" && {{ {program}; }}");
        for arguments in earlier {
            let agent = format!("chroot \"$1\" /bin/agent --yes {}", arguments.join(" "));
            before += &format!(" && {agent} >/dev/null </dev/null && {{ {program}; }}");
        }

        let mut command = machine::chroot_command_after(&self.site.node(), &before);
        command.args(["/bin/agent", "--yes"]).args(*last).stdin(Stdio::null());
        Run::from_output(command.output().expect("runs"))
    }

    fn update(&self, more: &[&str]) -> Run {
        self.agents(&[&[&UPDATE[..], more].concat()])
    }
}

const UPDATE: [&str; 7] =
    ["--diff", "--image", "node", "--repo", "file:///mnt/repo/", "--exclude-file", "/dev/null"];

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
fn update_of_running_system_lists_processes_to_restart() {
    require!(NEEDED);

    let node = Node::new();
    let line = "uses /opt/busybox, which was replaced";
    let run = node.update(&[]);

    run.ended(0, &["updated to node", "busybox (pid ", line, "\nno reboot needed\n"]);

    // The next run changes nothing, and prints no list.
    let run = node.update(&[]);
    assert!(
        run.code == 0 && !run.out.contains("reboot") && !run.out.contains("restart"),
        "{run:#?}"
    );
}

/// A rollback moves the inodes back that processes have used all the time.
#[test]
fn rollback_lists_only_processes_with_other_files() {
    require!(NEEDED);

    let node = Node::new();

    let rollback = node.agents(&[&UPDATE, &["--rollback"]]);

    let pids = fs::read_to_string(node.site.dir.path().join("pids")).expect("pids");
    let [before, after] = pids.lines().collect::<Vec<_>>()[..] else { panic!("{pids}") };
    rollback.ended(0, &[&format!("busybox (pid {after}): uses /opt/busybox")]);
    assert!(!rollback.out.contains(&format!("(pid {before})")), "{rollback:#?}");
}

#[test]
fn json_reports_restart_in_last_object() {
    require!(NEEDED);

    let node = Node::new();
    let run = node.update(&["--json"]);
    let last: serde_json::Value =
        serde_json::from_str(run.out.lines().last().expect("a line")).expect("JSON");

    assert_eq!(last["event"], "done", "{run:#?}");
    assert_eq!(last["restart"]["services"][0]["files"][0], "/opt/busybox", "{run:#?}");
    assert_eq!(last["restart"]["reboot"], serde_json::json!([]), "{run:#?}");
    assert_eq!(last["restart"]["daemon_reload"], serde_json::json!([]), "{run:#?}");
}

#[test]
fn offline_tree_has_no_restart_report() {
    let site = Site::at(&trees::system());
    site.publish(&Tree::from([(b"etc/motd".to_vec(), Item::file("new"))]));
    let run = site.updated(&["--max-delete", "100%"]);

    assert!(!run.out.contains("restart") && !run.out.contains("reboot"), "{run:#?}");

    let mut command = Command::new(AGENT);
    command.arg("--needs-restarting").arg("--root").arg(site.node()).stdin(Stdio::null());

    Run::from_output(command.output().expect("runs")).ended(2, &["is about the running system"]);
}

#[test]
fn needs_restarting_reports_running_system() {
    let mut command = Command::new(AGENT);
    let run = Run::from_output(
        command.arg("--needs-restarting").stdin(Stdio::null()).output().expect("runs"),
    );
    let last = run.out.lines().last().unwrap_or_default();

    assert_eq!(run.code, 0, "{run:#?}");

    let known = ["nothing needs restarting", "no reboot needed", "reboot needed: "];
    assert!(known.iter().any(|words| last.starts_with(words)), "{run:#?}");
}
