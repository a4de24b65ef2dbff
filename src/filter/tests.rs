use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use EntryKind::{Directory, Other};

fn path(bytes: impl AsRef<[u8]>) -> TreePath {
    TreePath::new(bytes.as_ref()).expect("a good path")
}

fn filter(rules: impl AsRef<[u8]>) -> Filter {
    Filter::builder().exclude_file("test", rules.as_ref()).expect("good rules").build()
}

/// Whether a path is excluded; a final slash marks a directory.
fn is_excluded(filter: &Filter, at: &str) -> bool {
    let kind = if at.ends_with('/') { Directory } else { Other };
    filter.excludes(&path(at.trim_end_matches('/')), kind).is_some()
}

#[track_caller]
fn assert_rules(rules: &str, hidden: &[&str], shown: &[&str]) {
    let filter = filter(rules);
    for at in hidden {
        assert!(is_excluded(&filter, at), "{rules:?} excludes {at}");
    }
    for at in shown {
        assert!(!is_excluded(&filter, at), "{rules:?} does not exclude {at}");
    }
}

#[test]
fn included_file_is_shown_alone() {
    let shown = "srv/conf/rules";
    for rules in ["*", "/srv", "/srv/conf/", "conf", "rules", "/srv/*", "/srv/**"] {
        let builder = Filter::builder().including(Some(path(shown)));
        let with = builder.exclude_file("test", rules.as_bytes()).expect("good rules").build();
        let without = filter(rules);

        assert!(is_excluded(&without, shown), "{rules}");
        assert!(!is_excluded(&with, shown), "{rules}");
        for other in ["srv/conf/other", "srv/other/", "srv/other/rules", "etc/a", "etc/", "a"] {
            let excluded = is_excluded(&without, other);
            assert_eq!(is_excluded(&with, other), excluded, "{rules} {other}");
        }
    }
    let keys = "etc/systemimager/keys/a.pub";
    let builder = Filter::builder().including(Some(path("etc/conf/rules")));
    let both = builder.exclude_file("test", b"/etc").expect("good rules").build();
    assert!(!is_excluded(&both, keys) && !is_excluded(&both, "etc/conf/rules"));
    assert!(is_excluded(&both, "etc/conf/other") && is_excluded(&both, "etc/systemimager/keys/a"));
}

#[test]
fn names_tails_and_anchored_patterns_match_by_component() {
    assert_rules("core", &["core", "a/core/", "core/below"], &["cores", "a/score"]);
    assert_rules("a/b", &["a/b", "x/a/b"], &["xa/b", "a/bx", "b"]);
    assert_rules("/a/b", &["a/b", "a/b/c"], &["x/a/b"]);
    assert_rules("logs/", &["logs/", "x/logs/", "x/logs/y"], &["logs", "x/logs"]);
    assert_rules("/", &[], &["a", "a/"]);
}

#[test]
fn stars_match_as_in_rsync() {
    assert_rules("*.o", &["a.o", "x/b.o"], &["a.ob", "a.o.c"]);
    assert_rules("/v/*", &["v/a", "v/a/b"], &["v/", "w/v/a"]);
    assert_rules("/v/**/z", &["v/a/z", "v/a/b/z"], &["v/z"]);
    assert_rules("**/z", &["z", "a/z", "a/b/z"], &["az"]);
    assert_rules("d/***", &["d/", "x/d/", "d/a"], &["d", "da"]);
    assert_rules("/d/***", &["d/", "d/a"], &["x/d/", "d"]);
    assert_rules("a?c", &["abc"], &["ac", "a/c"]);
    assert_rules("a**c", &["abc", "a/c", "x/a/b/c"], &["xac/b"]);
    assert_rules("a/*/c", &["a/b/c", "x/a/b/c"], &["a/b/b/c"]);
}

#[test]
fn classes_match_as_in_rsync() {
    assert_rules("[a-c]", &["a", "b", "c"], &["d", "-"]);
    assert_rules("[!a-c]", &["d", "-"], &["a", "dd"]);
    assert_rules("[^]]", &["a"], &["]"]);
    assert_rules("[]a-]", &["]", "a", "-"], &["b"]);
    assert_rules("x[[:digit:][:upper:]_]", &["x1", "xA", "x_"], &["xa", "x:"]);
    assert_rules("x[[:nothing:]]", &[], &["x:", "xn", "x[[:nothing:]]"]);
    assert_rules("x[a", &[], &["xa", "x[a"]);
    assert_rules("x[\\]]", &["x]"], &["x\\"]);
    assert_rules("a[!x]b/*", &[], &["a/b/c"]);
}

#[test]
fn backslash_escapes_only_in_pattern_with_wildcard() {
    assert_rules("a\\b", &["a\\b"], &["ab"]);
    assert_rules("a\\b*", &["ab", "abc"], &["a\\b"]);
    assert_rules("a\\*", &["a*"], &["ab", "a\\*"]);
    assert_rules("*\\", &[], &["a\\", "a"]);
}

#[test]
fn first_match_decides_and_excluded_directory_excludes_content() {
    assert_rules("+ keep\n*", &["x", "x/keep"], &["keep"]);
    assert_rules("+ */\n+ *.c\n*", &["a.o", "d/a.o"], &["a.c", "d/", "d/a.c"]);
    assert_rules("a\n!\nb", &["b"], &["a"]);
    assert_rules("# x\n; y\n\n- a\r+ b\r\nc ", &["a", "c "], &["# x", "b", "c"]);
    assert_rules("!a", &["!a"], &["a"]);
}

#[test]
fn bad_rule_reported_with_line() {
    let error = |rules: &[u8]| {
        Filter::builder()
            .exclude_file("local.exclude", rules)
            .map(|_| ())
            .expect_err("bad rules")
            .to_string()
    };

    assert_eq!(error(b"a\n\n- \n"), "local.exclude:3: a rule needs a pattern: - ");
    assert_eq!(error(b"a\0b"), "local.exclude:1: a pattern cannot hold a NUL: a\\000b");
    assert!(error(&[b'x'; MAX_PATTERN_PLUS]).contains("longer than 4095"));
    assert!(error(&vec![b'\n'; MAX_EXCLUDE_FILE + 1]).contains("1 MiB"));
    assert!(error("a\n".repeat(MAX_RULES + 1).as_bytes()).starts_with("local.exclude:10001:"));
}

const MAX_PATTERN_PLUS: usize = pattern::MAX_PATTERN + 1;

#[test]
fn built_in_rules_cannot_be_removed_or_overruled() {
    let filter = Filter::builder()
        .foreign_mounts([path("proc"), path("mnt/*odd*\n")])
        .exclude_file("test", b"!\n+ *\n+ .si-*")
        .expect("good rules")
        .build();
    let hidden = [
        ".si-stage/",
        ".si-undo/3",
        ".si-downloaded/record",
        "boot/.si-downloaded/",
        "boot/.si-stage/",
        "srv/@/boot/.si-undo/1",
        "var/lib/systemimager/client/state.toml",
        "etc/systemimager/IMAGE_LAST_SYNCED_TO",
        "home/lost+found/x",
        "proc/",
        "proc/1",
    ];

    for at in hidden {
        assert!(is_excluded(&filter, at), "{at}");
    }
    assert!(filter.excludes(&path("mnt/*odd*\n"), Directory).is_some());
    for at in [
        "home/.si-stage",
        "home/.si-x/",
        "mnt/oddy",
        "lost+found",
        "var/lib/systemimager/client",
        "process",
    ] {
        assert!(!is_excluded(&filter, at), "{at}");
    }
}

#[test]
fn reason_names_rule() {
    let filter = filter("a\n/var/log/**\n");
    let reason = filter.excludes(&path("var/log/x/y"), Other).expect("is excluded");
    assert_eq!(reason.to_string(), "test:2: /var/log/**");
    assert!(reason.is_configured());
    let reason = filter.excludes(&path(".si-stage"), Directory).expect("is excluded");
    assert_eq!(reason.to_string(), "the agent's own state (/.si-*)");
    assert!(!reason.is_configured());
}

#[test]
fn agent_configuration_and_keys_protected() {
    let filter = Filter::builder().build();

    for at in
        ["usr/sbin/si_updateclient", "etc/systemimager/keys", "etc/systemimager/keys/site.pub"]
    {
        assert!(filter.protects(&path(at)), "{at}");
        assert!(filter.excludes(&path(at), Other).is_none(), "{at}");
    }
    assert!(!filter.protects(&path("etc/systemimager")));
    assert!(!filter.protects(&path("etc/systemimager/keys2")));
}

#[test]
fn digest_depends_on_rules_only() {
    assert_eq!(filter("a\nb").digest(), filter("# why\n- a\n\nb\n").digest());
    assert_ne!(filter("a\nb").digest(), filter("b\na").digest());
    assert_ne!(filter("a").digest(), filter("+ a").digest());
    let mounts =
        |paths: [&str; 2]| Filter::builder().foreign_mounts(paths.map(path)).build().digest();
    assert_eq!(mounts(["proc", "sys"]), mounts(["sys", "proc"]));
}

#[test]
fn cursor_in_any_order_equals_filter() {
    let filter = filter("+ /a/b/keep\n/a/b/*\nc/\n*.o");
    let mut paths: Vec<(TreePath, EntryKind)> = [
        ("a", Directory),
        ("a/b", Directory),
        ("a/b/keep", Directory),
        ("a/b/keep/x", Other),
        ("a/b/q/z", Other),
        ("a/bb", Directory),
        ("c", Directory),
        ("c/d/e", Other),
        ("cc", Other),
        ("d/c", Other),
        ("x.o", Directory),
    ]
    .map(|(at, kind)| (path(at), kind))
    .into();

    for turn in 0..paths.len() {
        paths.rotate_left(1);
        if turn % 2 == 1 {
            paths.reverse();
        }
        let mut cursor = filter.cursor();
        for (path, kind) in &paths {
            let expected = filter.excludes(path, *kind).map(|reason| reason.rule);
            assert_eq!(cursor.excludes(path, *kind).map(|reason| reason.rule), expected, "{path}");
        }
    }
}

#[test]
fn hostile_pattern_takes_bounded_time() {
    let begun = Instant::now();
    let text = path(["a".repeat(250).as_str(); 16].join("/"));
    for pattern in
        ["**a".repeat(1300), "*a".repeat(2000) + "b", "a**/".repeat(1000), "?".repeat(4095)]
    {
        let _ = filter(&pattern).excludes(&text, Other);
    }

    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
}

#[test]
fn deepest_mount_point_excluded() {
    let deep = path(["d".repeat(200).as_str(); 20].join("/") + "/" + &"e".repeat(75));
    let filter = Filter::builder().foreign_mounts([deep.clone()]).build();
    assert!(filter.excludes(&deep, Directory).is_some());
}

fn any_kind() -> impl Strategy<Value = EntryKind> {
    prop_oneof![Just(Directory), Just(Other)]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(rules in any::<Vec<u8>>(), at in any::<Vec<u8>>(), kind in any_kind()) {
        if let (Ok(builder), Ok(path)) = (Filter::builder().exclude_file("x", &rules), TreePath::new(at)) {
            let filter = builder.build();
            let _ = filter.excludes(&path, kind);
            let _ = filter.rsync_rules();
        }
    }

    #[test]
    fn arbitrary_pattern_never_panics(rules in "[-+!*?\\[\\]\\\\:/ab\n ]{0,40}", at in "[]\\[:ab*\\\\-]{1,8}(/[]\\[ab:-]{1,4}){0,3}") {
        if let (Ok(builder), Ok(path)) = (Filter::builder().exclude_file("x", rules.as_bytes()), TreePath::new(at)) {
            let filter = builder.build();
            let _ = filter.excludes(&path, Directory);
        }
    }
}

/// Nodes record this digest. If it changes, each node of each site searches once for paths that are
/// no longer excluded.
#[test]
fn digest_of_plain_filter_unchanged() {
    let plain = Filter::builder().exclude_file("x", b"/tmp/*\n+ /a\n").expect("good rules").build();
    assert_eq!(
        plain.digest().to_string(),
        "32a5060c1c58d957041018c9b5d5f9e870e5d98c614fecbc401914dd9e3bfc36"
    );
}

#[test]
fn rule_without_directory_is_bare_name() {
    let filter = Filter::builder()
        .exclude_file("rules", b"__pycache__/\n*.tmp\n/var/log/*\ncache/*\n")
        .expect("good rules")
        .build();

    for (path, expected) in [
        ("usr/lib/__pycache__", true),
        ("usr/lib/x.tmp", true),
        ("var/log/web", false),
        ("srv/cache/one", false),
    ] {
        let path = TreePath::new(path).expect("a good path");
        let reason = filter.excludes(&path, EntryKind::Directory).expect("excluded");
        assert_eq!(reason.is_bare_name(), expected, "{path}");
    }
}

#[test]
fn selecting_rules_include_named_paths_only() {
    let paths = |texts: &[&str]| -> Vec<TreePath> {
        texts.iter().map(|text| TreePath::new(*text).expect("a good path")).collect()
    };

    let rules = Filter::builder()
        .build()
        .rsync_rules_selecting(&paths(&["var/log", "srv/a*b"]), &paths(&["etc/fstab"]));

    let rules = String::from_utf8(rules).expect("text");
    let (_, selecting) = rules.split_once("- lost+found/\n").expect("the built-in rules");
    assert_eq!(
        selecting,
        "+ /var/\n+ /srv/\n+ /etc/\n+ /var/log/\n+ /var/log/**/\n+ /srv/a\\*b/\n\
         + /srv/a\\*b/**/\n+ /etc/fstab\n- *\n"
    );
}
