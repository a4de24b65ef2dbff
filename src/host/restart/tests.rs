//! The verdict on a `/proc` that is made up; a real one is looked at in `tests/restart.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::kernels::by_version;
use super::*;

/// A directory that looks like `/proc`, and the tree of the system.
struct System {
    dir: tempfile::TempDir,
}

impl System {
    /// Started long after all that is made now, if `late`, else long before.
    fn new(late: bool) -> Self {
        let system = System { dir: tempfile::tempdir().expect("a directory") };
        fs::create_dir_all(system.at("tree/boot")).expect("makes");
        fs::create_dir_all(system.at("other")).expect("makes");
        fs::create_dir_all(system.at("proc/irq")).expect("makes");
        system.write(
            "proc/stat",
            &format!("cpu 1 2\nbtime {}\n", if late { 99_999_999_999u64 } else { 1_000 }),
        );
        system
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().expect("a parent")).expect("makes");
        fs::write(self.at(path), text).expect("writes");
    }

    fn kernel(&self, release: &str) {
        fs::create_dir_all(self.at("tree/lib/modules").join(release)).expect("makes");
        self.write(&format!("tree/boot/vmlinuz-{release}"), "kernel");
    }

    /// A process that runs `exe` and maps the files of `maps`, a `RIGHTS NAME` a line; names are the tree's.
    fn process(&self, pid: u32, command: &str, group: &str, exe: &str, maps: &str) {
        let tree = self.at("tree").display().to_string();
        let line = |line: &str| {
            let (rights, name) = line.split_once(' ').expect("rights and a name");
            let name =
                if name.starts_with('/') { format!("{tree}{name}") } else { name.to_owned() };
            format!("7f00-7f01 {rights} 00000000 fd:01 1234                       {name}\n")
        };
        self.write(&format!("proc/{pid}/maps"), &maps.lines().map(line).collect::<String>());
        self.write(&format!("proc/{pid}/comm"), &format!("{command}\n"));
        self.write(&format!("proc/{pid}/cgroup"), group);
        symlink(format!("{tree}{exe}"), self.at(&format!("proc/{pid}/exe"))).expect("links");
        symlink(&tree, self.at(&format!("proc/{pid}/root"))).expect("links");
    }

    fn verdict(&self, release: &str) -> RestartVerdict {
        let root = Root::open(&self.at("tree")).expect("opens");
        RestartVerdict::of(&self.at("proc"), &root, release).expect("is found out")
    }
}

const SSHD: &str = "0::/system.slice/sshd.service\n";

#[test]
fn what_is_as_installed_needs_nothing() {
    let system = System::new(true);
    system.kernel("6.1.0-18-amd64");
    system.process(
        1,
        "systemd",
        "0::/init.scope\n",
        "/usr/lib/systemd/systemd",
        "r-xp /usr/lib/libc.so.6",
    );
    system.process(
        70,
        "sshd",
        SSHD,
        "/usr/sbin/sshd",
        "r-xp /usr/lib/libc.so.6\nrw-p \nrw-p [heap]",
    );
    let verdict = system.verdict("6.1.0-18-amd64");
    assert!(verdict.is_clean());
    assert_eq!(verdict.lines(), ["nothing needs restarting"]);
}

#[test]
fn a_service_is_named_with_its_replaced_files_its_program_first() {
    let system = System::new(true);
    let maps = "r-xp /usr/lib/libz.so.1.3 (deleted)\nr--p /usr/lib/libz.so.1.3 (deleted)\nr-xp /.si-undo/17";
    system.process(70, "sshd", SSHD, "/usr/sbin/sshd (deleted)", maps);
    system.process(71, "sshd", SSHD, "/usr/sbin/sshd (deleted)", "r-xp /boot/.si-stage/0/x");
    let verdict = system.verdict("");
    let files = ["/usr/sbin/sshd", "/usr/lib/libz.so.1.3", "/.si-undo/17", "/boot/.si-stage/0/x"];
    let service = Service {
        name: "sshd.service".into(),
        pids: vec![70, 71],
        files: files.map(String::from).into(),
    };
    assert_eq!(verdict.services, [service]);
    assert_eq!(
        verdict.lines(),
        ["sshd.service: uses /usr/sbin/sshd, which was replaced (3 more)", "no reboot needed"]
    );
}

#[test]
fn what_programs_make_and_unlink_themselves_counts_for_nothing() {
    let system = System::new(true);
    let maps = "rw-s /memfd:x (deleted)\nrw-s /dev/shm/x (deleted)\nr-xp /tmp/x.so (deleted)\nrw-p /run/x (deleted)\n\
        rw-p /var/tmp/x (deleted)\nrw-s /SYSV00000000 (deleted)\nr--p anon_inode:[x] (deleted)\nr-xp [vdso]\n\
        rw-s /[aio] (deleted)\nr--s /usr/lib/cache (deleted)\nr--p /var/lib/db (deleted)\n\
        r--p /usr/lib/locale/locale-archive (deleted)\nr-xp /home/x (deleted) not";
    system.process(70, "sshd", SSHD, "/usr/sbin/sshd", maps);
    assert!(system.verdict("").is_clean());
}

#[test]
fn a_container_has_another_root_and_is_left_alone() {
    let system = System::new(true);
    system.process(70, "sshd", SSHD, "/usr/sbin/sshd (deleted)", "");
    fs::remove_file(system.at("proc/70/root")).expect("removes");
    symlink(system.at("other"), system.at("proc/70/root")).expect("links");
    assert!(system.verdict("").is_clean());
}

#[test]
fn our_own_program_may_be_a_new_one_and_threads_of_the_kernel_have_none() {
    let system = System::new(true);
    system.process(70, "si_updateclient", SSHD, "/usr/sbin/si_updateclient (deleted)", "");
    symlink("70", system.at("proc/self")).expect("links");
    system.process(2, "kthreadd", "0::/\n", "/x", "");
    fs::remove_file(system.at("proc/2/exe")).expect("removes");
    assert!(system.verdict("").is_clean());
}

#[test]
fn what_belongs_to_no_service_is_named_by_its_command() {
    let system = System::new(true);
    for (pid, group) in [
        (70, "0::/user.slice/user-0.slice/session-3.scope\n"),
        (71, "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service\n"),
        (72, "9:pids:/\n1:name=systemd:/\n0::/\n"),
        (73, "5:memory:/x.service\n1:name=systemd:/system.slice/cron.service\n"),
    ] {
        system.process(pid, "ba\x1b[31msh", group, "/bin/bash (deleted)", "");
    }
    let names: Vec<String> =
        system.verdict("").services.into_iter().map(|service| service.name).collect();
    assert_eq!(
        names,
        ["cron.service", "ba?[31msh (pid 70)", "ba?[31msh (pid 71)", "ba?[31msh (pid 72)"]
    );
}

#[test]
fn a_c_library_under_the_system_or_process_1_wants_a_reboot() {
    let old = "r-xp /usr/lib/x86_64-linux-gnu/libc.so.6 (deleted)";
    let system = System::new(true);
    system.process(80, "bash", "0::/user.slice/user-0.slice/session-3.scope\n", "/bin/bash", old);
    assert_eq!(system.verdict("").reboot, []);
    system.process(70, "sshd", SSHD, "/usr/sbin/sshd", old);
    let lines = system.verdict("").lines();
    assert!(lines[2].starts_with(
        "reboot needed: sshd.service and perhaps others use the C library /usr/lib/x86"
    ));
    system.process(
        1,
        "systemd",
        "0::/init.scope\n",
        "/usr/lib/systemd/systemd",
        "r-xp /usr/lib/libx.so (deleted)",
    );
    let reboot: Vec<String> =
        system.verdict("").reboot.iter().map(RestartReason::to_string).collect();
    assert_eq!(reboot[0], "process 1 (systemd) uses /usr/lib/libx.so, which was replaced");
    assert_eq!(reboot.len(), 2);
    assert!(system.verdict("").services.iter().all(|service| !service.pids.contains(&1)));
}

#[test]
fn another_kernel_after_a_reboot_is_a_reason() {
    let (running, newer) = ("6.1.0-18-amd64", "6.1.0-21-amd64");
    let system = System::new(true);
    assert_eq!(system.verdict(running).reboot, [], "no kernel here: it came over the network");
    system.kernel("5.10.0-9-amd64");
    assert_eq!(
        system.verdict(running).reboot,
        [RestartReason::KernelGone { running: running.into() }]
    );
    system.kernel(running);
    assert_eq!(system.verdict(running).reboot, []);
    fs::create_dir_all(system.at("tree/lib/modules").join(newer)).expect("makes");
    assert_eq!(system.verdict(running).reboot, [], "nothing could be booted");
    system.kernel(newer);
    let newer = RestartReason::KernelNewer { running: running.into(), installed: newer.into() };
    assert_eq!(system.verdict(running).reboot, [newer]);
    let system = System::new(false);
    system.kernel(running);
    assert!(
        matches!(&system.verdict(running).reboot[..], [RestartReason::KernelChanged { file }] if file.ends_with(running))
    );
}

#[test]
fn kernels_are_ordered_as_their_makers_mean_it() {
    for (older, newer) in [
        ("6.1.0-9-amd64", "6.1.0-18-amd64"),
        ("5.14.0-427.13.1.el9_4.x86_64", "5.14.0-503.el9_5.x86_64"),
        ("6.10.0-rc7", "6.10.0"),
        ("6.10.0-rc2", "6.10.0-rc10"),
        ("6.9.12", "6.10.0"),
        ("5.15.0-100-generic", "5.15.0-101-generic"),
        ("6.1", "6.1.2"),
    ] {
        assert_eq!(by_version(older, newer), std::cmp::Ordering::Less, "{older} {newer}");
        assert_eq!(by_version(newer, older), std::cmp::Ordering::Greater, "{older} {newer}");
    }
}
