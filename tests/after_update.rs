//! What surrounds an update: the administrator's hooks, the boot loader's programs, the reboot. All of them
//! are scripts here, on the node, that note down what they are told.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::interrupted::{STRACE, interrupt, read};
use common::site::{Run, Site};
use common::trees::{self, Item, Tree};
use common::{Need, machine, require, write_program};

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");
const PRE: &str = "etc/systemimager/hooks.d/pre-update.d";
const POST: &str = "etc/systemimager/hooks.d/post-update.d";

const NEEDED: [&[Need]; 2] =
    [&machine::PROGRAMS, &[Need::Program("busybox"), Need::Program("rsync")]];

/// A node that can run scripts.
struct Node(Site);

impl Node {
    /// At the first of these generations, with the second one published.
    fn behind(first: &Tree, second: &Tree) -> Self {
        let site = Site::at(first);
        site.publish(second);
        machine::install_busybox(&site.node(), &["sh", "cat", "sleep", "printf"]);
        Node(site)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.node().join(path)
    }

    fn script(&self, path: &str, lines: &str) {
        write_program(&self.at(path), &format!("#!/bin/sh\n{lines}\n"));
    }

    /// A program that notes its name and arguments.
    fn noting(&self, path: &str) {
        self.script(path, "echo \"${0##*/} $*\" >>/var/log/notes");
    }

    /// What was noted since the last time.
    fn notes(&self) -> Vec<String> {
        let notes = fs::read_to_string(self.at("var/log/notes")).unwrap_or_default();
        let _ = fs::remove_file(self.at("var/log/notes"));
        notes.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    fn configure(&self, text: &str) {
        trees::write_text(&self.at("etc/systemimager/updateclient.toml"), text);
    }
}

fn with(files: &[(&str, &str)]) -> Tree {
    let mut tree = trees::system();
    // The node's own things are made in these.
    for dir in ["etc/systemimager", "usr/bin", "usr/sbin", "boot/grub", "proc", "dev"] {
        trees::put(&mut tree, dir, Item::dir());
    }
    for (path, text) in files {
        trees::put(&mut tree, path, Item::file(*text));
    }
    tree
}

/// The same system with another version of what is no boot file.
fn plain() -> (Tree, Tree) {
    (
        with(&[("etc/version", "1"), ("etc/odd\nname", "goes")]),
        with(&[("etc/version", "2"), ("etc/new", "four")]),
    )
}

/// The same system with another kernel.
fn kernels() -> (Tree, Tree) {
    (with(&[("boot/vmlinuz-1", "one")]), with(&[("boot/vmlinuz-2", "two")]))
}

#[test]
fn hooks_hear_of_the_update_before_and_after_it() {
    require!(NEEDED);

    let (first, second) = plain();
    let node = Node::behind(&first, &second);
    let told = "echo \"${0##*/} $SI_STAGE $SI_IMAGE $SI_SERIAL $SI_WAY $SI_CHANGED $SI_DELETED $SI_BYTES \
                $(cat /etc/version)\" >>/var/log/notes; printf 'a\\033[1mloud\\n'; printf 'word\\n' >&2";
    for (directory, plan) in [(PRE, "pre"), (POST, "post")] {
        node.script(&format!("{directory}/20-second"), told);
        node.script(
            &format!("{directory}/10-first"),
            &format!("echo first >>/var/log/notes; cat >/var/log/{plan}; echo \"$SI_ROOT $SI_GENERATION $SI_BASE\" >/var/log/ids"),
        );
        node.script(&format!("{directory}/30-left~"), "echo leftover >>/var/log/notes");
        trees::write_text(&node.at(&format!("{directory}/README")), "no program");
    }
    node.0.update(&["--dry-run"]).ended(0, &["would update"]);
    assert_eq!(node.notes(), [""; 0]);
    let run = node.0.updated(&[]);
    run.ended(0, &["20-second: a\\033[1mloud", "20-second: word"]);
    assert_eq!(
        node.notes(),
        [
            "first",
            "20-second pre node 2 diffs 2 1 5 1",
            "first",
            "20-second post node 2 diffs 2 1 5 2"
        ]
    );
    let catalog = node.0.catalog();
    let ids: Vec<String> =
        catalog.publishes.iter().map(|publish| publish.generation.to_string()).collect();
    let root = fs::canonicalize(node.0.node()).expect("a node");
    assert_eq!(
        read(&node.at("var/log/ids")).trim(),
        format!("{} {} {}", root.display(), ids[1], ids[0])
    );
    for stage in ["pre", "post"] {
        let plan: serde_json::Value =
            serde_json::from_str(&read(&node.at("var/log").join(stage))).expect("one JSON object");
        assert_eq!(plan["stage"], stage);
        assert_eq!(
            (&plan["image"], &plan["serial"], &plan["way"]),
            (&"node".into(), &2.into(), &"diffs".into())
        );
        let items: Vec<String> = plan["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|item| {
                format!(
                    "{} {} {}",
                    item["change"].as_str().unwrap(),
                    item["path"].as_str().unwrap(),
                    item["bytes"]
                )
            })
            .collect();
        assert_eq!(
            items,
            [
                ">f+++++++++ /etc/new 4",
                "*deleting /etc/odd\\012name 0",
                ">fcs....... /etc/version 1"
            ]
        );
    }
    // where nothing is to be done there is nothing to tell
    node.0.updated(&[]).ended(0, &["up to date"]);
    assert_eq!(node.notes(), [""; 0]);
}

#[test]
fn a_pre_hook_that_fails_stops_the_update_before_anything_is_touched() {
    require!(NEEDED);

    let (first, second) = plain();
    let node = Node::behind(&first, &second);
    node.configure("program_timeout = 1\n");
    let hook = format!("{PRE}/50-guard");
    node.script(&format!("{PRE}/90-later"), "echo later >>/var/log/notes");
    for (lines, words) in [
        ("echo jobs are running; exit 3", "said last: jobs are running"),
        ("kill -9 $$", "signal: 9"),
        ("sleep 1000", "took longer than 1 s"),
    ] {
        node.script(&hook, lines);
        node.0.refused(
            &[],
            14,
            &["a pre-update hook stopped the update", "50-guard", words, "nothing was changed"],
        );
    }
    fs::write(node.at(&hook), "#!/no/such/shell\n").expect("writes");
    node.0.refused(&[], 14, &["a pre-update hook stopped the update", "50-guard"]);
    assert_eq!(node.notes(), [""; 0]);
    fs::remove_file(node.at(&hook)).expect("removes");
    node.0.updated(&[]).ended(0, &["updated to node"]);
    assert_eq!(node.notes(), ["later"]);
}

#[test]
fn a_run_that_is_asked_to_stop_does_not_wait_for_its_hooks() {
    require!(NEEDED);

    let (first, second) = plain();
    let node = Node::behind(&first, &second);
    node.script(&format!("{PRE}/1"), "echo began >>/var/log/notes; sleep 1000");
    let mut child =
        node.0.command().stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
    let begin = Instant::now();
    while !node.at("var/log/notes").exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the hook never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("a number"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it is told");
    assert_eq!(child.wait().expect("it ends").code(), Some(11));
    assert_eq!(read(&node.at("etc/version")), "1");
    node.0.nothing_left();
}

#[test]
fn a_full_sync_has_its_hooks_and_tells_the_boot_loader() {
    require!(NEEDED);

    let (first, second) = kernels();
    let site = Site::new().with_rsync();
    site.publish(&first);
    site.install_node();
    site.updated(&["--adopt"]);
    site.publish(&second);
    fs::remove_dir_all(site.repo().join("node/diffs")).expect("removes");
    machine::install_busybox(&site.node(), &["sh"]);
    let node = Node(site);
    node.noting("usr/sbin/update-grub");
    node.script(&format!("{PRE}/1"), "exit 1");
    node.0.refused(&[], 14, &["full sync", "a pre-update hook stopped the update"]);
    node.script(&format!("{PRE}/1"), "echo \"$SI_STAGE $SI_WAY\" >>/var/log/notes");
    node.script(&format!("{POST}/1"), "echo \"$SI_STAGE $SI_WAY\" >>/var/log/notes");
    node.0.updated(&[]).ended(0, &["full sync"]);
    assert_eq!(node.notes(), ["pre full-sync", "update-grub", "post full-sync"]);
}

#[test]
fn a_post_hook_that_fails_leaves_the_update_and_the_others_run() {
    require!(NEEDED);

    let (first, second) = plain();
    let node = Node::behind(&first, &second);
    node.script(&format!("{POST}/1"), "echo no luck; exit 1");
    node.script(&format!("{POST}/2"), "echo two >>/var/log/notes");
    node.0
        .update(&[])
        .ended(13, &["updated to node", "a post-update hook failed", "post-update.d/1", "no luck"]);
    assert_eq!(node.notes(), ["two"]);
    assert_eq!(read(&node.at("etc/version")), "2");
    assert!(node.0.status().contains("serial:      2"));
    node.0.nothing_left();
    node.0.updated(&[]).ended(0, &["up to date"]);
}

#[test]
fn hooks_hear_of_a_rollback_and_may_stop_it() {
    require!(NEEDED);

    let (first, second) = plain();
    let node = Node::behind(&first, &second);
    node.0.updated(&[]);
    let version = "echo \"$SI_STAGE $SI_WAY $SI_SERIAL $(cat /etc/version)\" >>/var/log/notes";
    node.script(&format!("{POST}/1"), version);
    node.script(&format!("{PRE}/1"), "exit 1");
    node.0.rollback(&[]).ended(14, &["nothing was changed"]);
    assert_eq!(read(&node.at("etc/version")), "2");
    node.0.nothing_left();
    node.script(&format!("{PRE}/1"), version);
    node.0.rollback(&["--dry-run"]).ended(0, &[]);
    assert_eq!(node.notes(), [""; 0]);
    node.0.rollback(&[]).ended(0, &["rolled back"]);
    assert_eq!(node.notes(), ["pre rollback 1 2", "post rollback 1 1"]);
}

#[test]
fn the_boot_loader_is_told_of_changed_boot_files() {
    require!(NEEDED);

    let (first, second) = kernels();
    let node = Node::behind(&first, &second);
    node.noting("usr/sbin/update-grub");
    node.noting("usr/bin/grub-mkconfig");
    node.script(&format!("{POST}/1"), "echo post >>/var/log/notes");
    node.0.update(&["--dry-run"]).ended(0, &[]);
    assert_eq!(node.notes(), [""; 0]);
    node.0.updated(&[]).ended(0, &["running /usr/sbin/update-grub"]);
    assert_eq!(node.notes(), ["update-grub", "post"]);
    // nothing else is a reason
    let mut third = second.clone();
    trees::put(&mut third, "etc/version", Item::file("3"));
    node.0.publish(&third);
    node.0.updated(&[]);
    assert_eq!(node.notes(), ["post"]);
    node.0.rollback(&[]).ended(0, &[]);
    assert_eq!(node.notes(), ["post"]);
    node.0.publish(&first);
    node.0.updated(&["--no-bootloader"]);
    assert_eq!(node.notes(), ["post"]);
    node.0.rollback(&[]).ended(0, &["running /usr/sbin/update-grub"]);
    assert_eq!(node.notes(), ["update-grub", "post"]);
    assert!(!node.at("var/lib/systemimager/client/boot-loader-due").exists());
}

#[test]
fn kernels_that_come_with_their_modules_are_installed() {
    require!(NEEDED);

    let modules = |release: &str| format!("usr/lib/modules/{release}/vmlinuz");
    let (one, two) = (modules("1.0-a"), modules("2.0-b"));
    let entries = ("boot/loader/entries/keep", "");
    let node = Node::behind(&with(&[(&one, "1"), entries]), &with(&[(&two, "2"), entries]));
    node.noting("usr/bin/kernel-install");
    node.0.updated(&[]);
    assert_eq!(
        node.notes(),
        ["kernel-install add 2.0-b /lib/modules/2.0-b/vmlinuz", "kernel-install remove 1.0-a"]
    );
}

#[test]
fn a_configured_program_is_run_instead() {
    require!(NEEDED);

    let (first, second) = kernels();
    let node = Node::behind(&first, &second);
    node.noting("usr/sbin/update-grub");
    node.noting("opt/site/boot");
    node.configure("bootloader = [\"/opt/site/boot\", \"a b\", \"$(reboot)\"]\n");
    node.0.updated(&[]);
    assert_eq!(node.notes(), ["boot a b $(reboot)"]);
}

#[test]
fn a_boot_loader_that_nobody_knows_is_warned_of() {
    require!(NEEDED);

    let (first, second) = kernels();
    let node = Node::behind(&first, &second);
    node.0.updated(&[]).ended(0, &["warning: boot files changed", "bootloader"]);
    node.0.updated(&[]).ended(0, &["up to date"]);
}

#[test]
fn what_the_boot_loaders_program_could_not_do_is_tried_again() {
    require!(NEEDED);

    let (first, second) = kernels();
    let node = Node::behind(&first, &second);
    node.script("usr/sbin/update-grub", "echo cannot find a device; exit 1");
    node.script(&format!("{POST}/1"), "echo post >>/var/log/notes");
    let words =
        ["the boot loader was not updated", "/usr/sbin/update-grub", "cannot find a device"];
    node.0.update(&[]).ended(13, &words);
    assert_eq!(read(&node.at("boot/vmlinuz-2")), "two");
    assert!(node.0.status().contains("serial:      2"));
    assert_eq!(node.notes(), ["post"]);
    node.0.update(&[]).ended(13, &words);
    node.noting("usr/sbin/update-grub");
    node.0.update(&["--dry-run"]).ended(0, &[]);
    assert_eq!(node.notes(), [""; 0]);
    node.0.updated(&[]).ended(0, &["up to date"]);
    assert_eq!(node.notes(), ["update-grub"]);
    node.0.updated(&[]);
    assert_eq!(node.notes(), [""; 0]);
}

#[test]
fn an_update_that_was_killed_after_its_seal_is_made_known_by_the_next_run() {
    require!(NEEDED, STRACE);

    let (first, mut second) = kernels();
    for new in ["etc/a/new", "usr/b/new"] {
        trees::put(&mut second, new, Item::file("new"));
    }
    let node = Node::behind(&first, &second);
    node.noting("usr/sbin/update-grub");
    interrupt(&node.0.node(), &node.0.command());
    assert_eq!(node.notes(), [""; 0]);
    node.0.updated(&[]).ended(0, &["up to date"]);
    assert_eq!(node.notes(), ["update-grub"]);
    node.0.updated(&[]);
    assert_eq!(node.notes(), [""; 0]);
}

#[test]
fn what_the_boot_loaders_program_rewrote_is_no_secret() {
    require!(NEEDED);

    let config = ("boot/grub/grub.cfg", "the golden client's");
    let node = Node::behind(
        &with(&[("boot/vmlinuz-1", "one"), config, ("boot/grub/other", "stays")]),
        &with(&[("boot/vmlinuz-2", "two"), config, ("boot/grub/other", "stays")]),
    );
    node.script("usr/sbin/update-grub", "echo own >/boot/grub/grub.cfg; echo own >/boot/grub/own");
    node.0.updated(&[]).ended(0, &["/boot/grub/grub.cfg comes with the image"]);
    let status = node.0.status();
    assert!(
        status.contains(
            "deviations:  1\n  ./boot/grub/grub.cfg: written by the boot loader's program"
        ),
        "{status}"
    );
    // where the node's own file is excluded, it is its own affair
    trees::write_text(
        &node.at("etc/systemimager/updateclient.local.exclude"),
        "/boot/grub/grub.cfg\n",
    );
    node.0.publish(&with(&[("boot/vmlinuz-3", "three"), config, ("boot/grub/other", "stays")]));
    let run = Run::from_output(node.0.command_with_node_excludes().output().expect("it runs"));
    run.ended(0, &["running /usr/sbin/update-grub"]);
    assert!(node.0.status().contains("deviations:  0\n"), "{}", node.0.status());
    assert_eq!(read(&node.at("boot/grub/grub.cfg")), "own\n");
}

/// The node, as the root of everything.
fn booted(node: &Node, more: &[&str]) -> Run {
    let mut command: Command = machine::chroot_command(&node.0.node());
    let repo = "file:///srv/repo/";
    command.args([
        "/bin/agent",
        "--diff",
        "--yes",
        "--image",
        "node",
        "--repo",
        repo,
        "--exclude-file",
        "/dev/null",
    ]);
    Run::from_output(command.args(more).stdin(Stdio::null()).output().expect("it runs"))
}

#[test]
fn a_reboot_follows_a_success_only() {
    require!(NEEDED);

    let (first, second) = plain();
    let node = Node::behind(&first, &second);
    machine::install(Path::new(AGENT), &node.0.node(), "bin/agent");
    fs::create_dir_all(node.at("srv")).expect("makes");
    common::copy_tree(&node.0.repo(), &node.at("srv/repo"));
    for program in ["usr/sbin/shutdown", "usr/sbin/reboot"] {
        node.noting(program);
    }
    booted(&node, &["--reboot", "--dry-run"]).ended(0, &["would update"]);
    node.script(&format!("{PRE}/1"), "exit 1");
    booted(&node, &["--reboot"]).ended(14, &[]);
    fs::remove_file(node.at(&format!("{PRE}/1"))).expect("removes");
    assert_eq!(node.notes(), [""; 0]);
    booted(&node, &["--reboot"]).ended(0, &["updated to node"]);
    assert_eq!(node.notes(), ["shutdown -r now"]);
    node.noting("usr/bin/systemctl");
    booted(&node, &["--reboot"]).ended(0, &["up to date"]);
    assert_eq!(node.notes(), ["systemctl reboot"]);
    booted(&node, &[]).ended(0, &[]);
    assert_eq!(node.notes(), [""; 0]);
    node.script("usr/bin/systemctl", "echo an inhibitor holds it; exit 1");
    booted(&node, &["--reboot"]).ended(13, &["could not be rebooted", "an inhibitor holds it"]);
    node.0.update(&["--reboot"]).ended(2, &["--root"]);
}
