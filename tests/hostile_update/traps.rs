//! Objects that an attacker planted on a node, and damaged files of the agent.

use super::*;

#[test]
fn planted_symlink_is_not_followed() {
    require!(ROOT_AND_RSYNC);

    for check in ["touched", "update", "content"] {
        let site = behind();
        let outside = Outside::create(&site);
        plant(Plant::LinkToDir, &site.node().join("usr"), &outside.dir);
        plant(Plant::LinkToFile, &site.node().join("etc/version"), &outside.dir);

        site.updated(&["--check", check, "--no-fallback"]);
        outside.assert_untouched();
        if check != "touched" {
            site.same();
        }

        site.updated(&["--check", "stat"]);
        site.same();
        outside.assert_untouched();
    }
}

#[test]
fn parent_replaced_during_update_leaves_outside_untouched() {
    require!(ROOT_AND_RSYNC);

    for swap in [Plant::LinkToDir, Plant::Dangling, Plant::File, Plant::Fifo] {
        let mut site = behind();
        let outside = Outside::create(&site);
        let slow = SlowRun::start(&mut site, &["--no-fallback"]);
        fs::rename(site.node().join("usr"), site.dir.path().join("swapped")).expect("renames");
        plant(swap, &site.node().join("usr"), &outside.dir);

        let run = slow.end();
        assert_clear_end(&run);
        outside.assert_untouched();
        if run.code == 0 {
            run.ended(0, &["usr was missing or had become another type"]);
            assert!(site.status().contains("/usr"));
        } else {
            site.nothing_left();
        }

        site.updated(&["--check", "stat"]);
        site.same();
        outside.assert_untouched();
    }
}

#[test]
fn file_replaced_during_update_is_not_linked_to_new_path() {
    require!(ROOT_AND_RSYNC);

    let mut site = Site::new();
    let mut image = tree(1);
    image.insert(b"usr/tool".to_vec(), Item::file("the image's"));
    site.publish(&image);
    site.install_node();
    site.updated(&["--adopt"]);
    let mut image = tree(2);
    image.insert(b"usr/tool".to_vec(), Item::file("the image's"));
    image.insert(b"usr/xtool".to_vec(), Item::new(ItemKind::Link(b"usr/tool".to_vec())));
    site.publish(&image);

    // The new path is a hard link of a file that stays; that file is replaced meanwhile.
    let slow = SlowRun::start(&mut site, &["--no-fallback"]);
    fs::write(site.node().join("usr/own"), "a user's").expect("writes");
    fs::rename(site.node().join("usr/own"), site.node().join("usr/tool")).expect("renames");
    let run = slow.end();

    run.ended(0, &[]);
    let linked = fs::read_to_string(site.node().join("usr/xtool")).expect("reads");
    assert_eq!(linked, "the image's");
    site.updated(&["--check", "stat"]);
    site.same();
}

#[test]
fn directory_removed_during_update_is_restored() {
    require!(ROOT_AND_RSYNC);

    let mut site = behind();
    let slow = SlowRun::start(&mut site, &["--no-fallback"]);
    fs::remove_dir_all(site.node().join("usr")).expect("removes");
    let run = slow.end();
    assert_clear_end(&run);
    site.updated(&["--check", "stat"]);
    site.same();
}

#[test]
fn hardlink_to_outside_file_is_broken_up() {
    require!(ROOT_AND_RSYNC);

    let site = behind();
    let outside = Outside::create(&site);
    for (tracked, sentinel) in
        [("usr/file-00", "file-00"), ("usr/lib/time", "lib/time"), ("etc/version", "version")]
    {
        let (tracked, sentinel) = (site.node().join(tracked), outside.dir.join(sentinel));
        fs::copy(&tracked, &sentinel).expect("copies");
        remove(&tracked);
        fs::hard_link(&sentinel, &tracked).expect("links");
    }
    let before = Outside::list(&outside.dir);

    site.updated(&["--no-fallback"]);
    site.same();
    assert_eq!(Outside::list(&outside.dir), before);
}

#[test]
fn planted_stage_and_undo_directories_are_replaced() {
    require!(ROOT_AND_RSYNC);

    let site = behind().with_rsync();
    let outside = Outside::create(&site);
    let before = site.snapshot();
    let (mut round, node) = (2, site.node());

    for kind in PLANTS {
        for name in [".si-stage", ".si-undo", ".si-full"] {
            plant(kind, &node.join(name), &outside.dir);
        }
        site.updated(&["--no-fallback"]);

        site.same();
        outside.assert_untouched();

        round += 1;
        site.publish(&tree(round));
    }

    // A full sync withstands the same objects.
    for kind in PLANTS {
        remove(&node);
        common::copy_tree(&before, &node);
        remove(&node.join("var"));
        for number in 0..30 {
            fs::write(node.join(format!("usr/file-{number:02}")), "nothing known").expect("writes");
        }

        for name in [".si-stage", ".si-undo", ".si-full"] {
            plant(kind, &node.join(name), &outside.dir);
        }
        site.updated(&[]).ended(0, &["full sync"]);

        site.same();
        outside.assert_untouched();
    }
}

#[test]
fn planted_objects_at_agent_files_harm_nothing() {
    require!(ROOT_AND_RSYNC);

    let site = behind();
    let outside = Outside::create(&site);
    let before = site.snapshot();
    let generation = site.catalog().publishes[0].generation;
    let next = site.catalog().publishes[1].generation;
    let client = "var/lib/systemimager/client";
    let places = [
        "var".to_owned(),
        "var/lib/systemimager".to_owned(),
        client.to_owned(),
        format!("{client}/spool"),
        format!("{client}/lock"),
        format!("{client}/state.toml"),
        format!("{client}/state.toml.new"),
        format!("{client}/manifest-{generation}.mtree.zst"),
        format!("{client}/manifest-{next}.mtree.zst"),
        format!("{client}/manifest-{next}.mtree.zst.new"),
        "etc/systemimager".to_owned(),
        "etc/systemimager/updateclient.toml".to_owned(),
        "etc/systemimager/IMAGE_LAST_SYNCED_TO".to_owned(),
        "etc/systemimager/IMAGE_LAST_SYNCED_TO.new".to_owned(),
    ];

    for place in &places {
        for kind in PLANTS {
            remove(&site.node());
            common::copy_tree(&before, &site.node());
            plant(kind, &site.node().join(place), &outside.dir);
            let kept = site.dir.path().join("kept");
            remove(&kept);
            common::copy_tree(&site.node(), &kept);
            let begin = Instant::now();
            let run = site.update(&["--no-fallback"]);
            assert_clear_end(&run);
            outside.assert_untouched();
            let context = format!("{kind:?} at {place}: {run:#?}");
            assert!([0, 2, 5].contains(&run.code), "{context}");
            assert!(begin.elapsed() < Duration::from_secs(20), "{context}");
            site.nothing_left();
            if run.code == 0 {
                let left = judge::same_except_untracked(&site.image(), &site.node(), &[]);
                assert!(
                    left.iter().all(|path| path.starts_with(place.as_str())),
                    "{left:?} {context}"
                );
            } else {
                let name = Path::new(place).file_name().expect("a name").to_string_lossy();
                assert!(run.err.contains(name.trim_end_matches(".new")), "{context}");
                judge::same(&kept, &site.node(), &[]);
            }
            let mut status = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
            let status =
                status.arg("--status").arg("--root").arg(site.node()).output().expect("runs");
            assert_clear_end(&Run::from_output(status));
        }
    }
}

#[test]
fn damaged_state_or_manifest_is_replaced() {
    require!(ROOT_AND_RSYNC);

    let site = behind();
    let before = site.snapshot();
    let client = site.node().join("var/lib/systemimager/client");
    let generation = site.catalog().publishes[0].generation;
    let state = fs::read_to_string(client.join("state.toml")).expect("a state");
    let manifest =
        fs::read(client.join(format!("manifest-{generation}.mtree.zst"))).expect("a manifest");
    let states: [Vec<u8>; 7] = [
        Vec::new(),
        state.as_bytes()[..state.len() / 2].to_vec(),
        noise(1000, 1),
        state.replace("format = 1", "format = 2").into_bytes(),
        state.replace("serial = 1", "serial = 99999999999999999999999").into_bytes(),
        format!("{state}\n\"not a path\" = \"x\"\n\"./../../etc\" = \"y\"\n").into_bytes(),
        "a = [".repeat(100_000).into_bytes(),
    ];
    let mut flipped = manifest.clone();
    flipped[manifest.len() / 2] ^= 1;
    let bomb = zstd::encode_all(&vec![b'a'; 64 << 20][..], 1).expect("compresses");
    let manifests: [Vec<u8>; 5] =
        [Vec::new(), manifest[..manifest.len() / 2].to_vec(), noise(1000, 2), flipped, bomb];
    let cases = states.into_iter().map(|bytes| ("state.toml".to_owned(), bytes));
    let name = format!("manifest-{generation}.mtree.zst");

    for (file, bytes) in cases.chain(manifests.into_iter().map(|bytes| (name.clone(), bytes))) {
        remove(&site.node());
        common::copy_tree(&before, &site.node());
        fs::write(client.join(&file), bytes).expect("writes");
        let run = site.update(&["--no-fallback"]);
        assert_clear_end(&run);
        run.ended(0, &[]);
        site.same();
    }
}

#[test]
fn invalid_journal_stops_every_run() {
    require!(ROOT_AND_RSYNC);

    let site = behind();
    let before = site.snapshot();
    let outside = Outside::create(&site);
    let stage = site.node().join(".si-stage");
    let escape = "si-journal 1\nfilesystem .\ninstall 1 0 ./../outside/sentinel\nend 1\n";
    let journals = ["", "si-journal 2\nend 0\n", "si-journal 1\nfilesystem .\n", escape];

    for text in journals {
        fs::create_dir_all(&stage).expect("makes");
        fs::write(stage.join("journal"), text).expect("writes");
        let run = site.update(&[]);

        run.ended(6, &["cannot complete the interrupted update", "journal"]);
        assert!(!run.err.contains("panicked"));
        outside.assert_untouched();

        remove(&stage);
        judge::same(&before, &site.node(), &[]);
    }

    for kind in [Plant::LinkToFile, Plant::Dangling, Plant::Fifo, Plant::Dir] {
        fs::create_dir_all(&stage).expect("makes");
        plant(kind, &stage.join("journal"), &outside.dir);
        let run = site.update(&["--no-fallback", "--dry-run"]);
        assert_clear_end(&run);
        outside.assert_untouched();
        remove(&stage);
        judge::same(&before, &site.node(), &[]);
    }

    site.updated(&["--no-fallback"]);
    site.same();
}
