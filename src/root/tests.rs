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
    let mut meta = Meta { mode: 0o4755, uid: 1, gid: 2, mtime: Mtime { seconds: -3, nanos: 5 }, xattrs };
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
