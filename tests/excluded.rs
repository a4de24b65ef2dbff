//! Excluded paths: the directories that an image creates there once, and the bytes that they cost.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::fault_server::FaultServer;
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree, noise};
use crate::common::{ROOT_AND_RSYNC, judge, require};

/// Files that no two nodes may share.
const IDENTITY: [&str; 9] = [
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "etc/hostid",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "etc/krb5.keytab",
    "etc/iscsi/initiatorname.iscsi",
    "var/lib/systemd/random-seed",
    "var/lib/urandom/random-seed",
];

/// Content of files that are excluded.
const EXCLUDED_FILES: [&str; 5] = [
    "var/log/web/access.log",
    "var/cache/web/pages/one",
    "var/spool/cron/crontabs/root",
    "var/lib/dhcp/old/leases",
    "var/log/journal/0123456789abcdef0123456789abcdef/system.journal",
];

fn image() -> Tree {
    let mut tree = trees::system();
    for path in IDENTITY.iter().chain(&EXCLUDED_FILES) {
        trees::put(&mut tree, path, Item::file("the golden client's"));
    }
    trees::put(
        &mut tree,
        "var/log/web",
        Item::dir().mode(0o2750).owner(33, 4).xattr("user.note", "kept"),
    );
    trees::put(&mut tree, "var/spool/cron/crontabs", Item::dir().mode(0o1730).owner(0, 107));
    trees::put(&mut tree, "var/lib/app/__pycache__/one.pyc", Item::file("bytecode"));
    trees::with_parents(tree)
}

/// Updates the node with its own exclude rules, or the built-in ones.
#[track_caller]
fn updated(site: &Site, more: &[&str]) -> Run {
    let run = Run::from_output(
        site.command_with_node_excludes().args(more).output().expect("si_updateclient runs"),
    );
    run.ended(0, &[]);
    run
}

/// Writes a setting to the configuration of the node.
fn configure(site: &Site, text: &str) {
    trees::write_text(&site.node().join("etc/systemimager/updateclient.toml"), text);
}

/// Mode, owner and group of a directory.
fn metadata(path: &Path) -> (u32, u32, u32) {
    let found = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(found.is_dir(), "{} is no directory", path.display());
    (found.permissions().mode() & 0o7777, found.uid(), found.gid())
}

/// All regular files below a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[track_caller]
fn assert_created(node: &Path) {
    assert_eq!(metadata(&node.join("var/log/web")), (0o2750, 33, 4));
    assert_eq!(metadata(&node.join("var/spool/cron/crontabs")), (0o1730, 0, 107));
    for path in ["var/cache/web/pages", "var/lib/dhcp/old"] {
        assert_eq!(metadata(&node.join(path)), (0o755, 0, 0), "{path}");
    }

    let mut note = [0; 8];
    let length = rustix::fs::lgetxattr(node.join("var/log/web"), "user.note", &mut note);
    assert_eq!(&note[..length.expect("the attribute")], b"kept");

    // No content, no directory of another machine, and none that a program creates itself.
    for directory in ["var/log", "var/cache", "var/spool", "var/lib/dhcp"] {
        assert_eq!(files_below(&node.join(directory)), [""; 0].map(PathBuf::from));
    }
    assert!(fs::read_dir(node.join("var/log/journal")).expect("is there").next().is_none());
    assert!(!node.join("var/lib/app/__pycache__").exists());
}

#[test]
fn first_installations_share_directories_and_no_identity() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    site.publish(&image());

    // By a published full sync, and by rsync alone.
    for strategy in [&[][..], &["--image", "node"]] {
        let _ = fs::remove_dir_all(site.node());
        fs::create_dir(site.node()).expect("an empty node");
        let mut command = site.command_with_node_excludes();
        if !strategy.is_empty() {
            command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
            let port = site.rsync_port().expect("a daemon").to_string();
            command.args(["--yes", "--server", "127.0.0.1", "--rsync-port", &port]);
            command.args(strategy).arg("--root").arg(site.node());
        }
        let forecast = Run::from_output(command.arg("--dry-run").output().expect("runs"));
        forecast.ended(0, &["cd+++++++++ /var/log/web/", "cd+++++++++ /var/cache/web/pages/"]);

        let arguments: Vec<_> = command.get_args().filter(|word| *word != "--dry-run").collect();
        let mut real = Command::new(command.get_program());
        real.args(arguments);
        Run::from_output(real.output().expect("runs")).ended(0, &[]);

        assert_created(&site.node());
        for path in IDENTITY {
            assert!(!site.node().join(path).exists(), "{path} is the golden client's");
        }
        assert!(!site.status().contains("deviates"), "{}", site.status());
        site.nothing_left();
    }
}

#[test]
fn directories_gained_by_image_are_created_once() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new();
    site.publish(&image());
    site.install_node();
    updated(&site, &["--adopt"]);
    let mut tree = image();
    trees::put(&mut tree, "var/log/new", Item::dir().mode(0o700).owner(5, 6));
    trees::put(&mut tree, "var/log/new/deep/file", Item::file("not for nodes"));
    trees::put(&mut tree, "var/log/occupied", Item::dir());
    trees::put(&mut tree, "var/log/occupied/below", Item::dir());
    trees::put(&mut tree, "var/log/linked", Item::dir());
    trees::put(&mut tree, "var/log/web", Item::dir().mode(0o777));
    trees::put(&mut tree, "srv/data", Item::dir());
    site.publish(&trees::with_parents(tree.clone()));
    trees::write_text(&site.node().join("var/log/occupied"), "a file of the node");
    symlink("/elsewhere", site.node().join("var/log/linked")).expect("a link of the node");

    updated(&site, &["--dry-run"]).ended(0, &["cd+++++++++ /var/log/new/deep/"]);
    assert!(!site.node().join("var/log/new").exists());
    let run = updated(&site, &[]);
    assert!(!run.out.contains("repaired") && !run.out.contains("deviation"), "{run:#?}");

    assert_eq!(metadata(&site.node().join("var/log/new")), (0o700, 5, 6));
    assert_eq!(metadata(&site.node().join("var/log/new/deep")), (0o755, 0, 0));
    assert!(!site.node().join("var/log/new/deep/file").exists());
    assert!(site.node().join("var/log/occupied").is_file());
    assert!(site.node().join("var/log/linked").is_symlink());
    // An existing directory stays as it is.
    assert_eq!(metadata(&site.node().join("var/log/web")), (0o2750, 33, 4));

    // Afterwards it belongs to the node, also if the image drops it.
    fs::set_permissions(site.node().join("var/log/new"), fs::Permissions::from_mode(0o711))
        .expect("chmod");
    tree.retain(|path, _| !path.starts_with(b"var/log/new"));
    trees::put(&mut tree, "usr/bin/tool", Item::file("a newer tool"));
    site.publish(&trees::with_parents(tree));
    updated(&site, &["--check", "content"]).ended(0, &["1 path changed"]);
    assert_eq!(metadata(&site.node().join("var/log/new")), (0o711, 5, 6));
    updated(&site, &["--check", "content"]).ended(0, &["is up to date"]);
    assert!(!site.status().contains("var/log"), "{}", site.status());
}

#[test]
fn adopted_tree_gets_directories_of_its_own_generation() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new();
    site.publish(&image());
    site.install_node();
    for path in ["var/log", "var/cache", "var/spool"] {
        for entry in fs::read_dir(site.node().join(path)).expect("is there") {
            fs::remove_dir_all(entry.expect("an entry").path()).expect("removes");
        }
    }
    fs::remove_dir_all(site.node().join("var/lib/dhcp/old")).expect("removes");
    fs::remove_dir_all(site.node().join("var/lib/app/__pycache__")).expect("removes");

    updated(&site, &[]).ended(0, &["updated to node serial 1"]);

    assert_created(&site.node());
    updated(&site, &["--check", "content"]).ended(0, &["is up to date"]);
}

#[test]
fn rollback_removes_created_directories_that_are_empty() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new();
    site.publish(&image());
    site.install_node();
    updated(&site, &["--adopt"]);
    let mut tree = image();
    for path in ["var/log/empty/below", "var/log/used/below"] {
        trees::put(&mut tree, path, Item::dir());
    }
    trees::put(&mut tree, "usr/bin/tool", Item::file("a newer tool"));
    site.publish(&trees::with_parents(tree));
    updated(&site, &[]);
    trees::write_text(&site.node().join("var/log/used/below/log"), "the node's own");

    site.rollback(&["--dry-run"]).ended(0, &["*deleting   /var/log/empty/below/"]);
    let run = site.rollback(&[]);

    run.ended(0, &["rolled back to serial 1"]);
    assert!(!run.out.contains("deviat"), "{run:#?}");
    assert!(!site.node().join("var/log/empty").exists());
    assert!(site.node().join("var/log/used/below/log").exists());

    // The rollback of the rollback restores them, and nothing deviates.
    site.rollback(&[]).ended(0, &["rolled back to serial 2"]);
    assert!(site.node().join("var/log/empty/below").is_dir());
    updated(&site, &["--check", "content", "--unhold"]).ended(0, &["is up to date"]);
    assert!(!site.status().contains("var/log"), "{}", site.status());
}

#[test]
fn reported_drift_leaves_lost_directories_lost() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new();
    site.publish(&image());
    site.install_node();
    updated(&site, &["--adopt"]);
    fs::remove_dir_all(site.node().join("var/log/web")).expect("removes");
    let mut tree = image();
    trees::put(&mut tree, "var/log/new", Item::dir());
    site.publish(&trees::with_parents(tree.clone()));

    updated(&site, &["--drift", "report"]);
    assert!(!site.node().join("var/log/web").exists());
    assert!(site.node().join("var/log/new").is_dir());

    trees::put(&mut tree, "usr/bin/tool", Item::file("a newer tool"));
    site.publish(&trees::with_parents(tree));
    updated(&site, &[]);
    assert_eq!(metadata(&site.node().join("var/log/web")), (0o2750, 33, 4));
}

#[test]
fn configuration_limits_created_directories_and_brings_seed_files() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new().with_rsync();
    let mut tree = image();
    trees::put(&mut tree, "etc/fstab", Item::file("the image's").mode(0o600).owner(1, 2));
    trees::put(&mut tree, "home/admin/.profile", Item::file("umask 077\n"));
    site.publish(&trees::with_parents(tree.clone()));
    fs::create_dir(site.node()).expect("an empty node");
    configure(
        &site,
        "create_directories = []\n\
         seed_files = [\"/etc/fstab\", \"/home/admin/.profile\", \"/etc/absent\"]\n",
    );

    updated(&site, &["--dry-run"]).ended(0, &[">f+++++++++ /etc/fstab"]);
    let run = updated(&site, &[]);
    assert!(!run.err.contains("not as it was published"), "{run:#?}");

    let text = |path: &str| fs::read_to_string(site.node().join(path)).expect("a file");
    assert!(!site.node().join("var/log/web").exists());
    assert_eq!(text("etc/fstab"), "the image's");
    assert_eq!(text("home/admin/.profile"), "umask 077\n");
    let fstab = fs::metadata(site.node().join("etc/fstab")).expect("is there");
    assert_eq!((fstab.mode() & 0o7777, fstab.uid(), fstab.gid()), (0o600, 1, 2));

    // A seed file belongs to the node from then on.
    fs::write(site.node().join("etc/fstab"), "the node's").expect("writes");
    trees::put(&mut tree, "etc/fstab", Item::file("the image's, newer"));
    trees::put(&mut tree, "usr/bin/tool", Item::file("a newer tool"));
    site.publish(&trees::with_parents(tree));
    updated(&site, &["--check", "content"]).ended(0, &["1 path changed"]);
    assert_eq!(text("etc/fstab"), "the node's");
    assert!(!site.status().contains("fstab"), "{}", site.status());
}

#[test]
fn path_that_is_not_absolute_is_refused() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&image());
    for (setting, value) in [
        ("create_directories", "var/log"),
        ("create_directories", "/var/../etc"),
        ("create_directories", "/"),
        ("seed_files", "/etc/fstab/"),
        ("seed_files", ""),
    ] {
        configure(&site, &format!("{setting} = [{value:?}]\n"));
        site.update(&[]).ended(2, &["updateclient.toml", "is not an absolute path"]);
    }
}

/// A content that differs from the same of another round in a few bytes.
fn content(seed: u64, round: u64) -> Vec<u8> {
    let mut bytes = noise(60_000, seed);
    bytes[30_000..30_100].copy_from_slice(&noise(100, seed + 100 * round));
    bytes
}

/// Paths of the contents, of which some are excluded.
fn contents(round: u64, excluded: &[&str]) -> Tree {
    let mut tree = trees::system();
    for (seed, path) in (1..).zip(["usr/lib/app/a", "usr/share/app/b", "usr/share/app/c"]) {
        trees::put(&mut tree, path, Item::file(content(seed, round)));
    }
    for (seed, path) in (50..).zip(excluded) {
        trees::put(&mut tree, path, Item::file(content(seed, round)));
    }
    trees::with_parents(tree)
}

/// Requests of an update for anything but the chain itself.
fn requests_beyond_chain(server: &FaultServer) -> Vec<(String, u64)> {
    let mut seen = server.seen();
    seen.retain(|request| request.path.contains("/content/") || request.path.contains("/full/"));
    seen.into_iter().map(|request| (request.path, request.sent)).collect()
}

#[test]
fn excluded_paths_of_image_cost_no_second_fetch() {
    require!(ROOT_AND_RSYNC);

    let built_in = ["etc/ssh/ssh_host_key", "usr/lib/app/__pycache__/a.pyc", "var/cache/x"];
    let shipped = ["srv/data/one", "usr/share/app/b.cache"];
    let rules = "/srv/data/*\n*.cache\n";
    for (excluded, rules) in [(&built_in[..], None), (&shipped, Some(rules))] {
        let mut site = Site::new();
        let server = FaultServer::serve(&site.repo());
        site.repo_url = server.url();
        let finish = |mut tree: Tree| {
            if let Some(rules) = rules {
                let path = "etc/systemimager/updateclient.local.exclude";
                trees::put(&mut tree, path, Item::file(rules));
            }
            trees::with_parents(tree)
        };
        let mut first = contents(1, excluded);
        // Content that moves from an excluded path, and content that only resembles such a one.
        trees::put(&mut first, excluded[0], Item::file(noise(50_000, 7)));
        trees::put(&mut first, &format!("{}.like", excluded[1]), Item::file("small"));
        site.publish(&finish(first));
        site.install_node();
        for path in excluded {
            fs::remove_file(site.node().join(path)).expect("removes");
        }
        updated(&site, &["--adopt"]);

        let mut second = contents(2, excluded);
        trees::put(&mut second, "usr/share/app/moved", Item::file(noise(50_000, 7)));
        trees::put(&mut second, "usr/share/app/copy", Item::file(content(51, 3)));
        site.publish(&finish(second));
        server.calm();
        let forecast = updated(&site, &["--no-fallback", "--dry-run"]);
        let run = updated(&site, &["--no-fallback"]);

        assert!(!forecast.out.contains("by digest"), "{forecast:#?}");
        run.ended(0, &["following one diff", "updated to node"]);
        assert_eq!(requests_beyond_chain(&server), []);
        for (path, expected) in [
            ("usr/share/app/b", content(2, 2)),
            ("usr/share/app/moved", noise(50_000, 7)),
            ("usr/share/app/copy", content(51, 3)),
        ] {
            assert_eq!(fs::read(site.node().join(path)).expect("a file"), expected, "{path}");
        }
        for path in excluded {
            assert!(!site.node().join(path).exists(), "{path}");
        }
    }
}

#[test]
fn excluded_content_stays_a_delta_for_nodes_without_excludes() {
    require!(ROOT_AND_RSYNC);

    let excluded = ["var/cache/x", "usr/lib/app/__pycache__/a.pyc"];
    let site = Site::at(&contents(1, &excluded));
    site.publish(&contents(2, &excluded));

    site.updated(&["--no-fallback"]).ended(0, &["following one diff"]);

    site.same();
    let size = fs::metadata(site.diff(1, 2)).expect("is there").len();
    assert!(size < 20_000, "the diff has {size} bytes");
}

#[test]
fn second_fetch_for_local_excludes_is_estimated_and_counted() {
    require!(ROOT_AND_RSYNC);

    let local = ["usr/lib/app/local"];
    let mut site = Site::new();
    let server = FaultServer::serve(&site.repo());
    site.repo_url = server.url();
    site.publish(&contents(1, &local));
    site.install_node();
    let rules = site.dir.path().join("rules").display().to_string();
    fs::write(&rules, "/usr/lib/app/local\n").expect("writes");
    fs::remove_file(site.node().join(local[0])).expect("removes");
    site.updated(&["--adopt", "--exclude-file", &rules]);
    site.publish(&contents(2, &local));

    let options = ["--no-fallback", "--exclude-file", &rules];
    let (run, beyond) = run_as_estimated(&site, &server, &options);
    run.ended(0, &["3 contents whole, by digest"]);

    // The summary has the bytes of the chain and of the second fetch.
    let diff = fs::metadata(site.diff(1, 2)).expect("is there").len();
    let fetched = systemimager::report::units::Size(diff + beyond);
    run.ended(0, &[&format!("{fetched} fetched")]);
    assert_eq!(fs::read(site.node().join("usr/share/app/b")).expect("a file"), content(2, 2));
}

#[test]
fn second_fetch_for_edited_file_is_estimated_and_counted() {
    require!(ROOT_AND_RSYNC);

    let mut site = Site::new();
    let server = FaultServer::serve(&site.repo());
    site.repo_url = server.url();
    site.publish(&contents(1, &[]));
    site.install_node();
    site.updated(&["--adopt"]);
    site.publish(&contents(2, &[]));
    let edited = site.node().join("usr/lib/app/a");
    fs::write(&edited, "edited on the node").expect("writes");

    let (run, _) = run_as_estimated(&site, &server, &["--no-fallback"]);

    run.ended(0, &["whole, by digest"]);
    judge::same(&site.image(), &site.node(), &[]);
}

/// Runs an update; its requests beyond the chain have as many bytes as the dry run has estimated.
#[track_caller]
fn run_as_estimated(site: &Site, server: &FaultServer, options: &[&str]) -> (Run, u64) {
    let text = updated(site, &[options, &["--dry-run"]].concat());
    let json = updated(site, &[options, &["--dry-run", "--json"]].concat());
    server.calm();
    let run = updated(site, options);

    text.ended(0, &["more to fetch for"]);
    let done = json.out.lines().last().expect("a result");
    let done: serde_json::Value = serde_json::from_str(done).expect("JSON");
    run.ended(0, &["by digest"]);
    let beyond: u64 = requests_beyond_chain(server).iter().map(|(_, sent)| sent).sum();
    assert!(beyond > 0, "{:#?}", server.seen());
    assert_eq!(done["by_digest_bytes"].as_u64(), Some(beyond), "{done}");
    (run, beyond)
}
