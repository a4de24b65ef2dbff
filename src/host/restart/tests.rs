//! The verdict on an artificial `/proc`; `tests/restart.rs` inspects a real one.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;

/// A directory that looks like `/proc`, and the tree of the system.
struct System {
    dir: tempfile::TempDir,
}

impl System {
    /// A system that was started long after its files were written.
    fn started_late() -> Self {
        System::started_at(99_999_999_999)
    }

    /// A system that was started long before its files were written.
    fn started_early() -> Self {
        System::started_at(1_000)
    }

    fn started_at(seconds: u64) -> Self {
        // A tmpfs has no birth times on older kernels.
        let system = System { dir: tempfile::tempdir_in("/var/tmp").expect("a directory") };
        fs::create_dir_all(system.at("tree/boot")).expect("makes");
        fs::create_dir_all(system.at("other")).expect("makes");
        fs::create_dir_all(system.at("proc/irq")).expect("makes");
        system.write("proc/stat", &format!("cpu 1 2\nbtime {seconds}\n"));
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

    /// A process that runs `exe` and maps the files of `maps`, a `RIGHTS NAME` a line; names are
    /// the tree's.
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
        RestartVerdict::inspect(&self.at("proc"), &root, release).expect("reads")
    }
}

const SSHD: &str = "0::/system.slice/sshd.service\n";

#[test]
fn unchanged_files_need_no_restart() {
    let system = System::started_late();
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
fn service_named_with_replaced_files_program_first() {
    let system = System::started_late();
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
fn temporary_files_of_programs_ignored() {
    let system = System::started_late();
    let maps = "rw-s /memfd:x (deleted)\nrw-s /dev/shm/x (deleted)\nr-xp /tmp/x.so (deleted)\nrw-p /run/x (deleted)\n\
        rw-p /var/tmp/x (deleted)\nrw-s /SYSV00000000 (deleted)\nr--p anon_inode:[x] (deleted)\nr-xp [vdso]\n\
        rw-s /[aio] (deleted)\nr--s /usr/lib/cache (deleted)\nr--p /var/lib/db (deleted)\n\
        r--p /usr/lib/locale/locale-archive (deleted)\nr-xp /home/x (deleted) not";
    system.process(70, "sshd", SSHD, "/usr/sbin/sshd", maps);
    assert!(system.verdict("").is_clean());
}

#[test]
fn process_of_container_ignored() {
    let system = System::started_late();
    system.process(70, "sshd", SSHD, "/usr/sbin/sshd (deleted)", "");
    fs::remove_file(system.at("proc/70/root")).expect("removes");
    symlink(system.at("other"), system.at("proc/70/root")).expect("links");
    assert!(system.verdict("").is_clean());
}

#[test]
fn own_process_and_kernel_threads_ignored() {
    let system = System::started_late();
    system.process(70, "si_updateclient", SSHD, "/usr/sbin/si_updateclient (deleted)", "");
    symlink("70", system.at("proc/self")).expect("links");
    system.process(2, "kthreadd", "0::/\n", "/x", "");
    fs::remove_file(system.at("proc/2/exe")).expect("removes");
    assert!(system.verdict("").is_clean());
}

#[test]
fn process_without_service_named_by_command() {
    let system = System::started_late();
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
fn replaced_c_library_or_init_needs_reboot() {
    let old = "r-xp /usr/lib/x86_64-linux-gnu/libc.so.6 (deleted)";
    let system = System::started_late();
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
fn other_kernel_after_reboot_is_reason() {
    let (running, newer) = ("6.1.0-18-amd64", "6.1.0-21-amd64");
    let system = System::started_late();

    assert_eq!(system.verdict(running).reboot, [], "booted over the network");

    system.kernel("5.10.0-9-amd64");

    assert_eq!(
        system.verdict(running).reboot,
        [RestartReason::KernelGone { running: running.into() }]
    );

    system.kernel(running);

    assert_eq!(system.verdict(running).reboot, []);

    fs::create_dir_all(system.at("tree/lib/modules").join(newer)).expect("makes");

    assert_eq!(system.verdict(running).reboot, [], "the newer kernel has no image");

    system.kernel(newer);
    let newer = RestartReason::KernelNewer { running: running.into(), installed: newer.into() };

    assert_eq!(system.verdict(running).reboot, [newer]);

    let system = System::started_early();
    system.kernel(running);

    assert!(
        matches!(&system.verdict(running).reboot[..], [RestartReason::KernelChanged { file }] if file.ends_with(running))
    );
}

/// The kernel marks a name as deleted although a rollback has moved the inode back.
#[test]
fn inode_that_is_at_its_path_again_is_not_stale() {
    let system = System::started_late();
    for file in ["usr/sbin/sshd", "usr/lib/libz.so", "usr/lib/liba.so"] {
        system.write(&format!("tree/{file}"), "content");
        let [name, marked] = [file.to_owned(), format!("{file} (deleted)")]
            .map(|name| system.at(&format!("tree/{name}")));
        fs::hard_link(name, marked).expect("links");
    }
    let maps = "r-xp /usr/lib/libz.so (deleted)";
    system.process(70, "sshd", SSHD, "/usr/sbin/sshd (deleted)", maps);
    fs::create_dir(system.at("proc/70/map_files")).expect("makes");
    symlink(system.at("tree/usr/lib/libz.so (deleted)"), system.at("proc/70/map_files/7f00-7f01"))
        .expect("links");

    // Only root may follow the links in map_files; others have the printed numbers.
    system.process(71, "sshd", SSHD, "/usr/sbin/sshd (deleted)", "");
    let meta = fs::metadata(system.at("tree/usr/lib/liba.so")).expect("is there");
    let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    let name = system.at("tree/usr/lib/liba.so (deleted)");
    let maps = format!("1-2 r-xp 0 {major:02x}:{minor:02x} {}  {}\n", meta.ino(), name.display());
    system.write("proc/71/maps", &maps);

    assert_eq!(system.verdict("").services, []);

    for file in ["usr/sbin/sshd", "usr/lib/libz.so", "usr/lib/liba.so"] {
        fs::remove_file(system.at(&format!("tree/{file}"))).expect("removes");
        system.write(&format!("tree/{file}"), "another");
    }
    let files = ["/usr/sbin/sshd", "/usr/lib/libz.so", "/usr/lib/liba.so"];
    assert_eq!(system.verdict("").services[0].files, files);
}

/// A program that was moved to the undo set is stale, even if its path is occupied again.
#[test]
fn inode_below_undo_set_is_stale() {
    let system = System::started_late();
    system.write("tree/.si-undo/17", "content");
    fs::create_dir_all(system.at("tree/usr/sbin")).expect("makes");
    fs::hard_link(system.at("tree/.si-undo/17"), system.at("tree/usr/sbin/sshd")).expect("links");

    system.process(70, "sshd", SSHD, "/.si-undo/17", "");

    assert_eq!(system.verdict("").services[0].files, ["/.si-undo/17"]);
}

#[test]
fn kernel_image_with_another_link_is_unchanged() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let system = System::started_at(now + 2);
    system.kernel("6.1.0");
    let image = system.at("tree/boot/vmlinuz-6.1.0");
    assert!(fs::metadata(&image).expect("is there").created().is_ok(), "no birth times here");
    std::thread::sleep(Duration::from_millis(3100));

    fs::hard_link(&image, system.at("other/backup")).expect("links");
    assert_eq!(system.verdict("6.1.0").reboot, []);

    // A rollback moves the old inode back.
    system.write("tree/new", "kernel");
    fs::rename(system.at("tree/new"), &image).expect("renames");
    assert_eq!(system.verdict("6.1.0").reboot.len(), 1);
    fs::rename(system.at("other/backup"), &image).expect("renames");
    assert_eq!(system.verdict("6.1.0").reboot, []);

    fs::write(&image, "overwritten").expect("writes");
    assert_eq!(system.verdict("6.1.0").reboot.len(), 1);
}

/// An image with the header of the x86 boot protocol.
fn x86_image(build: &str) -> Vec<u8> {
    let mut image = vec![0; 0x300];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    image.extend(format!("6.1.0 (kernel@builder.example) {build}\0rest").bytes());
    image
}

#[test]
fn build_in_kernel_image_decides() {
    let build = "#1 SMP Debian 6.1.76-1 (2024-02-01)";
    for (in_image, system, is_changed) in [
        (build, System::started_early(), false),
        ("#1 SMP Debian 6.1.90-1 (2024-05-03)", System::started_late(), true),
    ] {
        system.kernel("6.1.0");
        fs::write(system.at("tree/boot/vmlinuz-6.1.0"), x86_image(in_image)).expect("writes");
        system.write("proc/sys/kernel/version", &format!("{build}\n"));

        assert_eq!(system.verdict("6.1.0").reboot.len(), usize::from(is_changed), "{in_image}");
    }
}

#[test]
fn changed_unit_files_need_daemon_reload() {
    let system = System::started_late();
    let units = ["usr/lib/systemd/system", "etc/systemd/system/sshd.service.d"];
    system.write(&format!("tree/{}/a.service", units[0]), "a");
    system.write(&format!("tree/{}/b.service", units[0]), "b");
    system.write(&format!("tree/{}/x.conf", units[1]), "x");
    system.write("tree/etc/fstab", "f");
    assert_eq!(system.verdict("").daemon_reload, [""; 0], "no systemd runs");

    let stamp = system.at("tree/run/systemd/systemd-units-load");
    system.write("tree/run/systemd/systemd-units-load", "");
    let reload = || {
        std::thread::sleep(Duration::from_millis(50));
        let file = fs::File::options().write(true).open(&stamp).expect("opens");
        file.set_modified(SystemTime::now()).expect("sets the time");
        std::thread::sleep(Duration::from_millis(50));
    };
    let changed = || {
        let tree = fs::canonicalize(system.at("tree")).expect("is there").display().to_string();
        let verdict = system.verdict("");
        let names = verdict.daemon_reload.iter();
        names.map(|name| name.replace(&tree, "")).collect::<Vec<_>>()
    };
    reload();
    assert!(system.verdict("").is_clean());

    fs::write(system.at("tree/usr/lib/systemd/system/a.service"), "aa").expect("writes");
    fs::write(system.at("tree/etc/systemd/system/sshd.service.d/x.conf"), "xx").expect("writes");
    assert_eq!(
        changed(),
        ["/usr/lib/systemd/system/a.service", "/etc/systemd/system/sshd.service.d/x.conf"]
    );
    let lines = system.verdict("").lines();
    assert!(lines[0].starts_with("systemctl daemon-reload is needed: "), "{lines:?}");
    assert!(lines[0].ends_with("a.service changed (1 more)"), "{lines:?}");
    assert_eq!(lines[1], "no reboot needed");

    reload();
    fs::remove_file(system.at("tree/usr/lib/systemd/system/b.service")).expect("removes");
    fs::write(system.at("tree/etc/fstab"), "ff").expect("writes");
    assert_eq!(changed(), ["/usr/lib/systemd/system", "/etc/fstab"]);
}
