//! `si_tardiff` as a process: building, publishing, checking and pruning.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::disk::{self, Disk};
use crate::common::trees::{Item, Tree};
use crate::common::{ROOT_AND_RSYNC, copy_tree, judge, require, run, scratch, trees};
use systemimager::image::Layer;
use systemimager::publish::Store;

/// An image `node`, and a repository for it.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new(tree: &Tree) -> Self {
        let site = Site { dir: scratch() };
        site.write_image(tree);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.path("images/node")
    }

    /// Replaces the image by this tree.
    fn write_image(&self, tree: &Tree) {
        if self.image().exists() {
            fs::remove_dir_all(self.image()).expect("removes");
        }
        fs::create_dir_all(self.image()).expect("creates");
        trees::write(tree, &self.image());
    }

    fn tardiff(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
        command.current_dir(self.dir.path()).args(arguments);
        if ["publish", "verify", "prune", "list"].contains(&arguments[0]) {
            command.args(["--repo", "repo", "--image", "node"]);
        }
        if arguments[0] == "publish" {
            command.args(["--images-dir", "images"]);
        }
        command.output().expect("runs")
    }

    /// Runs a command that must succeed.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.tardiff(arguments);
        let all = text(&output);
        assert!(output.status.success(), "{arguments:?}: {all}");
        all
    }

    /// Runs a command that must fail with `code` and `words`.
    #[track_caller]
    fn assert_fails(&self, code: i32, words: &str, arguments: &[&str]) {
        let output = self.tardiff(arguments);
        let all = text(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {all}");
        assert!(all.contains(words), "{arguments:?} does not print {words:?}: {all}");
    }

    /// Checks if cp can clone a file of the image into the repository.
    fn shares_blocks(&self) -> bool {
        let mut cp = Command::new("cp");
        cp.arg("--reflink=always").arg(self.image().join("etc/motd")).arg(self.path("repo/clone"));
        cp.output().expect("cp runs").status.success()
    }

    /// The content index that the present catalog names.
    fn content_index(&self) -> PathBuf {
        let layer = Layer::Image("node".parse().expect("a name"));
        let store = Store::open(&self.path("repo"), &layer);
        let catalog = store.catalog().expect("reads").expect("a catalog");
        store.path(&catalog.content.expect("an index").file.file)
    }

    fn files(&self, part: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("repo/node").join(part)).expect("lists");
        let mut files: Vec<PathBuf> =
            entries.map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        files
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn small_tree(content: &str) -> Tree {
    Tree::from([
        (b"etc/motd".to_vec(), Item::file(content)),
        (b"etc/same".to_vec(), Item::file("same")),
    ])
}

/// A tree with a file that is worth a delta, a little different in each round.
fn tree_in_round(round: usize) -> Tree {
    let mut content = trees::noise(40_000, 7);
    content[round * 100] ^= 1;
    let mut tree = small_tree(&round.to_string());
    tree.insert(b"var/status".to_vec(), Item::file(content));
    tree
}

#[test]
fn unchanged_image_publishes_nothing() {
    let site = Site::new(&small_tree("one"));
    assert!(site.run(&["publish", "--label", "first"]).contains("published node serial 1"));

    let catalog = fs::read(site.path("repo/node/head.toml")).expect("reads");
    assert!(site.run(&["publish"]).contains("has not changed since serial 1"));
    assert_eq!(fs::read(site.path("repo/node/head.toml")).expect("reads"), catalog);

    site.write_image(&small_tree("two"));
    assert!(site.run(&["publish", "--full-share", "1000000"]).contains("published node serial 2"));
    assert_eq!((site.files("full").len(), site.files("diffs").len()), (1, 1));
    assert!(site.run(&["verify"]).contains("0 faults"));
    assert!(site.run(&["list"]).contains("\"first\""));

    let shares = fs::read_dir(site.path("repo/node/.head")).is_ok();
    assert_eq!(shares, site.shares_blocks(), "clones exist although blocks cannot be shared");
}

#[test]
fn every_kind_of_entry_is_published() {
    require!(Root);

    let first = trees::everything();
    for options in
        [&["publish"][..], &["publish", "--plain"], &["publish", "--compression", "gzip"]]
    {
        let site = Site::new(&first);
        site.run(options);
        for round in 1..4 {
            site.write_image(&trees::mutate(&first, round));
            site.run(options);
        }
        assert!(site.run(&["verify"]).contains("4 manifests"), "{options:?}");
    }
}

#[test]
fn republished_generation_gets_new_serial() {
    let site = Site::new(&small_tree("one"));
    site.run(&["publish"]);
    let first = site.path("first");
    copy_tree(&site.image(), &first);
    site.write_image(&small_tree("two"));
    site.run(&["publish"]);
    let second = site.path("second");
    copy_tree(&site.image(), &second);
    fs::remove_dir_all(site.image()).expect("removes");
    copy_tree(&first, &site.image());

    assert!(site.run(&["publish"]).contains("published node serial 3"));
    assert_eq!((site.files("manifests").len(), site.files("diffs").len()), (2, 2));

    fs::remove_dir_all(site.image()).expect("removes");
    copy_tree(&second, &site.image());
    let again = site.run(&["publish"]);

    assert!(again.contains("published node serial 4") && !again.contains("diffs/"), "{again}");
    assert!(site.run(&["verify"]).contains("0 faults"));
}

#[test]
fn delta_depth_stays_bounded_over_many_publishes() {
    let site = Site::new(&tree_in_round(0));
    site.run(&["publish", "--diffs", "1", "--full-share", "1000000"]);

    for round in 1..12 {
        site.write_image(&tree_in_round(round));
        site.run(&["publish", "--diffs", "1", "--full-share", "1000000"]);
    }

    assert_eq!(site.files("full").len(), 1);
    assert!(site.run(&["verify"]).contains("0 faults"));
}

/// One source is read from its frame; the other is too large for that, and is unpacked first.
#[test]
fn moved_and_edited_files_become_deltas() {
    let (tool, data) = (trees::noise(300_000, 1), trees::noise(6_000_000, 2));
    let file = |path: &str, content: &[u8]| (path.as_bytes().to_vec(), Item::file(content));
    let first = Tree::from([
        file("usr/bin/tool", &tool),
        file("srv/data", &data),
        file("etc/motd", b"first"),
    ]);
    let edited = |content: &[u8]| [&content[..50_000], b"other words", &content[50_000..]].concat();
    let second = Tree::from([
        file("opt/suite/runner", &edited(&tool)),
        file("var/lib/store", &edited(&data)),
    ]);

    for (effort, expected) in [("normal", 0..20_000), ("fast", 6_300_000..6_400_000)] {
        let site = Site::new(&first);
        site.run(&["publish"]);
        copy_tree(&site.image(), &site.path("base"));
        site.write_image(&second);
        site.run(&["publish", "--effort", effort, "--full-share", "1000000"]);
        site.run(&[
            "build",
            "base",
            "images/node",
            "--deltas",
            "--effort",
            effort,
            "-o",
            "built.tar.zst",
        ]);
        let diff = site.files("diffs").pop().expect("a diff");

        for path in [diff, site.path("built.tar.zst")] {
            let length = fs::metadata(&path).expect("is there").len();
            assert!(expected.contains(&length), "{effort}: {} has {length} bytes", path.display());
        }

        assert!(site.run(&["verify"]).contains("0 faults"));
    }
}

/// The clones are the base if the archives are lost. Their content is trusted only if the digests
/// match.
#[test]
fn head_is_kept_as_clones_on_reflink_filesystem() {
    require!(Root, LoopDevice, Program("mkfs.xfs"));

    disk::enter_mount_namespace();
    let outside = scratch();
    let site = Site { dir: scratch() };
    let _disk = Disk::new("xfs", outside.path().join("disk"), site.dir.path());
    let clones = || -> Vec<PathBuf> {
        let shelves = fs::read_dir(site.path("repo/node/.head")).expect("the clones");
        let shelves: Vec<PathBuf> = shelves.map(|shelf| shelf.expect("a shelf").path()).collect();
        let files = shelves.iter().flat_map(|shelf| fs::read_dir(shelf).expect("clones"));
        files.map(|file| file.expect("a clone").path()).collect()
    };
    site.write_image(&tree_in_round(0));

    site.run(&["publish"]);
    assert_eq!(clones().len(), 3, "each content once");

    fs::remove_dir_all(site.path("repo/node/full")).expect("removes");
    site.write_image(&tree_in_round(1));
    let output = site.run(&["publish"]);
    let diff = output
        .lines()
        .find_map(|line| line.trim().split(' ').find(|word| word.starts_with("diffs/")))
        .expect("a diff");

    let shown = site.run(&["show", &format!("repo/node/{diff}")]);
    assert!(
        shown.lines().any(|line| line.contains("delta") && line.ends_with("/var/status")),
        "{shown}"
    );
    assert_eq!(clones().len(), 3, "clones outside the head remain");

    for clone in clones() {
        let length = fs::metadata(&clone).expect("a clone").len() as usize;
        fs::write(&clone, vec![b'x'; length]).expect("writes");
    }

    site.write_image(&tree_in_round(2));
    site.run(&["publish"]);

    assert!(site.run(&["verify"]).contains("0 faults"));

    // Although every base is at hand, no delta depth grows enough for another full archive.
    let fulls = site.files("full").len();
    for round in 3..12 {
        site.write_image(&tree_in_round(round));
        site.run(&["publish", "--diffs", "1", "--full-share", "1000000"]);
    }

    assert_eq!(site.files("full").len(), fulls);
}

#[test]
fn pruned_repository_stays_complete() {
    let site = Site::new(&tree_in_round(0));
    site.run(&["publish"]);

    for round in 1..6 {
        site.write_image(&tree_in_round(round));
        site.run(&["publish"]);
    }

    site.run(&["prune", "--keep", "2", "--grace", "0"]);
    assert!(site.run(&["verify"]).contains("0 faults"));

    fs::write(site.path("grace.toml"), "prune_grace = 0\n").expect("writes");
    for round in 6..30 {
        site.write_image(&tree_in_round(round));
        site.run(&["publish", "--keep", "2", "--full-share", "20", "--config", "grace.toml"]);
        assert!(site.run(&["verify"]).contains("0 faults"));
    }

    // Pruning stops at the last full archive.
    assert!(site.files("manifests").len() < 16, "{:?}", site.files("manifests"));
    for part in ["catalogs", "content"] {
        assert!(site.files(part).len() <= 2, "{:?}", site.files(part));
    }
}

#[test]
fn verify_names_every_damaged_file() {
    let site = Site::new(&tree_in_round(0));
    site.run(&["publish"]);
    site.write_image(&tree_in_round(1));
    site.run(&["publish"]);
    let parts = ["manifests", "full", "diffs"].into_iter().flat_map(|part| site.files(part));

    for file in parts.chain([site.content_index()]) {
        let good = fs::read(&file).expect("reads");
        let name = file.file_name().expect("a name").to_str().expect("ASCII");

        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&file, bad).expect("writes");
            site.assert_fails(1, name, &["verify"]);
        }

        fs::write(&file, &good[..good.len() - 1]).expect("writes");
        site.assert_fails(1, name, &["verify"]);
        fs::remove_file(&file).expect("removes");
        site.assert_fails(1, name, &["verify"]);
        fs::write(&file, good).expect("writes");
    }

    assert!(site.run(&["verify"]).contains("0 faults"));
}

#[test]
fn publish_restores_lost_files() {
    for lost in ["full", "diffs", "content"] {
        let site = Site::new(&tree_in_round(0));
        site.run(&["publish"]);
        site.write_image(&tree_in_round(1));
        site.run(&["publish"]);

        for file in
            site.files(lost).iter().filter(|file| file.extension().is_some_and(|e| e == "zst"))
        {
            fs::remove_file(file).expect("removes");
        }

        site.write_image(&tree_in_round(2));
        assert!(site.run(&["publish"]).contains("warning: "), "{lost}");
        assert!(site.run(&["verify"]).contains("0 faults"), "{lost}");
    }
}

#[test]
fn leftovers_of_killed_publish_are_removed() {
    let site = Site::new(&small_tree("one"));
    site.run(&["publish"]);
    fs::write(site.path("repo/node/.new/full_half.tar.zst"), b"half").expect("writes");
    site.write_image(&small_tree("two"));

    site.run(&["publish"]);
    assert!(site.files(".new").is_empty());

    let lock = File::open(site.path("repo/node/.lock")).expect("opens");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locks");
    site.assert_fails(1, "another publish", &["publish"]);
    site.assert_fails(1, "another publish", &["prune", "--keep", "1"]);
}

#[test]
fn image_with_client_state_is_refused() {
    let site = Site::new(&small_tree("one"));
    site.run(&["publish"]);
    let state = site.image().join("var/lib/systemimager/client/state.toml");
    fs::create_dir_all(state.parent().expect("a parent")).expect("creates");
    fs::write(&state, b"").expect("writes");
    site.assert_fails(1, "var/lib/systemimager/client/state.toml", &["publish"]);

    assert!(site.run(&["verify"]).contains("1 manifest"));
}

/// Asserts that a directory of the repository has a catalog, manifests and archives.
fn has_repository_files(directory: &Path) {
    for (place, suffix) in [
        ("", "head.toml"),
        ("catalogs", ".toml"),
        ("content", ".idx.zst"),
        ("manifests", ".mtree.zst"),
        ("diffs", ".tar.zst"),
        ("full", ".tar.zst"),
    ] {
        let mut entries = fs::read_dir(directory.join(place)).expect("lists");
        let found = entries.any(|entry| {
            entry.expect("an entry").file_name().into_string().expect("ASCII").ends_with(suffix)
        });
        assert!(found, "{place}/*{suffix} is missing");
    }
}

/// An override is a small image: its directory has the same layout, and shares nothing with an
/// image of the same name.
#[test]
fn override_and_image_of_same_name_are_separate() {
    let site = Site::new(&small_tree("image"));
    site.run(&["publish"]);
    let overlay = site.path("overrides/node");
    fs::create_dir_all(&overlay).expect("creates");
    trees::write(&tree_in_round(0), &overlay);
    let named = ["--override", "node", "--repo", "repo"];
    let run_on_override = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
        text(
            &command
                .current_dir(site.dir.path())
                .args(arguments)
                .args(named)
                .output()
                .expect("runs"),
        )
    };
    let publish = ["publish", "--overrides-dir", "overrides", "--full-share", "1000000"];

    // An image that is being published does not delay an override.
    let lock = File::open(site.path("repo/node/.lock")).expect("opens");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locks");

    assert!(run_on_override(&publish).contains("published override node serial 1"));

    drop(lock);
    fs::remove_dir_all(&overlay).expect("removes");
    trees::write(&tree_in_round(1), &overlay);

    assert!(run_on_override(&publish).contains("published override node serial 2"));
    assert!(run_on_override(&publish).contains("override node has not changed since serial 2"));
    assert!(site.run(&["publish"]).contains("node has not changed since serial 1"));

    has_repository_files(&site.path("repo/overrides/node"));
    assert!(
        site.path("repo/.scan/node").is_file() && site.path("repo/.scan/overrides/node").is_file()
    );

    assert!(run_on_override(&["list"]).starts_with("override node: 2 publishes"));
    assert!(run_on_override(&["show"]).contains("var/status"));
    assert!(run_on_override(&["manifest", "--generation", "1"]).contains("var/status"));
    assert!(
        run_on_override(&["manifest", "--generation", "none"])
            .contains("override node has no generation")
    );
    assert!(run_on_override(&["verify"]).contains("2 manifests, 2 archives"));
    assert!(run_on_override(&["prune", "--keep", "1"]).contains("removed "));

    let all = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
        command
            .current_dir(site.dir.path())
            .args(arguments)
            .args(["--repo", "repo"])
            .output()
            .expect("runs")
    };
    let listed = text(&all(&["list"]));

    assert!(
        listed.contains("node: 1 publish,") && listed.contains("\noverride node: "),
        "{listed}"
    );
    assert!(text(&all(&["verify"])).contains("0 faults"));

    let head = site.path("repo/overrides/node/head.toml");
    fs::write(&head, "format = 1\n").expect("writes");
    let found = all(&["verify"]);

    assert!(text(&found).contains("FAULT: override node: "), "{}", text(&found));
    assert!(
        text(&found).contains("1 manifest"),
        "the image is checked all the same: {}",
        text(&found)
    );
    assert_eq!(found.status.code(), Some(1));
}

#[test]
fn image_named_like_server_module_is_refused() {
    let site = Site::new(&small_tree("one"));
    for name in ["overrides", "scripts", "boot", "torrents", "cluster"] {
        copy_tree(&site.image(), &site.path("images").join(name));
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
        command.current_dir(site.dir.path()).args([
            "publish",
            "--image",
            name,
            "--images-dir",
            "images",
        ]);

        let output = command.args(["--repo", "repo"]).output().expect("runs");

        let words = format!("image {name} cannot be published");
        assert!(text(&output).contains(&words), "{}", text(&output));
        assert_eq!(output.status.code(), Some(1));
        assert!(!site.path("repo").exists());
    }
}

/// The four kinds of base in the original proposal result in the same diff.
#[test]
fn diff_is_built_from_each_kind_of_base() {
    const BASES: [&str; 6] = [
        "image.tar",
        "image.tar.gz",
        "image.tar.zst",
        "image.tar.bz2",
        "image.tar.xz",
        "base.mtree",
    ];
    require!(ROOT_AND_RSYNC, Program("bzip2"), Program("xz"));

    let mut first = trees::everything();

    // GNU tar makes two devices out of two hard links to one.
    first.remove(b"dev/zero2".as_slice());
    let site = Site::new(&first);
    copy_tree(&site.image(), &site.path("base"));
    site.write_image(&trees::mutate(&first, 1));
    let tar = |name: &str, how: &str| {
        let mut command = Command::new("tar");
        command.args(["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", how, "-cf"]);
        run(command.arg(site.path(name)).arg("-C").arg(site.path("base")).arg("."));
    };
    tar("image.tar", "--no-auto-compress");
    tar("image.tar.gz", "--gzip");
    tar("image.tar.zst", "--zstd");
    tar("image.tar.bz2", "--bzip2");
    tar("image.tar.xz", "--xz");
    let manifest = site.tardiff(&["manifest", "base", "--canonical"]);
    fs::write(site.path("base.mtree"), manifest.stdout).expect("writes");
    site.run(&["build", "base", "images/node", "-o", "tree.tar.gz"]);

    for base in BASES {
        let found = site.tardiff(&["manifest", base, "--canonical"]).stdout;
        let wanted = fs::read(site.path("base.mtree")).expect("reads");
        let (found, wanted) = (String::from_utf8_lossy(&found), String::from_utf8_lossy(&wanted));
        for (found, wanted) in found.lines().zip(wanted.lines()) {
            assert_eq!(found, wanted, "{base}");
        }
    }

    for base in BASES {
        site.run(&["build", base, "images/node", "-o", "other.tar.gz"]);
        let same = fs::read(site.path("other.tar.gz")).expect("reads")
            == fs::read(site.path("tree.tar.gz")).expect("reads");
        assert!(same, "{base}");
    }

    assert!(site.run(&["show", "tree.tar.gz"]).contains("in total"));

    site.assert_fails(1, "is a diff", &["build", "tree.tar.gz", "images/node", "-o", "x.tar.gz"]);
    site.assert_fails(
        1,
        "deltas are built from the files of the base",
        &["build", "image.tar", "images/node", "-o", "x.tar.gz", "--deltas"],
    );

    site.run(&["build", "base", "images/node", "-o", "deltas.tar.zst", "--deltas"]);
    assert!(!site.path("x.tar.gz").exists());

    let left: Vec<_> = fs::read_dir(site.dir.path())
        .expect("lists")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    assert!(!left.iter().any(|name| name.as_encoded_bytes().starts_with(b".")), "{left:?}");
}

#[test]
fn exported_manifest_is_base_of_diff_for_tar() {
    require!(ROOT_AND_RSYNC);
    let site = Site::new(&small_tree("one"));
    copy_tree(&site.image(), &site.path("base"));
    site.write_image(&small_tree("two"));
    let exported = site.tardiff(&["manifest", "base"]).stdout;
    fs::write(site.path("base.mtree"), exported).expect("writes");

    let report = site.run(&["build", "base.mtree", "images/node", "-o", "diff.tar.gz"]);

    assert!(report.contains("--canonical"), "{report}");
    let mut tar = Command::new("tar");
    tar.args(["--exclude=.si-diff", "-xpzf"]).arg(site.path("diff.tar.gz"));
    run(tar.arg("-C").arg(site.path("base")));
    judge::same(&site.image(), &site.path("base"), &[]);
}

/// With `--acls` tar takes ACLs from records of their own, and resets those of attributes.
#[test]
fn tar_restores_acls_of_diff_with_each_option() {
    require!(ROOT_AND_RSYNC, Program("setfacl"), Program("getfacl"));
    let site = Site::new(&small_tree("one"));
    copy_tree(&site.image(), &site.path("base"));
    for (acl, path) in [("u:1234:rw,g:7:-", "etc/motd"), ("d:u:7:rwx,u:7:x", "etc")] {
        run(Command::new("setfacl").args(["-m", acl]).arg(site.image().join(path)));
    }
    let acls = |tree: &Path| run(Command::new("getfacl").args(["-Rn", "."]).current_dir(tree));
    site.run(&["build", "base", "images/node", "-o", "diff.tar.gz"]);

    for options in [
        &["--xattrs", "--xattrs-include=*"][..],
        &["--acls"],
        &["--acls", "--xattrs", "--xattrs-include=*"],
    ] {
        let node = site.path("unpacked");
        let _ = fs::remove_dir_all(&node);
        copy_tree(&site.path("base"), &node);
        let mut tar = Command::new("tar");
        tar.args(options).args(["--exclude=.si-diff", "--numeric-owner", "-xpzf"]);
        run(tar.arg(site.path("diff.tar.gz")).arg("-C").arg(&node));
        assert_eq!(acls(&node), acls(&site.image()), "{options:?}");
    }
    assert!(site.run(&["show", "diff.tar.gz"]).contains("in total"));
}

/// Plain tar adds and changes paths; the user removes the removed ones by hand.
#[test]
fn plain_tar_unpacks_diff_over_base() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new(&small_tree("one"));
    copy_tree(&site.image(), &site.path("base"));
    site.write_image(&small_tree("two"));
    site.run(&["build", "base", "images/node", "-o", "image-diff.tar.gz"]);
    let mut tar = Command::new("tar");
    tar.args(["--exclude=.si-diff", "--xattrs", "--xattrs-include=*", "-xpzf"])
        .arg(site.path("image-diff.tar.gz"));

    run(tar.arg("-C").arg(site.path("base")));
    judge::same(&site.image(), &site.path("base"), &[]);
}

/// Modes of all files and directories of a repository that others may read.
fn modes(site: &Site) -> Vec<(String, u32)> {
    let listed = run(Command::new("find")
        .args(["repo", "-name", ".*", "-prune", "-o", "-printf", "%m %p\\n"])
        .current_dir(site.dir.path()));
    let modes = listed.lines().map(|line| {
        let (mode, path) = line.split_once(' ').expect("a mode");
        (path.to_owned(), u32::from_str_radix(mode, 8).expect("octal"))
    });
    modes.collect()
}

#[test]
fn repository_mode_is_independent_of_umask() {
    require!(ROOT_AND_RSYNC);
    let publish = |site: &Site, setting: Option<&str>, umask: &str| {
        let config = site.path("tardiff.toml");
        let line = setting.map(|mode| format!("repository_mode = \"{mode}\"\n"));
        fs::write(&config, line.unwrap_or_default()).expect("writes");
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]);
        shell.arg(env!("CARGO_BIN_EXE_si_tardiff")).args(["publish", "--quiet", "--image", "node"]);
        shell.args(["--repo", "repo", "--images-dir", "images", "--config"]).arg(config);
        run(shell.current_dir(site.dir.path()))
    };

    for (setting, umask, file, directory) in [
        (None, "077", 0o644, 0o755),
        (Some("open"), "027", 0o644, 0o755),
        (Some("group"), "0", 0o640, 0o750),
        (Some("private"), "022", 0o600, 0o700),
    ] {
        let site = Site::new(&small_tree("first"));
        publish(&site, setting, umask);
        site.write_image(&small_tree("second"));
        // The catalog's own mode is kept by later publishes and by prune.
        publish(&site, None, umask);
        site.run(&["prune", "--keep", "1"]);

        for (path, mode) in modes(&site) {
            let is_file = site.path(&path).is_file();
            assert_eq!(mode, if is_file { file } else { directory }, "{setting:?}: {path}");
        }
        let (unnamed, private) = (site.path("repo/node/.new"), site.path("repo/.scan"));
        for path in [unnamed, private] {
            let mode = fs::metadata(&path).expect("exists").permissions().mode();
            assert_eq!(mode & 0o7777, 0o700, "{path:?}");
        }
    }
}

#[test]
fn open_repository_with_secrets_is_reported() {
    require!(ROOT_AND_RSYNC);
    let mut tree = small_tree("a");
    let key = "etc/ssh/ssh_host_ed25519_key";
    for (path, mode) in [
        ("etc/shadow", 0o640),
        (key, 0o600),
        ("etc/ssl/private/web.key", 0o640),
        ("etc/ssl/public.pem", 0o644),
        ("etc/ssh/ssh_host_ed25519_key.pub", 0o644),
    ] {
        trees::put(&mut tree, path, Item::file("secret").mode(mode));
    }
    let tree = trees::with_parents(tree);

    for (setting, is_reported) in [
        ("", true),
        ("repository_mode = 'open'", false),
        ("repository_mode = 'group'", false),
        ("repository_mode = 'private'", false),
    ] {
        let site = Site::new(&tree);
        fs::write(site.path("tardiff.toml"), setting).expect("writes");
        let output = text(&site.tardiff(&["publish", "--config", "tardiff.toml"]));

        assert_eq!(output.contains("repository_mode"), is_reported, "{output}");
        assert!(!is_reported || output.contains("/etc/shadow and 2 more"), "{output}");
    }
}

#[test]
fn special_output_file_is_not_replaced() {
    let site = Site::new(&small_tree("one"));
    copy_tree(&site.image(), &site.path("base"));
    fs::create_dir(site.path("dir.tar.gz")).expect("creates");
    symlink("/nonexistent", site.path("link.tar.gz")).expect("links");
    for output in ["dir.tar.gz", "link.tar.gz"] {
        site.assert_fails(
            1,
            "is not a regular file",
            &["build", "base", "images/node", "-o", output],
        );
    }

    assert!(fs::symlink_metadata(site.path("link.tar.gz")).expect("is there").is_symlink());

    site.assert_fails(1, "ends neither", &["build", "base", "images/node", "-o", "/dev/null"]);
}

#[test]
fn wrong_command_line_exits_with_2() {
    let site = Site::new(&small_tree("one"));
    for wrong in [
        &["publish", "--keep", "0"][..],
        &["build", "one"],
        &["frobnicate"],
        &["show"],
        &["list", "--image", "../x"],
        &["publish", "--override", "node"],
        &["verify", "--override", "node"],
    ] {
        assert_eq!(site.tardiff(wrong).status.code(), Some(2), "{wrong:?}");
    }

    site.assert_fails(1, "nothing is published", &["verify"]);
    site.assert_fails(1, "cannot open", &["build", "absent", "images/absent", "-o", "x.tar.gz"]);

    assert!(site.run(&["--help"]).contains("Exit codes"));
}
