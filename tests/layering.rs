//! A module of the library names only modules of lower layers, and of its own layer only those that
//! stand before it. So there is no circle, and the table in `src/lib.rs` stays true.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom to the top; within a layer from left to right.
const LAYERS: [(&str, &[&str]); 7] = [
    ("words", &["tree_path", "digest", "entry", "generation", "image"]),
    ("rules", &["report", "manifest", "catalog", "plan", "filter", "delta", "diff_archive"]),
    ("one outside thing each", &["allocator", "root", "process", "rsync", "state", "host"]),
    ("fetching", &["fetch"]),
    ("machinery", &["scan", "apply", "full_sync", "publish"]),
    ("jobs", &["update", "tardiff", "autoinstall"]),
    ("edge", &["cli"]),
];

#[test]
fn modules_name_only_lower_layers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in rust_files(&src) {
        let inside = file.strip_prefix(&src).expect("below src");
        let Some(module) = module_of(inside) else { continue };
        let Some(own) = rank(&module) else {
            wrong.push(format!("src/{}: the module {module} is in no layer", inside.display()));
            continue;
        };
        let text = fs::read_to_string(&file).expect("a source file");
        for (number, named) in named_modules(&text, depth(inside)) {
            let allowed = named == module || rank(&named).is_some_and(|other| other < own);
            if !allowed {
                let line = text.lines().nth(number).unwrap_or_default().trim();
                wrong.push(format!(
                    "src/{}:{}: {module} names {named}: {line}",
                    inside.display(),
                    number + 1
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "against the layers:\n{}", wrong.join("\n"));
}

#[test]
fn every_declared_module_has_a_layer_and_the_documentation_says_the_same() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
        .expect("src/lib.rs");
    let declared = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    for module in declared {
        let (layer, _) = rank(module).unwrap_or_else(|| panic!("{module} is in no layer"));
        let row = format!("//! | {layer} ");
        let documented = text
            .lines()
            .any(|line| line.starts_with(&row) && line.contains(&format!("[`{module}`]")));
        assert!(documented, "src/lib.rs does not show {module} in layer {layer}");
    }
}

/// Layer, and place within it.
fn rank(module: &str) -> Option<(usize, usize)> {
    LAYERS
        .iter()
        .enumerate()
        .find_map(|(layer, (_, modules))| Some((layer, modules.iter().position(|m| *m == module)?)))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The top-level module that a file belongs to; `lib.rs` and the programs belong to none.
fn module_of(inside: &Path) -> Option<String> {
    let first = inside.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!["lib", "bin"].contains(&name)).then(|| name.to_owned())
}

/// How many `super::` lead from a file to the top of the crate.
fn depth(inside: &Path) -> usize {
    let components = inside.components().count();
    if inside.ends_with("mod.rs") { components - 1 } else { components }
}

/// Top-level modules named in code, with the line (from 0); comments and their links do not count.
fn named_modules(text: &str, depth: usize) -> Vec<(usize, String)> {
    let code: String = text.lines().map(without_comment).flat_map(|line| [line, "\n"]).collect();
    // a module inside the file is one `super::` further down
    let inline = code.find("\nmod tests {").unwrap_or(code.len());
    let mut found = Vec::new();
    for (start, levels) in
        [("crate::".to_owned(), 0), ("super::".repeat(depth), 0), ("super::".repeat(depth + 1), 1)]
    {
        for (at, _) in code.match_indices(&start) {
            if start.starts_with("super") && (at > inline) != (levels == 1) {
                continue;
            }
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let line = code[..at].matches('\n').count();
            found.extend(
                first_segments(&code[at + start.len()..]).into_iter().map(|name| (line, name)),
            );
        }
    }
    found
}

/// `a` of `a::b`, and `a` and `c` of `{a::b, c::{d, e}}`.
fn first_segments(code: &str) -> Vec<String> {
    let word = |code: &str| {
        code.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let Some(group) = code.strip_prefix('{') else { return vec![word(code)] };
    let mut segments = vec![word(group.trim_start())];
    let mut open = 1;
    for (at, c) in group.char_indices() {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            ',' if open == 1 => segments.push(word(group[at + 1..].trim_start())),
            _ => {}
        }
        if open == 0 {
            break;
        }
    }
    segments.retain(|segment| !segment.is_empty());
    segments
}

fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with("//") { "" } else { line }
}

#[test]
fn the_reader_of_this_test_sees_every_form() {
    let code = "use crate::a::B;\nuse crate::{b, c::{d, e},\n  f::G};\n// crate::no\nlet x = super::super::g::H;\n\
        $crate::no\nmod tests {\n    use super::super::no;\n    use super::super::super::h::I;\n}\n";
    let names: Vec<String> = named_modules(code, 2).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["a", "b", "c", "f", "g", "h"]);
}
