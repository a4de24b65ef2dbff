//! The lists of files in the packages are complete. `scripts/test-packages` tests the packages.

use std::fs;
use std::path::{Path, PathBuf};

use toml::Value;

/// Directories of files that are no content of a package: the control files of packages.
const CONTROL: [&str; 2] = ["packaging/deb/", "packaging/rpm/"];

#[test]
fn every_file_below_packaging_is_in_packages() {
    let manifest: Value =
        toml::from_str(include_str!("../Cargo.toml")).expect("Cargo.toml can be read");
    let metadata = &manifest["package"]["metadata"];
    let (debs, rpms) = (sources(&metadata["deb"]), sources(&metadata["generate-rpm"]));
    let files = files_below(Path::new("packaging"));

    assert!(files.len() > 20, "{files:?}");

    for file in files.iter().filter(|file| !CONTROL.iter().any(|dir| file.starts_with(dir))) {
        let is_in = |sources: &[String]| sources.iter().any(|source| matches(source, file));
        assert!(is_in(&debs), "no deb has {file}");
        // Systems with rpm have no initramfs-tools.
        assert!(is_in(&rpms) || file.contains("/initramfs-tools/"), "no rpm has {file}");
    }
}

/// A path that does not exist would become the text of the script.
#[test]
fn scripts_that_sections_name_exist() {
    let manifest: Value =
        toml::from_str(include_str!("../Cargo.toml")).expect("Cargo.toml can be read");
    let metadata = &manifest["package"]["metadata"];
    let variants = ["deb", "generate-rpm"]
        .iter()
        .flat_map(|kind| metadata[*kind]["variants"].as_table().expect("variants").values());
    let named: Vec<&str> = variants
        .flat_map(|variant| variant.as_table().expect("a variant is a table"))
        .filter(|(key, _)| key.ends_with("_script") || *key == "maintainer-scripts")
        .filter_map(|(_, value)| value.as_str())
        .collect();

    assert!(named.len() >= 9, "{named:?}");

    for path in named {
        assert!(Path::new(path).exists(), "{path}");
    }
}

#[test]
fn version_of_packages_is_that_of_programs() {
    let changelog = include_str!("../packaging/deb/changelog");
    let first = changelog.lines().next().expect("a changelog has a line");

    let expected = format!("systemimager-diff ({}-", env!("CARGO_PKG_VERSION"));

    assert!(first.starts_with(&expected), "{first}");
}

#[test]
fn no_package_script_enables_or_starts_units() {
    let scripts: Vec<String> =
        CONTROL.iter().flat_map(|directory| files_below(Path::new(directory))).collect();

    assert!(scripts.len() >= 12, "{scripts:?}");

    for script in scripts {
        let text = fs::read_to_string(&script).expect("the script can be read");
        for call in ["enable ", "preset ", " start ", "reenable "] {
            let calls = |line: &&str| {
                !line.trim_start().starts_with('#')
                    && line.contains("systemctl")
                    && line.contains(call)
            };
            assert_eq!(text.lines().find(calls), None, "{script}");
        }
    }
}

/// The sources of all assets of all variants.
fn sources(section: &Value) -> Vec<String> {
    let variants = section["variants"].as_table().expect("a table of variants");
    let assets = variants.values().flat_map(|variant| variant["assets"].as_array());
    let source = |asset: &Value| {
        let source = asset.get("source").or_else(|| asset.get(0)).and_then(Value::as_str);
        source.expect("an asset has a source").to_owned()
    };
    assets.flatten().map(source).collect()
}

/// Whether a path is the source of an asset, which may hold one asterisk within a name.
fn matches(source: &str, path: &str) -> bool {
    let Some((begin, end)) = source.split_once('*') else { return source == path };
    path.strip_prefix(begin)
        .and_then(|rest| rest.strip_suffix(end))
        .is_some_and(|middle| !middle.contains('/'))
}

fn files_below(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut directories: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("the directory can be read") {
            let path = entry.expect("the entry can be read").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path.display().to_string());
            }
        }
    }
    files.sort();
    files
}
