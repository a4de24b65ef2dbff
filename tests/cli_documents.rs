//! The documents agree with the help of the programs and with the tests.

use std::process::Command;

fn help(program: &str) -> String {
    let output = Command::new(program).arg("--help").output().expect("the program runs");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("help is text")
}

/// The text with single spaces, so that line breaks do not matter.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn exit_codes_of_operation_document_match_help() {
    let help = flat(&help(env!("CARGO_BIN_EXE_si_updateclient")));
    let operation = include_str!("../docs/operation.md");
    let rows: Vec<(&str, &str)> = operation
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .filter(|(code, _)| code.bytes().all(|b| b.is_ascii_digit()))
        .collect();

    assert!(rows.len() >= 12, "{rows:?}");

    for (code, meaning) in &rows {
        assert!(
            help.contains(&format!("{code} {meaning}")),
            "the help lacks the row: {code} {meaning}"
        );
    }

    let listed = help.split_once("Exit codes:").expect("exit codes in the help").1;
    let next = format!(" {} ", rows.len());

    assert!(!listed.contains(&next), "docs/operation.md lacks exit codes of the help");
}

#[test]
fn every_option_that_documents_name_exists() {
    let helps = [
        help(env!("CARGO_BIN_EXE_si_updateclient")),
        help(env!("CARGO_BIN_EXE_si_tardiff")),
        ["build", "publish", "serve", "show", "list", "manifest", "verify", "prune"]
            .map(|sub| {
                let output =
                    Command::new(env!("CARGO_BIN_EXE_si_tardiff")).args([sub, "--help"]).output();
                String::from_utf8(output.expect("the program runs").stdout).expect("help is text")
            })
            .join("\n"),
    ]
    .join("\n");
    let documents = [
        include_str!("../README.md"),
        include_str!("../docs/drop-in.md"),
        include_str!("../docs/operation.md"),
        include_str!("../docs/efforts.md"),
        include_str!("../packaging/README.md"),
        include_str!("../etc/tardiff.toml"),
        include_str!("../etc/updateclient.toml"),
        include_str!("../etc/updateclient.local.exclude"),
        include_str!("../scripts/demo"),
    ];

    // Options of rsync.
    let others = ["exclude-from", "delete", "checksum", "log-format", "out-format"];
    for document in documents {
        let lines = document.lines().filter(|line| line.contains("si_") || !line.contains("rsync"));
        for option in lines.filter(|line| !is_for_another_program(line)).flat_map(options_in) {
            let known = helps.contains(&format!("--{option}")) || others.contains(&option.as_str());
            assert!(known, "--{option} is named in a document, but no program has it");
        }
    }
}

fn is_for_another_program(line: &str) -> bool {
    ["rsync ", "sudo", "ip ", "rsync-a", "dracut ", "systemctl "]
        .iter()
        .any(|other| line.contains(other))
        && !line.contains("si_")
}

/// The long options in a line.
fn options_in(line: &str) -> Vec<String> {
    let word = |rest: &str| {
        rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect::<String>()
    };
    line.match_indices("--")
        .filter(|(at, _)| line[..*at].chars().next_back().is_none_or(|c| " `(\"=|".contains(c)))
        .map(|(at, _)| word(&line[at + 2..]))
        .filter(|option| !option.is_empty() && !option.starts_with('-'))
        .collect()
}

/// Each row of the table has tests that exist.
#[test]
fn every_test_that_the_table_names_exists() {
    let table = include_str!("../docs/drop-in.md");
    let named: Vec<&str> =
        table.split('`').filter(|word| word.contains("::") && !word.contains(' ')).collect();

    assert!(named.len() > 40, "{named:?}");

    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in named.iter().filter(|name| **name != "Getopt::Long") {
        let (module, test) = name.split_once("::").expect("a module and a test");
        let places = [
            format!("tests/{module}.rs"),
            format!("src/{module}/tests.rs"),
            format!("src/cli/updateclient/{module}.rs"),
        ];
        let has = |place: &String| {
            std::fs::read_to_string(top.join(place))
                .is_ok_and(|text| text.contains(&format!("fn {test}()")))
        };

        assert!(places.iter().any(has), "docs/drop-in.md names {name}, which is not a test");
    }

    // Every historic option has a row.
    for option in [
        "help",
        "version",
        "server",
        "image",
        "override",
        "directory",
        "no-bootloader",
        "autoinstall",
        "flavor",
        "append",
        "configure-from",
        "ssh-user",
        "reboot",
        "dry-run",
        "no-delete",
        "log",
        "yes",
    ] {
        let begins = |line: &str| {
            line.starts_with("| ")
                && line[..line.find(" | ").unwrap_or(0)].contains(&format!("`--{option}"))
        };
        assert!(table.lines().any(begins), "--{option} has no row");
    }
}
