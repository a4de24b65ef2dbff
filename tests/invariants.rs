//! Each invariant that `src/lib.rs` lists names tests, and each of these tests exists.
//!
//! An invariant without a test is a wish: nobody would notice the change that breaks it. A test
//! that was renamed has to be renamed in `src/lib.rs` as well.

use std::fs;
use std::path::Path;

/// An item of the list of invariants.
struct Invariant {
    title: String,
    /// `tests/FILE.rs::NAME`, or `MODULE::tests::NAME` of a unit test.
    tests: Vec<String>,
}

#[test]
fn named_tests_of_invariants_exist() {
    let mut missing = Vec::new();

    for invariant in invariants() {
        for test in invariant.tests {
            let (file, name) = test.rsplit_once("::").expect("a file or module, and a name");
            let exists = files_of(file).iter().any(|file| has_test(file, name));
            if !exists {
                missing.push(format!("{test} ({})", invariant.title));
            }
        }
    }

    assert!(missing.is_empty(), "src/lib.rs names missing tests:\n{}", missing.join("\n"));
}

#[test]
fn each_invariant_has_test() {
    let invariants = invariants();

    assert!(invariants.len() >= 12, "only {} invariants were found", invariants.len());
    for invariant in invariants {
        assert!(!invariant.tests.is_empty(), "no test keeps: {}", invariant.title);
    }
}

/// The items after the heading `Invariants`.
fn invariants() -> Vec<Invariant> {
    let text = read("src/lib.rs");
    let (_, list) = text.split_once("//! # Invariants").expect("src/lib.rs has this heading");

    let mut invariants: Vec<Invariant> = Vec::new();
    for line in list.lines().skip(1).map_while(|line| line.strip_prefix("//!")) {
        let line = line.trim();
        let next_number = (invariants.len() + 1).to_string();
        if line.split_once(". ").is_some_and(|(number, _)| number == next_number) {
            invariants.push(Invariant { title: line.to_owned(), tests: Vec::new() });
        } else if let Some(test) = line.strip_prefix("- `").and_then(|rest| rest.strip_suffix('`'))
        {
            let invariant = invariants.last_mut().expect("a test follows an invariant");
            invariant.tests.push(test.to_owned());
        }
    }
    invariants
}

/// The files in which a test of this file or module can be.
fn files_of(place: &str) -> Vec<String> {
    if place.ends_with(".rs") {
        return vec![place.to_owned()];
    }
    let module = place.trim_end_matches("::tests").replace("::", "/");
    ["/tests.rs", "/mod.rs", ".rs"].map(|end| format!("src/{module}{end}")).into()
}

fn has_test(file: &str, name: &str) -> bool {
    let text = read(file);
    let Some(at) = text.find(&format!("fn {name}(")) else { return false };
    let attributes = text[..at].rsplit("\n\n").next().unwrap_or_default();
    // Property tests are functions inside `proptest!`.
    attributes.contains("#[test]")
}

/// A file of the repository; empty if it does not exist.
fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default()
}
