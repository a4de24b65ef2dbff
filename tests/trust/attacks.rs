//! Attacks on an update system, by the names of The Update Framework.

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::common::fault_server::{Fault, FaultServer};
use crate::common::{ROOT_AND_RSYNC, require};

#[test]
fn arbitrary_software_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let mallory = SiteKey::new(&site, "mallory");
    let (genuine, text) = (fs::read(site.head_path()).expect("reads"), read_head(&site));
    let restore = || fs::write(site.head_path(), &genuine).expect("writes");

    // A head without a signature, by another key, and with one byte altered.
    fs::write(site.head_path(), text.to_toml().expect("text")).expect("writes");
    refused_until(&site, &["the head of image node: it is not signed"], restore);
    write_head(&site, &text, &mallory);
    refused_until(
        &site,
        &["the head of image node: it is signed by key", "not trusted here", "copy its .pub"],
        restore,
    );
    let mut altered = genuine.clone();
    altered[30] ^= 1;
    fs::write(site.head_path(), altered).expect("writes");
    refused_until(&site, &["the head of image node: its signature by key"], restore);

    // A catalog of the attacker's below a genuine head key.
    let catalog = Catalog { revision: 1, ..read_catalog(&site) };
    write_catalog(&site, &catalog, (&mallory, &key));
    refused_until(&site, &["the catalog of image node: it is signed by key"], restore);

    // Archives that the catalog does not name are never read: their digests are in it.
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    for archive in site.archives("diffs").into_iter().chain(site.archives("full")) {
        let mut bytes = fs::read(&archive).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&archive, bytes).expect("writes");
    }
    site.refused(&[], 8, &["cannot be used"]);
}

#[test]
fn rollback_attack_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let old = read_head(&site);
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    site.updated(&[]);
    let newest = fs::read(site.head_path()).expect("reads");
    let restore = || fs::write(site.head_path(), &newest).expect("writes");

    // A stolen head key names an old catalog again.
    write_head(&site, &Head { issued: Timestamp::now(), ..old.clone() }, &key);
    refused_until(&site, &["the server offers serial 1", "has seen 2"], restore);

    // The record of the newest head survives a state that is set aside.
    write_head(&site, &Head { issued: Timestamp::now(), ..old }, &key);
    fs::remove_file(site.node().join("var/lib/systemimager/client/state.toml")).expect("removes");
    site.update(&[]).ended(3, &["has seen 2"]);
    site.update(&["--forget-seen"]).ended(0, &["are forgotten"]);
}

#[test]
fn rollback_across_keys_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, old) = signed_site();
    let new = SiteKey::new(&site, "new");
    new.trust(&site, "");
    publish(&site, &tree(2), &["--sign-key", &old.secret(), "--expires", "7d"]);
    site.updated(&[]);
    let second = read_head(&site);
    publish(&site, &tree(3), &["--sign-key", &new.secret(), "--expires", "7d"]);
    site.updated(&[]);
    let newest = fs::read(site.head_path()).expect("reads");
    let restore = || fs::write(site.head_path(), &newest).expect("writes");

    // The server was restored, and its timer issues the old head again.
    write_head(&site, &Head { issued: Timestamp::now(), ..second.clone() }, &old);
    refused_until(&site, &["the server offers serial 2", "has seen 3", "--serial N"], restore);
    // Another serial 3, by the other key, is a fork.
    write_catalog(&site, &read_catalog(&site), (&old, &old));
    refused_until(&site, &["offers serial 3", "another content"], restore);
    // Expired as well: no floor is lowered for media.
    let past = Timestamp::now() - SignedDuration::from_secs(60);
    let expired = Head { issued: Timestamp::now(), expires: Some(past), ..second.clone() };
    write_head(&site, &expired, &old);
    site.refused(&["--allow-expired"], 3, &["has seen 3"]);

    // An administrator goes back, and forward again; then the floor is in force again.
    write_head(&site, &Head { issued: Timestamp::now(), ..second.clone() }, &old);
    site.updated(&["--allow-downgrade"]);
    site.updated(&[]);
    restore();
    site.updated(&[]);
    write_head(&site, &Head { issued: Timestamp::now(), ..second }, &old);
    refused_until(&site, &["has seen 3"], restore);
}

#[test]
fn indefinite_freeze_is_noticed() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let head = read_head(&site);
    let past = Timestamp::now() - SignedDuration::from_secs(60);
    let issued = past - SignedDuration::from_hours(1);
    write_head(&site, &Head { issued, expires: Some(past), ..head.clone() }, &key);
    site.refused(&[], 3, &["the head of image node expired at"]);
    site.update(&["--allow-expired"]).ended(0, &["the head expired at", "--allow-expired"]);

    // A head key alone cannot issue a head without an end, or for years.
    let head_key = SiteKey::new(&site, "head");
    head_key.trust(&site, "head");
    write_head(&site, &Head { issued: Timestamp::now(), ..head.clone() }, &head_key);
    site.refused(&[], 3, &["has no end"]);
    let expires = Some(Timestamp::now() + SignedDuration::from_hours(24 * 40));
    write_head(&site, &Head { issued: Timestamp::now(), expires, ..head.clone() }, &head_key);
    site.refused(&[], 3, &["more than the 30 days", "max_head_age"]);
    let expires = Some(Timestamp::now() + SignedDuration::from_hours(24 * 20));
    write_head(&site, &Head { issued: Timestamp::now(), expires, ..head }, &head_key);
    site.updated(&[]);
}

#[test]
fn endless_data_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (mut site, _key) = signed_site();
    let server = FaultServer::serve(&site.repo());
    site.repo_url = server.url();
    server.always("/node/head.toml", Fault::Longer(1 << 20));

    site.refused(&[], 4, &["head.toml"]);
}

#[test]
fn fast_forward_does_not_lock_out() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let stolen = SiteKey::new(&site, "stolen");
    stolen.trust(&site, "");
    let genuine = fs::read(site.head_path()).expect("reads");
    let serial = 90_000;
    let mut catalog = read_catalog(&site);
    catalog.serial = serial;
    catalog.publishes.last_mut().expect("a publish").serial = serial;
    write_catalog(&site, &catalog, (&stolen, &stolen));
    site.updated(&[]);

    // The records of a key are its own, and a revocation removes them.
    fs::write(site.head_path(), genuine).expect("writes");
    stolen.trust(&site, "revoked");
    site.updated(&[]);
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    site.updated(&[]);
    site.same_except(&["/etc/systemimager"]);
}

#[test]
fn mix_and_match_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    let genuine = fs::read(site.head_path()).expect("reads");
    let restore = || fs::write(site.head_path(), &genuine).expect("writes");

    // A head of one publish with the catalog of another.
    let older = read_catalog(&site).previous.expect("a catalog before");
    let size = site.repo().join(format!("node/catalogs/{older}.toml"));
    let size = fs::metadata(size).expect("exists").len();
    write_head(&site, &Head { catalog: older, size, ..read_head(&site) }, &key);
    refused_until(&site, &["it is not the catalog that the head describes"], restore);
}

#[test]
fn catalog_of_other_digest_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    let genuine = fs::read(catalog_path(&site)).expect("reads");

    // The untrusted comment is no part of what the key has signed, so the signature stays valid.
    let text = String::from_utf8(genuine.clone()).expect("text");
    let altered = text.replace("untrusted comment: s", "untrusted comment: S");
    assert_ne!(text, altered);
    fs::write(catalog_path(&site), altered).expect("writes");

    refused_until(&site, &["digest"], || {
        fs::write(catalog_path(&site), &genuine).expect("writes");
    });
}

#[test]
fn wrong_software_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let mut tardiff = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
    tardiff.args(["publish", "--quiet", "--override", "node", "--sign-key", &key.secret()]);
    tardiff.arg("--overrides-dir").arg(site.image().parent().expect("a parent"));
    common::run(tardiff.arg("--repo").arg(site.repo()));
    fs::rename(site.repo().join("node"), site.dir.path().join("away")).expect("renames");
    fs::rename(site.repo().join("overrides/node"), site.repo().join("node")).expect("renames");

    site.refused(&[], 3, &["of override node, not that of image node"]);
}

#[test]
fn forked_server_is_named() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let genuine = fs::read(site.head_path()).expect("reads");
    let mut catalog = read_catalog(&site);
    catalog.publishes[0].label = Some("another server".to_owned());
    write_catalog(&site, &catalog, (&key, &key));

    refused_until(&site, &["two servers publish it"], || {
        fs::write(site.head_path(), &genuine).expect("writes");
    });
}

#[test]
fn stale_mirror_has_nothing_new() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let old = fs::read(site.head_path()).expect("reads");
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    site.updated(&[]);
    fs::write(site.head_path(), old).expect("writes");

    site.updated(&[]).ended(0, &["nothing new"]);

    let version = site.node().join("etc/version");
    assert_eq!(fs::read_to_string(version).expect("reads"), "version 2");
}

#[test]
fn head_of_the_future_is_refused() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let genuine = read_head(&site);
    let issued: Timestamp = "2099-01-01T00:00:00Z".parse().expect("a time");
    write_head(&site, &Head { issued, ..genuine.clone() }, &key);

    refused_until(&site, &["was issued at 2099", "one of the clocks is wrong"], || {
        let issued = Timestamp::now() + SignedDuration::from_hours(1);
        write_head(&site, &Head { issued, ..genuine }, &key);
    });
}

/// The program `faketime` gives the node a clock that was lost.
#[test]
fn node_with_lost_clock_is_updated() {
    require!(ROOT_AND_RSYNC, Program("faketime"));
    let (site, key) = signed_site();
    publish(&site, &tree(2), &["--sign-key", &key.secret(), "--expires", "7d"]);
    let mut command = Command::new("faketime");
    command.arg("1970-01-02 00:00:00").arg(site.command().get_program());
    command.args(site.command().get_args());

    let run = common::site::Run::from_output(command.output().expect("runs"));

    run.ended(0, &["this node's clock shows 1970"]);
    site.same_except(&["/etc/systemimager"]);
}

#[test]
fn work_before_trust_is_one_small_file() {
    require!(ROOT_AND_RSYNC);
    let (mut site, _key) = signed_site();
    let mallory = SiteKey::new(&site, "mallory");
    publish(&site, &tree(2), &["--sign-key", &mallory.secret()]);
    let server = FaultServer::serve(&site.repo());
    site.repo_url = server.url();

    site.refused(&[], 3, &["not trusted here"]);

    let seen: Vec<String> = server.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(seen, ["/node/head.toml"]);
}
