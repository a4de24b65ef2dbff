//! An archive is unpacked while it comes, and nothing of it counts before all of it was verified.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::fault_server::{Fault, FaultServer};
use common::site::{Run, Site};
use common::trees::{self, Item};
use common::{ROOT_AND_RSYNC, require, write_program};

const HOOKS: &str = "etc/systemimager/hooks.d/pre-update.d";
/// The size of the first file that comes.
const FIRST: usize = 1_200_007;

/// A node before an update of four megabytes that do not compress, and the path of its diff on the server.
fn behind() -> (Site, FaultServer, String) {
    let mut tree = trees::system();
    let mut site = Site::at(&tree);
    for n in 0..4 {
        trees::put(
            &mut tree,
            &format!("usr/lib/large-{n}"),
            Item::file(trees::noise(FIRST + n, n as u64 + 1)),
        );
    }
    site.publish(&tree);
    let server = FaultServer::serve(&site.repo());
    let path = site.served_diff();
    site.repo_url = server.url();
    (site, server, path)
}

/// Lets the archive, but not its listing, come within two to three seconds.
fn slowly(server: &FaultServer, path: &str) {
    server.next(path, [Fault::Behave, Fault::Drip(40_000, Duration::from_millis(20))]);
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

/// What of the archive behind its listing was sent.
fn sent(server: &FaultServer, path: &str) -> u64 {
    server.seen().iter().filter(|seen| seen.path == path).skip(1).map(|seen| seen.sent).sum()
}

#[track_caller]
fn wait_until(child: &mut Child, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(20), "not within 20 seconds");
        assert!(child.try_wait().expect("a child").is_none(), "it ended before");
        sleep(Duration::from_millis(2));
    }
}

/// Whether a file of this size lies below `top`.
fn holds(top: &Path, size: usize) -> bool {
    let Ok(entries) = fs::read_dir(top) else { return false };
    entries.flatten().any(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => holds(&entry.path(), size),
        Ok(meta) => meta.is_file() && meta.len() == size as u64,
        Err(_) => false,
    })
}

#[test]
fn what_has_come_is_staged_while_the_rest_comes() {
    require!(ROOT_AND_RSYNC);

    let (site, server, path) = behind();
    let whole = fs::metadata(site.diff(1, 2)).expect("a diff").len();
    slowly(&server, &path);
    let mut child = start(&mut site.command());
    wait_until(&mut child, || holds(&site.node().join(".si-stage"), FIRST));
    let sent = sent(&server, &path);
    assert!(sent < whole / 2, "{sent} of {whole} bytes had come");
    Run::from_output(child.wait_with_output().expect("it ends")).ended(0, &["updated to node"]);
    site.same();
}

#[test]
fn what_was_wrong_at_first_is_read_again_when_it_has_come_anew() {
    require!(ROOT_AND_RSYNC);

    let (site, server, path) = behind();
    server.next(&path, [Fault::Behave, Fault::FlipFirstBit]);
    let run = site.updated(&["--no-fallback"]);
    run.ended(0, &["downloading it again", "updated to node"]);
    assert!(!run.err.contains("cannot be used"), "{run:#?}");
    site.same();
}

#[test]
fn what_is_lost_on_the_way_leaves_nothing_behind() {
    require!(ROOT_AND_RSYNC);

    let (site, server, path) = behind();
    let configuration = site.node().join("etc/systemimager/updateclient.toml");
    trees::write_text(&configuration, "[download]\nattempts = 1\n");
    let before = site.snapshot();
    server.next(&path, [Fault::Behave, Fault::Reset(3_000_000)]);
    site.update(&["--no-fallback"]).ended(4, &["nothing was changed"]);
    site.unchanged_since(&before);
    fs::remove_file(&configuration).expect("removes");
    // What had come is not asked for again.
    let had_come = sent(&server, &path);
    site.updated(&["--no-fallback"]);
    assert!(sent(&server, &path) < had_come + 3_000_000);
    site.same();
}

#[test]
fn hooks_run_once_everything_is_here() {
    require!(ROOT_AND_RSYNC);

    let (site, server, path) = behind();
    let whole = fs::metadata(site.diff(1, 2)).expect("a diff").len();
    let hook = site.node().join(HOOKS).join("10-mark");
    write_program(&hook, "#!/no/such/program\n");
    let before = site.snapshot();
    slowly(&server, &path);
    let mut child = start(&mut site.command());
    let staged = || fs::exists(site.node().join(".si-stage")).unwrap_or(false);
    wait_until(&mut child, || staged() || sent(&server, &path) > whole / 2);
    assert!(!staged(), "nothing is unpacked before the hooks have run");
    let run = Run::from_output(child.wait_with_output().expect("it ends"));
    assert!(run.code != 0 && run.err.contains("a pre-update hook stopped the update"), "{run:#?}");
    assert!(sent(&server, &path) > whole / 10 * 9);
    site.unchanged_since(&before);
}

#[test]
fn a_run_that_is_refused_does_not_wait_for_the_rest() {
    require!(ROOT_AND_RSYNC);

    let mut tree = trees::system();
    for n in 0..40 {
        trees::put(&mut tree, &format!("srv/{n}"), Item::file(format!("file {n}")));
    }
    let mut site = Site::at(&tree);
    (0..40).for_each(|n| drop(tree.remove(format!("srv/{n}").as_bytes())));
    trees::put(&mut tree, "usr/lib/large", Item::file(trees::noise(4_000_000, 1)));
    site.publish(&tree);
    let server = FaultServer::serve(&site.repo());
    site.repo_url = server.url();
    let path = site.served_diff();
    // A minute and more.
    server.next(&path, [Fault::Behave, Fault::Drip(6_000, Duration::from_millis(100))]);
    let before = site.snapshot();
    site.update(&["--max-delete", "3"]).ended(9, &["--max-delete"]);
    site.unchanged_since(&before);
    let sent = sent(&server, &path);
    assert!(sent < 2_000_000, "{sent} bytes were waited for");
}
