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
fn options_named_in_documents_exist() {
    let helps = [
        help(env!("CARGO_BIN_EXE_si_updateclient")),
        help(env!("CARGO_BIN_EXE_si_tardiff")),
        [
            "build", "publish", "serve", "show", "list", "manifest", "verify", "prune", "keygen",
            "sign", "refresh", "proof",
        ]
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

    // Options of rsync, and one of curl.
    let others = ["exclude-from", "delete", "checksum", "log-format", "out-format", "pinnedpubkey"];
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

/// Files in which a test that a document names `MODULE::NAME` can be.
fn files_of_module(module: &str) -> Vec<String> {
    let mut files = vec![
        format!("tests/{module}.rs"),
        format!("src/{module}.rs"),
        format!("src/{module}/tests.rs"),
        format!("src/cli/updateclient/{module}.rs"),
    ];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(module);
    if let Ok(listed) = folder.read_dir() {
        files.extend(listed.map(|entry| {
            let name = entry.expect("an entry").file_name();
            format!("tests/{module}/{}", name.to_string_lossy())
        }));
    }
    files
}

fn read_in_repository(path: &str) -> Option<String> {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// The words of a text that are between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_test(name: &str) -> bool {
    let (module, test) = name.rsplit_once("::").expect("a module and a test");
    let attribute_and_head = format!("#[test]\nfn {test}()");

    files_of_module(module)
        .iter()
        .filter_map(|file| read_in_repository(file))
        .map(|text| text.lines().map(str::trim_start).collect::<Vec<_>>().join("\n"))
        .any(|text| text.contains(&attribute_and_head))
}

#[test]
fn tests_named_in_documents_exist() {
    let documents = [("docs/drop-in.md", 40), ("docs/recovery.md", 50), ("docs/security.md", 70)];
    for (document, least) in documents {
        let text = read_in_repository(document).expect("the document exists");
        let named: Vec<&str> = quoted(&text)
            .filter(|word| word.contains("::") && !word.ends_with("::NAME"))
            .filter(|word| {
                word.bytes()
                    .all(|b| b.is_ascii_lowercase() || b"/:_".contains(&b) || b.is_ascii_digit())
            })
            .collect();

        assert!(named.len() >= least, "{document}: {named:?}");

        for name in named {
            assert!(is_test(name), "{document} names {name}, which is not a test");
        }
    }
}

/// Each limit is defined in the file beside it: `NAME`, `NAME` in `FILE`; `NAME` in `FILE`.
#[test]
fn limits_named_in_security_document_exist() {
    let text = read_in_repository("docs/security.md").expect("the document exists");
    let table = text.split_once("## Limits on input").expect("the section exists").1;
    let rows: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'))
        .filter_map(|line| line.trim_end_matches(" |").rsplit(" | ").next())
        .collect();

    assert!(rows.len() > 30, "{rows:?}");

    for part in rows.iter().flat_map(|row| row.split("; ")) {
        let (names, files) = part.split_once(" in ").expect("names and the files with them");
        for file in quoted(files) {
            let text = read_in_repository(file)
                .unwrap_or_else(|| panic!("docs/security.md names {file}, which does not exist"));
            for name in quoted(names) {
                assert!(is_limit(name, &text), "docs/security.md: {name} is not in {file}");
            }
        }
    }
}

/// Whether the text defines the constant, the type or the setting, or names the resource limit.
fn is_limit(name: &str, text: &str) -> bool {
    [
        format!("const {name}: "),
        format!("struct {name} {{"),
        format!("\n#{name} = "),
        format!("(`{name}`)"),
    ]
    .iter()
    .any(|definition| text.contains(definition))
}

#[test]
fn every_historic_option_has_a_row() {
    let table = include_str!("../docs/drop-in.md");

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
