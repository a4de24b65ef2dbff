//! Output of both programs, compared with recorded files: help, JSON events, settings, reports.
//!
//! The keys and values of the JSON events are a format; the recorded files fix them. Wording may
//! change, and then shows as a difference of these files. `SI_UPDATE_GOLDEN=1` rewrites them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::golden::{self, Masks};
use crate::common::site::{Run, Site};
use crate::common::trees::{self, Item, Tree};
use crate::common::{ROOT_AND_RSYNC, require};

const CLIENT: &str = env!("CARGO_BIN_EXE_si_updateclient");
const SERVER: &str = env!("CARGO_BIN_EXE_si_tardiff");
const SUBCOMMANDS: [&str; 12] = [
    "build", "publish", "show", "manifest", "proof", "list", "verify", "prune", "serve", "keygen",
    "sign", "refresh",
];

/// Runs a program without a terminal, at a fixed width of its help.
fn run(command: &mut Command) -> Run {
    let command = command.env("COLUMNS", "100").env("NO_COLOR", "1").stdin(Stdio::null());
    Run::from_output(command.output().expect("the program runs"))
}

/// A run as a golden file shows it.
fn transcript(run: &Run) -> String {
    let mut text = format!("exit code: {}\n", run.code);
    for (title, stream) in [("standard output", &run.out), ("standard error", &run.err)] {
        if !stream.is_empty() {
            text += &format!("--- {title}\n{}", without_timing(stream, run, "fetched "));
        }
    }
    text
}

/// JSON events of a run.
fn events(run: &Run) -> String {
    let out: String = run
        .out
        .split_inclusive('\n')
        .filter(|line| !line.contains("\"event\":\"progress\""))
        .collect();
    format!("exit code: {}\n{}", run.code, without_timing(&out, run, "\"job\":\"download\""))
}

/// Removes durations of jobs, and moves the lines of the parallel download to the end.
///
/// A run that changes nothing may end before or after its download: these lines are left out.
fn without_timing(stream: &str, run: &Run, download: &str) -> String {
    let (mut text, mut parallel) = (String::new(), String::new());
    for line in stream.lines() {
        // A duration that rounds to 0.0 s is not printed.
        let line = match line.strip_suffix(" s").and_then(|line| line.rsplit_once(" in ")) {
            Some((before, seconds)) if seconds.parse::<f64>().is_ok() => before,
            _ => line,
        };
        let line = if line.starts_with("fetched ") { "fetched SIZE" } else { line };
        let to = if line.contains(download) { &mut parallel } else { &mut text };
        *to += line;
        to.push('\n');
    }

    let changed = [&run.out, &run.err].iter().any(|stream| stream.contains("applied"));
    if changed && !parallel.is_empty() {
        text += &format!("--- in parallel\n{parallel}");
    }
    text
}

fn masks(site: &Site) -> Masks {
    Masks::default().literal(site.dir.path().display().to_string(), "SITE")
}

/// A site whose image has changed since its node was recorded.
fn behind() -> (Site, Tree) {
    let site = Site::new().with_rsync();
    let mut tree = trees::system();
    trees::put(&mut tree, "usr/lib/app/obsolete.py", Item::file("obsolete"));
    let tree = trees::with_parents(tree);
    site.publish(&tree);
    site.install_node();
    site.updated(&["--adopt"]);

    let mut next = tree.clone();
    trees::put(&mut next, "etc/hostname", Item::file("silver\n"));
    trees::put(&mut next, "usr/lib/app/three.py", Item::file("3").mode(0o755));
    next.remove(&b"usr/lib/app/obsolete.py"[..]);
    site.publish(&next);

    (site, next)
}

fn changed(tree: &Tree, text: &str) -> Tree {
    let mut next = tree.clone();
    trees::put(&mut next, "etc/hostname", Item::file(text));
    next
}

/// A command of the server for the site's repository.
fn server(site: &Site, arguments: &[&str]) -> Run {
    let mut command = Command::new(SERVER);
    command.args(arguments).arg("--repo").arg(site.repo());
    if arguments[0] == "publish" {
        command.arg("--images-dir").arg(site.dir.path().join("images"));
    }
    run(&mut command)
}

#[test]
fn help_matches_golden_files() {
    golden::check("help/si_updateclient", &run(Command::new(CLIENT).arg("--help")).out);
    golden::check("help/si_tardiff", &run(Command::new(SERVER).arg("--help")).out);
    for subcommand in SUBCOMMANDS {
        let help = run(Command::new(SERVER).args([subcommand, "--help"]));
        golden::check(&format!("help/si_tardiff-{subcommand}"), &help.out);
    }
}

#[test]
fn every_subcommand_has_help_in_golden_files() {
    let help = run(Command::new(SERVER).arg("--help")).out;
    let commands = help.split_once("Commands:\n").expect("the list of commands").1;
    let listed: BTreeSet<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();

    assert_eq!(listed, BTreeSet::from(SUBCOMMANDS));
}

#[test]
fn publish_reports_match_golden_files() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new();
    let mut masks = masks(&site);
    let first = trees::with_parents(trees::system());
    let mut text = String::new();
    let mut publish = |tree: &Tree, label: &str| {
        let _ = fs::remove_dir_all(site.image());
        trees::write(tree, &site.image());
        let run = server(&site, &["publish", "--image", "node", "--label", label]);
        text += &format!("=== {label}\n{}", masks.apply(&transcript(&run)));
    };

    publish(&first, "first");
    publish(&first, "unchanged");
    publish(&changed(&first, "silver\n"), "second");

    golden::check("publish", &mask_archive_sizes(&text));
}

#[test]
fn repository_reports_match_golden_files() {
    require!(ROOT_AND_RSYNC);

    let (site, _) = behind();
    let mut masks = masks(&site);
    let cases: [&[&str]; 7] = [
        &["list"],
        &["show", "--image", "node"],
        &["verify"],
        &["show", "--image", "node", "--generation", "nothing"],
        &["prune", "--image", "node", "--keep", "1"],
        &["list", "--image", "node"],
        &["list", "--image", "absent"],
    ];

    let mut text = String::new();
    for case in cases {
        let run = server(&site, case);
        text += &format!("=== {}\n{}", case.join(" "), masks.apply(&transcript(&run)));
    }

    golden::check("repository", &mask_archive_sizes(&text));
}

/// Sizes of compressed files depend on the version of the compressor.
fn mask_archive_sizes(text: &str) -> String {
    let mut masked = String::new();
    for line in text.lines() {
        if line.starts_with("published ") {
            masked += &mask_published_sizes(line);
            masked.push('\n');
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let archive = words.iter().position(|word| word.contains(".tar."));
        let size = words.windows(2).find(|pair| matches!(pair[1], "B" | "KiB" | "MiB"));

        match (archive, size) {
            (Some(_), Some(size)) => {
                let line = line.replace(&size.join(" "), "SIZE");
                masked += &line.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            _ => masked += line,
        }

        masked.push('\n');
    }

    masked
}

/// Replaces the sizes of archives in the summary of a publish.
fn mask_published_sizes(line: &str) -> String {
    let mut parts = line.split("; ");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (archive, _size) = part.split_once(": ").expect("an archive and its size");
        masked += &format!("; {archive}: SIZE");
    }
    masked
}

#[test]
fn json_events_of_each_outcome_match_golden_files() {
    require!(ROOT_AND_RSYNC);

    let (mut site, tree) = behind();
    let mut masks = masks(&site);
    let mut record = |name: &str, run: &Run| {
        golden::check(&format!("json/{name}"), &masks.apply(&events(run)));
    };
    let json = |site: &Site, more: &[&str]| run(site.command().arg("--json").args(more));
    let status = |site: &Site| {
        run(Command::new(CLIENT).args(["--status", "--json", "--root"]).arg(site.node()))
    };

    // A node of their own: a refused run may leave a part of its download to the next run.
    let (refusing, _) = behind();
    record("dry-run", &json(&refusing, &["--dry-run"]));
    record("deletion-budget", &json(&refusing, &["--max-delete", "0"]));

    record("status", &status(&site));
    record("update-by-diff", &json(&site, &["--no-fallback"]));
    record("up-to-date", &json(&site, &[]));
    record("status-with-undo", &status(&site));

    for (name, path) in
        [("image", "/usr/bin/tool"), ("exclude", "/tmp/x"), ("local", "/etc/absent")]
    {
        let mut command = site.command_with_node_excludes();
        record(&format!("why-{name}"), &run(command.args(["--json", "--why", path])));
    }

    let rollback =
        |site: &Site, more: &[&str]| run(site.rollback_command().arg("--json").args(more));
    record("rollback-dry-run", &rollback(&site, &["--dry-run"]));
    record("rollback", &rollback(&site, &[]));
    record("held", &json(&site, &[]));
    record("status-held", &status(&site));
    record("update-unhold", &json(&site, &["--unhold"]));

    site.publish(&changed(&tree, "copper\n"));
    fs::remove_dir_all(site.repo().join("node/diffs")).expect("removes the diffs");
    record("no-full-sync", &json(&site, &["--no-fallback"]));
    record("full-sync", &json(&site, &[]));

    trees::write_text(&site.node().join("etc/hostname"), "edited on the node\n");
    record("drift-report", &json(&site, &["--check", "content", "--drift", "report"]));
    record("status-deviates", &status(&site));
    record("drift-repair", &json(&site, &["--check", "content"]));

    site.publish(&changed(&tree, "lead\n"));
    fs::write(site.repo().join("node/head.toml"), "no catalog").expect("writes");
    record("untrusted-catalog", &json(&site, &[]));
    site.repo_url = "http://127.0.0.1:9/".to_owned();
    fs::create_dir_all(site.node().join("etc/systemimager")).expect("makes the directory");
    let config = site.node().join("etc/systemimager/updateclient.toml");
    trees::write_text(&config, "[download]\nattempts = 1\n");
    record("unreachable-server", &json(&site, &[]));
}

#[test]
fn reports_of_each_outcome_match_golden_files() {
    require!(ROOT_AND_RSYNC);

    let (site, tree) = behind();
    let mut masks = masks(&site);
    let mut text = String::new();
    let mut record = |name: &str, run: &Run| {
        text += &format!("=== {name}\n{}", masks.apply(&transcript(run)));
    };
    let (refusing, _) = behind();
    let update = |more: &[&str]| run(site.command().args(more));
    let rollback = |more: &[&str]| run(site.rollback_command().args(more));
    let status = |root: &Path| run(Command::new(CLIENT).args(["--status", "--root"]).arg(root));

    record("dry run", &run(refusing.command().arg("--dry-run")));
    record("deletion budget", &run(refusing.command().args(["--max-delete", "0"])));
    record("status", &status(&site.node()));
    record("update by diff", &update(&["--no-fallback"]));
    record("up to date", &update(&[]));
    record("status with undo", &status(&site.node()));
    record("why", &update(&["--why", "/etc/hostname"]));
    record("rollback, dry run", &rollback(&["--dry-run"]));
    record("rollback", &rollback(&[]));
    record("held", &update(&[]));
    record("status while held", &status(&site.node()));
    record("rollback of the rollback", &rollback(&[]));
    trees::write_text(&site.node().join("etc/hostname"), "edited on the node\n");
    record("drift, reported", &update(&["--check", "content", "--drift", "report"]));
    record("drift, repaired", &update(&["--check", "content"]));
    site.publish(&changed(&tree, "copper\n"));
    fs::remove_dir_all(site.repo().join("node/diffs")).expect("removes the diffs");
    record("no full sync", &update(&["--no-fallback"]));
    record("full sync", &update(&[]));

    golden::check("reports", &text);
}

#[test]
fn show_config_matches_golden_file() {
    let site = Site::new();
    let node = site.node();
    fs::create_dir(&node).expect("makes the node");
    let mut masks = masks(&site);
    let show = |more: &[&str]| {
        run(Command::new(CLIENT).args(["--show-config", "--root"]).arg(&node).args(more))
    };

    let defaults = show(&[]);
    let configuration =
        "image = \"node\"\nserver = \"head\"\nsplay = 60\n[download]\nattempts = 3\n";
    trees::write_text(&node.join("etc/systemimager/updateclient.toml"), configuration);
    trees::write_text(&node.join("etc/systemimager/overrides"), "rack-1\n");
    let configured = show(&["--diff", "--check", "content", "--max-delete", "10", "--no-fallback"]);
    let json = show(&["--json", "--splay", "5"]);

    golden::check("show-config/defaults", &masks.apply(&transcript(&defaults)));
    golden::check("show-config/configured", &masks.apply(&transcript(&configured)));
    golden::check("show-config/json", &masks.apply(&transcript(&json)));
}
