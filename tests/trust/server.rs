//! Keys on the server: publish, sign, refresh, prune, and a command that signs.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::common::{ROOT_AND_RSYNC, require, write_program};

#[test]
fn publish_without_key_into_signed_repository_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let images = site.image().parent().expect("a parent").display().to_string();
    let head = fs::read(site.head_path()).expect("reads");
    let _ = fs::remove_dir_all(site.image());
    trees::write(&tree(2), &site.image());

    let (publish, secret) = (["publish", "--image", "node", "--images-dir", &images], key.secret());
    tardiff(&site, &publish).ended(1, &["its catalog is signed", "--sign-key"]);
    assert_eq!(fs::read(site.head_path()).expect("reads"), head);
    let small = [&publish[..], &["--serial", "1", "--sign-key", &secret]].concat();
    tardiff(&site, &small).ended(1, &["its serial is 1 already"]);

    let large = [&publish[..], &["--serial", "9", "--sign-key", &secret]].concat();
    tardiff(&site, &large).ended(0, &["serial 9"]);
    site.updated(&[]);
}

#[test]
fn unsigned_repository_is_signed_in_place() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&tree(1));
    let key = SiteKey::new(&site, "site");
    key.trust(&site, "");
    site.refused(&[], 3, &["it is not signed"]);

    tardiff(&site, &["sign", "--image", "node", "--sign-key", &key.secret()])
        .ended(0, &["signed the head of node: serial 1.1"]);

    site.updated(&[]);
    tardiff(&site, &["list"]).ended(0, &["never expires", "head signed by", "catalog signed by"]);
    tardiff(&site, &["verify"]).ended(0, &["0 faults"]);
}

#[test]
fn refresh_needs_head_key_alone() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let head_key = SiteKey::new(&site, "head");
    head_key.trust(&site, "head");
    let keys = ["--sign-key", &key.secret(), "--head-key", &head_key.secret()];
    publish(&site, &tree(2), &[&keys[..], &["--expires", "2h"]].concat());
    let before = read_head(&site);

    tardiff(&site, &["refresh", "--head-key", &head_key.secret()]).ended(0, &["refreshed"]);

    let after = read_head(&site);
    assert!(after.issued > before.issued && after.expires > before.expires);
    assert_eq!((after.catalog, after.version()), (before.catalog, before.version()));
    site.updated(&[]);
    tardiff(&site, &["refresh"]).ended(1, &["its catalog is signed"]);
}

#[test]
fn head_key_signs_no_head_without_end() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let (secret, head_key) = (key.secret(), SiteKey::new(&site, "head").secret());
    let images = site.image().parent().expect("a parent").display().to_string();
    let head = fs::read(site.head_path()).expect("reads");
    let words = ["--sign-key", &secret, "--head-key", &head_key];

    let _ = fs::remove_dir_all(site.image());
    trees::write(&tree(2), &site.image());
    let publish = ["publish", "--image", "node", "--images-dir", &images];
    tardiff(&site, &[&publish[..], &words].concat()).ended(1, &["never expires", "--expires"]);
    let refresh = ["refresh", "--head-key", &head_key, "--trusted-key", &key.public()];
    tardiff(&site, &refresh).ended(1, &["never expires", "--expires"]);

    assert_eq!(fs::read(site.head_path()).expect("reads"), head);
}

#[test]
fn unchanged_image_is_refreshed_by_publish() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    publish(&site, &tree(2), &["--sign-key", &key.secret(), "--expires", "2h"]);
    let before = read_head(&site);

    site.publish_image(&["--sign-key", &key.secret()]);

    let after = read_head(&site);
    assert!(after.expires > before.expires);
    assert_eq!(after.version(), before.version());
}

#[test]
fn prune_signs_its_catalog() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    let old = fs::read(site.head_path()).expect("reads");
    let prune = ["prune", "--image", "node", "--keep", "1"];

    tardiff(&site, &prune).ended(1, &["--sign-key"]);
    tardiff(&site, &[&prune[..], &["--sign-key", &key.secret()]].concat()).ended(0, &[]);

    // A node that has fetched the head before still finds its files.
    let new = fs::read(site.head_path()).expect("reads");
    fs::write(site.head_path(), old).expect("writes");
    site.updated(&[]);
    fs::write(site.head_path(), new).expect("writes");
    site.updated(&[]);
    assert_eq!(read_head(&site).version().to_string(), "2.1");
}

#[test]
fn unchanged_image_is_published_under_larger_serial() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let secret = key.secret();
    publish(&site, &tree(2), &["--sign-key", &secret]);
    let backup = site.dir.path().join("backup");
    common::copy_tree(&site.repo(), &backup);
    publish(&site, &tree(3), &["--sign-key", &secret]);
    site.updated(&[]);
    fs::remove_dir_all(site.repo()).expect("removes");
    common::copy_tree(&backup, &site.repo());
    let _ = fs::remove_dir_all(site.image());
    trees::write(&tree(2), &site.image());
    let images = site.image().parent().expect("a parent").display().to_string();
    let publish = ["publish", "--image", "node", "--images-dir", &images, "--sign-key", &secret];
    let again = |serial: &str| tardiff(&site, &[&publish[..], &["--serial", serial]].concat());

    site.update(&[]).ended(0, &["this node has seen a newer one"]);
    again("2").ended(1, &["its serial is 2 already"]);
    again("10").ended(0, &["published node serial 10"]);

    site.updated(&[]);
    site.same_except(&["/etc/systemimager"]);
    again("11").ended(0, &["published node serial 11"]);
    site.updated(&[]);
    tardiff(&site, &["list"]).ended(0, &["4 publishes", "serial 11"]);
    let prune = ["prune", "--image", "node", "--keep", "1", "--grace", "0", "--sign-key", &secret];
    tardiff(&site, &prune).ended(0, &["removed 1 generation"]);
    tardiff(&site, &["verify", "--key", &key.public()]).ended(0, &["0 faults"]);
    site.updated(&[]);
}

#[test]
fn unchanged_override_is_published_under_larger_serial() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let overrides = site.dir.path().join("overrides");
    fs::create_dir_all(overrides.join("gpu/etc")).expect("creates");
    fs::write(overrides.join("gpu/etc/gpu"), "a driver").expect("writes");
    let (secret, directory) = (key.secret(), overrides.display().to_string());
    let publish = ["publish", "--override", "gpu", "--overrides-dir", &directory];
    let publish = [&publish[..], &["--sign-key", &secret]].concat();
    tardiff(&site, &publish).ended(0, &["serial 1"]);
    site.updated(&["--override", "gpu"]);

    tardiff(&site, &[&publish[..], &["--serial", "7"]].concat()).ended(0, &["serial 7"]);

    site.updated(&["--override", "gpu"]);
    tardiff(&site, &["verify"]).ended(0, &["0 faults"]);
}

#[test]
fn serial_that_nodes_refuse_is_not_published() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let head = fs::read(site.head_path()).expect("reads");
    let images = site.image().parent().expect("a parent").display().to_string();
    let secret = key.secret();
    let publish = ["publish", "--image", "node", "--images-dir", &images, "--sign-key", &secret];
    let with = |serial: &str| tardiff(&site, &[&publish[..], &["--serial", serial]].concat());
    let reason = "nodes refuse a step of more than 100,000";

    for version in ["version 1", "version 2"] {
        fs::write(site.image().join("etc/version"), version).expect("writes");
        for (serial, words) in
            [("1", "its serial is 1 already"), ("100002", reason), ("18446744073709551615", reason)]
        {
            with(serial).ended(1, &[words]);
            assert_eq!(fs::read(site.head_path()).expect("reads"), head);
        }
    }
    with("100001").ended(0, &["serial 100001"]);
    site.updated(&[]);

    // The largest number that a catalog can have is an error as well, and no overflow.
    let newest = u64::MAX;
    let mut catalog = Catalog { serial: newest, ..read_catalog(&site) };
    catalog.publishes.last_mut().expect("a publish").serial = newest;
    write_catalog(&site, &catalog, (&key, &key));
    fs::write(site.image().join("etc/version"), "version 3").expect("writes");
    tardiff(&site, &publish).ended(1, &["its serial is the largest number"]);
}

#[test]
fn damaged_layer_and_stray_files_stop_no_other_layer() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let secret = key.secret();
    publish(&site, &tree(2), &["--sign-key", &secret, "--expires", "2h"]);
    let repo = site.repo();
    // "a" sorts before "node", and "z" after it.
    for name in ["a", "z"] {
        common::copy_tree(&repo.join("node"), &repo.join(name));
        fs::write(repo.join(name).join("head.toml"), "damaged").expect("writes");
    }
    fs::create_dir(repo.join("empty")).expect("creates");
    let before = read_head(&site);

    let failed = ["si_tardiff: image a: ", "si_tardiff: image z: ", "serial 2"];
    tardiff(&site, &["list"]).ended(1, &failed);
    tardiff(&site, &["refresh", "--sign-key", &secret]).ended(1, &failed);
    tardiff(&site, &["verify"]).ended(1, &["image a: ", "image z: ", "2 faults"]);
    assert!(read_head(&site).issued > before.issued);

    for name in ["a", "z"] {
        fs::remove_dir_all(repo.join(name)).expect("removes");
    }
    fs::write(repo.join("index.html"), "a page").expect("writes");
    for (name, target) in [("link", "node"), ("cluster", "/"), ("overrides", "node")] {
        std::os::unix::fs::symlink(target, repo.join(name)).expect("links");
    }
    tardiff(&site, &["list"]).ended(0, &["serial 2"]);
    tardiff(&site, &["verify"]).ended(0, &["0 faults"]);
    let run = tardiff(&site, &["refresh", "--sign-key", &secret]);
    assert_eq!((run.code, run.out.lines().count()), (0, 1), "{run:?}");
}

#[test]
fn validity_that_nodes_refuse_is_refused_or_warned_of() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let head = fs::read(site.head_path()).expect("reads");
    let images = site.image().parent().expect("a parent").display().to_string();
    let secret = key.secret();
    let publish = ["publish", "--image", "node", "--images-dir", &images, "--sign-key", &secret];
    let with = |end: &str| tardiff(&site, &[&publish[..], &["--expires", end]].concat());

    for version in ["version 1", "version 2"] {
        fs::write(site.image().join("etc/version"), version).expect("writes");
        for end in ["0d", "2020-01-01T00:00:00Z"] {
            with(end).ended(1, &["that time has passed", "--expires"]);
            assert_eq!(fs::read(site.head_path()).expect("reads"), head);
        }
    }
    with("30d").ended(0, &["serial 2"]);
    site.updated(&[]);

    let warning = "more than 30 days";
    with("31d").ended(0, &["warning", warning, "max_head_age", "--allow-expired"]);
    let refresh = ["refresh", "--sign-key", &secret, "--expires", "9999-01-01T00:00:00Z"];
    tardiff(&site, &refresh).ended(0, &[warning]);
    for end in ["never", "30d"] {
        assert!(!with(end).err.contains("warning"), "{end}");
    }
}

#[test]
fn key_that_has_not_signed_before_is_warned_of() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let [head_key, second_key] = ["head", "second"].map(|name| SiteKey::new(&site, name));
    let images = site.image().parent().expect("a parent").display().to_string();
    let publish = ["publish", "--image", "node", "--images-dir", &images, "--expires", "7d"];
    let (first, second, head) = (key.secret(), second_key.secret(), head_key.secret());
    let head = ["--head-key", &head];

    for (round, keys, warning) in [
        (2, &["--sign-key", &first][..], None),
        (3, &["--sign-key", &first, head[0], head[1]], Some("the head of image node before")),
        (4, &["--sign-key", &first, head[0], head[1]], None),
        // A publish key may sign heads.
        (5, &["--sign-key", &first], None),
        (6, &["--sign-key", &second, "--trusted-key", &key.public()], Some("the catalog of image")),
    ] {
        fs::write(site.image().join("etc/version"), format!("version {round}")).expect("writes");
        let run = tardiff(&site, &[&publish[..], keys].concat());
        run.ended(0, &[]);
        assert_eq!(run.err.contains("has not signed"), warning.is_some(), "{round}: {run:?}");
        assert!(run.err.contains(warning.unwrap_or_default()), "{round}: {run:?}");
    }

    let trusted = ["--trusted-key", &second_key.public()];
    let refresh = [&["refresh"], &head[..], &trusted].concat();
    tardiff(&site, &refresh).ended(0, &["has not signed the head"]);
    tardiff(&site, &refresh).ended(0, &["refreshed"]);
}

#[test]
fn half_signed_repository_is_refused_and_reported() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&tree(1));
    let (key, head_key) = (SiteKey::new(&site, "site"), SiteKey::new(&site, "head"));
    let images = site.image().parent().expect("a parent").display().to_string();
    let unsigned = fs::read(site.head_path()).expect("reads");

    let publish = ["publish", "--image", "node", "--images-dir", &images, "--expires", "7d"];
    fs::write(site.image().join("etc/version"), "version 2").expect("writes");
    let run = tardiff(&site, &[&publish[..], &["--head-key", &head_key.secret()]].concat());
    run.ended(1, &["cannot sign only the head of image node", "--sign-key"]);
    assert_eq!(fs::read(site.head_path()).expect("reads"), unsigned);

    write_head(&site, &read_head(&site), &head_key);
    let verify = || tardiff(&site, &["verify"]);
    verify().ended(1, &["FAULT: image node: the head is signed, and its catalog is not"]);
    write_catalog(&site, &Catalog { revision: 1, ..read_catalog(&site) }, (&key, &key));
    verify().ended(0, &["0 faults"]);
    fs::write(site.head_path(), read_head(&site).to_toml().expect("text")).expect("writes");
    verify().ended(1, &["FAULT: image node: the catalog is signed, and its head is not"]);
}

/// Puts a catalog there that lists another generation, as an account without a key can.
fn plant(site: &Site, key: Option<&SiteKey>) {
    let catalog = Catalog { revision: 7, ..read_catalog(site) };
    match key {
        Some(key) => write_catalog(site, &catalog, (key, key)),
        None => {
            let text = catalog.to_toml().expect("text");
            let sha256 = systemimager::digest::Digest::of(text.as_bytes());
            let file = site.repo().join(format!("node/catalogs/{sha256}.toml"));
            fs::write(file, &text).expect("writes");
            let size = text.len() as u64;
            let head = Head { catalog: sha256, size, revision: 7, ..read_head(site) };
            fs::write(site.head_path(), head.to_toml().expect("text")).expect("writes");
        }
    }
}

#[test]
fn planted_catalog_is_not_signed() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    publish(&site, &tree(2), &["--sign-key", &key.secret(), "--expires", "7d"]);
    let thief = SiteKey::new(&site, "thief");
    let genuine = fs::read(site.head_path()).expect("reads");
    let images = site.image().parent().expect("a parent").display().to_string();
    let (secret, public, thief_id) = (key.secret(), key.public(), thief.key.public_key().id());

    for (planter, words) in [
        (Some(&thief), vec![format!("signed by key {thief_id}"), "--trusted-key".to_owned()]),
        (None, vec!["it is not signed".to_owned(), "si_tardiff sign".to_owned()]),
    ] {
        plant(&site, planter);
        let planted = fs::read(site.head_path()).expect("reads");
        let words: Vec<&str> =
            words.iter().map(String::as_str).chain(["catalog of image node"]).collect();
        for command in [
            &["prune", "--image", "node", "--keep", "1"][..],
            &["refresh", "--image", "node"],
            &["publish", "--image", "node", "--images-dir", &images],
            &["sign", "--image", "node", "--trusted-key", &public],
        ] {
            let run = tardiff(&site, &[command, &["--sign-key", &secret]].concat());
            run.ended(1, &words);
            assert_eq!(fs::read(site.head_path()).expect("reads"), planted, "{command:?}");
        }
        fs::write(site.head_path(), &genuine).expect("writes");
    }

    // Without --trusted-key an unsigned catalog may be signed, and one of another key may not.
    plant(&site, Some(&thief));
    let sign = ["sign", "--image", "node", "--sign-key", &secret];
    tardiff(&site, &sign).ended(1, &["--trusted-key"]);
    let trusted = ["--trusted-key", &thief.public()];
    tardiff(&site, &[&sign[..], &trusted].concat()).ended(0, &["signed the head of node"]);
    site.updated(&[]);
}

#[test]
fn planted_head_is_not_refreshed_by_head_key() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let [head_key, thief] = ["head", "thief"].map(|name| SiteKey::new(&site, name));
    let keys = ["--sign-key", &key.secret(), "--head-key", &head_key.secret()];
    publish(&site, &tree(2), &[&keys[..], &["--expires", "7d"]].concat());
    let refresh = ["refresh", "--head-key", &head_key.secret()];

    for planter in [Some(&thief), None] {
        plant(&site, planter);
        let planted = fs::read(site.head_path()).expect("reads");
        tardiff(&site, &refresh).ended(1, &["cannot continue the head of image node"]);
        assert_eq!(fs::read(site.head_path()).expect("reads"), planted);
    }

    // A head of the publish key, which the server does not have, needs its public key.
    plant(&site, Some(&key));
    tardiff(&site, &refresh).ended(1, &["--trusted-key"]);
    let config = site.dir.path().join("tardiff.toml");
    fs::write(&config, format!("trusted_keys = [\"{}\"]\n", key.public())).expect("writes");
    let config = ["--config", &config.display().to_string(), "--expires", "7d"];
    tardiff(&site, &[&refresh[..], &config].concat()).ended(0, &["refreshed"]);
}

#[test]
fn publish_over_catalog_of_other_key_warns() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let (thief, second) = (SiteKey::new(&site, "thief"), SiteKey::new(&site, "second"));
    let images = site.image().parent().expect("a parent").display().to_string();
    let publish = ["publish", "--image", "node", "--images-dir", &images, "--sign-key"];

    for (round, signer, words) in [
        (2, &key, "published node"),
        (3, &second, "is not from this publisher: it is signed by key"),
    ] {
        fs::write(site.image().join("etc/version"), format!("version {round}")).expect("writes");
        tardiff(&site, &[&publish[..], &[&signer.secret()]].concat()).ended(0, &[words]);
    }
    plant(&site, Some(&thief));
    fs::write(site.image().join("etc/version"), "version 4").expect("writes");
    tardiff(&site, &[&publish[..], &[&key.secret()]].concat()).ended(0, &["older generations"]);
    site.updated(&[]);
    site.same_except(&["/etc/systemimager"]);
}

#[test]
fn repository_is_verified_by_given_keys() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let head_key = SiteKey::new(&site, "head");
    let other = SiteKey::new(&site, "other");
    let keys = ["--sign-key", &key.secret(), "--head-key", &head_key.secret()];
    publish(&site, &tree(2), &[&keys[..], &["--expires", "7d"]].concat());
    head_key.trust(&site, "head");
    let directory = site.node().join(KEYS).display().to_string();

    // Without keys, the signatures are shown, and nothing is verified.
    let shown = ["head signed by", "catalog signed by", "expires 20", "in 6 days", "0 faults"];
    tardiff(&site, &["verify"]).ended(0, &shown);
    tardiff(&site, &["list"]).ended(0, &shown[..4]);

    let (right, wrong) = (&["0 faults"][..], &["which is not trusted here"][..]);
    let (key, head) = (key.public(), head_key.public());
    for (arguments, code, words) in [
        (&["--key", &key, "--key", &head][..], 0, right),
        (&["--key-dir", &directory], 0, right),
        (&["--image", "node", "--key-dir", &directory], 0, right),
        (&["--key", &key], 1, &["FAULT: image node", "head.toml: it is signed by key"]),
        (&["--key", &other.public()], 1, wrong),
        (&["--key-dir", "/nonexistent"], 1, wrong),
        (&["--key", "/nonexistent.pub"], 1, &["cannot read /nonexistent.pub"]),
    ] {
        tardiff(&site, &[&["verify"], arguments].concat()).ended(code, words);
    }

    // The head key may not sign catalogs, and a text without signature has none.
    let head_alone = Head { issued: jiff::Timestamp::now(), ..read_head(&site) };
    fs::write(site.head_path(), head_alone.to_toml().expect("text")).expect("writes");
    tardiff(&site, &["verify", "--key-dir", &directory]).ended(1, &["head.toml: it is not signed"]);
    let catalog = Catalog { revision: 1, ..read_catalog(&site) };
    write_catalog(&site, &catalog, (&head_key, &head_key));
    tardiff(&site, &["verify", "--key-dir", &directory]).ended(1, &["may sign heads only"]);
}

#[test]
fn expired_head_is_shown() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let expires = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(72);
    let issued = expires - jiff::SignedDuration::from_hours(1);
    write_head(&site, &Head { issued, expires: Some(expires), ..read_head(&site) }, &key);

    tardiff(&site, &["verify"]).ended(0, &["EXPIRED 20", "3 days ago"]);
    tardiff(&site, &["list"]).ended(0, &["EXPIRED 20", "3 days ago"]);
    let run = tardiff(&site, &["verify", "--key", &key.public()]);
    run.ended(1, &["FAULT: image node: the head has expired", "1 fault"]);
}

#[test]
fn output_of_command_is_verified_by_its_public_key() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let other = SiteKey::new(&site, "other");
    let signature = site.dir.path().join("signature");
    let script = site.dir.path().join("sign");
    write_program(&script, &format!("#!/bin/sh\ncat >/dev/null\ncat {}\n", signature.display()));
    let block = |key: &SiteKey, text: &[u8]| key.key.sign(text, "c").expect("signs").to_text();
    let (before, images) = (fs::read(site.head_path()).expect("reads"), site.image());
    let images = images.parent().expect("a parent").display().to_string();
    let script = script.display().to_string();
    fs::write(site.image().join("etc/version"), "version 2").expect("writes");
    let publish =
        ["publish", "--image", "node", "--images-dir", &images, "--sign-command", &script];

    // By another key, of another text, and no signature at all.
    for (printed, reason) in [
        (block(&other, b"text\n"), "not trusted here"),
        (block(&key, b"text\n"), "its signature by key"),
        ("signed\n".to_owned(), "line 1"),
    ] {
        fs::write(&signature, printed).expect("writes");
        let public = key.public();
        let run = tardiff(&site, &[&publish[..], &["--sign-public", &public]].concat());
        run.ended(1, &["its output is not accepted", reason]);
        assert_eq!(fs::read(site.head_path()).expect("reads"), before);
    }

    // Without the public key only the form can be checked, and the publish says so.
    fs::write(&signature, block(&key, b"text\n")).expect("writes");
    tardiff(&site, &publish).ended(0, &["are not verified", "--sign-public"]);
    site.refused(&[], 3, &["its signature by key"]);
}

#[test]
fn command_of_the_site_signs() {
    require!(ROOT_AND_RSYNC, Program("minisign"));
    let (site, key) = signed_site();
    let script = site.dir.path().join("sign");
    // The script of the documentation.
    let text = format!(
        "#!/bin/sh\nset -e\ndir=$(mktemp -d)\ntrap 'rm -r \"$dir\"' EXIT\ncat >\"$dir/text\"\n\
         minisign -S -l -W -s '{}' -m \"$dir/text\" -t \"$SI_COMMENT\" >&2\n\
         cat \"$dir/text.minisig\"\n",
        key.secret()
    );
    write_program(&script, &text);

    let config = site.dir.path().join("tardiff.toml");
    let (command, public) = (script.display(), key.public());
    let text = format!("sign_command = \"{command}\"\nsign_public = \"{public}\"\n");
    fs::write(&config, text).expect("writes");
    publish(&site, &tree(2), &["--config", &config.display().to_string()]);

    site.updated(&[]);
    site.same_except(&["/etc/systemimager"]);
}

#[test]
fn signatures_can_be_verified_by_hand() {
    require!(ROOT_AND_RSYNC, Program("minisign"), Program("signify-openbsd"));
    let (site, key) = signed_site();
    let directory = site.dir.path().join("by-hand");
    fs::create_dir(&directory).expect("creates");
    fs::copy(key.public(), directory.join("site.pub")).expect("copies");
    let lines = lines_of_readme();
    let has = |words: &str| lines.iter().any(|line| line.starts_with(words));
    assert!(has("sed '") && has("minisign -V") && has("signify-openbsd -V"), "{lines:?}");

    for file in [site.head_path(), catalog_path(&site)] {
        let (text, altered) = (fs::read(&file).expect("reads"), directory.join("head.toml"));
        let verify = || {
            let script = format!("set -e\n{}\n", lines.join("\n"));
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).current_dir(&directory).output().expect("runs")
        };
        fs::write(&altered, &text).expect("writes");
        assert!(verify().status.success(), "{:?}", verify());

        let mut wrong = text.clone();
        wrong[0] ^= 1;
        fs::write(&altered, wrong).expect("writes");
        assert!(!verify().status.success());
    }
}

/// The commands of the README that verify a file by hand.
fn lines_of_readme() -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once("can be verified by hand:").expect("a section");
    let (section, _) = section.split_once("`si_tardiff verify").expect("its end");
    section.lines().filter_map(|line| line.strip_prefix("    ")).collect()
}

#[test]
fn made_key_is_private_and_encrypted() {
    let dir = common::scratch();
    let out = dir.path().join("site");
    let mut keygen = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
    keygen.args(["keygen", "--out"]).arg(&out).stdin(std::process::Stdio::piped());
    keygen.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = keygen.spawn().expect("starts");
    let mut input = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, b"a passphrase\n").expect("writes");
    drop(input);
    assert!(child.wait().expect("ends").success());

    let secret = out.with_extension("key");
    assert!(is_encrypted(&secret));
    let mode = fs::metadata(&secret).expect("exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
