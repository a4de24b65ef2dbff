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

/// Runs `test` with both resolvers.
fn on_both_kernels(test: impl Fn()) {
    for old in [false, true] {
        force_old_kernel(old);
        test();
        force_old_kernel(false);
    }
}

#[test]
fn symlink_planted_then_written_through() {
    on_both_kernels(|| {
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
        assert!(root.set_times(&path("etc/sentinel"), Mtime { seconds: 1, nanos: 0 }).is_err());
        assert_eq!(root.stat(&path("etc/sentinel")).expect("looks"), None);
        root.unlink(&path("etc/sentinel")).expect("nothing is there, by our reckoning");
        root.remove_tree(&path("etc")).expect("removes the link, not what it leads to");
        assert_eq!(std::fs::read_to_string(&sentinel).expect("reads"), "untouched");
        assert_eq!(std::fs::read_dir(outside.path()).expect("lists").count(), 1);
    });
}

#[test]
fn the_walk_is_in_tree_order_and_does_not_follow() {
    let (dir, root) = scratch();
    for d in ["a", "a/b", "a-b"] {
        std::fs::create_dir(dir.path().join(d)).expect("makes");
    }
    std::fs::write(dir.path().join("a/b/c"), "x").expect("writes");
    std::os::unix::fs::symlink("a", dir.path().join("b")).expect("links");
    let mut seen = Vec::new();
    root.walk::<RootError>(&TreePath::root(), |v| {
        seen.push(v.path.to_string());
        Ok(Descend::Into)
    })
    .expect("walks");
    assert_eq!(seen, ["/a", "/a/b", "/a/b/c", "/a-b", "/b"]);
}

#[test]
fn the_longest_path_is_reached() {
    on_both_kernels(|| {
        let (_dir, root) = scratch();
        let long = [b'd'; 200];
        let mut at = TreePath::root();
        for _ in 0..20 {
            at = at.join(&long).expect("short enough");
            root.create_dir(&at).expect("makes");
        }
        let file = at.join(&[b'f'; 75]).expect("short enough");
        assert_eq!(file.as_bytes().len(), crate::tree_path::MAX_PATH);
        root.create_file(&file).expect("creates");
        let top = TreePath::root().join(&long).expect("good");
        root.remove_tree(&top).expect("removes");
        assert_eq!(root.stat(&top).expect("looks"), None);
    });
}

#[test]
fn metadata_is_exact() {
    let (_dir, root) = scratch();
    let mut xattrs = Xattrs::new();
    xattrs.insert(b"user.x".as_slice().into(), b"a\nb\0".as_slice().into());
    let mut meta =
        Meta { mode: 0o4755, uid: 1, gid: 2, mtime: Mtime { seconds: -3, nanos: 5 }, xattrs };
    let file = root.create_file(&path("f")).expect("creates");
    root.set_file_meta(&file, &path("f"), &meta).expect("sets");
    let stat = root.stat(&path("f")).expect("looks").expect("is there");
    assert_eq!((stat.mode, stat.uid, stat.gid, stat.mtime), (meta.mode, 1, 2, meta.mtime));
    assert_eq!(root.xattrs(&path("f")).expect("reads"), meta.xattrs);
    meta.xattrs.clear();
    root.set_meta(&path("f"), &meta).expect("sets");
    assert_eq!(root.xattrs(&path("f")).expect("reads"), meta.xattrs);
    root.create_symlink(&path("l"), b"nowhere").expect("links");
    root.set_special_meta(&path("l"), &meta, true).expect("sets");
    let stat = root.stat(&path("l")).expect("looks").expect("is there");
    assert_eq!((stat.kind, stat.uid, stat.mtime), (FileKind::Symlink, 1, meta.mtime));
}

#[test]
fn a_survey_finds_what_a_walk_finds_in_the_same_order_at_any_depth() {
    let (dir, root) = scratch();
    for d in ["a/b/c", "a/z", "a-b", "b.d/e", "past/inside"] {
        std::fs::create_dir_all(dir.path().join(d)).expect("makes");
    }
    for f in ["a/b/c/1", "a/b.x", "a-b/2", "b.d/e/3", "c"] {
        std::fs::write(dir.path().join(f), "x").expect("writes");
    }
    // As deep as a path goes.
    let mut deep = path("deep");
    root.create_dir(&deep).expect("makes");
    while let Ok(below) = deep.join(b"d") {
        root.create_dir(&below).expect("makes");
        deep = below;
    }
    std::os::unix::fs::symlink("a", dir.path().join("link")).expect("links");
    let descend =
        |at: &TreePath| if at.as_bytes() == b"past" { Descend::Past } else { Descend::Into };
    let mut walked = Vec::new();
    let visited = root.walk::<RootError>(&TreePath::root(), |visit| {
        walked.push(visit.path.clone());
        Ok(descend(&visit.path))
    });
    visited.expect("walks");
    let surveyed = root.survey::<_, _, RootError>(
        &TreePath::root(),
        |_| (),
        |(), dir, visit| {
            let text =
                (visit.path.name() == b"link").then(|| dir.read_link(&visit.path)).transpose()?;
            assert!(text.is_none_or(|text| *text == *b"a"));
            let descend = descend(&visit.path);
            Ok((Some(visit.path), descend))
        },
    );
    assert_eq!(surveyed.expect("surveys"), walked);
    assert!(walked.len() > 2000 && !walked.contains(&path("past/inside")));
    root.remove_tree(&path("deep")).expect("removes");
}

#[test]
fn many_paths_at_once_are_looked_at_as_each_by_itself() {
    on_both_kernels(|| {
        let (dir, root) = scratch();
        std::fs::create_dir_all(dir.path().join("real/in")).expect("makes");
        for f in ["real/1", "real/2", "real/in/3", "4"] {
            std::fs::write(dir.path().join(f), f).expect("writes");
        }
        std::os::unix::fs::symlink("real", dir.path().join("link")).expect("links");
        let names = [
            "real",
            "real/1",
            "real/2",
            "real/9",
            "real/in",
            "real/in/3",
            "4",
            "4/x",
            "4/y",
            "9/1",
            "9/2",
        ];
        let through = ["link", "link/1", "link/2"];
        let mut paths: Vec<TreePath> =
            names.iter().chain(&through).map(|name| path(name)).collect();
        paths.push(TreePath::root());
        let paths: Vec<&TreePath> = paths.iter().collect();
        let singly: Vec<_> = paths.iter().map(|path| root.stat(path).expect("looks")).collect();
        assert_eq!(root.stat_each(&paths).expect("looks"), singly);
        let singly: Vec<_> = paths.iter().map(|path| root.pins(path).expect("looks")).collect();
        assert_eq!(root.pins_each(&paths).expect("looks"), singly);
        assert_eq!(singly.iter().flatten().count(), 8, "through a symlink there is nothing");
    });
}
