use super::*;
use crate::entry::{Meta, Mtime, Xattrs};

fn path(s: &str) -> TreePath {
    TreePath::new(s).expect("a good path")
}

fn scratch() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a scratch directory");
    let root = Root::open(dir.path()).expect("opens");
    (dir, root)
}

/// Runs `test` with each resolver.
fn with_each_resolver(test: impl Fn()) {
    for resolver in [Resolver::Openat2, Resolver::Components] {
        force_resolver(resolver);
        test();
        force_resolver(Resolver::Openat2);
    }
}

#[test]
fn planted_symlink_never_followed() {
    with_each_resolver(|| {
        let outside = tempfile::tempdir_in("/var/tmp").expect("a scratch directory");
        let sentinel = outside.path().join("sentinel");
        std::fs::write(&sentinel, "untouched").expect("writes");
        let (dir, root) = scratch();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("etc")).expect("links");
        std::os::unix::fs::symlink(&sentinel, dir.path().join("file")).expect("links");

        assert!(root.create_file(&path("etc/new")).is_err());
        assert!(root.create_dir(&path("etc/new")).is_err());
        assert!(root.open_file(&path("etc/sentinel")).is_err());
        assert!(root.open_file(&path("file")).is_err());
        assert!(root.hold(&path("etc/sentinel")).expect("the path counts as missing").is_none());
        assert!(root.hold_dir(&path("etc")).expect("a link is no directory").is_none());
        assert_eq!(root.stat(&path("etc/sentinel")).expect("inspects"), None);
        root.unlink(&path("etc/sentinel")).expect("the path counts as missing");
        root.remove_tree(&path("etc")).expect("removes the link only");

        assert_eq!(std::fs::read_to_string(&sentinel).expect("reads"), "untouched");
        assert_eq!(std::fs::read_dir(outside.path()).expect("lists").count(), 1);
    });
}

#[test]
fn walk_in_tree_order_without_following_links() {
    let (dir, root) = scratch();
    for d in ["a", "a/b", "a-b"] {
        std::fs::create_dir(dir.path().join(d)).expect("creates");
    }
    std::fs::write(dir.path().join("a/b/c"), "x").expect("writes");
    std::os::unix::fs::symlink("a", dir.path().join("b")).expect("links");

    let mut visited = Vec::new();
    root.walk::<RootError>(&TreePath::root(), |visit| {
        visited.push(visit.path.to_string());
        Ok(Descend::Into)
    })
    .expect("walks");

    assert_eq!(visited, ["/a", "/a/b", "/a/b/c", "/a-b", "/b"]);
}

#[test]
fn longest_path_created_and_removed() {
    with_each_resolver(|| {
        let (_dir, root) = scratch();
        let name = [b'd'; 200];
        let mut dir = TreePath::root();
        for _ in 0..20 {
            dir = dir.join(&name).expect("short enough");
            root.create_dir(&dir).expect("creates");
        }
        let file = dir.join(&[b'f'; 75]).expect("short enough");
        assert_eq!(file.as_bytes().len(), crate::tree_path::MAX_PATH);
        root.create_file(&file).expect("creates");

        let top = TreePath::root().join(&name).expect("a good path");
        root.remove_tree(&top).expect("removes");

        assert_eq!(root.stat(&top).expect("inspects"), None);
    });
}

#[test]
fn held_object_changes_and_its_replacement_does_not() {
    let (dir, root) = scratch();
    let meta = |mode| Meta {
        mode,
        uid: 0,
        gid: 0,
        mtime: Mtime { seconds: 9, nanos: 8 },
        xattrs: Xattrs::from([(b"user.x".as_slice().into(), b"1".as_slice().into())]),
    };
    std::fs::create_dir(dir.path().join("own")).expect("creates");
    std::fs::write(dir.path().join("file"), "judged").expect("writes");
    let directory = root.hold_dir(&path("own")).expect("opens").expect("is a directory");
    let file = root.hold(&path("file")).expect("opens").expect("exists");

    // The owner puts programs of his own in their places.
    for name in ["own", "file"] {
        let (from, to) = (dir.path().join(name), dir.path().join(format!("old-{name}")));
        std::fs::rename(&from, to).expect("renames");
        std::fs::write(&from, "planted").expect("writes");
    }
    directory.set_meta(&meta(0o6755)).expect("sets");
    file.set_meta(&meta(0o4755)).expect("sets");
    file.set_label(&SecurityLabel::default()).expect("sets nothing");
    file.link_to(&root, &path("link")).expect("links");
    file.copy_to(&root, &path("copy"), &|| false).expect("copies");

    for (name, mode) in [("old-own", 0o6755), ("old-file", 0o4755), ("link", 0o4755)] {
        let stat = root.stat(&path(name)).expect("inspects").expect("exists");
        assert_eq!((stat.mode, stat.mtime.seconds), (mode, 9), "{name}");
        assert_eq!(root.xattrs(&path(name)).expect("reads").len(), 1, "{name}");
    }
    for name in ["own", "file"] {
        let stat = root.stat(&path(name)).expect("inspects").expect("exists");
        assert_eq!(stat.mode & 0o7000, 0, "{name}");
        assert!(root.xattrs(&path(name)).expect("reads").is_empty(), "{name}");
    }
    for name in ["link", "copy"] {
        let content = std::fs::read_to_string(dir.path().join(name)).expect("reads");
        assert_eq!(content, "judged", "{name}");
    }
}

#[test]
fn held_directory_is_never_another_type() {
    let (dir, root) = scratch();
    std::fs::write(dir.path().join("file"), "x").expect("writes");
    std::os::unix::fs::symlink("/", dir.path().join("link")).expect("links");
    root.create_fifo(&path("pipe")).expect("creates");

    for name in ["file", "link", "pipe", "missing"] {
        assert!(root.hold_dir(&path(name)).expect("inspects").is_none(), "{name}");
    }
}

#[test]
fn metadata_set_exactly() {
    let (_dir, root) = scratch();
    let mut xattrs = Xattrs::new();
    xattrs.insert(b"user.x".as_slice().into(), b"a\nb\0".as_slice().into());
    let mut meta =
        Meta { mode: 0o4755, uid: 1, gid: 2, mtime: Mtime { seconds: -3, nanos: 5 }, xattrs };

    let file = root.create_file(&path("f")).expect("creates");
    root.hold_new_file(&path("f"), &file).expect("opens").set_meta(&meta).expect("sets");
    let stat = root.stat(&path("f")).expect("inspects").expect("exists");
    assert_eq!((stat.mode, stat.uid, stat.gid, stat.mtime), (meta.mode, 1, 2, meta.mtime));
    assert_eq!(root.xattrs(&path("f")).expect("reads"), meta.xattrs);

    meta.xattrs.clear();
    root.hold(&path("f")).expect("opens").expect("exists").set_meta(&meta).expect("sets");
    assert_eq!(root.xattrs(&path("f")).expect("reads"), meta.xattrs);

    root.create_symlink(&path("l"), b"nowhere").expect("links");
    root.hold(&path("l")).expect("opens").expect("exists").set_meta(&meta).expect("sets");
    let stat = root.stat(&path("l")).expect("inspects").expect("exists");
    assert_eq!((stat.kind, stat.uid, stat.mtime), (FileKind::Symlink, 1, meta.mtime));
}

#[test]
fn survey_equals_walk_at_any_depth() {
    let (dir, root) = scratch();
    for d in ["a/b/c", "a/z", "a-b", "b.d/e", "past/inside"] {
        std::fs::create_dir_all(dir.path().join(d)).expect("creates");
    }
    for f in ["a/b/c/1", "a/b.x", "a-b/2", "b.d/e/3", "c"] {
        std::fs::write(dir.path().join(f), "x").expect("writes");
    }
    // As deep as a path can be.
    let mut deep = path("deep");
    root.create_dir(&deep).expect("creates");
    while let Ok(below) = deep.join(b"d") {
        root.create_dir(&below).expect("creates");
        deep = below;
    }
    std::os::unix::fs::symlink("a", dir.path().join("link")).expect("links");
    std::fs::write(dir.path().join("unselected"), "").expect("writes");

    let mut walked = Vec::new();
    root.walk::<RootError>(&TreePath::root(), |visit| {
        walked.push(visit.path.clone());
        Ok(descend_unless_past(&visit.path))
    })
    .expect("walks");
    let surveyed = root.survey(&TreePath::root(), &AllButUnselected).expect("surveys");

    let selected: Vec<TreePath> =
        walked.iter().filter(|path| path.name() != b"unselected").cloned().collect();
    assert_eq!(surveyed, selected);
    assert_eq!(walked.len(), selected.len() + 1);
    assert!(walked.len() > 2000 && !walked.contains(&path("past/inside")));
    root.remove_tree(&path("deep")).expect("removes");
}

fn descend_unless_past(path: &TreePath) -> Descend {
    if path.as_bytes() == b"past" { Descend::Past } else { Descend::Into }
}

/// Visits every path except those of one name.
struct AllButUnselected;

impl SurveyRules for AllButUnselected {
    type State = ();
    type Item = TreePath;
    type Error = RootError;

    fn enter(&self, _: &TreePath) {}

    fn selects(&self, (): &mut (), name: ListedName<'_>) -> bool {
        name.path.name() != b"unselected"
    }

    fn visit(
        &self,
        (): &mut (),
        dir: &OpenDirectory<'_>,
        visit: Visit,
    ) -> Result<(Option<TreePath>, Descend)> {
        let target =
            (visit.path.name() == b"link").then(|| dir.read_link(&visit.path)).transpose()?;
        assert!(target.is_none_or(|target| *target == *b"a"));
        let descend = descend_unless_past(&visit.path);
        Ok((Some(visit.path), descend))
    }

    fn fail(&self, _: TreePath, error: RootError) -> Result<Option<TreePath>> {
        Err(error)
    }
}

#[test]
fn batch_equals_single_calls() {
    with_each_resolver(|| {
        let (dir, root) = scratch();
        std::fs::create_dir_all(dir.path().join("real/in")).expect("creates");
        for f in ["real/1", "real/2", "real/in/3", "4"] {
            std::fs::write(dir.path().join(f), f).expect("writes");
        }
        std::os::unix::fs::symlink("real", dir.path().join("link")).expect("links");
        let existing = ["real", "real/1", "real/2", "real/in", "real/in/3", "4", "link"];
        let missing = ["link/1", "link/2", "real/9", "4/x", "4/y", "9/1", "9/2"];
        let mut paths: Vec<TreePath> =
            existing.iter().chain(&missing).map(|name| path(name)).collect();
        paths.push(TreePath::root());
        paths.sort();
        let paths: Vec<&TreePath> = paths.iter().collect();

        let stats: Vec<_> = paths.iter().map(|path| root.stat(path).expect("inspects")).collect();
        let batch = root.stat_each(&paths).expect("inspects").into_iter();
        let batch: Vec<_> = batch.map(|stat| stat.transpose().expect("inspects")).collect();
        assert_eq!(batch, stats);

        let locks: Vec<_> =
            paths.iter().map(|path| root.change_locks(path).expect("inspects")).collect();
        assert_eq!(root.change_locks_each(&paths).expect("inspects"), locks);
        assert_eq!(locks.iter().flatten().count(), existing.len() + 1, "no link is followed");
    });
}
