//! Keys on the node: roles, rotation, revocation, and routes that nothing signs.

use super::*;
use crate::common::{ROOT_AND_RSYNC, require};

#[test]
fn head_key_signs_no_catalog() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let head = SiteKey::new(&site, "head");
    head.trust(&site, "head");
    let genuine = fs::read(site.head_path()).expect("reads");
    let catalog = Catalog { revision: 1, ..read_catalog(&site) };

    write_catalog(&site, &catalog, (&head, &key));
    site.refused(
        &[],
        3,
        &["the catalog of image node: it is signed by key", "may sign heads only"],
    );
    write_catalog(&site, &catalog, (&key, &key));
    site.updated(&[]);

    fs::write(site.head_path(), genuine).expect("writes");
}

#[test]
fn rotation_needs_no_visit() {
    require!(ROOT_AND_RSYNC);
    let (site, old) = signed_site();
    let new = SiteKey::new(&site, "new");
    new.trust(&site, "");
    publish(&site, &tree(2), &["--sign-key", &old.secret()]);
    site.updated(&[]);

    old.distrust(&site);
    publish(&site, &tree(3), &["--sign-key", &new.secret()]);
    site.updated(&[]);
    site.same_except(&["/etc/systemimager"]);

    publish(&site, &tree(4), &["--sign-key", &old.secret()]);
    site.refused(&[], 3, &["not trusted here"]);
}

#[test]
fn revocation_beats_trust() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    key.trust(&site, "revoked");
    site.refused(&[], 3, &["has been revoked"]);

    // The last key is revoked: signatures are still required.
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    site.refused(&[], 3, &["has been revoked"]);
    let other = SiteKey::new(&site, "other");
    other.trust(&site, "");
    publish(&site, &tree(3), &["--sign-key", &other.secret()]);
    site.updated(&[]);
}

#[test]
fn any_key_requires_signatures() {
    require!(ROOT_AND_RSYNC);
    for role in ["head", "revoked"] {
        let (site, key) = signed_site();
        // An administrator moves the only key.
        key.distrust(&site);
        key.trust(&site, role);

        fs::remove_dir_all(site.repo()).expect("removes");
        publish(&site, &tree(2), &["--serial", "2"]);
        site.refused(&[], 3, &["it is not signed"]);
    }
}

#[test]
fn damaged_record_of_heads_stops_no_rollback() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let before = site.snapshot();
    let mut next = tree(2);
    let public = fs::read(key.out.with_extension("pub")).expect("reads");
    trees::put(&mut next, &format!("{KEYS}/site.pub"), Item::file(public));
    let next = trees::with_parents(next);
    publish(&site, &next, &["--sign-key", &key.secret()]);
    site.updated(&[]);
    let seen = site.node().join("var/lib/systemimager/client/seen.toml");
    fs::write(&seen, "damaged").expect("writes");

    site.rollback(&[]).ended(0, &[]);
    common::judge::same(&before, &site.node(), &["/etc/systemimager"]);
    site.update(&[]).ended(5, &["seen.toml is not valid", "--forget-seen"]);
    site.update(&["--forget-seen", "--unhold"]).ended(0, &[]);
}

#[test]
fn not_modified_is_not_believed_after_a_revocation() {
    require!(ROOT_AND_RSYNC);
    let (mut site, key) = signed_site();
    let server = common::fault_server::FaultServer::serve(&site.repo());
    site.repo_url = server.url();
    site.updated(&[]);
    site.updated(&[]);
    assert_eq!(server.seen().last().map(|seen| seen.status), Some(304));

    key.trust(&site, "revoked");

    site.refused(&[], 3, &["has been revoked"]);
}

#[test]
fn unreadable_key_is_named() {
    require!(ROOT_AND_RSYNC);
    let (site, _key) = signed_site();
    fs::write(site.node().join(KEYS).join("broken.pub"), "no key").expect("writes");
    site.refused(&[], 2, &["broken.pub"]);
}

#[test]
fn required_signature_without_key_refuses_everything() {
    require!(ROOT_AND_RSYNC);
    let site = Site::at(&tree(1));
    let config = site.node().join("etc/systemimager");
    fs::create_dir_all(&config).expect("creates");
    fs::write(config.join("updateclient.toml"), "require_signature = true\n").expect("writes");

    site.refused(&[], 3, &["the head of image node: it is not signed"]);
}

#[test]
fn routes_that_nothing_signs_are_refused() {
    require!(ROOT_AND_RSYNC);
    let (mut site, _key) = signed_site();
    site = site.with_rsync();
    let before = site.snapshot();
    let port = site.rsync_port().expect("a daemon").to_string();
    let root = site.node().display().to_string();
    let base = ["--yes", "--server", "127.0.0.1", "--rsync-port", &port, "--root", &root];
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        command.args(base).args(more);
        common::site::Run::from_output(command.output().expect("runs"))
    };

    let repo = ["--repo", &site.repo_url];
    run(&[&["--image", "other"], &repo[..]].concat()).ended(3, &["image other is not published"]);
    run(&[&["--diff"], &repo[..]].concat()).ended(3, &["cluster.txt is not published"]);
    fs::create_dir_all(site.dir.path().join("overrides/gpu")).expect("creates");
    site.update(&["--override", "gpu"]).ended(3, &["override gpu is not published"]);
    run(&["--autoinstall"]).ended(3, &["an installer that takes its kernel, its scripts"]);
    run(&["--image", "node", "--override", "gpu", "--repo", &site.repo_url])
        .ended(3, &["override gpu is not published"]);
    site.unchanged_since(&before);
}

#[test]
fn recovery_and_rollback_need_no_key_and_no_server() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let before = site.snapshot();
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    site.updated(&[]);
    fs::remove_dir_all(site.repo()).expect("removes");
    fs::remove_dir_all(site.node().join(KEYS)).expect("removes");

    site.rollback(&["--exclude-file", "/dev/null"]).ended(0, &[]);

    common::judge::same(&before, &site.node(), &["/etc/systemimager"]);
}

#[test]
fn keys_of_another_tree_replace_those_of_the_node_but_not_its_revocations() {
    require!(ROOT_AND_RSYNC);
    let (site, key) = signed_site();
    let rescue = site.dir.path().join("rescue");
    let other = SiteKey::new(&site, "other");
    let publics = rescue.join(KEYS);
    fs::create_dir_all(&publics).expect("creates");
    fs::copy(other.public(), publics.join("rescue.pub")).expect("copies");
    let from = ["--keys-from", &rescue.display().to_string()];

    // The node's own key does not count, and its damaged file stops nothing.
    publish(&site, &tree(2), &["--sign-key", &key.secret()]);
    fs::write(site.node().join(KEYS).join("site.pub"), "damaged").expect("writes");
    site.refused(&from, 3, &["it is signed by key"]);
    publish(&site, &tree(3), &["--sign-key", &other.secret()]);
    site.refused(&[], 2, &["site.pub"]);
    site.updated(&from);

    other.trust(&site, "revoked");
    publish(&site, &tree(4), &["--sign-key", &other.secret()]);
    site.refused(&from, 3, &["has been revoked"]);
}
