//! The life of a site's keys, on three nodes whose exclude file leaves out the keys.
//!
//! One node is updated each time, one sleeps through the changes, and one is rolled back.

use super::*;
use crate::common::site::Run;
use crate::common::{ROOT_AND_RSYNC, judge, require};

/// Three nodes of one site.
struct Fleet {
    site: Site,
    excludes: PathBuf,
}

const AWAKE: &str = "awake";
const SLEEPER: &str = "sleeper";
const RETURNER: &str = "returner";

impl Fleet {
    /// Installs the nodes from the image as it is published.
    fn install(site: Site) -> Self {
        let excludes = site.dir.path().join("excludes");
        fs::write(&excludes, "/etc/systemimager/*\n").expect("writes");
        let fleet = Fleet { site, excludes };
        for node in [AWAKE, SLEEPER, RETURNER] {
            common::copy_tree(&fleet.site.image(), &fleet.root(node));
            fleet.update(node, &["--adopt"]).ended(0, &[]);
        }
        fleet
    }

    fn root(&self, node: &str) -> PathBuf {
        self.site.dir.path().join(node)
    }

    fn run(&self, node: &str, words: &[&str]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        command.args(["--yes", "--root"]).arg(self.root(node)).args(words);
        command.arg("--exclude-file").arg(&self.excludes);
        Run::from_output(command.output().expect("runs"))
    }

    fn update(&self, node: &str, more: &[&str]) -> Run {
        let words = ["--diff", "--image", "node", "--repo", &self.site.repo_url];
        self.run(node, &[&words, more].concat())
    }

    /// Updates nodes to the head; all files and keys are then those of the image.
    #[track_caller]
    fn follow(&self, nodes: &[&str]) {
        for node in nodes {
            self.update(node, &[]).ended(0, &[]);
            judge::same(&self.site.image(), &self.root(node), &[]);
        }
    }

    /// Asserts that nodes refuse the head, and stay as they are.
    #[track_caller]
    fn refuse(&self, nodes: &[&str], words: &str) {
        for node in nodes {
            let before = self.site.dir.path().join("before");
            let _ = fs::remove_dir_all(&before);
            common::copy_tree(&self.root(node), &before);
            self.update(node, &[]).ended(3, &[words, "nothing was changed"]);
            judge::same(&before, &self.root(node), &[]);
        }
    }

    /// Publishes an image with these keys, and with further arguments.
    fn publish(&self, round: u64, keys: &[(&str, &SiteKey)], more: &[&str]) {
        publish(&self.site, &with_keys(round, keys), more);
    }

    /// Copies a public key to a node, as an administrator would.
    fn give(&self, node: &str, key: &SiteKey, directory: &str) {
        let directory = self.root(node).join(KEYS).join(directory);
        fs::create_dir_all(&directory).expect("creates");
        let public = key.out.with_extension("pub");
        fs::copy(&public, directory.join(public.file_name().expect("a name"))).expect("copies");
    }
}

/// A site whose image has a publish key and a head key, and a fleet that follows it.
fn fleet() -> (Fleet, [SiteKey; 3], [SiteKey; 2]) {
    let site = Site::new();
    let keys = ["first", "second", "third"].map(|name| SiteKey::new(&site, name));
    let heads = ["head", "head2"].map(|name| SiteKey::new(&site, name));
    let image = [("first.pub", &keys[0]), ("head/head.pub", &heads[0])];
    let (publish_key, head_key) = (keys[0].secret(), heads[0].secret());
    let words = ["--sign-key", &publish_key, "--head-key", &head_key, "--expires", "7d"];
    publish(&site, &with_keys(1, &image), &words);
    (Fleet::install(site), keys, heads)
}

#[test]
fn keys_rotate_on_three_nodes() {
    require!(ROOT_AND_RSYNC);
    let (fleet, [first, second, _], [head, _]) = fleet();
    let head_key = ["--head-key", &head.secret(), "--expires", "7d"];
    let signed_by = |key: &SiteKey| {
        let sign = ["--sign-key".to_owned(), key.secret()];
        [&sign[..], &head_key.map(str::to_owned)].concat()
    };
    let publish = |round, keys: &[(&str, &SiteKey)], signer: &SiteKey| {
        let words = signed_by(signer);
        fleet.publish(round, keys, &words.iter().map(String::as_str).collect::<Vec<_>>());
    };
    let (old, new) = (("first.pub", &first), ("second.pub", &second));
    let head = ("head/head.pub", &head);

    // The new key arrives in an image that the old one signs.
    publish(2, &[old, new, head], &first);
    fleet.follow(&[AWAKE, RETURNER]);
    // The old key is dropped.
    publish(3, &[new, head], &second);
    fleet.follow(&[AWAKE, RETURNER]);

    // A node that was off meanwhile gets the key by hand, and follows then.
    fleet.refuse(&[SLEEPER], "is not trusted here");
    fleet.give(SLEEPER, &second, "");
    fleet.follow(&[SLEEPER]);

    // A rollback over the rotation keeps the new key.
    fleet.run(RETURNER, &["--rollback"]).ended(0, &[]);
    assert!(fleet.root(RETURNER).join(KEYS).join("second.pub").exists());
    publish(4, &[new, head], &second);
    fleet.follow(&[AWAKE, SLEEPER, RETURNER]);

    // The old key signs nothing any more.
    write_catalog(&fleet.site, &read_catalog(&fleet.site), (&first, &first));
    fleet.refuse(&[AWAKE, SLEEPER, RETURNER], "is not trusted here");
}

#[test]
fn stolen_key_is_revoked_on_three_nodes() {
    require!(ROOT_AND_RSYNC);
    let (fleet, [stolen, new, _], [head, _]) = fleet();
    let keys = [("first.pub", &stolen), ("second.pub", &new), ("head/head.pub", &head)];
    fleet.publish(2, &keys, &["--sign-key", &stolen.secret()]);
    fleet.follow(&[AWAKE, SLEEPER, RETURNER]);

    let revoked = [("second.pub", &new), ("revoked/first.pub", &stolen)];
    fleet.publish(3, &revoked, &["--sign-key", &new.secret()]);
    fleet.follow(&[AWAKE, RETURNER]);
    fleet.run(RETURNER, &["--rollback"]).ended(0, &[]);

    // The thief publishes with a serial that nobody has seen.
    let stolen_catalog = Catalog { serial: 90, ..read_catalog(&fleet.site) };
    write_catalog(&fleet.site, &stolen_catalog, (&stolen, &stolen));
    fleet.refuse(&[AWAKE, RETURNER], "has been revoked");
    // A node that has not seen the revocation gets it by hand.
    fleet.give(SLEEPER, &stolen, "revoked");
    fleet.refuse(&[SLEEPER], "has been revoked");

    fs::remove_file(fleet.site.head_path()).expect("removes");
    fs::remove_dir_all(fleet.site.repo()).expect("removes");
    fleet.publish(4, &revoked, &["--sign-key", &new.secret(), "--serial", "4"]);
    fleet.follow(&[AWAKE, SLEEPER, RETURNER]);
}

#[test]
fn lost_head_key_is_replaced_by_publish_key() {
    require!(ROOT_AND_RSYNC);
    let (fleet, [publish_key, ..], [_lost, new]) = fleet();
    let publish_secret = publish_key.secret();
    let keys = [("first.pub", &publish_key), ("head/head2.pub", &new)];

    // A publish key signs heads as well, so that no node has to be visited.
    fleet.publish(2, &keys, &["--sign-key", &publish_secret, "--expires", "7d"]);
    fleet.follow(&[AWAKE, SLEEPER, RETURNER]);

    let refresh = ["refresh", "--head-key", &new.secret()];
    tardiff(&fleet.site, &refresh).ended(1, &["--trusted-key"]);
    let trusted = ["--trusted-key", &publish_key.public()];
    tardiff(&fleet.site, &[&refresh[..], &trusted].concat()).ended(0, &["refreshed"]);
    fleet.follow(&[AWAKE, SLEEPER, RETURNER]);
}

#[test]
fn restored_server_is_followed_under_larger_serial() {
    require!(ROOT_AND_RSYNC);
    let (fleet, [key, ..], _) = fleet();
    let (keys, secret) = ([("first.pub", &key)], key.secret());
    let sign = ["--sign-key", secret.as_str()];
    fleet.publish(2, &keys, &sign);
    let backup = fleet.site.dir.path().join("backup");
    common::copy_tree(&fleet.site.repo(), &backup);
    fleet.publish(3, &keys, &sign);
    fleet.publish(4, &keys, &sign);
    fleet.follow(&[AWAKE, RETURNER]);

    fs::remove_dir_all(fleet.site.repo()).expect("removes");
    common::copy_tree(&backup, &fleet.site.repo());
    // Until then the server is a mirror that is behind.
    fleet.update(AWAKE, &[]).ended(0, &["this node has seen a newer one"]);
    fleet.publish(5, &keys, &sign);
    fleet.refuse(&[AWAKE, RETURNER], "this node has seen 4");
    fleet.publish(6, &keys, &sign);
    fleet.refuse(&[AWAKE, RETURNER], "publish --serial N");

    fleet.publish(7, &keys, &[&sign[..], &["--serial", "10"]].concat());
    fleet.follow(&[AWAKE, SLEEPER, RETURNER]);
}
