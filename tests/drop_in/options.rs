//! Options, settings and messages of a run.

use super::*;

#[test]
fn conflicting_options_are_refused() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &[]);
    for (line, words) in [
        (
            &["--autoinstall", "--image", "node"][..],
            "--image and --autoinstall are not compatible options",
        ),
        (
            &["--autoinstall", "--no-bootloader"],
            "--autoinstall and --no-bootloader are not compatible options",
        ),
        (&["--autoinstall", "--dry-run"], "--autoinstall and --dry-run are not compatible options"),
        (&["--append", "x"], "--append can be used only with --autoinstall"),
        (&["--flavor", "x"], "--flavor can be used only with --autoinstall"),
        (&["--configure-from", "eth0"], "--configure-from can be used only with --autoinstall"),
        (&["--image", "-node"], "can't start with a hyphen"),
        (&["--server", "-head", "--image", "node"], "can't start with a hyphen"),
        (&["--server", "", "--image", "node"], "You must specify --server"),
        (
            &["--image", "node", "--diff", "--directory", "/usr"],
            "--directory cannot be used with --diff",
        ),
        (&["--image", "node", "--diff", "--no-delete"], "--no-delete cannot be used with --diff"),
        (&["--image", "a/b"], "cannot name an image"),
        (&["--image", "node", "--override", "../x"], "cannot name an image"),
        (&["--image", "node", "stray"], "stray"),
        (&["--image", "node", "--s", "x"], "--s"),
    ] {
        let run =
            Run::from_output(old.command().args(line).arg("--yes").output().expect("it runs"));
        run.ended(2, &[words]);
    }

    assert!(
        fs::read_dir(old.site.node()).expect("is there").next().is_none(),
        "something was made"
    );
}

#[test]
fn missing_terminal_without_yes_is_refused() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &[]);
    let run = Run::from_output(old.command().args(["--image", "node"]).output().expect("it runs"));
    run.ended(2, &["without confirmation", "pass --yes"]);
    assert!(!old.node("etc").exists());
}

#[test]
fn show_config_names_source_of_each_setting() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &[]);
    old.on_node(
        "etc/systemimager/client.conf",
        "rsync_port = 8730\nfstype = ext4\nfstype = xfs\nexclude_file = /etc/x\n",
    );
    old.on_node(
        "etc/systemimager/updateclient.toml",
        "image = \"node\"\ndrift = \"repair\"\noverrides = [\"gpu\"]\n",
    );
    old.on_node("etc/systemimager/overrides", "# mine\n\nlast\n");
    old.on_node("etc/x", "/srv/*\n");
    let mut command = Command::new(AGENT);
    command.arg("--root").arg(old.site.node()).args([
        "--show-config",
        "--server",
        "head",
        "--max-delete",
        "7",
    ]);

    let run = Run::from_output(command.output().expect("it runs"));
    run.ended(0, &[]);

    for (name, value, from) in [
        ("server", "head", "command line"),
        ("image", "node", "/etc/systemimager/updateclient.toml"),
        ("overrides", "gpu", "/etc/systemimager/updateclient.toml"),
        ("overrides", "last", "/etc/systemimager/overrides"),
        ("rsync_port", "8730", "/etc/systemimager/client.conf"),
        ("fstype", "ext4 xfs", "/etc/systemimager/client.conf"),
        ("exclude_file", "/etc/x", "/etc/systemimager/client.conf"),
        ("drift", "repair", "/etc/systemimager/updateclient.toml"),
        ("check", "update", "default"),
        ("max_delete", "7", "command line"),
    ] {
        let found = run.out.lines().any(|line| {
            line.split_whitespace().next() == Some(name)
                && line.contains(value)
                && line.ends_with(&format!("[{from}]"))
        });
        assert!(found, "{name} {value} [{from}] is missing: {run:#?}");
    }
}

/// Control characters in names do not reach a terminal as they are.
#[test]
fn control_characters_in_names_are_escaped() {
    require!(ROOT_AND_RSYNC);

    let mut tree = image();
    trees::put(&mut tree, "etc/\u{1b}[31mred\nline", Item::file("x"));
    let old = OldSite::new(&trees::with_parents(tree), &[]);

    for more in [&["--dry-run"][..], &["--log", "%o %f"], &["--dry-run"]] {
        let run = old.run(&[&["--image", "node", "--exclude-file", "/dev/null"], more].concat());
        run.ended(0, &[]);
        assert!(!run.out.contains('\u{1b}') && !run.err.contains('\u{1b}'), "{run:#?}");
    }
}

#[test]
fn unreachable_server_is_named() {
    require!(ROOT_AND_RSYNC);

    let mut old = OldSite::new(&image(), &overrides());
    let line = ["--image", "node", "--exclude-file", "/dev/null"];

    old.run(&line).ended(0, &[]);

    let before = old.site.snapshot();
    old.site.stop_rsync();

    old.run(&line).ended(4, &["Connection refused", "nothing was changed"]);
    old.run(&[&line[..], &["--override", "all"]].concat())
        .ended(4, &["Connection refused", "nothing was changed"]);
    old.site.unchanged_since(&before);
}

/// A silent server does not block the run forever.
#[test]
fn silent_server_times_out() {
    require!(ROOT_AND_RSYNC);

    let old = OldSite::new(&image(), &[]);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port().to_string();
    old.on_node("etc/systemimager/updateclient.toml", "full_sync_timeout = 2\n");
    let begun = std::time::Instant::now();
    let line = ["--image", "node", "--rsync-port", &port];

    old.run(&[&line[..], &["--exclude-file", "/dev/null"]].concat())
        .ended(4, &["nothing was changed"]);

    // The same while the agent reads the exclude rules of the image, or cluster.txt.
    old.run(&line).ended(4, &["nothing was changed"]);

    old.on_node("etc/hostname", "node7\n");
    old.run(&line[2..]).ended(4, &["nothing was changed"]);
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());

    drop(silent);
}
