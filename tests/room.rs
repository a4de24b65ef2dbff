//! Room: what does not fit is refused before anything is fetched; where another process eats the room
//! meanwhile, the update stops and leaves nothing, or, after its seal, is finished all the same.

mod common;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::fault_server::FaultServer;
use common::judge;
use common::site::{Run, Site};
use common::small_disk::{DISK, SmallDisk};
use common::trees::{self, Item, Tree};
use common::{Need, require};

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");

const NEEDED: [&[Need]; 2] = [&DISK, &[Need::Program("strace"), Need::Program("strip")]];

/// Its second generation brings files into new and old directories, edits some, and lets some go.
fn tree(second: bool) -> Tree {
    let mut tree = trees::system();
    for number in 0..60 {
        let text =
            format!("file {number}{}", if second && number % 3 == 0 { " edited" } else { "" });
        if !(second && number % 7 == 1) {
            trees::put(&mut tree, &format!("usr/lib/old/{number}"), Item::file(text));
        }
    }
    if second {
        for number in 0..40 {
            // names so long that directories have to grow for them
            let name = format!("{number:0>200}");
            trees::put(
                &mut tree,
                &format!("usr/lib/app/{name}"),
                Item::file(format!("new {number}")),
            );
            trees::put(
                &mut tree,
                &format!("usr/new/{number}/{name}"),
                Item::file(format!("new {number}")),
            );
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
        let disk = SmallDisk::for_node(&site, mib, inodes);
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
    fn stopped_at(
        &self,
        call: &str,
        delay: u64,
        there: impl Fn() -> bool,
        meanwhile: impl FnOnce(),
    ) -> Run {
        let command = self.command();
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:delay_enter={}", delay * 1000)]);
        strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        let mut child =
            strace.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let begin = Instant::now();
        while !there() {
            if begin.elapsed() > Duration::from_secs(20)
                || child.try_wait().expect("waits").is_some()
            {
                let _ = child.kill();
                panic!(
                    "it never came there: {:#?}",
                    Run::from_output(child.wait_with_output().expect("it ended"))
                );
            }
            sleep(Duration::from_millis(1));
        }
        signal(&child, Signal::SIGSTOP);
        // a call that was under way is over
        sleep(Duration::from_millis(20));
        meanwhile();
        signal(&child, Signal::SIGCONT);
        Run::from_output(child.wait_with_output().expect("it ends"))
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
        let listed = fs::read_dir(own)
            .expect("it is there")
            .map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> =
            listed.map(|name| name.to_string_lossy().into_owned()).collect();
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

/// The free and the needed number of `unit` that a refusal names for `place`.
#[track_caller]
fn numbers(run: &Run, place: &str, unit: &str) -> (u64, u64) {
    let said = run.err.split("no room on this node: ").nth(1).unwrap_or_else(|| panic!("{run:#?}"));
    let told = said
        .split("; ")
        .find(|part| part.starts_with(&format!("{place} has ")) && part.contains(unit));
    let told = told.unwrap_or_else(|| panic!("nothing about the {unit} of {place}: {run:#?}"));
    let told = told.replacen(place, "", 1);
    let mut numbers = told
        .split(' ')
        .filter_map(|word| word.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok());
    let (free, needed) =
        (numbers.next().expect("what is free"), numbers.next().expect("what is needed"));
    assert!(needed > free, "{told}");
    (free, needed)
}

/// The node reads the repository from a server that counts.
fn counted(site: &mut Site) -> FaultServer {
    let server = FaultServer::serve(&site.repo());
    site.repo_url = server.url();
    server
}

/// Asserts that nothing of any archive was fetched but its listing.
#[track_caller]
fn fetched_listings_alone(site: &Site, server: &FaultServer) {
    let catalog = site.catalog();
    for seen in server
        .seen()
        .iter()
        .filter(|seen| seen.path.contains("/diffs/") || seen.path.contains("/full/"))
    {
        let archive =
            catalog.archives.iter().find(|archive| seen.path.ends_with(archive.file.file.as_str()));
        assert!(seen.sent <= archive.expect("it is listed").first_frame.length, "{seen:#?}");
    }
    assert!(
        server.seen().iter().any(|seen| seen.path.contains("/diffs/")),
        "no listing was fetched"
    );
}

/// A node at the first generation with an update of about four megabytes before it, in one file below
/// each of `paths`, and a hundred small ones.
fn bulky(paths: &[&str]) -> Site {
    let mut tree = tree(false);
    let site = Site::at(&tree);
    for (number, path) in paths.iter().enumerate() {
        let data = trees::noise(4_000_000 / paths.len(), number as u64);
        trees::put(&mut tree, &format!("{path}/bulk"), Item::file(data));
    }
    for number in 0..100 {
        trees::put(&mut tree, &format!("usr/many/{number}"), Item::file(format!("small {number}")));
    }
    site.publish(&tree);
    site
}

#[test]
fn what_does_not_fit_is_refused_before_any_archive_is_fetched() {
    require!(NEEDED);

    let mut site = bulky(&["usr"]);
    let disk = SmallDisk::for_node(&site, 48, 2000);
    site.updated(&["--adopt"]);
    let server = counted(&mut site);
    let place = site.node().canonicalize().expect("is there").display().to_string();
    // the new content alone would fit, but for the archive beside it
    disk.fill(7_000_000);
    let before = site.snapshot();
    let run = site.update(&["--no-fallback"]);
    run.ended(5, &["nothing was changed"]);
    let (free, needed) = numbers(&run, &place, "bytes");
    assert!(free.abs_diff(disk.free()) < 100_000, "{free} is not what df says: {}", disk.free());
    // content, archive, a hundred small files, and what is kept for the rest
    assert!((9_500_000..11_000_000).contains(&needed), "{needed}");
    fetched_listings_alone(&site, &server);
    site.unchanged_since(&before);
    disk.drain();
    // inodes: the hundred new files, and as many again as are kept for the rest
    let names = site.node().join("filler");
    fs::create_dir(&names).expect("makes");
    for number in 0..disk.free_inodes() - 150 {
        fs::write(names.join(number.to_string()), "").expect("writes");
    }
    let before = site.snapshot();
    server.calm();
    let run = site.update(&["--no-fallback"]);
    run.ended(5, &["nothing was changed"]);
    let (free, needed) = numbers(&run, &place, "inodes");
    assert!((140..=150).contains(&free) && (160..200).contains(&needed), "{free} {needed}");
    fetched_listings_alone(&site, &server);
    site.unchanged_since(&before);
    // a dry run says the same, and fits nothing either
    numbers(&site.update(&["--no-fallback", "--dry-run"]), &place, "inodes");
    fs::remove_dir_all(&names).expect("removes");
    site.updated(&["--no-fallback"]);
    site.same();
}

#[test]
fn each_filesystem_has_to_have_room_for_what_comes_to_it() {
    require!(NEEDED);

    // below which mount it comes, and which one is too small for it: for content, or for the archive
    for (content, small) in [("usr", "usr"), ("srv", "var"), ("boot", "boot")] {
        let mut site = bulky(&[content]);
        fs::create_dir_all(site.node().join(small)).expect("makes");
        let root = SmallDisk::for_node(&site, 64, 3000);
        let part = SmallDisk::for_path(&site, small, 6, 500);
        site.updated(&["--adopt"]);
        let before = site.snapshot();
        let server = counted(&mut site);
        let run = site.update(&["--no-fallback"]);
        run.ended(5, &["nothing was changed"]);
        let place = part.at.canonicalize().expect("is there").display().to_string();
        numbers(&run, &place, "bytes");
        assert!(
            !run.err.contains(&format!("{} has", root.at.display())),
            "the root has enough: {run:#?}"
        );
        fetched_listings_alone(&site, &server);
        site.unchanged_since(&before);
        drop(part);
    }
}

#[test]
fn an_undo_set_in_the_way_goes_first_unless_it_is_always_kept() {
    require!(NEEDED);

    let mut tree = tree(false);
    for number in 0..2 {
        trees::put(
            &mut tree,
            &format!("usr/bulk-{number}"),
            Item::file(trees::noise(6_000_000, number)),
        );
    }
    let mut site = Site::at(&tree);
    let disk = SmallDisk::for_node(&site, 64, 2000);
    site.updated(&["--adopt"]);
    // twelve megabytes are displaced, and twelve come
    for number in 0..2 {
        trees::put(
            &mut tree,
            &format!("usr/bulk-{number}"),
            Item::file(trees::noise(6_000_000, 10 + number)),
        );
    }
    site.publish(&tree);
    trees::write_text(
        &site.node().join("etc/systemimager/updateclient.toml"),
        "undo_share = 0.9\n",
    );
    site.updated(&["--no-fallback"]);
    assert!(site.status().contains("undo:"), "{}", site.status());
    trees::put(&mut tree, "usr/bulk-2", Item::file(trees::noise(6_000_000, 20)));
    site.publish(&tree);
    let server = counted(&mut site);
    let undo = site.node().join(".si-undo");
    // it would not be enough: then it stays
    disk.fill(512 << 10);
    let before = site.snapshot();
    let place = site.node().canonicalize().expect("is there").display().to_string();
    numbers(&site.update(&["--no-fallback"]), &place, "bytes");
    judge::same(&before, &site.node(), &[]);
    assert!(undo.exists() && site.status().contains("undo:"));
    disk.drain();
    disk.fill(6 << 20);
    // it would be, and the configuration forbids it
    let configuration = site.node().join("etc/systemimager/updateclient.toml");
    trees::write_text(&configuration, "keep_undo = \"always\"\n");
    let run = site.update(&["--no-fallback"]);
    run.ended(
        5,
        &["the undo set is in the way, and keep_undo = \"always\" keeps it", "nothing was changed"],
    );
    fetched_listings_alone(&site, &server);
    assert!(undo.exists() && site.status().contains("undo:"));
    // a dry run only says what it would take
    trees::write_text(&configuration, "undo_share = 0.9\n");
    site.update(&["--no-fallback", "--dry-run"]).ended(0, &["would update to node"]);
    assert!(undo.exists());
    let run = site.updated(&["--no-fallback"]);
    run.ended(
        0,
        &["bytes free and the update needs", "the undo set,", "is in the way and is removed"],
    );
    judge::same(&site.image(), &site.node(), &["/filler", "/etc/systemimager"]);
    // what this one displaced is little, and can be undone
    assert!(site.status().contains("undo:"), "{}", site.status());
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
    require!(NEEDED);

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
            assert!(
                run.err.contains("no room on this node") && run.err.contains("nothing was changed"),
                "{context}"
            );
            judge::same(&before, &node.site.node(), &["/filler*"]);
            node.site.nothing_left();
            assert_eq!((node.own("spool"), node.own("")), (vec![], vec![]), "{context}");
            eats.no_more(&node);
        }
    }
    // as soon as there is room it goes on as if nothing had been
    Run::from_output(node.command().output().expect("it runs")).ended(0, &["updated to node"]);
    node.is_the_image();
}

#[test]
fn after_the_seal_a_full_disk_does_not_stop_an_update() {
    require!(NEEDED);

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
        Run::from_output(rollback.output().expect("it runs")).ended(0, &[]);
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
    require!(NEEDED);

    for eats in [Eats::Bytes, Eats::Inodes] {
        let node = Node::new(96, 4000);
        let sealed = || node.has(".si-stage/journal");
        let run = node.stopped_at("renameat2", 30, sealed, || {
            for own in node.own("") {
                fs::remove_file(node.site.node().join("var/lib/systemimager/client").join(own))
                    .expect("removes");
            }
            for number in 0..4 {
                let _ =
                    fs::remove_file(node.site.node().join(format!(".si-stage/reserve-{number}")));
            }
            eats.all(&node);
        });
        run.ended(6, &["No space left on device", "the next run of si_updateclient finishes"]);
        assert!(sealed());
        Run::from_output(node.command().output().expect("it runs"))
            .ended(6, &["No space left on device"]);
        eats.no_more(&node);
        Run::from_output(node.command().output().expect("it runs"))
            .ended(0, &["the interrupted update was finished"]);
        node.is_the_image();
    }
}
