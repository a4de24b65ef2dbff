//! The script of the rescue system, with stand-ins for the programs that would change this machine.
//!
//! `mount` copies a prepared directory to the mount point; `si_updateclient` is a script that ends
//! with a chosen exit code, except for the list of filesystems, which the real program prints.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::common::{read, require, run, scratch, write_program};
use tempfile::TempDir;

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");
const SCRIPT: &str = "packaging/rescue/si-rescue";
const FUNCTIONS: &str = "packaging/initramfs/si-filesystems";
/// Arguments of a resync from a server, which powers the machine off.
const RESYNC: &str = "si.rescue=resync si.image-server=server si.post-action=poweroff ";

/// An initramfs with its disks.
struct Rescue {
    dir: TempDir,
    shell: &'static [&'static str],
}

impl Rescue {
    fn new() -> Self {
        Self::with_shell(&["dash"])
    }

    /// Initramfs whose kernel has a network and no disk yet.
    fn with_shell(shell: &'static [&'static str]) -> Self {
        let rescue = Rescue { dir: scratch(), shell };
        for name in ["proc/net", "proc/sys/kernel", "run", "dev", "etc", "disks", "devices", "tmp"]
        {
            fs::create_dir_all(rescue.top().join(name)).expect("makes");
        }
        rescue.write("proc/uptime", "12.50 20.00\n");
        rescue.write("proc/net/route", "Iface\tDestination\neth0\t00000000\n");
        rescue.write("exit", "0");
        rescue.install_programs();
        rescue
    }

    fn top(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.top().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("makes");
        fs::write(path, text).expect("writes");
    }

    fn install_programs(&self) {
        let place = self.top().join("usr/lib/si-rescue");
        fs::create_dir_all(&place).expect("makes");
        fs::copy(SCRIPT, place.join("si-rescue")).expect("copies");
        fs::copy(FUNCTIONS, place.join("si-filesystems")).expect("copies");

        let log = "top=${SI_RESCUE_TOP:?}; echo \"${0##*/} $*\" >>\"$top/calls\"";
        for (name, text) in [
            (
                "mount",
                "for place; do device=$from; from=$place; done\n\
                [ ! -e \"$top/broken/${device##*/}\" ] || exit 32\n\
                [ ! -d \"$top/disks/${device##*/}\" ] || cp -r \"$top/disks/${device##*/}/.\" \"$place\"",
            ),
            ("umount", "case $1 in */probe) rm -rf \"$1\"; mkdir \"$1\" ;; esac"),
            (
                "blkid",
                "case $* in\n\
                '-o device') ls -d \"$top\"/devices/* ;;\n\
                '-l -o device -t '*) echo \"$top/devices/${5#*=}\" ;;\n\
                *'-s TYPE '*) echo ext4 ;;\n\
                *'-s UUID '*) echo \"${5##*/}\" ;;\nesac",
            ),
            ("findfs", "exit 1"),
            ("fsck.ext4", "[ ! -e \"$top/damaged/${2##*/}\" ] || exit 4"),
            ("modprobe", ""),
            ("sync", ""),
            // The watcher of the agent ends at once.
            ("sleep", "[ \"$1\" != 30 ]"),
            (
                "si_updateclient",
                &format!(
                    "case $* in *--list-filesystems*) exec '{AGENT}' \"$@\" ;; esac\n\
                echo 'agent: output'; exit \"$(cat \"$top/exit\")\""
                ),
            ),
        ] {
            write_program(&place.join(name), &format!("#!/bin/sh\n{log}\n{text}\n"));
        }
    }

    /// Adds a disk whose UUID is its name, with these files.
    fn add_disk(&self, name: &str, files: &[(&str, &str)]) {
        let device = self.top().join("devices").join(name);
        run(Command::new("mknod").arg(device).args(["b", "7", "250"]));
        fs::create_dir_all(self.top().join("disks").join(name)).expect("makes");
        for (path, text) in files {
            self.write(&format!("disks/{name}/{path}"), text);
        }
    }

    /// Adds the disk of a node with this fstab.
    fn add_node(&self, fstab: &str) {
        self.add_disk("root", &[("etc/fstab", fstab), ("var/log/syslog", ""), ("dev/null", "")]);
    }

    fn command(&self, arguments: &str, job: &str) -> Command {
        self.write("proc/cmdline", &format!("console=ttyS0 {arguments}\n"));
        let mut command = Command::new(self.shell[0]);
        command
            .args(&self.shell[1..])
            .arg(self.top().join("usr/lib/si-rescue/si-rescue"))
            .arg(job)
            .env("SI_RESCUE_TOP", self.top());
        command
    }

    /// Runs the rescue system and returns what it printed and logged.
    fn boot(&self, arguments: &str) -> String {
        for name in ["calls", "proc/sysrq-trigger", "dev/kmsg"] {
            self.write(name, "");
        }
        let _ = fs::remove_dir_all(self.top().join("run/si-rescue"));
        let output = self.command(arguments, "run").output().expect("runs");
        assert!(output.status.success(), "{output:?}");
        let kept = fs::read_to_string(self.target_log()).unwrap_or_default();
        kept + &read(&self.top().join("run/si-rescue/log"))
    }

    fn target_log(&self) -> PathBuf {
        self.top().join("target/var/log/systemimager/rescue.log")
    }

    /// Commands of the agent, without the list of filesystems and with the name of the directory removed.
    fn calls(&self, program: &str) -> Vec<String> {
        let calls = read(&self.top().join("calls")).replace(&*self.top().to_string_lossy(), "");
        let calls = calls.lines().filter_map(|line| line.strip_prefix(program)?.strip_prefix(' '));
        calls.filter(|line| !line.contains("--list-filesystems")).map(str::to_owned).collect()
    }

    /// The end of the machine: `o` for off, `b` for a reboot, or nothing if it stays on.
    fn ending(&self) -> String {
        read(&self.top().join("proc/sysrq-trigger")).trim().to_owned()
    }
}

#[test]
fn arguments_of_kernel_become_options_of_agent() {
    require!(Root, Program("dash"), Program("busybox"));

    let mut shells = [&["dash"][..], &["busybox", "sh"]];
    let server = "--root /target --server 10.0.0.1:8080 --image web";
    for (arguments, expected) in [
        (
            "si.rescue si.image-server=10.0.0.1:8080 si.image-name=web",
            format!("--diff --yes --check=content --drift=repair {server}"),
        ),
        (
            "si.rescue=resync si.image-server=10.0.0.1:8080 si.image-name=web si.allow-expired \
             si.unhold si.max-delete=90%",
            format!(
                "--diff --yes --check=content --drift=repair {server} --allow-expired --unhold \
                 --max-delete 90%"
            ),
        ),
        (
            "si.rescue=verify si.repo=https://h/ si.override=a,b si.against=7",
            "--verify --against 7 --root /target --repo https://h/ --override a --override b"
                .to_owned(),
        ),
        ("si.rescue=rollback", "--rollback --yes --root /target".to_owned()),
        ("si.rescue=recover si.image-server=ignored", "--recover --root /target".to_owned()),
    ] {
        // The shells of both kinds of initramfs take turns.
        shells.rotate_left(1);
        let rescue = Rescue::with_shell(shells[0]);
        rescue.add_node("UUID=root / ext4 defaults 0 1\n");

        let log = rescue.boot(&format!("{arguments} si.root=UUID=root"));

        assert_eq!(rescue.calls("si_updateclient"), [expected.as_str()], "{shells:?} {log}");
        assert!(log.contains("agent: output") && log.contains("OK: "), "{log}");
    }
}

#[test]
fn arguments_of_build_are_used_unless_command_line_has_others() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_node("UUID=root / ext4 defaults 0 1\n");
    rescue.write("etc/si-rescue.conf", "si.image-server=one\nsi.image-name=a si.rescue=resync");

    rescue.boot("si.image-name=b");

    let calls = rescue.calls("si_updateclient");
    assert!(calls[0].ends_with("--root /target --server one --image b"), "{calls:?}");
}

#[test]
fn network_is_needed_only_by_jobs_with_a_server() {
    require!(Program("dash"));

    let rescue = Rescue::new();
    for (arguments, is_needed) in [
        ("si.rescue=resync si.image-server=server", true),
        ("si.rescue=verify", true),
        ("si.rescue=resync si.repo=file:LABEL=stick/repo", false),
        ("si.rescue=resync si.repo=file:///media/repo", false),
        ("si.rescue=recover si.image-server=server", false),
        ("si.rescue=rollback", false),
        ("si.rescue=shell", false),
        ("", false),
    ] {
        let output = rescue.command(arguments, "needs-network").output().expect("runs");

        assert_eq!(output.status.success(), is_needed, "{arguments}");
    }
}

#[test]
fn filesystems_of_fstab_are_mounted_in_order_before_agent_runs() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_node(
        "# disks\nUUID=log /var/log ext4 noatime 0 2\nUUID=root / ext4 defaults 0 1\n\
         UUID=var /var ext4 defaults 0 2\nUUID=swap none swap sw 0 0\n\
         server:/home /home nfs defaults 0 0\nUUID=gone /srv ext4 nofail 0 2\n\
         /srv/a /srv/b none bind 0 0\nUUID=spoilt /opt ext4 defaults 0 2\n",
    );
    for name in ["log", "var", "spoilt"] {
        rescue.add_disk(name, &[]);
    }
    rescue.write("damaged/spoilt", "");

    let log = rescue.boot(&format!("{RESYNC} si.root=UUID=root"));

    let mounts = rescue.calls("mount");
    let expected = [
        "-t ext4 -o rw /devices/root /target",
        "-t ext4 -o rw /devices/var /target/var",
        "-t ext4 -o rw,noatime /devices/log /target/var/log",
        "-o bind /dev /target/dev",
    ];
    assert_eq!(mounts, expected, "{log}");
    let calls = read(&rescue.top().join("calls"));
    let (before, after) = calls.split_once("si_updateclient --diff").expect("the agent ran");
    assert_eq!(before.matches("\nmount ").count(), expected.len());
    assert_eq!(
        after.matches("umount").count(),
        expected.len(),
        "all are unmounted at the end: {after}"
    );
    let places = ["/target/dev", "/target/var/log", "/target/var", "/target"];
    assert_eq!(rescue.calls("umount"), places);
    for sentence in [
        "cannot mount /target/srv: no disk is UUID=gone",
        "cannot mount /target/opt: fsck.ext4 found errors",
    ] {
        assert!(log.replace(&*rescue.top().to_string_lossy(), "").contains(sentence), "{log}");
    }
}

#[test]
fn verification_mounts_read_only_and_writes_no_log() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_node("UUID=root / ext4 defaults 0 1\nUUID=var /var ext4 defaults 0 2\n");
    rescue.add_disk("var", &[]);

    rescue.boot("si.rescue=verify si.image-server=s si.root=UUID=root si.post-action=reboot");

    let expected =
        ["-t ext4 -o ro /devices/root /target", "-t ext4 -o rw,ro /devices/var /target/var"];
    assert_eq!(rescue.calls("mount"), expected);
    assert!(!rescue.target_log().exists());
    assert_eq!(rescue.ending(), "b");
}

#[test]
fn root_is_found_if_one_disk_has_a_node() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_disk("data", &[("photos/1", "")]);
    rescue.add_disk("other", &[("etc/fstab", "# UNCONFIGURED\nUUID=1 /data ext4 defaults\n")]);
    let log = rescue.boot(RESYNC);
    assert!(log.contains("FAILED: no filesystem of this machine is the root of a node"), "{log}");

    rescue.add_node("UUID=root / ext4 defaults 0 1\n");
    let log = rescue.boot(RESYNC);
    assert!(log.contains("OK: resync"), "{log}");
    let mounts = rescue.calls("mount");
    assert!(mounts[0].starts_with("-t ext4 -o ro,noload /devices/data"), "{mounts:?}");
    assert!(mounts.contains(&"-t ext4 -o rw /devices/root /target".to_owned()), "{mounts:?}");

    rescue.add_disk("second", &[(".si-stage/journal", "")]);
    let log = rescue.boot(RESYNC);
    assert!(log.contains("FAILED: several filesystems are roots of nodes"), "{log}");
}

#[test]
fn empty_root_receives_fstab_of_arguments() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_disk("root", &[("lost+found/x", "")]);
    rescue.add_disk("boot", &[]);
    rescue.add_disk("home", &[]);

    let log = rescue.boot(&format!(
        "{RESYNC} si.root=UUID=root si.mount=UUID=boot:/boot si.mount=UUID=home:/home:xfs:noatime,nodev"
    ));

    let expected = "UUID=root / ext4 defaults 0 1\nUUID=boot /boot ext4 defaults 0 2\n\
        UUID=home /home xfs noatime,nodev 0 2\n";
    assert_eq!(read(&rescue.top().join("target/etc/fstab")), expected, "{log}");
    let mounts = rescue.calls("mount");
    assert_eq!(mounts[1], "-t ext4 -o rw /devices/boot /target/boot", "{log}");
    assert_eq!(mounts[2], "-t xfs -o rw,noatime,nodev /devices/home /target/home");
}

#[test]
fn root_with_files_and_no_fstab_is_refused_unless_filesystems_are_named() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_disk("root", &[("usr/bin/true", ""), ("etc/passwd", "")]);

    let log = rescue.boot(&format!("{RESYNC} si.root=UUID=root"));
    assert!(log.contains("its other filesystems are unknown; name each with si.mount="), "{log}");
    assert_eq!(rescue.calls("si_updateclient"), [""; 0]);
    assert!(!rescue.top().join("target/etc/fstab").exists());

    let log = rescue.boot(&format!("{RESYNC} si.root=UUID=root si.mount=none"));
    assert!(log.contains("OK: resync"), "{log}");
}

#[test]
fn interrupted_writing_of_fstab_is_repeated() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_disk("root", &[("etc/fstab.new", "UU"), (".x", "")]);
    fs::remove_file(rescue.top().join("disks/root/.x")).expect("removes");

    rescue.boot(&format!("{RESYNC} si.root=UUID=root"));

    let fstab = read(&rescue.top().join("target/etc/fstab"));
    assert_eq!(fstab, "UUID=root / ext4 defaults 0 1\n");
}

#[test]
fn failures_are_sentences_and_agent_does_not_run() {
    require!(Root, Program("dash"));

    for (arguments, sentence) in [
        ("quiet", "no job was named; pass si.rescue=resync, verify, rollback, recover or shell"),
        ("si.rescue=heal", "si.rescue=heal is unknown"),
        ("si.rescue si.imageserver=x", "unknown arguments: si.imageserver=x"),
        ("si.rescue si.post-action=halt", "si.post-action=halt is unknown"),
        ("si.rescue si.root=UUID=none", "cannot mount the root UUID=none"),
        ("si.rescue=rollback si.root=UUID=empty", "only si.rescue=resync fills such a root"),
        ("si.rescue si.root=UUID=empty si.mount=UUID=x", "si.mount=UUID=x is not valid"),
        ("si.rescue si.root=UUID=empty si.mount=UUID=x:/x", "no disk is UUID=x; correct si.mount="),
        ("si.rescue si.root=UUID=root si.repo=file:LABEL=no/r", "no disk is LABEL=no; plug in"),
        ("si.rescue si.root=UUID=root si.repo=file:UUID=bad", "cannot mount the disk with the rep"),
        ("si.rescue si.root=UUID=root", "no network interface has an address"),
    ] {
        let rescue = Rescue::new();
        rescue.add_node("UUID=root / ext4 defaults 0 1\n");
        rescue.add_disk("empty", &[]);
        rescue.add_disk("bad", &[]);
        rescue.write("broken/bad", "");
        rescue.write("proc/net/route", "Iface\tDestination\n");

        let log = rescue.boot(arguments);

        assert!(log.contains("FAILED: ") && log.contains(sentence), "{arguments}: {log}");
        assert_eq!(rescue.calls("si_updateclient"), [""; 0], "{arguments}");
        assert_eq!(rescue.ending(), "", "{arguments}");
    }
}

#[test]
fn exit_codes_are_sentences_and_no_failure_reboots() {
    require!(Root, Program("dash"));

    for code in [0, 1, 2, 3, 6, 9, 13, 15] {
        let rescue = Rescue::new();
        rescue.add_node("UUID=root / ext4 defaults 0 1\n");
        rescue.write("exit", &code.to_string());
        let is_success = [0, 15].contains(&code);

        let log =
            rescue.boot("si.rescue si.image-server=s si.root=UUID=root si.post-action=reboot");

        assert_eq!(log.contains("OK: "), is_success, "{code}: {log}");
        assert_eq!(log.contains("FAILED: "), !is_success, "{code}: {log}");
        assert_eq!(rescue.ending() == "b", is_success, "{code}: {log}");
        assert_eq!(log.contains("does not reboot after a failure"), !is_success, "{code}: {log}");
    }
}

#[test]
fn unreachable_server_is_tried_six_times() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_node("UUID=root / ext4 defaults 0 1\n");
    rescue.write("exit", "4");

    let log = rescue.boot(&format!("{RESYNC} si.root=UUID=root"));

    assert_eq!(rescue.calls("si_updateclient").len(), 6);
    let pauses = rescue.calls("sleep");
    let pauses: Vec<&str> = pauses.iter().map(String::as_str).filter(|it| *it != "30").collect();
    assert_eq!(pauses, ["10", "20", "40", "80", "160"]);
    assert!(log.contains("FAILED: the server cannot be reached"), "{log}");
    // A machine that nobody watches is off after a failure, if that was its ending.
    assert_eq!(rescue.ending(), "o");
}

#[test]
fn key_of_build_wins_over_key_of_command_line() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_node("UUID=root / ext4 defaults 0 1\n");
    let arguments = format!("{RESYNC} si.root=UUID=root si.key=RWkey+/=");

    rescue.boot(&arguments);
    let key = rescue.top().join("etc/systemimager/keys/command-line.pub");
    assert_eq!(read(&key), "untrusted comment: from si.key=\nRWkey+/=\n");
    let top = rescue.top().display().to_string();
    assert!(read(&rescue.top().join("calls")).contains(&format!("--keys-from {top} ")));

    fs::remove_file(&key).expect("removes");
    rescue.write("etc/systemimager/keys/rescue.pub", "untrusted comment: x\nRWother\n");
    let log = rescue.boot(&arguments);
    assert!(log.contains("si.key= is ignored"), "{log}");
    assert!(!key.exists());
    assert!(read(&rescue.top().join("calls")).contains(&format!("--keys-from {top} ")));
}

#[test]
fn repository_on_disk_is_mounted_read_only() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_node("UUID=root / ext4 defaults 0 1\n");
    rescue.add_disk("stick", &[]);
    rescue.write("proc/net/route", "");

    rescue.boot(&format!("{RESYNC} si.root=UUID=root si.repo=file:LABEL=stick/si/repo"));

    let mounts = rescue.calls("mount");
    assert!(mounts.contains(&"-t ext4 -o ro /devices/stick /run/si-rescue/medium".to_owned()));
    let calls = rescue.calls("si_updateclient");
    let url = format!("--repo file://{}/run/si-rescue/medium/si/repo", "");
    assert!(calls[0].ends_with(&url), "{calls:?}");
}

#[test]
fn log_is_appended_on_node_and_its_directory_keeps_its_time() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_node("UUID=root / ext4 defaults 0 1\n");
    let target = rescue.top().join("target/var/log");
    fs::create_dir_all(&target).expect("makes");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::open(&target).expect("opens").set_modified(time).expect("sets");
    // The copy in place of the mount would set the time of the directory.
    fs::remove_dir_all(rescue.top().join("disks/root/var")).expect("removes");

    rescue.boot(&format!("{RESYNC} si.root=UUID=root"));
    rescue.boot(&format!("{RESYNC} si.root=UUID=root"));

    assert_eq!(read(&rescue.target_log()).matches("OK: resync").count(), 2);
    let metadata = fs::metadata(&target).expect("a directory");
    assert_eq!(metadata.modified().expect("a time"), time);
}

#[test]
fn planted_link_in_place_of_log_is_not_followed() {
    require!(Root, Program("dash"));

    for place in ["var/log/systemimager", "var/log/systemimager/rescue.log"] {
        let rescue = Rescue::new();
        rescue.add_node("UUID=root / ext4 defaults 0 1\n");
        let victim = rescue.top().join("tmp/victim");
        fs::create_dir_all(&victim).expect("makes");
        let link = rescue.top().join("target").join(place);
        fs::create_dir_all(link.parent().expect("a directory")).expect("makes");
        std::os::unix::fs::symlink(&victim, &link).expect("links");

        let log = rescue.boot(&format!("{RESYNC} si.root=UUID=root"));

        assert_eq!(fs::read_dir(&victim).expect("lists").count(), 0, "{place}");
        assert!(log.contains("OK: resync"), "{log}");
    }
}

#[test]
fn shell_mounts_node_and_stays_on() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_node("UUID=root / ext4 defaults 0 1\n");

    let log = rescue.boot("si.rescue=shell si.post-action=reboot");

    assert!(log.contains("a shell is open on the console"), "{log}");
    assert_eq!(rescue.calls("si_updateclient"), [""; 0]);
    assert_eq!(rescue.ending(), "");
}

#[test]
fn lines_reach_the_kernel_log_with_a_time_in_the_log() {
    require!(Root, Program("dash"));

    let rescue = Rescue::new();
    rescue.add_node("UUID=root / ext4 defaults 0 1\n");

    let log = rescue.boot(&format!("{RESYNC} si.root=UUID=root"));

    let mut expected = String::new();
    for step in ["rescue system started", "filesystems mounted", "source ready", "job ended", "end"]
    {
        let _ = writeln!(expected, "[    12.50]     12.50 {step}");
    }
    assert!(log.contains(&expected), "{log}");
    assert!(read(&rescue.top().join("dev/kmsg")).contains("<13>si-rescue: "));
}
