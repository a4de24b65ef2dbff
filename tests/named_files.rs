//! Files that a command line or a setting names: one that would block is refused at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::site::{Run, Site};
use crate::common::trees;
use crate::common::{ROOT_AND_RSYNC, require};
use rustix::fs::{CWD, FileType, Mode};

fn make_pipe(path: &Path) {
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
}

/// Runs `command`, which must end within a few seconds.
#[track_caller]
fn ended_soon(command: &mut Command) -> Run {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > Duration::from_secs(10) {
            child.kill().expect("kills");
            panic!("it waits for the other end of a pipe");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Run::from_output(child.wait_with_output().expect("output"))
}

#[test]
fn pipe_in_place_of_a_file_of_the_client_is_refused() {
    require!(ROOT_AND_RSYNC);

    let site = Site::at(&trees::system());
    let pipe = site.dir.path().join("pipe");
    make_pipe(&pipe);
    let etc = site.node().join("etc/systemimager");

    let typed = ended_soon(site.command_with_node_excludes().arg("--exclude-file").arg(&pipe));
    assert_ne!(typed.code, 0, "{typed:#?}");
    assert!(typed.err.contains("named pipe"), "{typed:#?}");

    for name in ["updateclient.toml", "updateclient.local.exclude", "client.conf"] {
        make_pipe(&etc.join(name));
        let run = ended_soon(&mut site.command_with_node_excludes());
        assert_ne!(run.code, 0, "{name}: {run:#?}");
        assert!(run.err.contains("named pipe"), "{name}: {run:#?}");
        fs::remove_file(etc.join(name)).expect("removes");
    }
    site.updated(&[]).ended(0, &["up to date"]);
}

#[test]
fn pipe_in_place_of_a_file_of_the_server_is_refused() {
    require!(ROOT_AND_RSYNC);

    let site = Site::new();
    site.publish(&trees::system());
    let pipe = site.dir.path().join("pipe");
    make_pipe(&pipe);
    let tardiff = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
        command.args(arguments);
        command
    };
    let (pipe, repo) = (pipe.display().to_string(), site.repo().display().to_string());
    let images: PathBuf = site.dir.path().join("images");
    let images = images.display().to_string();
    let publish = ["publish", "--image", "node", "--images-dir", &images, "--repo", &repo];

    for arguments in
        [["show", &pipe].as_slice(), &[publish.as_slice(), &["--config", &pipe]].concat()]
    {
        let run = ended_soon(&mut tardiff(arguments));
        assert_ne!(run.code, 0, "{arguments:?}: {run:#?}");
        assert!(run.err.contains("named pipe"), "{arguments:?}: {run:#?}");
    }

    make_pipe(&site.repo().join("node/head.toml"));
    let run = ended_soon(&mut tardiff(&publish));
    assert!(run.err.contains("named pipe"), "{run:#?}");
}
