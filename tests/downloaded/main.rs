//! An update in two steps: downloaded ahead, and installed later without a network.
//!
//! Each test is a row of the rules in `docs/operation.md`: an event while an update is downloaded, and
//! its result.

#[path = "../common/mod.rs"]
mod common;
mod download;
mod failures;
mod layers;
mod rules;
mod switch;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::site::{Run, Site};
use common::trees::{self, Item, Tree};

/// A named change of a site.
type SiteChange<'a> = (&'a str, &'a dyn Fn(&Site));
/// A named change of a path.
type PathChange<'a> = (&'a str, &'a dyn Fn(&Path));

/// A tree that differs by `round`: files, a rename, a new hard link and two equal contents.
fn tree(round: u64) -> Tree {
    let mut tree = trees::system();
    trees::put(&mut tree, "etc/version", Item::file(format!("version {round}")));
    trees::put(&mut tree, "etc/motd", Item::file("welcome"));
    trees::put(&mut tree, "usr/lib/same-a", Item::file(trees::noise(9_000, round)));
    trees::put(&mut tree, "usr/lib/same-b", Item::file(trees::noise(9_000, round)));
    trees::put(&mut tree, &format!("usr/lib/moved-{round}"), Item::file(trees::noise(5_000, 77)));
    trees::put(&mut tree, &format!("opt/only-{round}"), Item::file(format!("only {round}")));
    trees::with_parents(tree)
}

/// A node at the first generation, with the second one published.
fn behind() -> Site {
    let site = Site::at(&tree(1));
    site.publish(&tree(2));
    site
}

/// The same, after a download.
fn downloaded() -> Site {
    let site = behind();
    site.updated(&["--download-only"]);
    site
}

/// Directory of the downloaded update.
fn store(site: &Site) -> PathBuf {
    site.node().join(".si-downloaded")
}

fn has_record(site: &Site) -> bool {
    store(site).join("record").exists()
}

/// Sets the time of the download.
fn set_date(site: &Site, date: &str) {
    let record = store(site).join("record");
    let text = common::read(&record);
    let old = text.lines().find(|line| line.starts_with("downloaded")).expect("a line");
    fs::write(&record, text.replace(old, &format!("downloaded = \"{date}\""))).expect("writes");
}

/// Inode numbers of the downloaded files, by name, without the record.
fn files(site: &Site) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(store(site)).expect("lists").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| {
            let inode = entry.metadata().expect("is there").ino();
            (entry.file_name().into_string().expect("a name"), inode)
        })
        .filter(|(name, _)| name != "record")
        .collect()
}

/// Takes the repository away, so that nothing can be fetched.
fn disconnect(site: &Site) {
    fs::rename(site.repo(), site.dir.path().join("unreachable")).expect("renames");
}

/// Gives the repository back.
fn reconnect(site: &Site) {
    fs::rename(site.dir.path().join("unreachable"), site.repo()).expect("renames");
}

/// Installs the downloaded update.
fn switch(site: &Site, more: &[&str]) -> Run {
    site.update(&[&["--from-downloaded"], more].concat())
}

/// Runs the client on the node with these arguments alone.
fn client(site: &Site, arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
    command.args(arguments).arg("--root").arg(site.node());
    Run::from_output(command.output().expect("runs"))
}
