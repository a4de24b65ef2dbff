//! The order of modules: a module names only modules of lower layers, and of its own layer only
//! those before it; the files of a folder do not use one another in a circle.
//!
//! Both rules keep a change local: a file can be read, and tested, with only the files below it.
//! Without the first rule the table in `src/lib.rs` would be a wish.
//!
//! A folder's `mod.rs` is no part of the second rule: it is the face of the folder, which names its
//! files and defines the types that they share. Tests are no part of it either.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// From the bottom to the top; within a layer from left to right.
const LAYERS: [(&str, &[&str]); 7] = [
    (
        "words",
        &[
            "acl",
            "printable",
            "tree_path",
            "client_paths",
            "digest",
            "entry",
            "generation",
            "image",
        ],
    ),
    (
        "rules",
        &[
            "report",
            "cancel",
            "replay",
            "signature",
            "manifest",
            "catalog",
            "plan",
            "filter",
            "delta",
            "diff_archive",
        ],
    ),
    ("one outside thing each", &["allocator", "root", "process", "rsync", "state", "host"]),
    ("fetching", &["fetch"]),
    ("machinery", &["scan", "apply", "full_sync", "signing", "publish"]),
    ("jobs", &["update", "tardiff", "autoinstall"]),
    ("edge", &["cli"]),
];

/// Absolute path of a module or an item, without `crate`.
type ModulePath = Vec<String>;

/// A file of the library.
struct Source {
    /// Path below `src`.
    file: String,
    module: ModulePath,
    /// The text without comments.
    code: String,
}

/// A path in the code of a file.
struct Reference {
    /// From 1.
    line: usize,
    path: ModulePath,
    in_tests: bool,
}

#[test]
fn modules_name_only_lower_layers() {
    let mut wrong = Vec::new();

    for source in sources() {
        let module = &source.module[0];
        let Some(own) = rank(module) else {
            wrong.push(format!("src/{}: the module {module} is in no layer", source.file));
            continue;
        };
        for reference in references(&source) {
            let named = &reference.path[0];
            let is_allowed = named == module || rank(named).is_some_and(|other| other < own);
            if !is_allowed {
                let place = format!("src/{}:{}", source.file, reference.line);
                wrong.push(format!("{place}: {module} names {named}"));
            }
        }
    }

    assert!(wrong.is_empty(), "against the layers:\n{}", wrong.join("\n"));
}

#[test]
fn documentation_names_layer_of_each_module() {
    let text = fs::read_to_string(src().join("lib.rs")).expect("src/lib.rs is readable");
    let declared = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));

    for module in declared {
        let (layer, _) = rank(module).unwrap_or_else(|| panic!("{module} is in no layer"));
        let row = format!("//! | {layer} ");
        let is_documented = text
            .lines()
            .any(|line| line.starts_with(&row) && line.contains(&format!("[`{module}`]")));
        assert!(is_documented, "src/lib.rs does not show {module} in layer {layer}");
    }
}

#[test]
fn files_of_folder_use_each_other_without_circle() {
    let circles = circles(&sources());

    let found: Vec<String> = circles
        .iter()
        .map(|(folder, uses)| format!("src/{folder}:\n  {}", uses.join("\n  ")))
        .collect();
    assert!(found.is_empty(), "files that use one another in a circle:\n{}", found.join("\n"));
}

/// Layer, and place within it.
fn rank(module: &str) -> Option<(usize, usize)> {
    LAYERS
        .iter()
        .enumerate()
        .find_map(|(layer, (_, modules))| Some((layer, modules.iter().position(|m| *m == module)?)))
}

fn src() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

/// All files of the library, except for its top and the programs.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    add_sources(src(), &mut sources);
    sources.sort_by(|a, b| a.file.cmp(&b.file));
    sources
}

fn add_sources(dir: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).expect("a directory of the sources is readable") {
        let path = entry.expect("an entry of it is readable").path();
        if path.is_dir() {
            add_sources(&path, sources);
            continue;
        }

        let file = path.strip_prefix(src()).expect("it is below src").display().to_string();
        let Some(name) = file.strip_suffix(".rs") else { continue };
        let module: ModulePath =
            name.trim_end_matches("/mod").split('/').map(str::to_owned).collect();
        if ["lib", "bin"].contains(&module[0].as_str()) {
            continue;
        }

        let text = fs::read_to_string(&path).expect("a source file is readable");
        sources.push(Source { file, module, code: without_comments(&text) });
    }
}

/// The text with the same lines, those of comments empty.
fn without_comments(text: &str) -> String {
    let code = |line| if str::trim_start(line).starts_with("//") { "" } else { line };
    text.lines().map(code).flat_map(|line| [line, "\n"]).collect()
}

/// The paths in a file that begin with `crate`, `super` or `self`.
fn references(source: &Source) -> Vec<Reference> {
    let code = &source.code;
    // A module inside the file is one `super` further down.
    let inline_tests = code.find("\nmod tests {").unwrap_or(code.len());
    let is_test_file = source.module.last().is_some_and(|name| name == "tests");

    let mut references = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                continue;
            }

            let mut base = source.module.clone();
            if at > inline_tests {
                base.push("tests".to_owned());
            }
            let line = code[..at].matches('\n').count() + 1;
            let in_tests = is_test_file || at > inline_tests;
            for path in paths(&code[at..]).into_iter().filter_map(|(path, _)| absolute(&base, path))
            {
                references.push(Reference { line, path, in_tests });
            }
        }
    }
    references
}

/// A path of a module as a path of the crate; `None` for a path of another crate, and for the top
/// itself.
fn absolute(module: &[String], path: ModulePath) -> Option<ModulePath> {
    let mut base = module.to_vec();
    let mut rest = path.as_slice();
    match rest.first()?.as_str() {
        "crate" => {
            base.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|segment| segment == "super") {
                base.pop()?;
                rest = &rest[1..];
            }
        }
        _ => return None,
    }

    base.extend_from_slice(rest);
    (!base.is_empty()).then_some(base)
}

/// The paths of a use tree at the beginning of `code`, each with the name that it gets.
fn paths(code: &str) -> Vec<(ModulePath, String)> {
    let mut paths = Vec::new();
    add_paths(code, &[], &mut paths);
    paths
}

/// Reads one use tree, and returns the code behind it.
fn add_paths<'c>(
    code: &'c str,
    prefix: &[String],
    paths: &mut Vec<(ModulePath, String)>,
) -> &'c str {
    let mut code = code.trim_start();
    if let Some(group) = code.strip_prefix('{') {
        code = group.trim_start();
        while !code.is_empty() && !code.starts_with('}') {
            let rest = add_paths(code, prefix, paths).trim_start();
            let rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
            // Something other than a use tree.
            if rest.len() == code.len() {
                return rest;
            }
            code = rest;
        }
        return code.strip_prefix('}').unwrap_or(code);
    }

    let word_end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    let (word, mut rest) = code.split_at(word_end);
    let mut path = prefix.to_vec();
    if !(word.is_empty() || word == "self" && !prefix.is_empty()) {
        path.push(word.to_owned());
    }
    if let Some(below) = rest.strip_prefix("::")
        && below.starts_with(|c: char| c.is_alphanumeric() || "_{*".contains(c))
    {
        return add_paths(below, &path, paths);
    }

    rest = rest.strip_prefix('*').unwrap_or(rest);
    let mut name = path.last().cloned().unwrap_or_default();
    if let Some(renamed) = rest.trim_start().strip_prefix("as ") {
        name = renamed.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        rest = &renamed[name.len()..];
    }
    if !path.is_empty() {
        paths.push((path, name));
    }
    rest
}

/// The uses that make a circle, by folder.
fn circles(sources: &[Source]) -> BTreeMap<String, Vec<String>> {
    let modules: BTreeSet<&[String]> = sources.iter().map(|s| s.module.as_slice()).collect();
    let imports = imports(sources, &modules);

    // By folder: the uses between its files, each with its first place.
    let mut folders: BTreeMap<String, BTreeMap<(String, String), String>> = BTreeMap::new();
    for source in sources {
        for reference in references(source).into_iter().filter(|reference| !reference.in_tests) {
            let path = resolve(reference.path, &modules, &imports);
            let shared =
                path.iter().zip(&source.module).take_while(|(used, own)| used == own).count();
            let is_between_siblings = shared > 0
                && shared < source.module.len()
                && path.len() > shared
                && modules.contains(&path[..=shared]);
            if is_between_siblings {
                let pair = (source.module[shared].clone(), path[shared].clone());
                let place = format!("src/{}:{}", source.file, reference.line);
                let uses = folders.entry(source.module[..shared].join("/")).or_default();
                uses.entry(pair).or_insert(place);
            }
        }
    }

    let mut circles = BTreeMap::new();
    for (folder, uses) in folders {
        let in_circle: Vec<String> = uses
            .iter()
            .filter(|((user, used), _)| reaches(&uses, used, user))
            .map(|((user, used), place)| format!("{user} uses {used} ({place})"))
            .collect();
        if !in_circle.is_empty() {
            circles.insert(folder, in_circle);
        }
    }
    circles
}

/// The paths that modules import under a name of their own, so that others can use this name.
fn imports(sources: &[Source], modules: &BTreeSet<&[String]>) -> BTreeMap<ModulePath, ModulePath> {
    let mut imports = BTreeMap::new();
    for source in sources {
        for (at, _) in source.code.match_indices("use ") {
            let line = source.code[..at].rfind('\n').map_or(0, |end| end + 1);
            let before = source.code[line..at].trim_end();
            if !(before.is_empty() || before.starts_with("pub")) {
                continue;
            }

            for (path, name) in paths(&source.code[at + "use ".len()..]) {
                let below = [source.module.as_slice(), &path[..1]].concat();
                let target = if modules.contains(below.as_slice()) {
                    Some([source.module.as_slice(), &path].concat())
                } else {
                    absolute(&source.module, path)
                };
                let imported = [source.module.as_slice(), &[name]].concat();
                imports.extend(target.map(|target| (imported, target)));
            }
        }
    }
    imports
}

/// Follows imports from module to module, to the place of the definition.
fn resolve(
    mut path: ModulePath,
    modules: &BTreeSet<&[String]>,
    imports: &BTreeMap<ModulePath, ModulePath>,
) -> ModulePath {
    const MAX_IMPORTS: usize = 10;
    for _ in 0..MAX_IMPORTS {
        let imported = (1..=path.len())
            .find(|&end| !modules.contains(&path[..end]) && imports.contains_key(&path[..end]));
        let Some(end) = imported else { break };
        path = [imports[&path[..end]].as_slice(), &path[end..]].concat();
    }
    path
}

fn reaches(uses: &BTreeMap<(String, String), String>, from: &str, to: &str) -> bool {
    let mut reached = BTreeSet::from([from.to_owned()]);
    loop {
        let size = reached.len();
        for (user, used) in uses.keys() {
            if reached.contains(user) {
                reached.insert(used.clone());
            }
        }
        if reached.contains(to) {
            return true;
        }
        if reached.len() == size {
            return false;
        }
    }
}

/// A file of the module `module` with this text.
fn source(module: &str, text: &str) -> Source {
    let module: ModulePath = module.split("::").map(str::to_owned).collect();
    Source { file: format!("{}.rs", module.join("/")), module, code: without_comments(text) }
}

#[test]
fn references_are_found_in_every_form() {
    let code = "use crate::a::B;\nuse crate::{b, c::{d, e},\n  f::G as X};\n// crate::no\n\
        let x = super::super::g::H::<u8>::new();\n$crate::no\nuse other::no;\nmod tests {\n    \
        use super::super::super::h::I;\n}\n";

    let found: Vec<String> =
        references(&source("top::sub", code)).iter().map(|r| r.path.join("::")).collect();

    assert_eq!(found, ["a::B", "b", "c::d", "c::e", "f::G", "g::H", "h::I"]);
}

#[test]
fn circle_through_import_is_found() {
    let files = [
        source("top", "mod a;\nmod b;\nmod c;\npub use b::Thing;\n"),
        source("top::a", "use super::Thing;\nuse super::c;\n"),
        source("top::b", "fn f() { crate::top::a::g() }\n"),
        source("top::c", "mod tests {\n    use super::super::a;\n}\n"),
    ];

    let circles = circles(&files);

    assert_eq!(
        circles["top"],
        ["a uses b (src/top/a.rs:1)", "b uses a (src/top/b.rs:1)"],
        "c is used, and uses a only in its tests"
    );
}
