//! The old client's command lines, files and habits, against a real daemon with the layout of
//! SystemImager.
//!
//! After each run the tree must equal a copy that rsync alone has updated in the old client's
//! order: the image with `--delete`, then each override. Each fault of the old client has a test of
//! its own.

#[path = "../common/mod.rs"]
mod common;
mod mounts;
mod options;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::site::{Run, Site};
use common::trees::{self, Item, ItemKind, Tree};
use common::{ROOT_AND_RSYNC, copy_tree, judge, machine, read, require};

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");
/// The agent's own files, as rsync patterns.
const AGENT_FILES: [&str; 3] =
    ["/.si-*", "/var/lib/systemimager/client/", "/etc/systemimager/IMAGE_LAST_SYNCED_TO"];

/// An image server with the layout of SystemImager, and one node.
struct OldSite {
    site: Site,
}

/// The update that rsync alone makes.
#[derive(Clone, Copy, Default)]
struct RsyncUpdate<'a> {
    /// Names of overrides, each copied over the ones before it.
    overrides: &'a [&'a str],
    /// The directory to update; empty for the whole tree.
    directory: &'a str,
    extra_paths: ExtraPaths,
    excludes: &'a [&'a str],
}

/// Treatment of paths that the image lacks.
#[derive(Clone, Copy, Default, PartialEq)]
enum ExtraPaths {
    #[default]
    Delete,
    Keep,
}

impl OldSite {
    /// Makes a server with the image and the overrides by their names; nothing is published.
    fn new(image: &Tree, overrides: &[(&str, Tree)]) -> Self {
        let site = Site::new().with_rsync();
        trees::write(image, &site.image());
        let old = OldSite { site };
        fs::create_dir(old.server("scripts")).expect("scripts");
        for (name, tree) in overrides {
            trees::write(tree, &old.server(&format!("overrides/{name}")));
        }
        fs::create_dir(old.site.node()).expect("the node");
        old
    }

    fn server(&self, path: &str) -> PathBuf {
        self.site.dir.path().join(path)
    }

    fn node(&self, path: &str) -> PathBuf {
        self.site.node().join(path)
    }

    fn on_node(&self, path: &str, text: &str) {
        trees::write_text(&self.node(path), text);
    }

    /// The agent with the address of the server and nothing else.
    fn command(&self) -> Command {
        let mut command = Command::new(AGENT);
        command
            .arg("--root")
            .arg(self.site.node())
            .args(["--server", "127.0.0.1"])
            .stdin(Stdio::null());
        command.args(["--rsync-port", &self.site.rsync_port().expect("a daemon").to_string()]);
        command
    }

    fn run(&self, more: &[&str]) -> Run {
        Run::from_output(self.command().arg("--yes").args(more).output().expect("it runs"))
    }

    /// Updates a copy of the node by rsync alone.
    fn updated_by_rsync(&self, update: RsyncUpdate) -> PathBuf {
        let RsyncUpdate { overrides, directory, extra_paths, excludes } = update;
        let copy = self.server("by-rsync");
        let _ = fs::remove_dir_all(&copy);
        copy_tree(&self.site.node(), &copy);
        let override_dirs = overrides.iter().map(|name| self.server(&format!("overrides/{name}")));

        for (nth, from) in std::iter::once(self.site.image()).chain(override_dirs).enumerate() {
            let (from, to) = (from.join(directory), copy.join(directory));
            if !from.exists() {
                continue;
            }
            let mut rsync = Command::new("rsync");
            rsync.args(["-aHAXSI", "--numeric-ids"]);
            rsync.args(AGENT_FILES.iter().chain(excludes).map(|rule| format!("--exclude={rule}")));
            if nth == 0 && extra_paths == ExtraPaths::Delete {
                rsync.arg("--delete");
            }
            common::run(
                rsync.arg(format!("{}/", from.display())).arg(format!("{}/", to.display())),
            );
        }

        copy
    }

    /// Runs the agent, and asserts that the node equals the result of rsync alone.
    #[track_caller]
    fn same_as_rsync(&self, more: &[&str], update: RsyncUpdate) -> Run {
        let expected = self.updated_by_rsync(update);
        let run = self.run(more);
        run.ended(0, &[]);
        judge::same(&expected, &self.site.node(), &[]);
        self.site.nothing_left();
        assert_eq!(read(&self.node("etc/systemimager/IMAGE_LAST_SYNCED_TO")), "node\n");
        run
    }
}

fn put_text(tree: &mut Tree, path: &str, content: &str) {
    trees::put(tree, path, Item::file(content));
}

/// A small system with links, attributes and odd names.
fn image() -> Tree {
    let mut tree = trees::everything();
    put_text(&mut tree, "etc/hosts", "127.0.0.1 localhost\n");
    put_text(&mut tree, "etc/motd", "the image's\n");
    put_text(&mut tree, "usr/share/doc/readme", "read me\n");
    trees::with_parents(tree)
}

fn overrides() -> [(&'static str, Tree); 2] {
    let mut all = Tree::from([(Vec::new(), Item::dir())]);
    put_text(&mut all, "etc/motd", "everybody's\n");
    put_text(&mut all, "etc/ntp.conf", "server ntp\n");
    let mut gpu = Tree::from([(Vec::new(), Item::dir().mtime(1_650_000_000, 5))]);
    put_text(&mut gpu, "etc/motd", "of those with a card\n");
    trees::put(&mut gpu, "usr/share/doc", Item::dir().mode(0o750));
    put_text(&mut gpu, "usr/share/doc/gpu", "cards\n");
    [("all", trees::with_parents(all)), ("gpu", trees::with_parents(gpu))]
}

#[test]
fn cluster_txt_selects_image_and_overrides() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &overrides());
    trees::write_text(
        &old.server("scripts/cluster.txt"),
        "#\n# global_override=:all:\n#\nnode70:x:other:\nnode7:gpus:node:gpu\n\
         node7:everybody:plain:\n",
    );
    old.on_node("etc/hostname", "node7.cluster.example\n");
    let excludes = ["/etc/hostname"];
    old.on_node("etc/systemimager/updateclient.local.exclude", "/etc/hostname\n");
    let excludes = [&excludes[..], &["/etc/systemimager/updateclient.local.exclude"]].concat();
    let run = old.same_as_rsync(
        &[],
        RsyncUpdate { overrides: &["all", "gpu"], excludes: &excludes, ..Default::default() },
    );
    run.ended(
        0,
        &[
            "cluster.txt assigns image node to this host, override all, override gpu",
            "updated to node",
        ],
    );

    assert_eq!(read(&old.node("etc/motd")), "of those with a card\n");

    // Again, after changes of all kinds on the node.
    fs::write(old.node("etc/motd"), "edited").expect("writes");
    fs::remove_file(old.node("etc/ntp.conf")).expect("removes");
    fs::create_dir(old.node("usr/share/local")).expect("makes");
    old.same_as_rsync(
        &[],
        RsyncUpdate { overrides: &["all", "gpu"], excludes: &excludes, ..Default::default() },
    );

    old.run(&[]).ended(0, &["node with all, gpu is up to date"]);
}

#[test]
fn explicit_overrides_replace_cluster_txt() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &overrides());
    trees::write_text(
        &old.server("scripts/cluster.txt"),
        "# global_override=:all:\nnode7:gpus:node:gpu\n",
    );
    old.on_node("etc/hostname", "node7\n");
    old.on_node(
        "etc/systemimager/updateclient.local.exclude",
        "/etc/hostname\n/etc/systemimager/*\n",
    );
    let excludes = ["/etc/hostname", "/etc/systemimager/*"];
    old.same_as_rsync(
        &["--override", "gpu", "-override", "all"],
        RsyncUpdate { overrides: &["gpu", "all"], excludes: &excludes, ..Default::default() },
    );

    assert_eq!(read(&old.node("etc/motd")), "everybody's\n");

    old.on_node("etc/systemimager/overrides", "gpu\n");
    old.same_as_rsync(
        &[],
        RsyncUpdate { overrides: &["gpu"], excludes: &excludes, ..Default::default() },
    );

    assert!(!old.node("etc/ntp.conf").exists());

    old.same_as_rsync(
        &["--override=all"],
        RsyncUpdate { overrides: &["all", "gpu"], excludes: &excludes, ..Default::default() },
    );

    // If an image is named, cluster.txt is ignored.
    fs::remove_file(old.node("etc/systemimager/overrides")).expect("removes");
    old.same_as_rsync(
        &["--image", "node"],
        RsyncUpdate { excludes: &excludes, ..Default::default() },
    );

    assert_eq!(read(&old.node("etc/motd")), "the image's\n");
}

#[test]
fn directory_option_limits_update() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &overrides());
    old.on_node("usr/local/tool", "goes");
    old.on_node("etc/motd", "stays as it is");
    old.on_node("srv/own", "stays");
    fs::set_permissions(old.node(""), fs::Permissions::from_mode(0o700)).expect("sets");
    let line = [
        "--image",
        "node",
        "--directory",
        "/usr",
        "--no-bootloader",
        "--log",
        "%o %f",
        "--exclude-file",
        "/dev/null",
    ];
    let run = old.same_as_rsync(
        &[&line[..], &["--override", "gpu"]].concat(),
        RsyncUpdate { overrides: &["gpu"], directory: "usr", ..Default::default() },
    );

    assert!(
        run.out.contains("del. usr/local/tool\n") && run.out.contains("recv usr/share/doc/gpu\n"),
        "{run:#?}"
    );
    assert!(!run.out.contains("etc/motd"), "{run:#?}");
    assert_eq!(read(&old.node("etc/motd")), "stays as it is");

    // A directory that the node does not have yet, and double slashes as in old scripts.
    let line = ["--image", "node", "--directory", "//etc//", "--exclude-file", "/dev/null"];
    old.same_as_rsync(&line, RsyncUpdate { directory: "etc", ..Default::default() });

    old.run(&["--image", "node", "--directory", "/nowhere"]).ended(4, &["nothing was changed"]);
    old.run(&["--image", "node", "--directory", "usr"]).ended(2, &["absolute"]);
}

#[test]
fn no_delete_keeps_extra_paths() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &overrides());
    old.on_node("etc/own", "stays");
    old.on_node("usr/share/own/deep", "stays");
    let line =
        ["--image", "node", "--no-delete", "--override", "all", "--exclude-file", "/dev/null"];
    old.same_as_rsync(
        &line,
        RsyncUpdate { overrides: &["all"], extra_paths: ExtraPaths::Keep, ..Default::default() },
    );

    assert_eq!(read(&old.node("etc/own")), "stays");

    old.same_as_rsync(&["--image", "node", "--exclude-file", "/dev/null"], RsyncUpdate::default());
    assert!(!old.node("etc/own").exists());
}

#[test]
fn dry_run_lists_changes_of_real_run() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &overrides());
    old.run(&["--image", "node", "--exclude-file", "/dev/null"]).ended(0, &[]);

    fs::write(old.node("etc/hosts"), "edited").expect("writes");
    old.on_node("srv/own/file", "goes");
    fs::remove_file(old.node("usr/share/doc/readme")).expect("removes");
    let before = old.site.snapshot();
    let line = ["--image", "node", "--override", "gpu", "--exclude-file", "/dev/null"];

    let run =
        Run::from_output(old.command().args(line).arg("--dry-run").output().expect("it runs"));
    run.ended(0, &["would update to node with gpu"]);
    old.site.unchanged_since(&before);

    let paths = |out: &str| -> Vec<String> {
        let lines =
            out.lines().filter_map(|line| line.get(12..).filter(|_| line.as_bytes()[11] == b' '));
        let mut paths: Vec<String> = lines
            .map(|path| path.trim_start_matches('/').trim_end_matches('/').to_owned())
            .collect();
        paths.sort();
        paths
    };
    for path in [
        "etc/hosts",
        "etc/motd",
        "srv/own",
        "srv/own/file",
        "usr/share/doc/readme",
        "usr/share/doc/gpu",
    ] {
        assert!(paths(&run.out).contains(&path.to_owned()), "{path} is missing: {run:#?}");
    }

    let json = old.run(&[&line[..], &["--json"]].concat());
    for line in json.out.lines().filter(|line| line.contains("\"event\":\"item\"")) {
        let item: serde_json::Value = serde_json::from_str(line).expect("an object");
        let path = item["path"].as_str().expect("a path").trim_start_matches('/').to_owned();
        assert!(paths(&run.out).contains(&path), "the dry run did not say {path:?}");
    }

    old.run(&[&line[..], &["--dry-run"]].concat()).ended(0, &["node with gpu is up to date"]);
}

/// The old client ran rsync without `-H`, `-A` and `-X`.
#[test]
fn hardlinks_acls_attributes_and_holes_are_copied() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &[]);
    old.same_as_rsync(&["--image", "node", "--exclude-file", "/dev/null"], RsyncUpdate::default());

    // Links that are separate files on the node become links again.
    let linked = image().into_iter().find_map(|(path, item)| match item.kind {
        ItemKind::Link(first) => Some((path, first)),
        _ => None,
    });
    let (path, _) = linked.expect("the tree has a link");
    let path = trees::place(&old.site.node(), &path);
    let own = old.node("own");
    common::run(Command::new("cp").args(["-a", "--"]).arg(&path).arg(&own));
    fs::rename(&own, &path).expect("renames");
    old.same_as_rsync(&["--image", "node", "--exclude-file", "/dev/null"], RsyncUpdate::default());
}

/// The old client deleted all files of overrides, and copied them again, at every run.
#[test]
fn override_files_are_never_absent() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &overrides());
    let line = ["--image", "node", "--override", "all", "--exclude-file", "/dev/null"];

    old.run(&line).ended(0, &["updated to"]);

    let inode = || {
        let of = |path: &str| {
            fs::metadata(old.node(path)).map(|meta| (meta.ino(), meta.ctime(), meta.ctime_nsec()))
        };
        (of("etc/ntp.conf").expect("is there"), of("etc/motd").expect("is there"))
    };
    let before = inode();

    old.run(&line).ended(0, &["up to date"]);

    fs::write(old.server("images/node/etc/hosts"), "another").expect("writes");
    let run = old.run(&[&line[..], &["--log", "%o %n"]].concat());

    run.ended(0, &["recv etc/hosts"]);
    assert!(!run.out.contains("ntp.conf") && !run.out.contains("motd"), "{run:#?}");
    assert_eq!(inode(), before);
    assert_eq!(read(&old.node("etc/hosts")), "another");
}

/// The old client warned, continued, and recorded the image as synced.
#[test]
fn missing_override_changes_nothing() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &overrides());
    old.run(&["--image", "node", "--exclude-file", "/dev/null"]).ended(0, &[]);

    fs::write(old.node("etc/hosts"), "edited").expect("writes");
    fs::remove_file(old.node("etc/systemimager/IMAGE_LAST_SYNCED_TO")).expect("removes");
    let before = old.site.snapshot();
    let line = ["--image", "node", "--exclude-file", "/dev/null", "--override"];

    for name in ["missing", "all", "gpu"] {
        if name == "gpu" {
            fs::remove_file(old.server("overrides/gpu/etc/motd")).expect("removes");
        }
        let wanted = ["missing", "gpu"].contains(&name);
        let line = [&line[..], &[if wanted { "missing" } else { name }, "--dry-run"]].concat();
        old.run(&line)
            .ended(if wanted { 4 } else { 0 }, if wanted { &["override missing"] } else { &[] });
    }

    old.run(&[&line[..], &["all", "--override", "missing"]].concat())
        .ended(4, &["override missing", "nothing was changed"]);
    old.site.unchanged_since(&before);
    assert!(!old.node("etc/systemimager/IMAGE_LAST_SYNCED_TO").exists());
}

/// The old client pasted names into a command line for root's shell.
#[test]
fn names_from_network_are_not_executed() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &[]);
    old.on_node("etc/hostname", "node7\n");
    let sentinel = old.server("sentinel");

    for name in
        ["$(touch SENTINEL)", "`touch SENTINEL`", "node; touch SENTINEL", "../scripts", "-e sh"]
    {
        let name = name.replace("SENTINEL", &sentinel.display().to_string());
        trees::write_text(&old.server("scripts/cluster.txt"), &format!("node7:g:{name}:\n"));
        old.run(&[]).ended(4, &["cannot name an image"]);
        trees::write_text(&old.server("scripts/cluster.txt"), &format!("node7:g:node:{name}\n"));
        assert!([4, 0].contains(&old.run(&["--dry-run"]).code));
    }

    assert!(!sentinel.exists());
}

/// In the old client, an image that changed its exclude file took effect only at the second run.
#[test]
fn excludes_from_image_apply_in_same_run() {
    require!(ROOT_AND_RSYNC);

    let place = "etc/systemimager/updateclient.local.exclude";
    let mut first = image();
    put_text(&mut first, place, "/srv/*\n");
    let old = OldSite::new(&trees::with_parents(first), &[]);

    old.run(&["--image", "node"]).ended(0, &[]);

    old.on_node("srv/kept", "by the first rules");
    old.on_node("opt/kept", "by the second rules");
    trees::write_text(&old.server(&format!("images/node/{place}")), "/opt/*\n");
    trees::write_text(&old.server("images/node/opt/never"), "excluded by the image");

    let run = old.run(&["--image", "node", "--max-delete", "100%"]);
    run.ended(0, &["using the exclude rules of /etc/systemimager/updateclient.local.exclude"]);
    assert!(
        old.node("opt/kept").exists()
            && !old.node("opt/never").exists()
            && !old.node("srv/kept").exists()
    );
    assert_eq!(read(&old.node(place)), "/opt/*\n");
    old.run(&["--image", "node"]).ended(0, &["up to date"]);
}

#[test]
fn deletion_budget_stops_run() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &[]);
    old.run(&["--image", "node", "--exclude-file", "/dev/null"]).ended(0, &[]);

    for number in 0..200 {
        old.on_node(&format!("srv/many/{number}"), "own");
    }
    let before = old.site.snapshot();
    let line = ["--image", "node", "--exclude-file", "/dev/null"];

    old.run(&line).ended(9, &["cannot delete", "nothing was changed"]);
    old.site.unchanged_since(&before);
    old.run(&[&line[..], &["--dry-run"]].concat()).ended(9, &["cannot delete"]);
    old.run(&[&line[..], &["--max-delete", "300"]].concat()).ended(0, &[]);
    assert!(!old.node("srv/many").exists());
}

/// Each path counts once, also if it is in a directory that becomes a file.
#[test]
fn displaced_paths_count_once() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &[]);
    let line = ["--image", "node", "--exclude-file", "/dev/null"];

    old.run(&line).ended(0, &[]);

    fs::remove_file(old.node("etc/hosts")).expect("removes");
    for number in 0..8 {
        old.on_node(&format!("etc/hosts/{number}"), "own");
    }
    let before = old.site.snapshot();

    old.run(&[&line[..], &["--no-delete"]].concat())
        .ended(5, &["--no-delete keeps it", "nothing was changed"]);
    old.run(&[&line[..], &["--no-delete", "--dry-run"]].concat())
        .ended(5, &["for new regular file: etc/hosts"]);
    old.run(&[&line[..], &["--max-delete", "7"]].concat())
        .ended(9, &["cannot delete 8 paths: at most 7 are allowed"]);
    old.run(&[&line[..], &["--max-delete", "7", "--dry-run"]].concat())
        .ended(9, &["cannot delete 8 paths"]);
    old.site.unchanged_since(&before);

    let run =
        old.same_as_rsync(&[&line[..], &["--max-delete", "8"]].concat(), RsyncUpdate::default());
    run.ended(0, &["updated to node"]);
}

/// A directory in an override over a file of the image is no obstacle to a dry run.
#[test]
fn dry_run_handles_override_directory_over_image_file() {
    require!(ROOT_AND_RSYNC);

    let mut over = Tree::from([(Vec::new(), Item::dir())]);
    put_text(&mut over, "etc/hosts/inside", "a directory");
    let old = OldSite::new(&image(), &[("odd", trees::with_parents(over))]);
    let line = ["--image", "node", "--override", "odd", "--exclude-file", "/dev/null"];

    old.run(&line).ended(0, &[]);
    old.run(&[&line[..], &["--dry-run"]].concat()).ended(0, &["up to date"]);
    old.run(&line).ended(0, &["up to date"]);
}

#[test]
fn changed_directory_times_alone_are_set() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &[]);
    let line = ["--image", "node", "--exclude-file", "/dev/null"];

    old.run(&line).ended(0, &[]);

    common::run(
        Command::new("touch").args(["-d", "2001-01-01"]).arg(old.server("images/node/usr")),
    );
    common::run(Command::new("touch").args(["-d", "2001-01-02"]).arg(old.server("images/node")));
    old.same_as_rsync(&line, RsyncUpdate::default());
    let of = |path: PathBuf| fs::metadata(path).expect("is there").mtime();

    assert_eq!(of(old.node("usr")), of(old.server("images/node/usr")));
    assert_eq!(of(old.node("")), of(old.server("images/node")));
}

/// rsync drops a capability if it copies a file and changes its owner.
#[test]
fn capability_survives_change_of_time() {
    require!(ROOT_AND_RSYNC, Program("setcap"));

    let mut tree = image();
    let mut file = Item::file(trees::noise(5_000, 3)).owner(65_534, 0);
    file.mode = 0o755;
    trees::put(&mut tree, "usr/bin/capable", file);
    let old = OldSite::new(&trees::with_parents(tree), &[]);
    let path = old.server("images/node/usr/bin/capable");
    common::run(Command::new("setcap").arg("cap_net_raw=ep").arg(&path));
    let line = ["--image", "node", "--exclude-file", "/dev/null"];
    old.same_as_rsync(&line, RsyncUpdate::default());
    common::run(Command::new("touch").args(["-d", "2001-01-01"]).arg(&path));
    old.same_as_rsync(&line, RsyncUpdate::default());
}

#[test]
fn rsync_only_run_can_be_rolled_back() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &overrides());
    let line = ["--image", "node", "--exclude-file", "/dev/null"];

    old.run(&line).ended(0, &[]);

    let before = old.site.snapshot();
    old.run(&[&line[..], &["--override", "gpu"]].concat()).ended(0, &["updated to node with gpu"]);
    old.site.rollback(&[]).ended(0, &["rolled back"]);
    judge::same(&before, &old.site.node(), &["/.si-undo"]);
}

#[test]
fn why_names_source_of_path() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &overrides());
    old.on_node(
        "etc/systemimager/updateclient.local.exclude",
        "# mine\n/etc/systemimager/updateclient.*\n/srv/*\n",
    );
    old.on_node("usr/sbin/si_updateclient", "the agent");

    let why = |path: &str| {
        let mut command = Command::new(AGENT);
        command.arg("--root").arg(old.site.node()).args(["--why", path]).stdin(Stdio::null());
        Run::from_output(command.output().expect("it runs"))
    };
    why("/etc/motd").ended(5, &["nothing is recorded"]);
    old.run(&["--image", "node", "--override", "all", "--override", "gpu"]).ended(0, &[]);

    old.on_node("srv/own", "own");
    old.on_node("opt/own", "own");

    for (path, line) in [
        ("/etc/hosts", "image node unknown"),
        ("/etc/motd", "override gpu"),
        ("/etc/ntp.conf", "override all"),
        ("/usr/share/doc", "override gpu"),
        ("/srv/own", "exclude /srv/* /etc/systemimager/updateclient.local.exclude:3"),
        ("/usr/sbin/si_updateclient", "protected "),
        ("/var/lib/systemimager/client/state.toml", "protected "),
        ("/opt/own", "local"),
    ] {
        let run = why(path);
        assert!(run.code == 0 && run.out.starts_with(line), "{path}: {run:#?}");
    }

    why("relative").ended(2, &[]);
}

/// Mounts that are not to be updated are left alone, also below `--root` and with `--directory`.
/// The old client's command lines as scripts have them, in a system without the old client.
#[test]
fn old_command_lines_run_unchanged() {
    require!(ROOT_AND_RSYNC, Program("unshare"), Program("busybox"));

    let mut tree = image();
    for dir in ["proc", "dev", "tmp"] {
        trees::put(&mut tree, dir, Item::dir());
    }
    let old = OldSite::new(&trees::with_parents(tree), &overrides());
    for dir in ["proc", "dev", "tmp"] {
        fs::create_dir(old.node(dir)).expect("makes");
    }
    trees::write_text(
        &old.server("scripts/cluster.txt"),
        "# global_override=:all:\nnode7:gpus:node:gpu\n",
    );
    let port = old.site.rsync_port().expect("a daemon");
    let lines = [
        "si_updateclient --server 127.0.0.1 --yes",
        "si_updateclient --server 127.0.0.1 --image node --directory /usr --no-bootloader \
         --log '%o %f' --yes",
        "si_updateclient --yes --image node --override gpu --server 127.0.0.1 --no-bootloader",
        "si_updateclient -server 127.0.0.1 -image node -no-bootloader -yes",
        "si_updateclient -Se 127.0.0.1 -I node -O all -O gpu -no-d -Y",
        "si_updateclient --yes --image=node --server=127.0.0.1 --dry-run",
    ];

    // rsync and the agent are the node's own, with the libraries that they need.
    old.on_node(
        "etc/systemimager/updateclient.local.exclude",
        "/lib*\n/bin\n/usr/bin\n/usr/sbin\n/usr/lib*\n/proc/*\n/dev/*\n/tmp/*\n\
         /etc/systemimager/*\n/etc/hostname\n",
    );
    old.on_node("etc/systemimager/client.conf", &format!("fstype = ext4\nrsync_port = {port}\n"));
    old.on_node("etc/hostname", "node7\n");

    for (program, place) in [
        (machine::program("busybox"), "bin/busybox"),
        (machine::program("rsync"), "usr/bin/rsync"),
        (PathBuf::from(AGENT), "usr/sbin/si_updateclient"),
    ] {
        machine::install(&program, &old.site.node(), place);
    }

    for line in lines {
        let mut command =
            machine::chroot_command_after(&old.site.node(), "hostname node7 2>/dev/null || true");
        let script = format!("export PATH=/usr/sbin:/usr/bin:/bin; exec {line}");
        let run = Run::from_output(
            command
                .args(["/bin/busybox", "sh", "-c", &script])
                .stdin(Stdio::null())
                .output()
                .expect("runs"),
        );

        run.ended(0, &[]);
    }

    let excludes =
        ["/lib*", "/bin", "/usr/bin", "/usr/sbin", "/usr/lib*", "/proc/*", "/dev/*", "/tmp/*"];
    let excludes = [&excludes[..], &["/etc/systemimager/*", "/etc/hostname"]].concat();
    let expected = old.updated_by_rsync(RsyncUpdate {
        overrides: &["all", "gpu"],
        extra_paths: ExtraPaths::Keep,
        excludes: &excludes,
        ..Default::default()
    });

    // The mounts were left alone, together with their mount points.
    judge::same(&expected, &old.site.node(), &["/dev", "/proc", "/tmp"]);
}
