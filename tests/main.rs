//! The tests that need no program of their own: each file is a module.
//!
//! One program is built much faster than fifty, each with its own copy of [`common`].

mod after_update;
mod autoinstall;
mod boot_loader;
mod bounded_reads;
mod cli_documents;
mod cli_links;
mod cli_mounts;
mod cli_network;
mod cli_offline_root;
mod cli_signals;
mod cli_tardiff;
mod cli_types;
mod cli_update;
mod common;
mod confinement;
mod deletions;
mod disk_space;
mod excluded;
mod fallback;
mod filesystem_limits;
mod filesystems;
mod formats;
mod full_sync;
mod golden;
mod harness;
mod hostile_output;
mod invariants;
mod layering;
mod memory;
mod named_files;
mod node_differences;
mod old_kernel;
mod overrides;
mod packages;
mod property_filter;
mod property_judge;
mod property_update;
mod recovery;
mod recovery_initramfs;
mod refused_kinds;
mod replaced_programs;
mod rescue;
mod restart;
mod rollback;
mod running_kernel;
mod signature;
mod ssh;
mod streamed_staging;
mod subtree_removal;
mod surroundings;
mod times;
mod unattended;

/// A file that nothing names would not be compiled, and its tests never run.
#[test]
fn each_file_of_tests_is_compiled() {
    let manifest = include_str!("../Cargo.toml");
    let modules = include_str!("main.rs");

    let unnamed: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
        .expect("reads")
        .map(|entry| entry.expect("reads").path())
        .filter_map(|path| {
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            let name = path.file_stem()?.to_str()?.to_owned();
            let is_program = path.join("main.rs").exists();
            (is_source || is_program).then_some(name)
        })
        .filter(|name| {
            !manifest.contains(&format!("path = \"tests/{name}.rs\""))
                && !manifest.contains(&format!("path = \"tests/{name}/main.rs\""))
                && !modules.contains(&format!("\nmod {name};\n"))
        })
        .collect();

    assert!(unnamed.is_empty(), "neither tests/main.rs nor Cargo.toml names {unnamed:?}");
}
