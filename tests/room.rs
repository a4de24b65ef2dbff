//! Room: what does not fit is refused before anything is fetched; where another process eats the room
//! meanwhile, the update stops and leaves nothing, or, after its seal, is finished all the same.

mod common;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::judge;
use common::site::{Run, Site};
use common::small_disk::{DISK, SmallDisk};
use common::trees::{self, Item, Tree};
use common::{Need, needs};

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");

fn has_all() -> bool {
    needs(&[&DISK[..], &[Need::Program("strace"), Need::Program("strip")]].concat())
}

/// Its second generation brings files into new and old directories, edits some, and lets some go.
fn tree(second: bool) -> Tree {
    let mut tree = trees::system();
    for number in 0..60 {
        let text = format!("file {number}{}", if second && number % 3 == 0 { " edited" } else { "" });
        if !(second && number % 7 == 1) {
            trees::put(&mut tree, &format!("usr/lib/old/{number}"), Item::file(text));
        }
    }
    if second {
        for number in 0..40 {
            // names so long that directories have to grow for them
            let name = format!("{number:0>200}");
            trees::put(&mut tree, &format!("usr/lib/app/{name}"), Item::file(format!("new {number}")));
            trees::put(&mut tree, &format!("usr/new/{number}/{name}"), Item::file(format!("new {number}")));
        }
        trees::put(&mut tree, "usr/large", Item::file(trees::noise(1_500_000, 3)));
    }
    tree
}

/// A node on a disk of its own, with an update before it.
struct Node {
    site: Site,
    disk: SmallDisk,
}

impl Node {
    fn new(mib: u32, inodes: u32) -> Self {
        let site = Site::at(&tree(false));
        site.publish(&tree(true));
        let disk = SmallDisk::under(&site, mib, inodes);
        site.updated(&["--adopt"]);
        Node { site, disk }
    }

    /// An agent that lies on the disk, as on a node: nothing has to be copied for it.
    fn command(&self) -> Command {
        let agent = self.site.node().join("var/lib/systemimager/client/agent");
        if !agent.exists() {
            common::run(Command::new("strip").arg("-o").arg(&agent).arg(AGENT));
        }
        let client = self.site.command();
        let mut command = Command::new(agent);
        command.args(client.get_args()).arg("--no-fallback").stdin(Stdio::null());
        command
    }

    /// Runs the update, with every `call` held up by `delay`, as far as `there` comes to be; then it
    /// stands still while `meanwhile` happens.
    #[track_caller]
    fn stopped_at(&self, call: &str, delay: u64, there: impl Fn() -> bool, meanwhile: impl FnOnce()) -> Run {
        let command = self.command();
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:delay_enter={}", delay * 1000)]);
        strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        let mut child = strace.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let begin = Instant::now();
        while !there() {
            if begin.elapsed() > Duration::from_secs(20) || child.try_wait().expect("waits").is_some() {
                let _ = child.kill();
                panic!("it never came there: {:#?}", Run::of(child.wait_with_output().expect("it ended")));
            }
            sleep(Duration::from_millis(1));
        }
        signal(&child, Signal::SIGSTOP);
        // a call that was under way is over
        sleep(Duration::from_millis(20));
        meanwhile();
        signal(&child, Signal::SIGCONT);
        Run::of(child.wait_with_output().expect("it ends"))
    }

    fn has(&self, path: &str) -> bool {
        self.site.node().join(path).exists()
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.site.node().join(".si-stage/new")).map_or(0, Iterator::count)
    }

    #[track_caller]
    fn is_the_image(&self) {
        judge::same(&self.site.image(), &self.site.node(), &["/filler*"]);
        self.site.nothing_left();
    }

    /// What is left in the spool, and of the room that was kept.
    fn own(&self, directory: &str) -> Vec<String> {
        let own = self.site.node().join("var/lib/systemimager/client").join(directory);
        let listed = fs::read_dir(own).expect("it is there").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = listed.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names.retain(|name| directory == "spool" || name.starts_with("reserve"));
        names
    }

    /// Takes all inodes that are left.
    fn fill_inodes(&self) {
        let dir = self.site.node().join("filler-inodes");
        fs::create_dir(&dir).expect("makes");
        for number in 0.. {
            if fs::write(dir.join(number.to_string()), "").is_err() {
                return;
            }
        }
    }

    fn drain_inodes(&self) {
        fs::remove_dir_all(self.site.node().join("filler-inodes")).expect("removes");
    }
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).expect("signals");
}

/// What another process does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Eats {
    Bytes,
    Inodes,
}

impl Eats {
    fn all(self, node: &Node) {
        match self {
            Eats::Bytes => node.disk.fill(0),
            Eats::Inodes => node.fill_inodes(),
        }
    }

    fn no_more(self, node: &Node) {
        match self {
            Eats::Bytes => node.disk.drain(),
            Eats::Inodes => node.drain_inodes(),
        }
    }
}

#[test]
fn another_process_eats_the_room_before_the_seal() {
    if !has_all() {
        return;
    }
    let node = Node::new(96, 4000);
    let before = node.site.snapshot();
    let stage = node.site.node().join(".si-stage");
    let reserve = node.site.node().join("var/lib/systemimager/client/reserve-0");
    for eats in [Eats::Bytes, Eats::Inodes] {
        // while small files are staged; before the way back is noted; when the reserve is made; when the
        // journal is written
        let staging = || node.staged() > 20;
        let noting = || fs::read_dir(stage.join("old")).is_ok_and(|listed| listed.count() > 5);
        let reserved = || reserve.exists();
        let sealing = || stage.join("directories.mtree").exists();
        let points: [(&str, &str, u64, &dyn Fn() -> bool); 4] = [
            ("staging", "fchown", 10, &staging),
            ("noting", "linkat", 20, &noting),
            ("reserved", "fsync", 100, &reserved),
            ("sealing", "fsync", 100, &sealing),
        ];
        for (point, call, delay, there) in points {
            let run = node.stopped_at(call, delay, there, || eats.all(&node));
            let context = format!("{eats:?} at {point}: {run:#?}");
            assert!(!node.has(".si-stage/journal"), "{context}");
            assert_eq!(run.code, 5, "{context}");
            assert!(run.err.contains("no room on this node") && run.err.contains("nothing was changed"), "{context}");
            judge::same(&before, &node.site.node(), &["/filler*"]);
            node.site.nothing_left();
            assert_eq!((node.own("spool"), node.own("")), (vec![], vec![]), "{context}");
            eats.no_more(&node);
        }
    }
    // as soon as there is room it goes on as if nothing had been
    Run::of(node.command().output().expect("it runs")).ended(0, &["updated to node"]);
    node.is_the_image();
}

#[test]
fn after_the_seal_a_full_disk_does_not_stop_an_update() {
    if !has_all() {
        return;
    }
    for eats in [Eats::Bytes, Eats::Inodes] {
        let node = Node::new(96, 4000);
        let sealed = || node.has(".si-stage/journal");
        let run = node.stopped_at("renameat2", 30, sealed, || eats.all(&node));
        run.ended(0, &["updated to node"]);
        node.is_the_image();
        assert!(node.site.status().contains("serial:      2"), "{}", node.site.status());
        assert_eq!((node.own("spool"), node.own("")), (vec![], vec![]));
        // so it is with a rollback, which makes directories anew
        let mut rollback = Command::new(node.command().get_program());
        eats.no_more(&node);
        rollback.args(["--rollback", "--yes", "--root"]).arg(node.site.node());
        Run::of(rollback.output().expect("it runs")).ended(0, &[]);
        judge::same(
            &{
                node.site.publish(&tree(false));
                node.site.image()
            },
            &node.site.node(),
            &[],
        );
    }
}

#[test]
fn what_was_kept_is_eaten_as_well_and_the_next_run_finishes() {
    if !has_all() {
        return;
    }
    for eats in [Eats::Bytes, Eats::Inodes] {
        let node = Node::new(96, 4000);
        let sealed = || node.has(".si-stage/journal");
        let run = node.stopped_at("renameat2", 30, sealed, || {
            for own in node.own("") {
                fs::remove_file(node.site.node().join("var/lib/systemimager/client").join(own)).expect("removes");
            }
            for number in 0..4 {
                let _ = fs::remove_file(node.site.node().join(format!(".si-stage/reserve-{number}")));
            }
            eats.all(&node);
        });
        run.ended(6, &["No space left on device", "the next run of si_updateclient finishes"]);
        assert!(sealed());
        Run::of(node.command().output().expect("it runs")).ended(6, &["No space left on device"]);
        eats.no_more(&node);
        Run::of(node.command().output().expect("it runs")).ended(0, &["the interrupted update was finished"]);
        node.is_the_image();
    }
}
