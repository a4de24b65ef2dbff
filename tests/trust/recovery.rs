//! Recovery is never shut out: expired heads, foreign keys, and no server at all.
//!
//! Each test is carried out over every carrier of a repository.

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::common::fault_server::FaultServer;
use crate::common::interrupted::{self, STRACE};
use crate::common::trees::Generation;
use crate::common::{ROOT_AND_RSYNC, judge, read, require};
use crate::routes::client;

/// Way of a repository to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Http,
    File,
    Rsync,
}

const CARRIERS: [Carrier; 3] = [Carrier::Http, Carrier::File, Carrier::Rsync];

/// A signed site whose node is at the first generation, and whose repository has a carrier.
struct Carried {
    site: Site,
    key: SiteKey,
    server: Option<FaultServer>,
}

impl Carried {
    fn new(carrier: Carrier) -> Self {
        let (mut site, key) = signed_site();
        let mut server = None;
        match carrier {
            Carrier::File => {}
            Carrier::Rsync => site = site.with_rsync_repository(),
            Carrier::Http => {
                let started = FaultServer::serve(&site.repo());
                site.repo_url = started.url();
                server = Some(started);
            }
        }
        Carried { site, key, server }
    }

    /// Publishes the tree of `round`; its head has no end.
    fn publish(&self, round: u64) {
        publish(&self.site, &tree(round), &["--sign-key", &self.key.secret()]);
    }

    /// Issues the present head as it was three weeks ago, for one week.
    fn expire(&self) {
        let issued = Timestamp::now() - SignedDuration::from_hours(24 * 21);
        let expires = Some(issued + SignedDuration::from_hours(24 * 7));
        write_head(&self.site, &Head { issued, expires, ..read_head(&self.site) }, &self.key);
    }

    fn version(&self) -> String {
        read(&self.site.node().join("etc/version"))
    }

    /// Changes a tracked file of the node.
    fn damage(&self) {
        fs::write(self.site.node().join("etc/version"), "damaged").expect("writes");
    }

    /// Nodes trust another key from now on, and no server answers.
    fn lose_keys_and_server(mut self) -> Site {
        self.key.distrust(&self.site);
        SiteKey::new(&self.site, "foreign").trust(&self.site, "");
        self.server = None;
        if self.site.rsync_port().is_some() {
            self.site.stop_rsync();
        }
        fs::remove_dir_all(self.site.repo()).expect("removes");
        self.site
    }
}

#[test]
fn expired_head_repairs_recorded_generation_and_installs_no_other() {
    require!(ROOT_AND_RSYNC);
    for carrier in CARRIERS {
        println!("carrier: {carrier:?}");
        let carried = Carried::new(carrier);
        let site = &carried.site;
        let before = site.snapshot();

        // The head names the recorded generation: then a newer one.
        for round in [1, 2] {
            carried.publish(round);
            carried.expire();

            site.refused(&[], 3, &["the head of image node expired at", "--allow-expired"]);
            site.refused(&["--check=content"], 3, &["expired at", "no other generation"]);
            carried.damage();
            site.refused(&["--check=content", "--dry-run"], 0, &["etc/version"]);
            site.update(&["--check=content"]).ended(0, &["expired at", "no other generation"]);

            assert_eq!(carried.version(), "version 1");
            judge::same(&before, &site.node(), &["/etc/systemimager"]);
            site.nothing_left();
        }
        site.update(&["--allow-expired"]).ended(0, &["it is accepted by --allow-expired"]);
        assert_eq!(carried.version(), "version 2");
    }
}

#[test]
fn run_without_diff_repairs_under_expired_head_without_check() {
    require!(ROOT_AND_RSYNC);
    let mut carried = Carried::new(Carrier::File);
    carried.site = carried.site.with_rsync();
    let site = &carried.site;
    let before = site.snapshot();
    let version = site.node().join("etc/version");
    for round in [1, 2] {
        carried.publish(round);
        carried.expire();
        client(site, &["--image", "node"]).ended(3, &["expired at", "--allow-expired"]);
        site.unchanged_since(&before);

        // Size and time of the file stay as they were.
        fs::write(&version, "VERSION 1").expect("writes");
        let reference = before.join("etc/version");
        common::run(Command::new("touch").arg("-r").arg(reference).arg(&version));
        client(site, &["--image", "node", "--dry-run"]).ended(0, &["etc/version"]);
        client(site, &["--image", "node"]).ended(0, &["expired at", "no other generation"]);

        assert_eq!(carried.version(), "version 1");
        judge::same(&before, &site.node(), &["/etc/systemimager"]);
        site.nothing_left();
    }
}

#[test]
fn drift_is_reported_under_expired_head() {
    require!(ROOT_AND_RSYNC);
    let carried = Carried::new(Carrier::File);
    carried.publish(2);
    carried.expire();
    carried.damage();
    let config = carried.site.node().join("etc/systemimager/updateclient.toml");
    fs::write(config, "drift = \"report\"\n").expect("writes");

    carried.site.refused(&["--check=content"], 10, &["expired at", "etc/version"]);
    carried.site.refused(&[], 3, &["expired at"]);
}

#[test]
fn expired_head_needs_trusted_key_and_record() {
    require!(ROOT_AND_RSYNC);
    let carried = Carried::new(Carrier::File);
    let site = &carried.site;
    carried.expire();
    carried.damage();
    let (genuine, mallory) = (read_head(site), SiteKey::new(site, "mallory"));

    write_head(site, &genuine, &mallory);
    site.refused(&["--check=content"], 3, &["not trusted here"]);

    // Without a record there is no generation to which the tree could be brought.
    write_head(site, &genuine, &carried.key);
    let state = site.node().join("var/lib/systemimager/client/state.toml");
    fs::remove_file(state).expect("removes");
    site.refused(&["--check=content"], 3, &["expired at"]);
    site.refused(&["--adopt"], 3, &["expired at"]);
}

#[test]
fn pinned_node_is_repaired_under_expired_head() {
    require!(ROOT_AND_RSYNC);
    for carrier in CARRIERS {
        println!("carrier: {carrier:?}");
        let carried = Carried::new(carrier);
        let site = &carried.site;
        carried.publish(2);
        site.updated(&[]);
        site.rollback(&["--exclude-file", "/dev/null"]).ended(0, &[]);
        let fresh = fs::read(site.head_path()).expect("reads");
        carried.expire();
        carried.damage();

        site.update(&["--check=content"]).ended(0, &["expired at"]);

        assert_eq!(carried.version(), "version 1");
        fs::write(site.head_path(), fresh).expect("writes");
        site.refused(&[], 12, &["rolled back"]);
    }
}

#[test]
fn content_that_repository_lacks_is_received_under_expired_head() {
    require!(ROOT_AND_RSYNC);
    let mut carried = Carried::new(Carrier::File);
    carried.site = carried.site.with_rsync();
    carried.expire();
    carried.damage();
    for archive in carried.site.archives("full") {
        fs::write(archive, "damaged").expect("writes");
    }

    carried.site.update(&["--check=content"]).ended(0, &["expired at", "full sync"]);

    carried.site.same_except(&["/etc/systemimager"]);
}

#[test]
fn old_mirror_is_installed_if_allowed_and_never_below_floor() {
    require!(ROOT_AND_RSYNC);
    for carrier in CARRIERS {
        println!("carrier: {carrier:?}");
        let carried = Carried::new(carrier);
        let site = &carried.site;
        let copy = site.dir.path().join("old-head");
        carried.publish(2);
        carried.expire();
        fs::copy(site.head_path(), &copy).expect("copies");
        site.refused(&[], 3, &["expired at"]);
        site.update(&["--allow-expired"]).ended(0, &["it is accepted by --allow-expired"]);
        assert_eq!(carried.version(), "version 2");

        // The node sees a newer catalog from elsewhere; then the mirror has nothing new.
        carried.publish(3);
        site.updated(&[]);
        let newest = read_head(site);
        fs::copy(&copy, site.head_path()).expect("copies");
        site.update(&["--allow-expired"]).ended(0, &["nothing new"]);
        assert_eq!(carried.version(), "version 3");

        // An old catalog under a newer head is a rollback, whether expired or not.
        let issued = newest.issued + SignedDuration::from_secs(1);
        let expires = Some(issued + SignedDuration::from_millis(1));
        let old = Head::parse(
            SignedText::split(&fs::read(&copy).expect("reads")).expect("divides").unverified_text(),
            &layer(),
        );
        let old = old.expect("parses");
        write_head(site, &Head { issued, expires, ..old }, &carried.key);
        std::thread::sleep(std::time::Duration::from_secs(1));
        for arguments in [&["--allow-expired"][..], &["--check=content"]] {
            site.refused(arguments, 3, &["the server offers serial 2", "has seen 3"]);
        }
    }
}

#[test]
fn rollback_needs_neither_key_nor_server_nor_clock() {
    require!(ROOT_AND_RSYNC, Program("faketime"));
    for carrier in CARRIERS {
        println!("carrier: {carrier:?}");
        let carried = Carried::new(carrier);
        let before = carried.site.snapshot();
        carried.publish(2);
        carried.site.updated(&[]);
        carried.expire();
        let site = carried.lose_keys_and_server();
        let mut command = Command::new("faketime");
        let rollback = site.rollback_command();
        command.arg("1970-01-02 00:00:00").arg(rollback.get_program()).args(rollback.get_args());
        command.args(["--exclude-file", "/dev/null"]);

        common::site::Run::from_output(command.output().expect("runs")).ended(0, &[]);

        judge::same(&before, &site.node(), &["/etc/systemimager"]);
        site.nothing_left();
    }
}

#[test]
fn interrupted_update_is_completed_without_key_and_server() {
    require!(STRACE);
    for carrier in CARRIERS {
        println!("carrier: {carrier:?}");
        let carried = Carried::new(carrier);
        let (site, secret) = (&carried.site, carried.key.secret());
        publish(site, &interrupted::tree(Generation::Second), &["--sign-key", &secret]);
        interrupted::interrupt(&site.node(), &site.command());
        carried.expire();
        let site = carried.lose_keys_and_server();

        let mut command = Command::new(env!("CARGO_BIN_EXE_si_updateclient"));
        command.args(["--recover", "--root"]).arg(site.node());
        common::site::Run::from_output(command.output().expect("runs"))
            .ended(0, &["is at generation"]);

        site.same_except(&["/etc/systemimager"]);
    }
}

#[test]
fn overrides_of_expired_heads_keep_recorded_generation() {
    require!(ROOT_AND_RSYNC);
    let carried = Carried::new(Carrier::File);
    let site = &carried.site;
    let publish_override = |content: &str| {
        let directory = site.dir.path().join("overrides/gpu/etc");
        fs::create_dir_all(&directory).expect("creates");
        fs::write(directory.join("gpu"), content).expect("writes");
        let overrides = site.dir.path().join("overrides").display().to_string();
        let secret = carried.key.secret();
        let words = ["publish", "--quiet", "--override", "gpu", "--overrides-dir", &overrides];
        tardiff(site, &[&words[..], &["--sign-key", &secret, "--expires", "1s"]].concat())
            .ended(0, &[]);
    };
    let installed = site.node().join("etc/gpu");
    publish_override("one");
    site.update(&["--override", "gpu", "--allow-expired"]).ended(0, &[]);
    publish_override("two");
    std::thread::sleep(std::time::Duration::from_secs(2));

    // The head of the image is valid, and leads to another generation as well.
    carried.publish(2);
    site.refused(&["--override", "gpu"], 3, &["the head of override gpu expired at"]);
    carried.damage();
    fs::write(&installed, "damaged").expect("writes");
    site.update(&["--override", "gpu", "--check=content"]).ended(0, &["override gpu expired at"]);

    assert_eq!((carried.version().as_str(), read(&installed).as_str()), ("version 1", "one"));
}

#[test]
fn stale_mirror_repairs_recorded_generation() {
    require!(ROOT_AND_RSYNC);
    for carrier in CARRIERS {
        println!("carrier: {carrier:?}");
        let carried = Carried::new(carrier);
        let site = &carried.site;
        carried.publish(2);
        let stale = fs::read(site.head_path()).expect("reads");
        let prune = ["prune", "--image", "node", "--keep", "1", "--sign-key"];
        tardiff(site, &[&prune[..], &[&carried.key.secret()]].concat()).ended(0, &[]);
        site.updated(&[]);
        fs::write(site.head_path(), stale).expect("writes");
        carried.damage();

        site.updated(&["--check=content"]).ended(0, &["nothing new", "only compared"]);
        site.same_except(&["/etc/systemimager"]);
        site.refused(&["--check=content"], 0, &["nothing new"]);
    }
}
