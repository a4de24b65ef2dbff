//! An update that was interrupted after its seal is finished from the initramfs, before the root is
//! booted: what `make install-recovery` installs is put into an initramfs as it asks for, and run there.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::interrupted::{STRACE, behind, interrupt_node, read};
use common::site::{Run, Site};
use common::small_disk::{DISK, MOUNT, SmallDisk};
use common::{Need, judge, machine, require, run};

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");

/// Which kind of initramfs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Dracut,
    InitramfsTools,
}

/// An initramfs, unpacked, and the node that it is to boot, on a disk that is not mounted.
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
    /// The update of the node was interrupted after its seal.
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

    /// Puts into the initramfs what the module or hook, as installed, asks for.
    fn fill_initramfs(&self) {
        let installed = self.site.dir.path().join("installed");
        let destination = format!("DESTDIR={}", installed.display());
        run(Command::new("make").args(["-s", "install-recovery", "PREFIX=/usr", &destination]));
        // each in a dialect of its own, as the program that reads them has these functions
        let script = match self.kind {
            Kind::Dracut => {
                "moddir=$1/usr/lib/dracut/modules.d/90si-recover
                require_binaries() { for p; do echo \"needs $p\"; done; }
                inst_multiple() { for p; do echo \"program $p /bin/${p##*/}\"; done; }
                inst() { echo \"program $1 $2\"; }
                inst_script() { echo \"script $1 $2\"; }
                inst_hook() { echo \"script $3 /var/lib/dracut/hooks/$1/$2-${3##*/}\"; }
                . \"$moddir/module-setup.sh\" && check >/dev/null && install"
            }
            Kind::InitramfsTools => {
                "functions=$1/hook-functions
                cat >\"$functions\" <<'end'
                copy_exec() { echo \"program $1 $2\"; }
                copy_file() { echo \"$1 $2 $3\"; }
end
                sed \"s|^\\. .*hook-functions|. $functions|\" \"$1/usr/share/initramfs-tools/hooks/si-recover\" >\"$1/hook\"
                sh \"$1/hook\" prereqs && sh \"$1/hook\" &&
                echo \"script $1/usr/share/initramfs-tools/scripts/local-bottom/si-recover /scripts/local-bottom/si-recover\""
            }
        };
        let asked = run(Command::new("bash").args(["-euc", script, "bash"]).arg(&installed));
        for line in asked.lines() {
            let [what, from, to] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            let from = match from {
                "/usr/sbin/si_updateclient" => PathBuf::from(AGENT),
                name if what == "program" => machine::program(name),
                path if path.starts_with("/usr/share") => installed.join(&path[1..]),
                path => PathBuf::from(path),
            };
            match what {
                "program" => machine::install(&from, &self.top, &to[1..]),
                _ => machine::install_script(&from, &self.top, &to[1..]),
            }
        }
        // the shell, as each of them has it; initramfs-tools has busybox's mount as well
        match self.kind {
            Kind::Dracut => machine::install(&machine::program("sh"), &self.top, "bin/sh"),
            Kind::InitramfsTools => machine::install_busybox(&self.top, &["sh", "mount"]),
        }
        fs::create_dir_all(self.top.join("sysroot")).expect("makes");
    }

    /// Boots as far as the initramfs goes: the root is mounted read-only, then the hook runs.
    fn boots(&self) -> Run {
        // the mounts afterwards, and that the boot went on, are told on standard output
        let after = "while read -r _ place _ options _; do echo \"$place $options\"; done </proc/mounts; echo switch root";
        let script = match self.kind {
            Kind::Dracut => {
                format!(
                    "NEWROOT=/sysroot; . /var/lib/dracut/hooks/pre-pivot/10-si-recover-hook.sh; {after}"
                )
            }
            Kind::InitramfsTools => format!(
                "set -e; export rootmnt=/sysroot; /scripts/local-bottom/si-recover prereqs; \
                 /scripts/local-bottom/si-recover; {after}"
            ),
        };
        self.disk.unmount();
        // a loop device that is set up for a read-only mount would be read-only itself
        let mount = format!(
            "sh -c '{MOUNT}' sh '{}' \"$1/sysroot\" && mount -o remount,ro \"$1/sysroot\"",
            self.disk.file.display()
        );
        let mut booted = machine::chroot_command_after(&self.top, &mount);
        let output =
            booted.args(["/bin/sh", "-c", &script]).stdin(Stdio::null()).output().expect("it runs");
        self.disk.mount();
        let boot = Run::from_output(output);
        boot.ended(0, &["switch root"]);
        let root =
            boot.out.lines().find(|line| line.starts_with("/sysroot ")).expect("it is mounted");
        assert!(root.starts_with("/sysroot ro,"), "it was left writable: {boot:#?}");
        boot
    }

    fn is_sealed(&self) -> bool {
        self.site.node().join(".si-stage/journal").exists()
    }

    #[track_caller]
    fn is_the_image(&self) {
        judge::same(&self.site.image(), &self.site.node(), &["/lost+found"]);
        self.site.nothing_left();
        assert_eq!(read(&self.site.node().join("usr/sbin/si_updateclient")), "no program either");
    }

    fn copy(&self) -> PathBuf {
        self.site.node().join(".si-stage/agent")
    }
}

#[test]
fn the_copy_beside_the_journal_finishes_on_the_unbooted_root() {
    require!(NEEDED);

    for kind in [Kind::Dracut, Kind::InitramfsTools] {
        let machine = Machine::new(kind);
        // it is not the initramfs' own that does it
        fs::write(machine.top.join("usr/sbin/si_updateclient.new"), "no program").expect("writes");
        fs::rename(
            machine.top.join("usr/sbin/si_updateclient.new"),
            machine.top.join("usr/sbin/si_updateclient"),
        )
        .expect("renames");
        machine.boots().ended(
            0,
            &["completing an update that was interrupted", "the update of /sysroot is finished"],
        );
        machine.is_the_image();
        // and the next boot says nothing
        assert_eq!(machine.boots().err, "", "{kind:?}");
    }
}

#[test]
fn the_agent_of_the_initramfs_finishes_where_the_copy_does_not_start() {
    require!(NEEDED);

    for kind in [Kind::Dracut, Kind::InitramfsTools] {
        let machine = Machine::new(kind);
        fs::write(machine.copy(), "\x7fELF, but not really").expect("writes");
        machine
            .boots()
            .ended(0, &["trying the agent of the initramfs", "the update of /sysroot is finished"]);
        machine.is_the_image();
    }
}

#[test]
fn what_cannot_be_finished_is_said_and_the_boot_goes_on() {
    require!(NEEDED);

    for kind in [Kind::Dracut, Kind::InitramfsTools] {
        let machine = Machine::new(kind);
        let journal = machine.site.node().join(".si-stage/journal");
        let whole = read(&journal);
        fs::write(&journal, &whole[..whole.len() / 2]).expect("writes");
        machine
            .boots()
            .ended(0, &["cannot follow the journal", "IS STILL BETWEEN TWO GENERATIONS"]);
        assert!(machine.is_sealed());
        fs::write(&journal, &whole).expect("writes");
        machine.boots().ended(0, &["the update of /sysroot is finished"]);
        machine.is_the_image();
    }
}

#[test]
fn another_filesystem_that_takes_part_is_waited_for() {
    require!(NEEDED);

    // what changes on it, or what is recorded there
    for path in ["usr", "var"] {
        let site = behind();
        let root = SmallDisk::for_node(&site, 96, 2000);
        let part = SmallDisk::for_path(&site, path, 16, 1000);
        site.updated(&["--adopt"]);
        interrupt_node(&site);
        let top = site.dir.path().join("initramfs");
        // unmounted first, mounted last
        let machine = Machine { site, disk: root, top, kind: Kind::Dracut };
        machine.fill_initramfs();
        let before = machine.site.status();
        part.unmount();
        let named = format!("/sysroot/{path} takes part in it, but is not mounted");
        machine.boots().ended(0, &[&named, "IS STILL BETWEEN TWO GENERATIONS"]);
        let below: Vec<_> = fs::read_dir(machine.site.node().join(path)).expect("lists").collect();
        assert!(below.is_empty(), "something was made below the mount point: {below:?}");
        part.mount();
        assert!(machine.is_sealed());
        assert_eq!(machine.site.status(), before);
        // as the unit does later on in the same boot
        let mut command = Command::new(machine.copy());
        let recovered = Run::from_output(
            command.arg("--recover").arg("--root").arg(machine.site.node()).output().expect("runs"),
        );
        recovered.ended(0, &["completing an update that was interrupted"]);
        assert!(machine.site.status().contains("serial:      2"));
        machine.is_the_image();
    }
}

/// Every script of the packaging is what it says on its first line.
#[test]
fn the_scripts_are_sound() {
    require!(Program("shellcheck"), Program("busybox"), Program("dash"));

    let scripts = [
        "packaging/initramfs/si-recover-root",
        "packaging/dracut/90si-recover/module-setup.sh",
        "packaging/dracut/90si-recover/si-recover-hook.sh",
        "packaging/initramfs-tools/hooks/si-recover",
        "packaging/initramfs-tools/scripts/local-bottom/si-recover",
    ];
    run(Command::new("shellcheck").args(scripts));
    for script in scripts.iter().filter(|script| read(Path::new(script)).starts_with("#!/bin/sh\n"))
    {
        run(Command::new("busybox").args(["sh", "-n", script]));
        run(Command::new("dash").args(["-n", script]));
    }
}
