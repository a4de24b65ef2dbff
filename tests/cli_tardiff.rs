//! `si_tardiff` as a process: building, publishing, checking and pruning.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::disk::{self, Disk};
use common::trees::{Item, Tree};
use common::{ROOT_AND_RSYNC, copy_tree, judge, require, run, scratch, trees};

/// An image `node`, and a repository for it.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new(tree: &Tree) -> Self {
        let site = Site { dir: scratch() };
        site.edit(tree);
        site
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.at("images/node")
    }

    /// Makes the image this tree.
    fn edit(&self, tree: &Tree) {
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

    /// Runs what has to succeed.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.tardiff(arguments);
        let all = text(&output);
        assert!(output.status.success(), "{arguments:?}: {all}");
        all
    }

    /// Runs what has to fail, with its code and words.
    #[track_caller]
    fn fails(&self, code: i32, words: &str, arguments: &[&str]) {
        let output = self.tardiff(arguments);
        let all = text(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {all}");
        assert!(all.contains(words), "{arguments:?} does not say {words:?}: {all}");
    }

    /// Whether cp can make a clone of a file of the image in the repository.
    fn shares_blocks(&self) -> bool {
        let mut cp = Command::new("cp");
        cp.arg("--reflink=always").arg(self.image().join("etc/motd")).arg(self.at("repo/clone"));
        cp.output().expect("cp runs").status.success()
    }

    fn files(&self, part: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.at("repo/node").join(part)).expect("lists");
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

fn small(content: &str) -> Tree {
    Tree::from([
        (b"etc/motd".to_vec(), Item::file(content)),
        (b"etc/stays".to_vec(), Item::file("stays")),
    ])
}

/// A file that is worth a delta, a little different each time.
fn growing(round: usize) -> Tree {
    let mut content = trees::noise(40_000, 7);
    content[round * 100] ^= 1;
    let mut tree = small(&round.to_string());
    tree.insert(b"var/status".to_vec(), Item::file(content));
    tree
}

#[test]
fn an_image_that_did_not_change_publishes_nothing() {
    let site = Site::new(&small("one"));
    assert!(site.ok(&["publish", "--label", "first"]).contains("published node serial 1"));
    let catalog = fs::read(site.at("repo/node/catalog.toml")).expect("reads");
    assert!(site.ok(&["publish"]).contains("has not changed since serial 1"));
    assert_eq!(fs::read(site.at("repo/node/catalog.toml")).expect("reads"), catalog);
    site.edit(&small("two"));
    assert!(site.ok(&["publish", "--full-share", "1000000"]).contains("published node serial 2"));
    assert_eq!((site.files("full").len(), site.files("diffs").len()), (1, 1));
    assert!(site.ok(&["verify"]).contains("0 faults"));
    assert!(site.ok(&["list"]).contains("\"first\""));
    let shares = fs::read_dir(site.at("repo/node/.head")).is_ok();
    assert_eq!(shares, site.shares_blocks(), "clones only where they take no room");
}

#[test]
fn everything_that_a_tree_can_hold_is_published() {
    require!(Root);

    let first = trees::everything();
    for options in
        [&["publish"][..], &["publish", "--plain"], &["publish", "--compression", "gzip"]]
    {
        let site = Site::new(&first);
        site.ok(options);
        for round in 1..4 {
            site.edit(&trees::mutate(&first, round));
            site.ok(options);
        }
        assert!(site.ok(&["verify"]).contains("4 manifests"), "{options:?}");
    }
}

#[test]
fn an_older_generation_published_anew_is_a_third_publish_of_two() {
    let site = Site::new(&small("one"));
    site.ok(&["publish"]);
    let first = site.at("first");
    copy_tree(&site.image(), &first);
    site.edit(&small("two"));
    site.ok(&["publish"]);
    let second = site.at("second");
    copy_tree(&site.image(), &second);
    fs::remove_dir_all(site.image()).expect("removes");
    copy_tree(&first, &site.image());
    assert!(site.ok(&["publish"]).contains("published node serial 3"));
    assert_eq!((site.files("manifests").len(), site.files("diffs").len()), (2, 2));
    fs::remove_dir_all(site.image()).expect("removes");
    copy_tree(&second, &site.image());
    let again = site.ok(&["publish"]);
    assert!(again.contains("published node serial 4") && !again.contains("diffs/"), "{again}");
    assert!(site.ok(&["verify"]).contains("0 faults"));
}

#[test]
fn a_content_changed_every_day_is_never_behind_too_many_deltas() {
    let site = Site::new(&growing(0));
    site.ok(&["publish", "--diffs", "1", "--full-share", "1000000"]);
    for round in 1..12 {
        site.edit(&growing(round));
        site.ok(&["publish", "--diffs", "1", "--full-share", "1000000"]);
    }
    assert_eq!(site.files("full").len(), 1);
    assert!(site.ok(&["verify"]).contains("0 faults"));
}

/// One is read out of its frame; the other is too large for that, and is taken out of the archive first.
#[test]
fn what_was_moved_renamed_and_edited_is_made_of_what_it_was() {
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
        site.ok(&["publish"]);
        copy_tree(&site.image(), &site.at("base"));
        site.edit(&second);
        site.ok(&["publish", "--effort", effort, "--full-share", "1000000"]);
        site.ok(&[
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
        for path in [diff, site.at("built.tar.zst")] {
            let length = fs::metadata(&path).expect("is there").len();
            assert!(expected.contains(&length), "{effort}: {} has {length} bytes", path.display());
        }
        assert!(site.ok(&["verify"]).contains("0 faults"));
    }
}

/// The clones serve as the base where the archives are lost, and are believed only as far as their digests go.
#[test]
fn where_blocks_are_shared_the_head_is_kept_as_clones() {
    require!(Root, LoopDevice, Program("mkfs.xfs"));

    disk::enter_mount_namespace();
    let outside = scratch();
    let site = Site { dir: scratch() };
    let _disk = Disk::new("xfs", outside.path().join("disk"), site.dir.path());
    let clones = || -> Vec<PathBuf> {
        let shelves = fs::read_dir(site.at("repo/node/.head")).expect("the clones");
        let shelves: Vec<PathBuf> = shelves.map(|shelf| shelf.expect("a shelf").path()).collect();
        let files = shelves.iter().flat_map(|shelf| fs::read_dir(shelf).expect("clones"));
        files.map(|file| file.expect("a clone").path()).collect()
    };
    site.edit(&growing(0));
    site.ok(&["publish"]);
    assert_eq!(clones().len(), 3, "each content once");
    fs::remove_dir_all(site.at("repo/node/full")).expect("removes");
    site.edit(&growing(1));
    let said = site.ok(&["publish"]);
    let diff = said
        .lines()
        .find_map(|line| line.trim().split(' ').find(|word| word.starts_with("diffs/")))
        .expect("a diff");
    let shown = site.ok(&["show", &format!("repo/node/{diff}")]);
    assert!(
        shown.lines().any(|line| line.contains("delta") && line.ends_with("/var/status")),
        "{shown}"
    );
    assert_eq!(clones().len(), 3, "what is no longer the head's is gone");

    for clone in clones() {
        let length = fs::metadata(&clone).expect("a clone").len() as usize;
        fs::write(&clone, vec![b'x'; length]).expect("writes");
    }
    site.edit(&growing(2));
    site.ok(&["publish"]);
    assert!(site.ok(&["verify"]).contains("0 faults"));

    // Though every base is at hand, nothing comes to stand behind so many deltas that the image is written again.
    let fulls = site.files("full").len();
    for round in 3..12 {
        site.edit(&growing(round));
        site.ok(&["publish", "--diffs", "1", "--full-share", "1000000"]);
    }
    assert_eq!(site.files("full").len(), fulls);
}

#[test]
fn pruned_repositories_stay_whole() {
    let site = Site::new(&growing(0));
    site.ok(&["publish"]);
    for round in 1..6 {
        site.edit(&growing(round));
        site.ok(&["publish"]);
    }
    site.ok(&["prune", "--keep", "2"]);
    assert!(site.ok(&["verify"]).contains("0 faults"));
    for round in 6..30 {
        site.edit(&growing(round));
        site.ok(&["publish", "--keep", "2", "--full-share", "20"]);
        assert!(site.ok(&["verify"]).contains("0 faults"));
    }
    // Back to the last full archive, and no further.
    assert!(site.files("manifests").len() < 16, "{:?}", site.files("manifests"));
    assert!(site.files("").len() <= 9, "{:?}", site.files(""));
}

#[test]
fn damage_anywhere_in_a_repository_is_found_and_named() {
    let site = Site::new(&growing(0));
    site.ok(&["publish"]);
    site.edit(&growing(1));
    site.ok(&["publish"]);
    let index = site.at("repo/node/content-2.idx.zst");
    let parts = ["manifests", "full", "diffs"].into_iter().flat_map(|part| site.files(part));
    for file in parts.chain([index]) {
        let good = fs::read(&file).expect("reads");
        let name = file.file_name().expect("a name").to_str().expect("ASCII");
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&file, bad).expect("writes");
            site.fails(1, name, &["verify"]);
        }
        fs::write(&file, &good[..good.len() - 1]).expect("writes");
        site.fails(1, name, &["verify"]);
        fs::remove_file(&file).expect("removes");
        site.fails(1, name, &["verify"]);
        fs::write(&file, good).expect("writes");
    }
    assert!(site.ok(&["verify"]).contains("0 faults"));
}

#[test]
fn a_publish_mends_what_was_lost() {
    for lost in ["full", "diffs", ""] {
        let site = Site::new(&growing(0));
        site.ok(&["publish"]);
        site.edit(&growing(1));
        site.ok(&["publish"]);
        for file in
            site.files(lost).iter().filter(|file| file.extension().is_some_and(|e| e == "zst"))
        {
            fs::remove_file(file).expect("removes");
        }
        site.edit(&growing(2));
        assert!(site.ok(&["publish"]).contains("warning: "), "{lost}");
        assert!(site.ok(&["verify"]).contains("0 faults"), "{lost}");
    }
}

#[test]
fn what_a_killed_publish_left_is_removed_and_a_running_one_is_respected() {
    let site = Site::new(&small("one"));
    site.ok(&["publish"]);
    fs::write(site.at("repo/node/.new/full_half.tar.zst"), b"half").expect("writes");
    site.edit(&small("two"));
    site.ok(&["publish"]);
    assert!(site.files(".new").is_empty());
    let lock = File::open(site.at("repo/node/.lock")).expect("opens");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locks");
    site.fails(1, "another publish", &["publish"]);
    site.fails(1, "another publish", &["prune", "--keep", "1"]);
}

#[test]
fn state_of_a_client_in_an_image_is_refused_by_name() {
    let site = Site::new(&small("one"));
    site.ok(&["publish"]);
    let state = site.image().join("var/lib/systemimager/client/state.toml");
    fs::create_dir_all(state.parent().expect("a parent")).expect("creates");
    fs::write(&state, b"").expect("writes");
    site.fails(1, "var/lib/systemimager/client/state.toml", &["publish"]);
    assert!(site.ok(&["verify"]).contains("1 manifests"));
}

/// An override is a small image: its directory holds the same, and shares nothing with an image of its name.
#[test]
fn an_override_is_published_beside_an_image_of_the_same_name() {
    let site = Site::new(&small("image"));
    site.ok(&["publish"]);
    let overlay = site.at("overrides/node");
    fs::create_dir_all(&overlay).expect("creates");
    trees::write(&growing(0), &overlay);
    let named = ["--override", "node", "--repo", "repo"];
    let on = |arguments: &[&str]| {
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
    // An image that is being published does not keep an override waiting.
    let lock = File::open(site.at("repo/node/.lock")).expect("opens");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locks");
    assert!(on(&publish).contains("published override node serial 1"));
    drop(lock);
    fs::remove_dir_all(&overlay).expect("removes");
    trees::write(&growing(1), &overlay);
    assert!(on(&publish).contains("published override node serial 2"));
    assert!(on(&publish).contains("override node has not changed since serial 2"));
    assert!(site.ok(&["publish"]).contains("node has not changed since serial 1"));
    for (place, name) in [
        ("", "catalog.toml"),
        ("manifests", ".mtree.zst"),
        ("diffs", ".tar.zst"),
        ("full", ".tar.zst"),
    ] {
        let files = fs::read_dir(site.at("repo/overrides/node").join(place)).expect("lists");
        let found =
            files.map(|file| file.expect("an entry").file_name().into_string().expect("ASCII"));
        assert!(found.into_iter().any(|file| file.ends_with(name)), "{place}/*{name}");
    }
    assert!(site.at("repo/.scan/node").is_file() && site.at("repo/.scan/overrides/node").is_file());

    assert!(on(&["list"]).starts_with("override node: 2 publishes"));
    assert!(on(&["show"]).contains("var/status"));
    assert!(on(&["manifest", "--generation", "1"]).contains("var/status"));
    assert!(on(&["manifest", "--generation", "none"]).contains("override node has no generation"));
    assert!(on(&["verify"]).contains("2 manifests, 2 archives"));
    assert!(on(&["prune", "--keep", "1"]).contains("removed "));
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
        listed.contains("node: 1 publishes") && listed.contains("\noverride node: "),
        "{listed}"
    );
    assert!(text(&all(&["verify"])).contains("0 faults"));
    let catalog = site.at("repo/overrides/node/catalog.toml");
    fs::write(&catalog, "format = 1\n").expect("writes");
    let found = all(&["verify"]);
    assert!(text(&found).contains("FAULT: override node: "), "{}", text(&found));
    assert!(
        text(&found).contains("1 manifests"),
        "the image is checked all the same: {}",
        text(&found)
    );
    assert_eq!(found.status.code(), Some(1));
}

#[test]
fn an_image_with_the_name_of_another_module_of_the_server_is_refused() {
    let site = Site::new(&small("one"));
    for name in ["overrides", "scripts", "boot", "torrents"] {
        copy_tree(&site.image(), &site.at("images").join(name));
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
        assert!(!site.at("repo").exists());
    }
}

/// The four kinds of base of the original proposal lead to the same diff.
#[test]
fn a_diff_is_built_from_a_tree_an_archive_or_a_manifest() {
    require!(ROOT_AND_RSYNC);

    let mut first = trees::everything();
    // GNU tar makes two devices out of two names of one.
    first.remove(b"dev/zero2".as_slice());
    let site = Site::new(&first);
    copy_tree(&site.image(), &site.at("base"));
    site.edit(&trees::mutate(&first, 1));
    let tar = |name: &str, how: &str| {
        let mut command = Command::new("tar");
        command.args(["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", how, "-cf"]);
        run(command.arg(site.at(name)).arg("-C").arg(site.at("base")).arg("."));
    };
    tar("image.tar", "--no-auto-compress");
    tar("image.tar.gz", "--gzip");
    tar("image.tar.zst", "--zstd");
    let manifest = site.tardiff(&["manifest", "base", "--canonical"]);
    fs::write(site.at("base.mtree"), manifest.stdout).expect("writes");
    site.ok(&["build", "base", "images/node", "-o", "tree.tar.gz"]);
    for base in ["image.tar", "image.tar.gz", "image.tar.zst", "base.mtree"] {
        let found = site.tardiff(&["manifest", base, "--canonical"]).stdout;
        let wanted = fs::read(site.at("base.mtree")).expect("reads");
        let (found, wanted) = (String::from_utf8_lossy(&found), String::from_utf8_lossy(&wanted));
        for (found, wanted) in found.lines().zip(wanted.lines()) {
            assert_eq!(found, wanted, "{base}");
        }
    }
    for base in ["image.tar", "image.tar.gz", "image.tar.zst", "base.mtree"] {
        site.ok(&["build", base, "images/node", "-o", "other.tar.gz"]);
        let same = fs::read(site.at("other.tar.gz")).expect("reads")
            == fs::read(site.at("tree.tar.gz")).expect("reads");
        assert!(same, "{base}");
    }
    assert!(site.ok(&["show", "tree.tar.gz"]).contains("in total"));
    site.fails(1, "is a diff", &["build", "tree.tar.gz", "images/node", "-o", "x.tar.gz"]);
    site.fails(
        1,
        "files of a directory",
        &["build", "image.tar", "images/node", "-o", "x.tar.gz", "--deltas"],
    );
    site.ok(&["build", "base", "images/node", "-o", "deltas.tar.zst", "--deltas"]);
    assert!(!site.at("x.tar.gz").exists());
    let left: Vec<_> = fs::read_dir(site.dir.path())
        .expect("lists")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    assert!(!left.iter().any(|name| name.as_encoded_bytes().starts_with(b".")), "{left:?}");
}

/// Plain tar adds and changes; what goes is for whoever unpacks by hand to remove.
#[test]
fn plain_tar_unpacks_a_diff_over_its_base() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new(&small("one"));
    copy_tree(&site.image(), &site.at("base"));
    site.edit(&small("two"));
    site.ok(&["build", "base", "images/node", "-o", "image-diff.tar.gz"]);
    let mut tar = Command::new("tar");
    tar.args(["--exclude=.si-diff", "--xattrs", "--xattrs-include=*", "-xpzf"])
        .arg(site.at("image-diff.tar.gz"));
    run(tar.arg("-C").arg(site.at("base")));
    judge::same(&site.image(), &site.at("base"), &[]);
}

#[test]
fn an_output_that_is_no_regular_file_is_not_replaced() {
    let site = Site::new(&small("one"));
    copy_tree(&site.image(), &site.at("base"));
    fs::create_dir(site.at("dir.tar.gz")).expect("creates");
    symlink("/nonexistent", site.at("link.tar.gz")).expect("links");
    for output in ["dir.tar.gz", "link.tar.gz"] {
        site.fails(1, "is not replaced", &["build", "base", "images/node", "-o", output]);
    }
    assert!(fs::symlink_metadata(site.at("link.tar.gz")).expect("is there").is_symlink());
    site.fails(1, "ends neither", &["build", "base", "images/node", "-o", "/dev/null"]);
}

#[test]
fn wrong_command_lines_are_code_2() {
    let site = Site::new(&small("one"));
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
    site.fails(1, "nothing is published", &["verify"]);
    site.fails(1, "cannot open", &["build", "absent", "images/absent", "-o", "x.tar.gz"]);
    assert!(site.ok(&["--help"]).contains("Exit codes"));
}
