//! Programs around an update: the hooks of the administrator, the boot loader's tools, the reboot.
//!
//! All of them are scripts on the node, which write their arguments to a file.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::interrupted::{STRACE, interrupt};
use crate::common::machine::ScriptedNode;
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree};
use crate::common::{Need, machine, read, require};

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");
const PRE: &str = "etc/systemimager/hooks.d/pre-update.d";
const POST: &str = "etc/systemimager/hooks.d/post-update.d";

const NEEDED: [&[Need]; 2] =
    [&machine::PROGRAMS, &[Need::Program("busybox"), Need::Program("rsync")]];

/// A node with the first generation, and a publish of the second one.
fn node_behind(first: &Tree, second: &Tree) -> ScriptedNode {
    let site = Site::at(first);
    site.publish(second);
    ScriptedNode::new(site, &["sleep", "printf"])
}

/// A node one generation behind; the update changes no boot file.
fn node_with_plain_update() -> ScriptedNode {
    let (first, second) = plain();
    node_behind(&first, &second)
}

/// A node one generation behind; the update replaces the kernel.
fn node_with_kernel_update() -> ScriptedNode {
    let (first, second) = kernels();
    node_behind(&first, &second)
}

fn configure(node: &ScriptedNode, text: &str) {
    trees::write_text(&node.at("etc/systemimager/updateclient.toml"), text);
}

fn with(files: &[(&str, &str)]) -> Tree {
    let mut tree = trees::system();
    // Directories for files of the node itself.
    for dir in ["etc/systemimager", "usr/bin", "usr/sbin", "boot/grub", "proc", "dev"] {
        trees::put(&mut tree, dir, Item::dir());
    }
    for (path, text) in files {
        trees::put(&mut tree, path, Item::file(*text));
    }
    tree
}

/// A system in two versions that differ in no boot file.
fn plain() -> (Tree, Tree) {
    (
        with(&[("etc/version", "1"), ("etc/odd\nname", "goes")]),
        with(&[("etc/version", "2"), ("etc/new", "four")]),
    )
}

/// The same system with two kernels.
fn kernels() -> (Tree, Tree) {
    (with(&[("boot/vmlinuz-1", "one")]), with(&[("boot/vmlinuz-2", "two")]))
}

/// Changes in the plan that a hook receives, one line each.
fn itemized(plan: &serde_json::Value) -> Vec<String> {
    let items = plan["items"].as_array().expect("items");
    let line = |item: &serde_json::Value| {
        let [change, path] = ["change", "path"].map(|key| item[key].as_str().expect("text"));
        format!("{change} {path} {}", item["bytes"])
    };
    items.iter().map(line).collect()
}

#[test]
fn hooks_receive_update_before_and_after_it() {
    require!(NEEDED);

    let node = node_with_plain_update();
    let second_hook = "echo \"${0##*/} $SI_STAGE $SI_IMAGE $SI_SERIAL $SI_WAY $SI_CHANGED \
         $SI_DELETED $SI_BYTES $(cat /etc/version)\" >>/var/log/notes
         printf 'a\\033[1mloud\\n'; printf 'word\\n' >&2";

    for (directory, plan) in [(PRE, "pre"), (POST, "post")] {
        node.script(&format!("{directory}/20-second"), second_hook);
        node.script(
            &format!("{directory}/10-first"),
            &format!(
                "echo first >>/var/log/notes; cat >/var/log/{plan}\n\
                 echo \"$SI_ROOT $SI_GENERATION $SI_BASE\" >/var/log/ids"
            ),
        );
        node.script(&format!("{directory}/30-left~"), "echo leftover >>/var/log/notes");
        trees::write_text(&node.at(&format!("{directory}/README")), "no program");
    }

    node.site.update(&["--dry-run"]).ended(0, &["would update"]);
    assert_eq!(node.take_records(), [""; 0]);

    let run = node.site.updated(&[]);
    run.ended(0, &["20-second: a\\033[1mloud", "20-second: word"]);
    assert_eq!(
        node.take_records(),
        [
            "first",
            "20-second pre node 2 diffs 2 1 5 1",
            "first",
            "20-second post node 2 diffs 2 1 5 2"
        ]
    );

    let catalog = node.site.catalog();
    let ids: Vec<String> =
        catalog.publishes.iter().map(|publish| publish.generation.to_string()).collect();
    let root = fs::canonicalize(node.site.node()).expect("a node");

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
        assert_eq!(
            itemized(&plan),
            [
                ">f+++++++++ /etc/new 4",
                "*deleting /etc/odd\\012name 0",
                ">fcs....... /etc/version 1"
            ]
        );
    }

    // A run without changes runs no hooks.
    node.site.updated(&[]).ended(0, &["up to date"]);
    assert_eq!(node.take_records(), [""; 0]);
}

#[test]
fn failing_pre_hook_changes_nothing() {
    require!(NEEDED);

    let node = node_with_plain_update();
    configure(&node, "program_timeout = 1\n");
    let hook = format!("{PRE}/50-guard");
    node.script(&format!("{PRE}/90-later"), "echo later >>/var/log/notes");

    for (lines, words) in [
        ("echo jobs are running; exit 3", "last output: jobs are running"),
        ("kill -9 $$", "signal: 9"),
        ("sleep 1000", "took longer than 1 s"),
    ] {
        node.script(&hook, lines);
        node.site.refused(
            &[],
            14,
            &["a pre-update hook stopped the update", "50-guard", words, "nothing was changed"],
        );
    }

    fs::write(node.at(&hook), "#!/no/such/shell\n").expect("writes");
    node.site.refused(&[], 14, &["a pre-update hook stopped the update", "50-guard"]);
    assert_eq!(node.take_records(), [""; 0]);

    fs::remove_file(node.at(&hook)).expect("removes");
    node.site.updated(&[]).ended(0, &["updated to node"]);
    assert_eq!(node.take_records(), ["later"]);
}

#[test]
fn hook_does_not_delay_cancellation() {
    require!(NEEDED);

    let node = node_with_plain_update();
    node.script(&format!("{PRE}/1"), "echo began >>/var/log/notes; sleep 1000");
    let mut child =
        node.site.command().stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
    let begin = Instant::now();

    while !node.at("var/log/notes").exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the hook never began");
        std::thread::sleep(Duration::from_millis(5));
    }

    let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("a number"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("kills");

    assert_eq!(child.wait().expect("it ends").code(), Some(11));
    assert_eq!(read(&node.at("etc/version")), "1");
    node.site.nothing_left();
}

#[test]
fn full_sync_runs_hooks_and_boot_loader() {
    require!(NEEDED);

    let (first, second) = kernels();
    let site = Site::new().with_rsync();
    site.publish(&first);
    site.install_node();
    site.updated(&["--adopt"]);
    site.publish(&second);
    fs::remove_dir_all(site.repo().join("node/diffs")).expect("removes");
    machine::install_busybox(&site.node(), &["sh"]);
    let node = ScriptedNode { site };
    node.record_calls("usr/sbin/update-grub");
    node.script(&format!("{PRE}/1"), "exit 1");

    node.site.refused(&[], 14, &["full sync", "a pre-update hook stopped the update"]);

    node.script(&format!("{PRE}/1"), "echo \"$SI_STAGE $SI_WAY\" >>/var/log/notes");
    node.script(&format!("{POST}/1"), "echo \"$SI_STAGE $SI_WAY\" >>/var/log/notes");

    node.site.updated(&[]).ended(0, &["full sync"]);
    assert_eq!(node.take_records(), ["pre full-sync", "update-grub", "post full-sync"]);
}

#[test]
fn failing_post_hook_keeps_update() {
    require!(NEEDED);

    let node = node_with_plain_update();
    node.script(&format!("{POST}/1"), "echo no luck; exit 1");
    node.script(&format!("{POST}/2"), "echo two >>/var/log/notes");

    node.site
        .update(&[])
        .ended(13, &["updated to node", "a post-update hook failed", "post-update.d/1", "no luck"]);
    assert_eq!(node.take_records(), ["two"]);
    assert_eq!(read(&node.at("etc/version")), "2");
    assert!(node.site.status().contains("serial:      2"));
    node.site.nothing_left();
    node.site.updated(&[]).ended(0, &["up to date"]);
}

#[test]
fn hooks_receive_rollback_and_can_stop_it() {
    require!(NEEDED);

    let node = node_with_plain_update();
    node.site.updated(&[]);
    let version = "echo \"$SI_STAGE $SI_WAY $SI_SERIAL $(cat /etc/version)\" >>/var/log/notes";
    node.script(&format!("{POST}/1"), version);
    node.script(&format!("{PRE}/1"), "exit 1");

    node.site.rollback(&[]).ended(14, &["nothing was changed"]);
    assert_eq!(read(&node.at("etc/version")), "2");
    node.site.nothing_left();

    node.script(&format!("{PRE}/1"), version);
    node.site.rollback(&["--dry-run"]).ended(0, &[]);
    assert_eq!(node.take_records(), [""; 0]);
    node.site.rollback(&[]).ended(0, &["rolled back"]);
    assert_eq!(node.take_records(), ["pre rollback 1 2", "post rollback 1 1"]);
}

#[test]
fn changed_boot_files_run_boot_loader() {
    require!(NEEDED);

    let (first, second) = kernels();
    let node = node_behind(&first, &second);
    node.record_calls("usr/sbin/update-grub");
    node.record_calls("usr/bin/grub-mkconfig");
    node.script(&format!("{POST}/1"), "echo post >>/var/log/notes");

    node.site.update(&["--dry-run"]).ended(0, &[]);
    assert_eq!(node.take_records(), [""; 0]);
    node.site.updated(&[]).ended(0, &["running /usr/sbin/update-grub"]);
    assert_eq!(node.take_records(), ["update-grub", "post"]);

    // Other changed files do not run the boot loader's tool.
    let mut third = second.clone();
    trees::put(&mut third, "etc/version", Item::file("3"));
    node.site.publish(&third);

    node.site.updated(&[]);
    assert_eq!(node.take_records(), ["post"]);
    node.site.rollback(&[]).ended(0, &[]);
    assert_eq!(node.take_records(), ["post"]);

    node.site.publish(&first);
    node.site.updated(&["--no-bootloader"]);

    assert_eq!(node.take_records(), ["post"]);
    node.site.rollback(&[]).ended(0, &["running /usr/sbin/update-grub"]);
    assert_eq!(node.take_records(), ["update-grub", "post"]);
    assert!(!node.at("var/lib/systemimager/client/boot-loader-due").exists());
}

#[test]
fn new_kernels_with_modules_are_installed() {
    require!(NEEDED);

    let modules = |release: &str| format!("usr/lib/modules/{release}/vmlinuz");
    let (one, two) = (modules("1.0-a"), modules("2.0-b"));
    let entries = ("boot/loader/entries/keep", "");
    let node = node_behind(&with(&[(&one, "1"), entries]), &with(&[(&two, "2"), entries]));
    node.record_calls("usr/bin/kernel-install");

    node.site.updated(&[]);
    assert_eq!(
        node.take_records(),
        ["kernel-install add 2.0-b /lib/modules/2.0-b/vmlinuz", "kernel-install remove 1.0-a"]
    );
}

#[test]
fn configured_boot_loader_program_replaces_default() {
    require!(NEEDED);

    let node = node_with_kernel_update();
    node.record_calls("usr/sbin/update-grub");
    node.record_calls("opt/site/boot");
    configure(&node, "bootloader = [\"/opt/site/boot\", \"a b\", \"$(reboot)\"]\n");

    node.site.updated(&[]);
    assert_eq!(node.take_records(), ["boot a b $(reboot)"]);
}

#[test]
fn unknown_boot_loader_causes_warning() {
    require!(NEEDED);

    let node = node_with_kernel_update();
    node.site.updated(&[]).ended(0, &["warning: boot files changed", "bootloader"]);
    node.site.updated(&[]).ended(0, &["up to date"]);
}

#[test]
fn failed_boot_loader_run_is_retried() {
    require!(NEEDED);

    let node = node_with_kernel_update();
    node.script("usr/sbin/update-grub", "echo cannot find a device; exit 1");
    node.script(&format!("{POST}/1"), "echo post >>/var/log/notes");
    let words =
        ["the boot loader was not updated", "/usr/sbin/update-grub", "cannot find a device"];

    let run = node.site.update(&[]);
    run.ended(13, &words);
    // The tool runs below --root, where the directories of the kernel are not mounted.
    run.ended(13, &["has no /dev, /proc, /sys: bind the directories (mount --rbind /dev "]);
    assert_eq!(read(&node.at("boot/vmlinuz-2")), "two");
    assert!(node.site.status().contains("serial:      2"));
    assert_eq!(node.take_records(), ["post"]);
    node.site.update(&[]).ended(13, &words);

    node.record_calls("usr/sbin/update-grub");
    node.site.update(&["--dry-run"]).ended(0, &[]);
    assert_eq!(node.take_records(), [""; 0]);
    node.site.updated(&[]).ended(0, &["up to date"]);
    assert_eq!(node.take_records(), ["update-grub"]);

    node.site.updated(&[]);
    assert_eq!(node.take_records(), [""; 0]);
}

#[test]
fn next_run_reports_update_killed_after_seal() {
    require!(NEEDED, STRACE);

    let (first, mut second) = kernels();
    for new in ["etc/a/new", "usr/b/new"] {
        trees::put(&mut second, new, Item::file("new"));
    }
    let node = node_behind(&first, &second);
    node.record_calls("usr/sbin/update-grub");

    interrupt(&node.site.node(), &node.site.command());
    assert_eq!(node.take_records(), [""; 0]);
    node.site.updated(&[]).ended(0, &["up to date"]);
    assert_eq!(node.take_records(), ["update-grub"]);

    node.site.updated(&[]);
    assert_eq!(node.take_records(), [""; 0]);
}

#[test]
fn file_rewritten_by_boot_loader_is_reported() {
    require!(NEEDED);

    let config = ("boot/grub/grub.cfg", "the golden client's");
    let node = node_behind(
        &with(&[("boot/vmlinuz-1", "one"), config, ("boot/grub/other", "stays")]),
        &with(&[("boot/vmlinuz-2", "two"), config, ("boot/grub/other", "stays")]),
    );
    node.script("usr/sbin/update-grub", "echo own >/boot/grub/grub.cfg; echo own >/boot/grub/own");

    node.site
        .updated(&[])
        .ended(0, &["/boot/grub/grub.cfg of the image was rewritten by the boot loader's tool"]);

    let status = node.site.status();
    assert!(
        status.contains(
            "deviations:  1\n  /boot/grub/grub.cfg: written by the boot loader's program"
        ),
        "{status}"
    );

    // A file of the node that is excluded is not reported.
    trees::write_text(
        &node.at("etc/systemimager/updateclient.local.exclude"),
        "/boot/grub/grub.cfg\n",
    );
    node.site.publish(&with(&[("boot/vmlinuz-3", "three"), config, ("boot/grub/other", "stays")]));
    let run = Run::from_output(node.site.command_with_node_excludes().output().expect("it runs"));

    run.ended(0, &["running /usr/sbin/update-grub"]);
    assert!(node.site.status().contains("deviations:  0\n"), "{}", node.site.status());
    assert_eq!(read(&node.at("boot/grub/grub.cfg")), "own\n");
}

/// The agent with the node as its root directory.
fn run_inside(node: &ScriptedNode, more: &[&str]) -> Run {
    let mut command: Command = machine::chroot_command(&node.site.node());
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
fn reboot_follows_success_only() {
    require!(NEEDED);

    let node = node_with_plain_update();
    machine::install(Path::new(AGENT), &node.site.node(), "bin/agent");
    fs::create_dir_all(node.at("srv")).expect("makes");
    crate::common::copy_tree(&node.site.repo(), &node.at("srv/repo"));
    for program in ["usr/sbin/shutdown", "usr/sbin/reboot"] {
        node.record_calls(program);
    }

    run_inside(&node, &["--reboot", "--dry-run"]).ended(0, &["would update"]);

    node.script(&format!("{PRE}/1"), "exit 1");
    run_inside(&node, &["--reboot"]).ended(14, &[]);

    fs::remove_file(node.at(&format!("{PRE}/1"))).expect("removes");
    assert_eq!(node.take_records(), [""; 0]);
    run_inside(&node, &["--reboot"]).ended(0, &["updated to node"]);
    assert_eq!(node.take_records(), ["shutdown -r now"]);

    node.record_calls("usr/bin/systemctl");
    run_inside(&node, &["--reboot"]).ended(0, &["up to date"]);
    assert_eq!(node.take_records(), ["systemctl reboot"]);
    run_inside(&node, &[]).ended(0, &[]);
    assert_eq!(node.take_records(), [""; 0]);

    node.script("usr/bin/systemctl", "echo an inhibitor holds it; exit 1");
    run_inside(&node, &["--reboot"]).ended(13, &["could not be rebooted", "an inhibitor holds it"]);
    node.site.update(&["--reboot"]).ended(2, &["--root"]);
}
