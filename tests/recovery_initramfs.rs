//! Recovery from the initramfs: an update interrupted after its seal is finished before the root is
//! booted. The test builds an initramfs from the files of `make install-recovery`, and runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::interrupted::{STRACE, behind, interrupt_node};
use crate::common::site::{Run, Site};
use crate::common::small_disk::{DISK, MOUNT, SmallDisk};
use crate::common::{Need, judge, machine, read, require, run, write_program};

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");

/// Generator of the initramfs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Dracut,
    InitramfsTools,
}

/// Unpacked initramfs, and the node that it boots, on a disk of its own.
struct Machine {
    site: Site,
    disk: SmallDisk,
    top: PathBuf,
    kind: Kind,
}

const NEEDED: [&[Need]; 4] = [
    &STRACE,
    &machine::PROGRAMS,
    &DISK,
    &[Need::Program("make"), Need::Program("bash"), Need::Program("busybox")],
];

impl Machine {
    /// Machine whose update was interrupted after its seal.
    fn new(kind: Kind) -> Self {
        let site = behind();
        let disk = SmallDisk::for_node(&site, 96, 2000);
        site.updated(&["--adopt"]);
        interrupt_node(&site);
        let top = site.dir.path().join("initramfs");
        let machine = Machine { site, disk, top, kind };
        machine.fill_initramfs();
        machine
    }

    /// Copies into the initramfs the files that the installed module or hook requests.
    fn fill_initramfs(&self) {
        let installed = self.site.dir.path().join("installed");
        let destination = format!("DESTDIR={}", installed.display());
        run(Command::new("make").args(["-s", "install-recovery", "PREFIX=/usr", &destination]));

        // Each generator has its own functions for requests; these print them instead.
        let script = match self.kind {
            Kind::Dracut => {
                "moddir=$1/usr/lib/dracut/modules.d/90si-recover
                PATH=$PATH:/usr/sbin:/sbin
                require_binaries() { for p; do echo \"needs $p\"; done; }
                inst_multiple() {
                    for p; do
                        command -v \"$p\" >/dev/null && echo \"program $p /bin/${p##*/}\"
                    done; :
                }
                instmods() { echo \"modules $*\"; }
                inst() { echo \"program $1 $2\"; }
                inst_script() { echo \"script $1 $2\"; }
                inst_simple() { echo \"script $1 $2\"; }
                inst_hook() { echo \"script $3 /var/lib/dracut/hooks/$1/$2-${3##*/}\"; }
                . \"$moddir/module-setup.sh\" && check >/dev/null && installkernel && install"
            }
            Kind::InitramfsTools => {
                "functions=$1/hook-functions
                cat >\"$functions\" <<'end'
                copy_exec() { echo \"program $1 $2\"; }
                copy_file() { echo \"$1 $2 $3\"; }
                manual_add_modules() { echo \"modules $*\"; }
end
                share=usr/share/initramfs-tools script=/scripts/local-bottom/si-recover
                sed \"s|^\\. .*hook-functions|. $functions|\" \
                    \"$1/$share/hooks/si-recover\" >\"$1/hook\"
                sh \"$1/hook\" prereqs && sh \"$1/hook\" &&
                echo \"script $1/$share$script $script\""
            }
        };

        let requests = run(Command::new("bash").args(["-euc", script, "bash"]).arg(&installed));
        let (modules, requests): (Vec<&str>, Vec<&str>) =
            requests.lines().partition(|line| line.starts_with("modules "));
        for kind in ["ext4", "xfs", "btrfs", "vfat", "nls_cp437"] {
            assert!(modules.iter().any(|line| line.contains(kind)), "{kind}: {modules:?}");
        }
        for line in requests {
            let [kind, from, to] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            let from = match from {
                "/usr/sbin/si_updateclient" => PathBuf::from(AGENT),
                name if kind == "program" => machine::program(name),
                path if path.starts_with("/usr/share") => installed.join(&path[1..]),
                path => PathBuf::from(path),
            };
            match kind {
                "program" => machine::install(&from, &self.top, &to[1..]),
                _ => machine::install_script(&from, &self.top, &to[1..]),
            }
        }

        // Each generator provides a shell; initramfs-tools also has the mount of busybox.
        match self.kind {
            Kind::Dracut => machine::install(&machine::program("sh"), &self.top, "bin/sh"),
            Kind::InitramfsTools => {
                machine::install_busybox(&self.top, &["sh", "mount", "umount", "sleep"]);
            }
        }

        fs::create_dir_all(self.top.join("sysroot")).expect("makes");
    }

    /// Runs the boot steps of the initramfs: mounts the root read-only, then runs the hook.
    fn boot(&self) -> Run {
        // The script prints the mounts afterwards, and a line if the boot continues.
        let after = "while read -r _ place _ options _; do echo \"$place $options\"; done \
                     </proc/mounts; echo switch root";
        let script = match self.kind {
            Kind::Dracut => {
                format!(
                    "NEWROOT=/sysroot; \
                     . /var/lib/dracut/hooks/pre-pivot/10-si-recover-hook.sh; {after}"
                )
            }
            Kind::InitramfsTools => format!(
                "set -e; export rootmnt=/sysroot; /scripts/local-bottom/si-recover prereqs; \
                 /scripts/local-bottom/si-recover; {after}"
            ),
        };

        self.disk.unmount();

        // Mounted read-write first: otherwise the loop device itself would be read-only.
        // blkid finds disks by way of /sys.
        let mount = format!(
            "mkdir -p \"$1/sys\" && mount -t sysfs sysfs \"$1/sys\" && \
             sh -c '{MOUNT}' sh '{}' \"$1/sysroot\" && mount -o remount,ro \"$1/sysroot\"",
            self.disk.file.display()
        );
        let mut command = machine::chroot_command_after(&self.top, &mount);
        let output = command
            .args(["/bin/sh", "-c", &script])
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        self.disk.mount();
        let boot = Run::from_output(output);
        boot.ended(0, &["switch root"]);
        let root =
            boot.out.lines().find(|line| line.starts_with("/sysroot ")).expect("it is mounted");

        assert!(root.starts_with("/sysroot ro,"), "the root is writable: {boot:#?}");

        boot
    }

    /// Writes the fstab of the node, which the image does not have.
    fn write_fstab(&self, text: &str) {
        let fstab = self.site.node().join("etc/fstab");
        fs::write(fstab, text).expect("writes");
    }

    /// Removes it again; the time of its directory is that of the image then.
    fn remove_fstab(&self) {
        let (image, node) = (self.site.image().join("etc"), self.site.node().join("etc"));
        fs::remove_file(node.join("fstab")).expect("removes");
        run(Command::new("touch").arg("-r").args([image, node]));
    }

    /// Finishes the update in the booted system, as the unit does.
    #[track_caller]
    fn recover_after_boot(&self) -> Run {
        let mut command = Command::new(self.agent_copy());
        let run = command.arg("--recover").arg("--root").arg(self.site.node()).output();
        Run::from_output(run.expect("runs"))
    }

    fn is_sealed(&self) -> bool {
        self.site.node().join(".si-stage/journal").exists()
    }

    #[track_caller]
    fn assert_updated(&self) {
        self.site.same_except(&["/lost+found"]);
        assert_eq!(read(&self.site.node().join("usr/sbin/si_updateclient")), "no program either");
    }

    fn agent_copy(&self) -> PathBuf {
        self.site.node().join(".si-stage/agent")
    }
}

#[test]
fn agent_copy_finishes_update_from_initramfs() {
    require!(NEEDED);

    for kind in [Kind::Dracut, Kind::InitramfsTools] {
        let machine = Machine::new(kind);
        // The agent of the initramfs is not usable.
        fs::write(machine.top.join("usr/sbin/si_updateclient.new"), "no program").expect("writes");
        fs::rename(
            machine.top.join("usr/sbin/si_updateclient.new"),
            machine.top.join("usr/sbin/si_updateclient"),
        )
        .expect("renames");

        machine.boot().ended(
            0,
            &["completing an update that was interrupted", "the update of /sysroot is finished"],
        );

        machine.assert_updated();
        // The next boot prints nothing.
        assert_eq!(machine.boot().err, "", "{kind:?}");
    }
}

#[test]
fn initramfs_agent_finishes_update_if_copy_fails() {
    require!(NEEDED);

    for kind in [Kind::Dracut, Kind::InitramfsTools] {
        let machine = Machine::new(kind);
        fs::write(machine.agent_copy(), "\x7fELF, but not really").expect("writes");
        machine
            .boot()
            .ended(0, &["trying the agent of the initramfs", "the update of /sysroot is finished"]);
        machine.assert_updated();
    }
}

#[test]
fn damaged_journal_is_reported_and_boot_continues() {
    require!(NEEDED);

    for kind in [Kind::Dracut, Kind::InitramfsTools] {
        let machine = Machine::new(kind);
        let journal = machine.site.node().join(".si-stage/journal");
        let whole = read(&journal);
        fs::write(&journal, &whole[..whole.len() / 2]).expect("writes");

        machine.boot().ended(0, &["cannot follow the journal", "IS STILL BETWEEN TWO GENERATIONS"]);
        assert!(machine.is_sealed());

        fs::write(&journal, &whole).expect("writes");
        machine.boot().ended(0, &["the update of /sysroot is finished"]);
        machine.assert_updated();
    }
}

/// A machine with `path` of its node on a second disk, which is not mounted.
fn machine_with_part(kind: Kind, path: &str) -> (Machine, Part) {
    let site = behind();
    let root = SmallDisk::for_node(&site, 96, 2000);
    let disk = SmallDisk::for_path(&site, path, 16, 1000);

    site.updated(&["--adopt"]);
    interrupt_node(&site);
    let top = site.dir.path().join("initramfs");

    // The other disk is unmounted before the root and mounted after it.
    let machine = Machine { site, disk: root, top, kind };
    machine.fill_initramfs();
    disk.unmount();
    let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&disk.file));
    (machine, Part { disk, device: device.trim().to_owned() })
}

/// The second disk, attached to a loop device.
struct Part {
    disk: SmallDisk,
    device: String,
}

impl Part {
    /// Mounts it as the booted system does.
    fn mount(&self) {
        run(Command::new("mount").arg(&self.device).arg(&self.disk.at));
    }

    fn uuid(&self) -> String {
        let args = ["-c", "/dev/null", "-s", "UUID", "-o", "value"];
        run(Command::new("blkid").args(args).arg(&self.device)).trim().to_owned()
    }

    #[track_caller]
    fn assert_empty_below(&self) {
        let below: Vec<_> = fs::read_dir(&self.disk.at).expect("lists").collect();
        assert!(below.is_empty(), "the run created files below the mount point: {below:?}");
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.disk.at).output();
        let _ = Command::new("losetup").arg("-d").arg(&self.device).output();
    }
}

#[test]
fn recovery_without_state_filesystem_leaves_record_to_booted_system() {
    require!(NEEDED);

    for kind in [Kind::Dracut, Kind::InitramfsTools] {
        let (machine, part) = machine_with_part(kind, "var");

        machine.boot().ended(
            0,
            &[
                "all changes of /sysroot are made; /sysroot/var is not mounted",
                "the update of /sysroot is finished",
            ],
        );
        part.assert_empty_below();
        judge::same(&machine.site.image(), &machine.site.node(), &["/lost+found", "/var"]);
        // Nothing is left to do for a second boot before the unit has run.
        assert_eq!(machine.boot().err, "", "{kind:?}");

        part.mount();
        machine.recover_after_boot().ended(0, &["is at generation"]);
        assert!(machine.site.status().contains("serial:      2"));
        machine.assert_updated();
    }
}

#[test]
fn filesystem_with_changes_is_mounted_for_recovery() {
    require!(NEEDED, Program("blkid"), Program("fsck.ext4"));

    for (kind, is_checked) in [(Kind::Dracut, true), (Kind::InitramfsTools, false)] {
        let (machine, part) = machine_with_part(kind, "usr");
        let source = if is_checked { part.device.clone() } else { format!("UUID={}", part.uuid()) };
        machine.write_fstab(&format!(
            "# comment\n{source} /usr ext4 defaults,noatime,x-systemd.growfs 0 2\n"
        ));
        // The filesystem has to be checked before it is mounted.
        let log = machine.top.join("checked");
        if is_checked {
            let check = machine.top.join("bin/fsck.ext4");
            fs::remove_file(&check).expect("the module installs it");
            let script = "#!/bin/sh\nwhile read -r _ place _; do echo \"$place\"; \
                done </proc/mounts >/checked\necho \"$*\" >>/checked\nexit 1\n";
            write_program(&check, script);
        }

        let boot = machine.boot();

        boot.ended(0, &["the update of /sysroot is finished"]);
        assert!(!boot.out.contains("/sysroot/usr"), "it is still mounted: {boot:#?}");
        assert!(!machine.is_sealed());
        part.assert_empty_below();
        if is_checked {
            let checked = read(&log);
            assert!(checked.ends_with(&format!("-a {}\n", part.device)), "{checked}");
            assert!(!checked.contains("/sysroot/usr"), "mounted before the check: {checked}");
        }
        part.mount();
        machine.remove_fstab();
        machine.assert_updated();
    }
}

#[test]
fn filesystem_that_cannot_be_mounted_leaves_recovery_to_booted_system() {
    require!(NEEDED);

    let message = "/sysroot/usr takes part in it, but is not mounted";
    for (fstab, fsck, reason) in [
        ("# nothing\n", None, "/etc/fstab of the system has no entry of a disk for it"),
        ("DEVICE /usr ext4 defaults 0 2\n", Some(4), "fsck.ext4 found errors on"),
        ("DEVICE /usr xfs defaults 0 2\n", None, "mount failed"),
    ] {
        let (machine, part) = machine_with_part(Kind::Dracut, "usr");
        machine.write_fstab(&fstab.replace("DEVICE", &part.device));
        if let Some(code) = fsck {
            let check = machine.top.join("bin/fsck.ext4");
            fs::remove_file(&check).expect("the module installs it");
            write_program(&check, &format!("#!/bin/sh\nexit {code}\n"));
        }
        let before = machine.site.status();

        let boot = machine.boot();

        boot.ended(0, &[reason, message, "IS STILL BETWEEN TWO GENERATIONS"]);
        part.assert_empty_below();
        part.mount();
        assert!(machine.is_sealed());
        assert_eq!(machine.site.status(), before);
        machine.remove_fstab();
        machine.recover_after_boot().ended(0, &["completing an update that was interrupted"]);
        assert!(machine.site.status().contains("serial:      2"));
        machine.assert_updated();
    }
}

/// Each script of the packaging is valid for the shell in its first line.
#[test]
fn packaging_scripts_are_valid() {
    require!(Program("shellcheck"), Program("busybox"), Program("dash"));

    let scripts = [
        "packaging/initramfs/si-filesystems",
        "packaging/initramfs/si-recover-root",
        "packaging/dracut/90si-rescue/module-setup.sh",
        "packaging/dracut/90si-rescue/si-rescue-cmdline.sh",
        "packaging/dracut/90si-rescue/si-rescue-run.sh",
        "packaging/rescue/si-rescue",
        "packaging/rescue/initramfs-tools/hooks/si-rescue",
        "packaging/rescue/initramfs-tools/scripts/init-premount/si-rescue",
        "scripts/rescue",
        "packaging/dracut/90si-recover/module-setup.sh",
        "packaging/dracut/90si-recover/si-recover-hook.sh",
        "packaging/initramfs-tools/hooks/si-recover",
        "packaging/initramfs-tools/scripts/local-bottom/si-recover",
    ];
    run(Command::new("shellcheck").arg("-x").args(scripts));
    for script in scripts.iter().filter(|script| {
        let text = read(Path::new(script));
        text.starts_with("#!/bin/sh\n") || text.starts_with("# shellcheck shell=sh\n")
    }) {
        run(Command::new("busybox").args(["sh", "-n", script]));
        run(Command::new("dash").args(["-n", script]));
    }
}
