//! Reads of files that belong to other users end in bounded time and space: a file that grows while
//! it is read, a write lease, a large hole.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item};
use crate::common::{ROOT_AND_RSYNC, require};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Lets the file at `path` grow to 8 TiB of hole when somebody reads it.
fn grow_when_read(path: &Path) -> std::thread::JoinHandle<()> {
    let watch = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
    watch.add_watch(path, AddWatchFlags::IN_ACCESS).expect("a watch");
    let path = path.to_owned();
    std::thread::spawn(move || {
        watch.read_events().expect("an access");
        let file = OpenOptions::new().write(true).open(path).expect("opens");
        file.set_len(8 << 40).expect("grows");
    })
}

/// A process that holds write leases and does not release them; killed on drop.
struct LeaseHolder(Child);

impl LeaseHolder {
    fn new(paths: &[&Path]) -> Self {
        let script = "import fcntl, os, signal, sys\n\
                      signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
                      files = [os.open(path, os.O_RDWR) for path in sys.argv[1:]]\n\
                      for file in files: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
                      print('ready', flush=True)\n\
                      while True: signal.pause()\n";
        let mut python = Command::new("python3");
        let mut child = python
            .args(["-c", script])
            .args(paths)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("reads");
        assert_eq!(line, "ready\n");
        LeaseHolder(child)
    }
}

impl Drop for LeaseHolder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn file_that_grows_while_it_is_published_fails_the_publish() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new();
    let mut tree = trees::system();
    trees::put(&mut tree, "usr/lib/data", Item::file(trees::noise(20_000_000, 1)));
    trees::write(&tree, &site.image());
    let grower = grow_when_read(&site.image().join("usr/lib/data"));

    let start = Instant::now();
    let mut publish = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
    publish.args(["publish", "--image", "node", "--images-dir"]);
    publish.arg(site.dir.path().join("images")).arg("--repo").arg(site.repo());
    let run = Run::from_output(publish.output().expect("si_tardiff runs"));

    grower.join().expect("it grew");
    assert_ne!(run.code, 0, "{run:#?}");
    assert!(run.err.contains("changed while the image was read"), "{run:#?}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn tracked_file_that_grows_while_it_is_compared_is_replaced() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    trees::put(&mut tree, "usr/lib/data", Item::file(trees::noise(20_000_000, 1)));
    let site = Site::at(&tree);
    let grower = grow_when_read(&site.node().join("usr/lib/data"));

    let start = Instant::now();
    site.update(&["--check", "content"]);
    grower.join().expect("it grew");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());

    site.updated(&["--check", "content"]);
    site.same();
}

#[test]
fn write_leases_delay_an_update_for_bounded_time() {
    require!(ROOT_AND_RSYNC, Program("python3"));

    let mut tree = trees::system();
    let names = ["one", "two", "three"].map(|name| format!("home/user/{name}"));
    for name in &names {
        trees::put(&mut tree, name, Item::file(name.as_str()));
    }
    let site = Site::at(&tree);
    trees::put(&mut tree, "etc/hostname", Item::file("new"));
    site.publish(&tree);
    let paths = names.each_ref().map(|name| site.node().join(name));
    let holder = LeaseHolder::new(&paths.each_ref().map(|path| path.as_path()));

    let start = Instant::now();
    site.updated(&["--check", "content"]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());

    drop(holder);
    site.updated(&["--check", "content"]);
    site.same();
}
