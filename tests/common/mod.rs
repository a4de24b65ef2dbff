//! Shared parts of the tests, and the place of each kind of test.
//!
//! | kind | place | subject |
//! |---|---|---|
//! | unit | `src/x.rs` or `src/x/tests.rs` | a rule of one module, in memory |
//! | command line | `tests/cli_*.rs` | a program as a process: arguments, messages, exit code |
//! | property | `tests/property_*.rs` | any tree A, any tree B; our result and another program's |
//! | hostile | `tests/hostile_*.rs` | an attack, with a sentinel that stays untouched |
//! | crash | `tests/crash_*.rs` | a step fails, or the program dies there; then the next run |
//! | power | `tests/power_cut.rs` | the disk keeps only durable data; then the next run |
//! | golden files | `tests/golden.rs` | output as recorded below `tests/testdata/golden/` |
//! | memory | `tests/memory.rs` | peak memory is independent of the size of files |
//! | frozen formats | `tests/formats.rs` | samples under `tests/testdata/`, never edited |
//!
//! The name of a test is its situation and its result, in plain nouns:
//! `unreached_fault_fails_on_drop`. Its body has three paragraphs: arrange, act, assert. [`judge`]
//! decides if a node equals its image, never our own code. A test states its needs of the machine
//! with [`require!`].

// Each test file uses a part of this module.
#![allow(dead_code)]

pub mod closed_mount;
pub mod disk;
pub mod fault_server;
pub mod fingerprint;
pub mod golden;
pub mod interrupted;
pub mod judge;
pub mod machine;
pub mod power;
pub mod site;
pub mod small_disk;
pub mod trees;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use landlock::{AccessFs, CompatLevel, Compatible, RulesetAttr};
use tempfile::TempDir;

/// A requirement of a test on the machine.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Root may change owners, make devices and set capabilities.
    Root,
    /// A loop device can be attached to an image file and mounted.
    LoopDevice,
    /// The kernel confines processes: Landlock of version 2 or later.
    Landlock,
    /// This program is in the path.
    Program(&'static str),
}

/// Root, and rsync as the judge.
pub const ROOT_AND_RSYNC: [Need; 2] = [Need::Root, Need::Program("rsync")];

/// Returns from the test unless the machine meets all needs.
///
/// Takes needs and lists of needs: `require!(Root, Program("strace"), DISK)`. The variants of
/// [`Need`] are in scope.
#[allow(unused_macros)]
macro_rules! require {
    ($($needs:expr),+ $(,)?) => {{
        #[allow(unused_imports)]
        use $crate::common::Need::*;
        use $crate::common::Needs;

        let mut needs = Vec::new();
        $(needs.extend($needs.needs());)+
        if !$crate::common::has(&needs) {
            return;
        }
    }};
}
#[allow(unused_imports)]
pub(crate) use require;

/// One need of a test, or a list of them.
pub trait Needs {
    /// All needs in the list.
    fn needs(&self) -> Vec<Need>;
}

impl Needs for Need {
    fn needs(&self) -> Vec<Need> {
        vec![*self]
    }
}

impl<N: Needs, const LENGTH: usize> Needs for [N; LENGTH] {
    fn needs(&self) -> Vec<Need> {
        self.iter().flat_map(N::needs).collect()
    }
}

impl Needs for &[Need] {
    fn needs(&self) -> Vec<Need> {
        self.to_vec()
    }
}

/// Checks if the machine meets all needs of a test, and reports the missing ones.
///
/// In CI (the environment has `CI`) a missing need fails the test: no test may be left out there.
#[track_caller]
pub fn has(needs: &[Need]) -> bool {
    let missing: Vec<&Need> = needs.iter().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();

    assert!(
        std::env::var_os("CI").is_none(),
        "{test} needs {missing:?}, and in CI no test is left out"
    );

    record_line("SI_LEFT_OUT", &format!("LEFT OUT: {test} needs {missing:?}"));
    false
}

/// Prints `line`, and appends it to the file that the environment `variable` names.
///
/// A test runner hides the output of tests that pass; it prints this file at its end.
fn record_line(variable: &str, line: &str) {
    eprintln!("{line}");
    if let Some(list) = std::env::var_os(variable) {
        let list = std::fs::OpenOptions::new().append(true).create(true).open(list);
        list.and_then(|mut list| list.write_all(format!("{line}\n").as_bytes()))
            .unwrap_or_else(|e| panic!("the list in {variable}: {e}"));
    }
}

/// Records that `count` rounds passed, for the table of `make torture`.
pub fn tally(name: &str, count: usize, detail: &str) {
    record_line("SI_TALLY", &format!("TALLY: {count} {name}: {detail}"));
}

/// Number of rounds in the environment `variable`, or `few` without it.
pub fn rounds(variable: &str, few: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => few,
    }
}

/// A random number from 0 to 1.
pub fn random() -> f64 {
    (RandomState::new().build_hasher().finish() >> 11) as f64 / (1u64 << 53) as f64
}

impl Need {
    fn is_met(self) -> bool {
        match self {
            Need::Root => rustix::process::geteuid().is_root(),

            Need::LoopDevice => {
                Need::Root.is_met()
                    && Need::Program("losetup").is_met()
                    && Command::new("losetup")
                        .arg("--find")
                        .output()
                        .is_ok_and(|out| out.status.success())
            }

            Need::Landlock => landlock::Ruleset::default()
                .set_compatibility(CompatLevel::HardRequirement)
                .handle_access(AccessFs::Refer)
                .and_then(landlock::Ruleset::create)
                .is_ok(),

            Need::Program(name) => std::env::var_os("PATH").is_some_and(|path| {
                std::env::split_paths(&path)
                    .chain(["/usr/sbin".into(), "/sbin".into()])
                    .any(|dir| dir.join(name).exists())
            }),
        }
    }
}

/// The agent: of this build, or in the directory that `SI_TEST_PROGRAMS` names.
pub fn updateclient() -> PathBuf {
    program("si_updateclient", env!("CARGO_BIN_EXE_si_updateclient"))
}

/// The server's program: of this build, or in the directory that `SI_TEST_PROGRAMS` names.
pub fn tardiff() -> PathBuf {
    program("si_tardiff", env!("CARGO_BIN_EXE_si_tardiff"))
}

fn program(name: &str, built: &str) -> PathBuf {
    match std::env::var_os("SI_TEST_PROGRAMS") {
        Some(directory) => {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
            let program = directory.join(name);
            assert!(program.is_file(), "SI_TEST_PROGRAMS: {} is missing", program.display());
            program
        }
        None => built.into(),
    }
}

/// Parent of all [`scratch`] directories: `SI_TEST_DIR`, or a directory below `target/`.
pub fn scratch_place() -> PathBuf {
    std::env::var_os("SI_TEST_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into()).into()
}

/// Makes a temporary directory on a filesystem that can be a root.
pub fn scratch() -> TempDir {
    const TMPFS: u64 = 0x0102_1994;
    let above = scratch_place();
    let dir = TempDir::new_in(&above).expect("a scratch directory");
    let filesystem = rustix::fs::statfs(dir.path()).expect("statfs");
    let kind = filesystem.f_type as u64;
    assert_ne!(
        kind, TMPFS,
        "{above:?} is a tmpfs, which cannot be a root; name another place in SI_TEST_DIR"
    );
    dir
}

/// Runs a command, which must succeed, and returns its output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Reads a text file.
#[track_caller]
pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Waits until `condition` holds, for at most 20 seconds.
#[track_caller]
pub fn wait_until(event: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{event}: not within 20 seconds");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A free port of the loopback interface.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Waits until a server listens at a port of the loopback interface.
#[track_caller]
pub fn wait_for_server(port: u16) {
    let is_up = || TcpStream::connect(("127.0.0.1", port)).is_ok();
    wait_until(&format!("a server listens at port {port}"), is_up);
}

/// Copies a tree with all its metadata.
pub fn copy_tree(from: &Path, to: &Path) {
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to));
}

/// Copies a program that is run afterwards.
///
/// Another process makes the copy. A child that any thread of this process forks inherits every
/// descriptor until its exec; if one of them is open for writing, running the copy fails with
/// ETXTBSY (text file busy).
#[track_caller]
pub fn copy_program(from: &Path, to: &Path) {
    run(Command::new("cp").arg("--preserve=mode").arg(from).arg(to));
}

/// Writes a script that is run afterwards, and the directories above it; see [`copy_program`].
#[track_caller]
pub fn write_program(path: &Path, text: &str) {
    let directory = path.parent().expect("a path with a directory");
    let script = "mkdir -p \"$2\" && printf %s \"$3\" >\"$1\" && chmod 755 \"$1\"";
    run(Command::new("sh").args(["-c", script, "sh"]).arg(path).arg(directory).arg(text));
}
