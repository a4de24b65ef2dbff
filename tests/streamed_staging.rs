//! Archives are staged while they download. No content is installed before the whole archive is
//! verified.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::fault_server::{Fault, FaultServer};
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item};
use crate::common::{ROOT_AND_RSYNC, require, wait_until, write_program};

const HOOKS: &str = "etc/systemimager/hooks.d/pre-update.d";
/// Size in bytes of the first file in the archive.
const FIRST_FILE_SIZE: usize = 1_200_007;

/// Node before an update of four incompressible megabytes, and the path of its diff on the server.
fn site_before_update() -> (Site, FaultServer, String) {
    let mut tree = trees::system();
    let mut site = Site::at(&tree);
    for n in 0..4 {
        trees::put(
            &mut tree,
            &format!("usr/lib/large-{n}"),
            Item::file(trees::noise(FIRST_FILE_SIZE + n, n as u64 + 1)),
        );
    }

    site.publish(&tree);
    let server = FaultServer::serve(&site.repo());
    let path = site.served_diff();
    site.repo_url = server.url();
    (site, server, path)
}

/// Makes the server send the listing at once, and the rest of the archive in two to three seconds.
fn serve_slowly(server: &FaultServer, path: &str) {
    server.next(path, [Fault::Behave, Fault::Drip(40_000, Duration::from_millis(20))]);
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

/// Number of bytes of the archive sent after its listing.
fn sent_bytes(server: &FaultServer, path: &str) -> u64 {
    server.seen().iter().filter(|seen| seen.path == path).skip(1).map(|seen| seen.sent).sum()
}

/// Waits until `condition` holds, while the run must not end.
#[track_caller]
fn wait_during_run(child: &mut Child, event: &str, condition: impl Fn() -> bool) {
    wait_until(event, || {
        let holds = condition();
        let status = child.try_wait().expect("a child");
        assert!(holds || status.is_none(), "{event}: the run ended before");
        holds
    });
}

/// True if `top` or a directory below it has a file of `size` bytes.
fn has_file_of_size(top: &Path, size: usize) -> bool {
    let Ok(entries) = fs::read_dir(top) else { return false };
    entries.flatten().any(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => has_file_of_size(&entry.path(), size),
        Ok(meta) => meta.is_file() && meta.len() == size as u64,
        Err(_) => false,
    })
}

#[test]
fn archive_is_staged_while_it_downloads() {
    require!(ROOT_AND_RSYNC);

    let (site, server, path) = site_before_update();
    let whole = fs::metadata(site.diff(1, 2)).expect("a diff").len();
    serve_slowly(&server, &path);
    let mut child = start(&mut site.command());
    wait_during_run(&mut child, "the first file is staged", || {
        has_file_of_size(&site.node().join(".si-stage"), FIRST_FILE_SIZE)
    });
    let sent = sent_bytes(&server, &path);
    assert!(sent < whole / 2, "{sent} of {whole} bytes were sent");

    Run::from_output(child.wait_with_output().expect("it ends")).ended(0, &["updated to node"]);
    site.same();
}

#[test]
fn corrupt_download_is_repeated() {
    require!(ROOT_AND_RSYNC);

    let (site, server, path) = site_before_update();
    server.next(&path, [Fault::Behave, Fault::FlipFirstBit]);
    let run = site.updated(&["--no-fallback"]);
    run.ended(0, &["downloading it again", "updated to node"]);
    assert!(!run.err.contains("cannot be used"), "{run:#?}");
    site.same();
}

#[test]
fn lost_connection_leaves_no_change() {
    require!(ROOT_AND_RSYNC);

    let (site, server, path) = site_before_update();
    let configuration = site.node().join("etc/systemimager/updateclient.toml");
    trees::write_text(&configuration, "[download]\nattempts = 1\n");
    let before = site.snapshot();
    server.next(&path, [Fault::Behave, Fault::Reset(3_000_000)]);

    site.update(&["--no-fallback"]).ended(4, &["nothing was changed"]);
    site.unchanged_since(&before);

    fs::remove_file(&configuration).expect("removes");
    // The next run does not request the received part again.
    let first_sent = sent_bytes(&server, &path);

    site.updated(&["--no-fallback"]);
    assert!(sent_bytes(&server, &path) < first_sent + 3_000_000);
    site.same();
}

#[test]
fn pre_update_hooks_run_after_download_and_before_staging() {
    require!(ROOT_AND_RSYNC);

    let (site, server, path) = site_before_update();
    let whole = fs::metadata(site.diff(1, 2)).expect("a diff").len();
    let hook = site.node().join(HOOKS).join("10-mark");
    write_program(&hook, "#!/no/such/program\n");
    let before = site.snapshot();
    serve_slowly(&server, &path);
    let mut child = start(&mut site.command());
    let staged = || fs::exists(site.node().join(".si-stage")).unwrap_or(false);
    wait_during_run(&mut child, "half of the archive is sent", || {
        staged() || sent_bytes(&server, &path) > whole / 2
    });
    assert!(!staged(), "nothing is unpacked before the hooks have run");

    let run = Run::from_output(child.wait_with_output().expect("it ends"));
    assert!(run.code != 0 && run.err.contains("a pre-update hook stopped the update"), "{run:#?}");
    assert!(sent_bytes(&server, &path) > whole / 10 * 9);
    site.unchanged_since(&before);
}

#[test]
fn refused_run_does_not_wait_for_download() {
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

    // The complete archive would take more than a minute.
    server.next(&path, [Fault::Behave, Fault::Drip(6_000, Duration::from_millis(100))]);
    let before = site.snapshot();

    site.update(&["--max-delete", "3"]).ended(9, &["--max-delete"]);
    site.unchanged_since(&before);

    let sent = sent_bytes(&server, &path);
    assert!(sent < 2_000_000, "{sent} bytes were downloaded");
}
