//! Text from outside that is printed: it must not control the terminal, forge lines, show a
//! password, or blame the wrong side.

use std::fs;
use std::process::Command;

use crate::common::disk::{self, Disk};
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree};
use crate::common::{ROOT_AND_RSYNC, require, run};

/// Key of a TOML file that clears the terminal, reverses text, and forges a line.
const KEY: &str = "\\u001b]0;title\\u0007\\u009b2J\\u202e\\nsi_updateclient: done";

fn client(site: &Site, words: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    Run::from_output(command.args(words).arg("--root").arg(site.node()).output().expect("runs"))
}

fn tardiff(site: &Site, words: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
    Run::from_output(command.args(words).arg("--repo").arg(site.repo()).output().expect("runs"))
}

#[track_caller]
fn assert_printable(run: &Run) {
    for text in [&run.out, &run.err] {
        let unsafe_character =
            text.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert_eq!(unsafe_character, None, "{run:?}");
        assert!(!text.lines().any(|line| line == "si_updateclient: done"), "{run:?}");
    }
}

#[test]
fn keys_of_outside_files_do_not_control_terminal() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&trees::system());
    let head = site.head_path();
    let state = site.node().join("var/lib/systemimager/client/state.toml");
    let config = site.node().join("etc/systemimager/updateclient.toml");
    let forge = |file: &std::path::Path| {
        let text = fs::read_to_string(file).unwrap_or_default();
        fs::create_dir_all(file.parent().expect("a directory")).expect("creates");
        fs::write(file, format!("\"{KEY}\" = 1\n{text}")).expect("writes");
    };

    forge(&head);
    for more in [&[][..], &["--json"]] {
        assert_printable(site.update(more).ended(3, &["title"]));
    }
    for words in [&["list"][..], &["verify"]] {
        assert_printable(tardiff(&site, words).ended(1, &["title"]));
    }

    forge(&state);
    assert_printable(&client(&site, &["--status"]));
    assert_printable(&client(&site, &["--status", "--json"]));
    assert_printable(&site.update(&[]));

    forge(&config);
    assert_printable(client(&site, &["--show-config"]).ended(2, &["title"]));
    let own = site.dir.path().join("tardiff.toml");
    forge(&own);
    let config = own.display().to_string();
    let refused = tardiff(&site, &["publish", "--image", "node", "--config", &config]);
    assert_printable(refused.ended(1, &["title"]));
}

#[test]
fn bidirectional_controls_in_names_are_escaped() {
    require!(ROOT_AND_RSYNC);
    let mut tree = trees::system();
    let site = Site::at(&tree);
    let name = "etc/\u{202e}gpj.exe\u{2066}\u{9b}2J\x1b[2J";
    trees::put(&mut tree, name, Item::file("new"));
    site.publish(&tree);

    let runs = [
        site.update(&["--dry-run"]),
        site.update(&["--dry-run", "--json"]),
        site.update(&["--dry-run", "--log=%i %n%L"]),
        tardiff(&site, &["show", "--image", "node"]),
    ];
    site.updated(&[]);

    for run in &runs {
        assert!(run.out.contains("gpj.exe"), "{run:?}");
        assert_printable(run);
    }
    site.same();
}

#[test]
fn passwords_of_urls_are_not_printed() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&trees::system());
    let repo = "http://node:s3cret@127.0.0.1:1/repo";
    let config = site.node().join("etc/systemimager/updateclient.toml");
    fs::create_dir_all(config.parent().expect("a directory")).expect("creates");
    fs::write(&config, format!("repo = \"{repo}\"\nimage = \"node\"\n")).expect("writes");

    for (words, is_shown) in [
        (&["--show-config"][..], true),
        (&["--show-config", "--json"], true),
        (&["--show-config", "--repo", "http://node:s3/c#ret@host/"], true),
        (&["--diff", "--yes"], true),
        (&["--diff", "--yes", "--json"], true),
        (&["--diff", "--yes", "--repo", "http://node:s3cret@host:port/"], true),
        (&["--diff", "--yes", "--repo", "rsync://node:s3cret@host/module"], true),
        (&["--diff", "--yes", "--ssh-user", "x", "--repo", "ftp://node:s3cret@host/"], true),
    ] {
        let run = client(&site, words);
        for text in [&run.out, &run.err] {
            assert!(!["s3cret", "s3/c", "ret@"].iter().any(|part| text.contains(part)), "{run:?}");
        }
        let host = ["127.0.0.1", "host"];
        let text = format!("{}{}", run.out, run.err);
        assert_eq!(host.iter().any(|host| text.contains(host)), is_shown, "{run:?}");
    }
}

#[test]
fn message_about_server_names_its_own_fault() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&trees::system());

    for (server, words) in [
        ("127.0.0.1:99999", "port"),
        ("::1:21999", "[ADDRESS]:PORT"),
        ("[::1", "cannot fetch"),
        ("-x", "hyphen"),
    ] {
        let server = format!("--server={server}");
        let run = client(&site, &["--diff", "--yes", "--image", "node", &server]);
        assert!(run.err.contains(words) && !run.err.contains("none of http"), "{run:?}");
    }
}

/// A symlink that is too long for xfs: the fault of the node's filesystem.
#[test]
fn symlink_that_filesystem_refuses_is_named_as_fault_of_node() {
    require!(ROOT_AND_RSYNC, Program("mkfs.xfs"), Program("losetup"));
    disk::enter_mount_namespace();
    let site = Site::new().with_rsync();
    let _disk = Disk::new("xfs", site.dir.path().join("disk"), &site.node());
    let tree = trees::with_parents(Tree::from([(b"opt/short".to_vec(), Item::file("a"))]));
    site.publish(&tree);
    run(Command::new("rsync").arg("-aHAX").arg(site.image().join("")).arg(site.node()));
    site.updated(&["--adopt"]);
    std::os::unix::fs::symlink("a".repeat(3000), site.image().join("opt/long")).expect("links");
    site.publish_image(&[]);

    site.update(&[]).ended(5, &["/opt/long", "File name too long", "nothing was changed"]);

    let port = site.rsync_port().expect("a port").to_string();
    let words = ["--yes", "--image", "node", "--server", "127.0.0.1", "--rsync-port", &port];
    let run = client(&site, &[&words[..], &["--exclude-file", "/dev/null"]].concat());
    run.ended(5, &["/opt/long", "nothing was changed"]);
}

/// A server that cannot be trusted must not shut the node out of the right one afterwards.
#[test]
fn forged_serial_does_not_lock_out() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&trees::system());
    let (genuine, catalog) = (site.head(), site.catalog_text());
    let restore = || {
        let head = genuine.to_toml().expect("text");
        fs::write(site.head_path(), head).expect("writes");
    };
    let forge = |serial: u64| {
        let number = format!("serial = {serial}");
        site.replace_catalog(catalog.replace("serial = 1", &number));
    };

    forge(4_000_000_000);
    site.update(&[]).ended(3, &["no server publishes that often", "--allow-downgrade"]);
    restore();
    site.updated(&[]);

    // A complete copy under a higher serial is accepted; one run forgets it.
    forge(50);
    site.updated(&[]);
    restore();
    site.update(&[]).ended(3, &["serial 1 of image node", "seen 50", "--allow-downgrade"]);
    site.updated(&["--allow-downgrade"]);
    site.updated(&[]);
}
