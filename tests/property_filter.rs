//! Our filter and rsync agree about every path, for any rules.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::common::{require, scratch};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use systemimager::entry::EntryKind;
use systemimager::filter::Filter;
use systemimager::tree_path::TreePath;

const NAMES: [&str; 12] = ["a", "b", "ab", "abc", "A1", "[a]", "a]", "*", "a\\b", "-", "c d", ".x"];

/// Makes three levels of directories and files with names that look like patterns.
fn build(top: &Path) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    for one in NAMES {
        all.push((one.to_owned(), true));
        for two in NAMES {
            all.push((format!("{one}/{two}"), two.len() != 2));
            if two.len() == 2 {
                continue;
            }
            let three = NAMES.iter().filter(|name| (name.len() + one.len() + two.len()) % 3 == 0);
            all.extend(three.map(|three| (format!("{one}/{two}/{three}"), three.len() == 3)));
        }
    }

    for (path, is_dir) in &all {
        if *is_dir {
            std::fs::create_dir_all(top.join(path)).expect("a directory");
        } else {
            std::fs::write(top.join(path), "").expect("a file");
        }
    }

    all
}

/// The paths that rsync would transfer.
fn transferred(image: &Path, filter: &str) -> BTreeSet<String> {
    let mut rsync = Command::new("rsync");
    rsync
        .args(["-rn8", "--out-format=%n", filter])
        .arg(format!("{}/", image.display()))
        .arg("/nonexistent/");
    let listed = crate::common::run(&mut rsync);
    let path = |line: &str| line.trim_end_matches('/').replace("\\#134", "\\");
    let headline = |line: &&str| *line != "created directory /nonexistent" && *line != "./";
    listed.lines().filter(headline).map(path).collect()
}

/// The paths that our filter does not exclude.
fn let_through(filter: &Filter, paths: &[(String, bool)]) -> BTreeSet<String> {
    let mut cursor = filter.cursor();
    paths
        .iter()
        .filter(|(path, is_dir)| {
            let path = TreePath::new(path.as_str()).expect("a good path");
            let kind = if *is_dir { EntryKind::Directory } else { EntryKind::Other };
            let excluded = cursor.excludes(&path, kind).is_some();
            assert_eq!(excluded, filter.excludes(&path, kind).is_some(), "{path}");
            !excluded
        })
        .map(|(path, _)| path.clone())
        .collect()
}

fn any_rules() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "b",
        "ab",
        "A1",
        "c d",
        ".x",
        "/",
        "/",
        "*",
        "*",
        "**",
        "***",
        "?",
        "[",
        "]",
        "[ab]",
        "[!a]",
        "[^b-z]",
        "[]a]",
        "[a-]",
        "[[:alpha:]]",
        "[[:punct:]_1]",
        "[[:x:]]",
        "[[:",
        "[\\]]",
        "[a-\\c]",
        "[/]",
        "\\",
        "\\*",
        "\\[",
        "-",
        "!",
        "**/",
        "/**",
        "/*/",
        "[a]",
        "[!-~]",
    ]);
    let pattern = prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat());
    let prefix = prop::sample::select(vec!["", "", "- ", "+ ", "/", "+ /", "- /"]);
    let suffix = prop::sample::select(vec!["", "", "", "/", "/*", "/***", " ", "\r"]);
    let line = prop_oneof![
        20 => (prefix, pattern, suffix)
            .prop_map(|(prefix, pattern, suffix)| format!("{prefix}{pattern}{suffix}")),
        1 => prop::sample::select(vec!["!", "", "# a", ";b", "+ */"]).prop_map(str::to_owned),
    ];

    prop::collection::vec(line, 1..6).prop_map(|lines| lines.join("\n"))
}

#[test]
fn any_rules_exclude_same_paths_as_rsync() {
    require!(Program("rsync"));

    let dir = scratch();
    let image = dir.path().join("image");
    let paths = build(&image);
    let (exclude_file, merge_file) = (dir.path().join("exclude"), dir.path().join("merge"));

    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let check = |rules: String| {
        // Both rsync and our filter refuse a rule without a pattern.
        let Ok(builder) = Filter::builder().exclude_file("rules", rules.as_bytes()) else {
            return Ok(());
        };
        let filter = builder.build();
        std::fs::write(&exclude_file, &rules).expect("the exclude file");
        std::fs::write(&merge_file, filter.rsync_rules()).expect("the merge file");
        let ours = let_through(&filter, &paths);
        let as_written = transferred(&image, &format!("--exclude-from={}", exclude_file.display()));
        prop_assert_eq!(&ours, &as_written, "{}", rules);
        let as_merged = transferred(&image, &format!("--filter=merge {}", merge_file.display()));
        prop_assert_eq!(&ours, &as_merged, "as a merge file: {}", rules);
        Ok(())
    };
    TestRunner::new(config).run(&any_rules(), check).unwrap_or_else(|e| panic!("{e}"));
}

/// Rules about the directories that hold the keys of an image.
fn any_rules_about_keys() -> impl Strategy<Value = String> {
    let patterns = [
        "/etc",
        "/etc/",
        "/etc/*",
        "/etc/**",
        "/etc/***",
        "etc/systemimager",
        "systemimager/",
        "/etc/systemimager/*",
        "/etc/systemimager/**",
        "keys",
        "keys/*",
        "/etc/systemimager/keys/",
        "head",
        "revoked/",
        "*.pub",
        "*.key",
        "*",
        "!",
    ];
    let prefix = prop::sample::select(vec!["", "- ", "+ "]);
    let line = (prefix, prop::sample::select(patterns.to_vec())).prop_map(|(prefix, pattern)| {
        if pattern == "!" { pattern.to_owned() } else { format!("{prefix}{pattern}") }
    });
    prop::collection::vec(line, 1..5).prop_map(|lines| lines.join("\n"))
}

#[test]
fn keys_are_included_under_any_rules_and_nothing_else_is() {
    require!(Program("rsync"));
    let dir = scratch();
    let (image, merge_file) = (dir.path().join("image"), dir.path().join("merge"));
    let exclude_file = dir.path().join("exclude");
    let files = [
        "etc/passwd",
        "etc/systemimager/client.conf",
        "etc/systemimager/keys/site.pub",
        "etc/systemimager/keys/node.key",
        "etc/systemimager/keys/head/head.pub",
        "etc/systemimager/keys/head/head.txt",
        "etc/systemimager/keys/revoked/lost.pub",
        "etc/systemimager/keys/other/site.pub",
        "usr/site.pub",
    ];
    let directories = ["etc", "etc/systemimager", "etc/systemimager/keys", "usr"];
    let below = ["head", "revoked", "other"].map(|name| format!("etc/systemimager/keys/{name}"));
    let mut paths: Vec<(String, bool)> = files.map(|file| (file.to_owned(), false)).into();
    paths.extend(directories.iter().map(|dir| ((*dir).to_owned(), true)));
    paths.extend(below.into_iter().map(|dir| (dir, true)));
    for (path, is_dir) in &paths {
        let place = image.join(path);
        let dir = if *is_dir { place.as_path() } else { place.parent().expect("is below") };
        std::fs::create_dir_all(dir).expect("a directory");
        if !is_dir {
            std::fs::write(place, "").expect("a file");
        }
    }
    let is_key = |path: &str| {
        let place = path.strip_prefix("etc/systemimager/keys").filter(|_| path.ends_with(".pub"));
        place.is_some_and(|place| !place.starts_with("/other"))
    };
    let is_above_keys = |path: &str| {
        path == "etc" || path == "etc/systemimager" || path.starts_with("etc/systemimager/keys")
    };

    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let check = |rules: String| {
        let builder = Filter::builder().exclude_file("rules", rules.as_bytes()).expect("rules");
        let filter = builder.build();
        std::fs::write(&exclude_file, &rules).expect("the exclude file");
        std::fs::write(&merge_file, filter.rsync_rules()).expect("the merge file");

        let ours = let_through(&filter, &paths);
        let as_merged = transferred(&image, &format!("--filter=merge {}", merge_file.display()));
        prop_assert_eq!(&ours, &as_merged, "as a merge file: {}", rules);
        let as_written = transferred(&image, &format!("--exclude-from={}", exclude_file.display()));
        for (path, is_dir) in &paths {
            if is_key(path) {
                prop_assert!(ours.contains(path), "{path}: {rules}");
            } else if !(*is_dir && is_above_keys(path)) {
                let (found, wanted) = (ours.contains(path), as_written.contains(path));
                prop_assert_eq!(found, wanted, "{}: {}", path, rules);
            }
        }
        Ok(())
    };
    TestRunner::new(config).run(&any_rules_about_keys(), check).unwrap_or_else(|e| panic!("{e}"));
}

/// Trees of any shape: at most thirty paths, each a file or a directory.
fn any_shape() -> impl Strategy<Value = Vec<(String, bool)>> {
    let names =
        ["a", "b", "ab", "abc", "A1", "[a]", "*", "a\\b", "-", "c d", ".x", "tmp", "a?b", "é"];
    let path = prop::collection::vec(prop::sample::select(names.to_vec()), 1..5)
        .prop_map(|names| names.join("/"));

    prop::collection::vec((path, prop::bool::ANY), 1..30).prop_map(|paths| {
        let mut tree: std::collections::BTreeMap<String, bool> = std::collections::BTreeMap::new();

        for (path, is_dir) in paths {
            let above: Vec<String> =
                path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
            if above.iter().all(|above| tree.get(above) != Some(&false))
                && !tree.contains_key(&path)
            {
                tree.extend(above.into_iter().map(|above| (above, true)));
                tree.insert(path, is_dir);
            }
        }

        tree.into_iter().collect()
    })
}

#[test]
fn any_tree_under_any_rules_matches_rsync() {
    require!(Program("rsync"));

    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let check = |(paths, rules): (Vec<(String, bool)>, String)| {
        let Ok(builder) = Filter::builder().exclude_file("rules", rules.as_bytes()) else {
            return Ok(());
        };
        let dir = scratch();
        let image = dir.path().join("image");
        for (path, is_dir) in &paths {
            if *is_dir {
                std::fs::create_dir_all(image.join(path)).expect("a directory");
            } else {
                std::fs::create_dir_all(image.join(path).parent().expect("is below"))
                    .expect("a directory");
                std::fs::write(image.join(path), "").expect("a file");
            }
        }
        let filter = builder.build();
        let merge_file = dir.path().join("merge");
        std::fs::write(&merge_file, filter.rsync_rules()).expect("the merge file");
        let ours = let_through(&filter, &paths);
        let theirs = transferred(&image, &format!("--filter=merge {}", merge_file.display()));
        prop_assert_eq!(&ours, &theirs, "{}", rules);
        Ok(())
    };
    TestRunner::new(config)
        .run(&(any_shape(), any_rules()), check)
        .unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn odd_mount_points_are_excluded_by_rsync_too() {
    require!(Program("rsync"));

    let dir = scratch();
    let image = dir.path().join("image");
    let names: Vec<&[u8]> = crate::common::trees::ODD_NAMES.to_vec();
    let mut tree = crate::common::trees::Tree::new();
    for name in &names {
        tree.insert([*name, b"/below"].concat(), crate::common::trees::Item::file("x"));
    }
    crate::common::trees::write(&tree, &image);
    let mounts = names.iter().map(|name| TreePath::new(*name).expect("a good path"));
    let filter = Filter::builder().foreign_mounts(mounts).build();
    let merge_file = dir.path().join("merge");
    std::fs::write(&merge_file, filter.rsync_rules()).expect("the merge file");
    let left = transferred(&image, &format!("--filter=merge {}", merge_file.display()));

    assert_eq!(left, BTreeSet::new());
}
