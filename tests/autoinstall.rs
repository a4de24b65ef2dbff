//! A node arranges its own reinstallation.
//!
//! The boot files are in the server's module `boot`. Scripts take the place of the programs that
//! arrange the next boot; they record their arguments.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::machine::ScriptedNode;
use crate::common::site::{Run, Site};
use crate::common::trees::{self, write_text};
use crate::common::{Need, copy_tree, judge, machine, read, require, run};

const AGENT: &str = env!("CARGO_BIN_EXE_si_updateclient");
const ENTRY: &str = "systemimager-autoinstall";

const NEEDED: [&[Need]; 2] =
    [&machine::PROGRAMS, &[Need::Program("busybox"), Need::Program("rsync")]];

fn arch() -> String {
    let machine = run(Command::new("uname").arg("-m")).trim().to_owned();
    if machine.ends_with("86") && machine.len() == 4 { "i386".to_owned() } else { machine }
}

/// A node, and a server with boot files.
struct Node(ScriptedNode);

impl Deref for Node {
    type Target = ScriptedNode;

    fn deref(&self) -> &ScriptedNode {
        &self.0
    }
}

impl Node {
    /// Makes a server with these flavors.
    fn with_flavors(flavors: &[&str]) -> Self {
        let site = Site::new().with_rsync();
        fs::create_dir_all(site.dir.path().join("boot").join(arch())).expect("makes");
        trees::write(&trees::system(), &site.node());
        write_text(&site.node().join("etc/systemimager/IMAGE_LAST_SYNCED_TO"), "node\n");
        let node = Node(ScriptedNode::new(site, &[]));

        for flavor in flavors {
            write_text(&node.server(flavor, "kernel"), &format!("kernel of {flavor}"));
            write_text(&node.server(flavor, "initrd.img"), &format!("initrd of {flavor}"));
        }

        node
    }

    fn server(&self, flavor: &str, file: &str) -> PathBuf {
        self.site.dir.path().join("boot").join(arch()).join(flavor).join(file)
    }

    /// Adds grub, with a configuration that reads a file at boot.
    fn with_grub(self) -> Self {
        write_text(&self.at("boot/grub/grub.cfg"), "source ${config_directory}/custom.cfg\n");
        self.record_calls("usr/sbin/grub-reboot");
        self
    }

    fn arguments(&self) -> Vec<String> {
        let port = self.site.rsync_port().expect("a daemon").to_string();
        ["--autoinstall", "--server", "127.0.0.1", "--rsync-port", &port].map(str::to_owned).into()
    }

    fn autoinstall(&self, more: &[&str]) -> Run {
        let mut command = Command::new(AGENT);
        command
            .args(self.arguments())
            .arg("--root")
            .arg(self.site.node())
            .args(more)
            .stdin(Stdio::null());
        Run::from_output(command.output().expect("it runs"))
    }

    fn autoinstalled(&self, more: &[&str]) -> Run {
        let run = self.autoinstall(&[&["--yes"], more].concat());
        run.ended(0, &["will be reinstalled"]);
        assert_eq!(read(&self.at("etc/systemimager/IMAGE_LAST_SYNCED_TO")), "node\n");
        run
    }

    /// Asserts that a run is refused and leaves the node unchanged.
    #[track_caller]
    fn refused(&self, more: &[&str], code: i32, words: &[&str]) {
        let before = self.site.dir.path().join("before");
        let _ = fs::remove_dir_all(&before);
        copy_tree(&self.site.node(), &before);
        self.autoinstall(&[&["--yes"], more].concat()).ended(code, words);
        let _ = fs::remove_file(self.at("var/log/notes"));
        // A directory has another time if an entry was added and removed.
        let differences = judge::differences(&before, &self.site.node(), &[]);
        let differences: Vec<&String> =
            differences.iter().filter(|line| !line.starts_with(".d..t")).collect();
        assert!(differences.is_empty(), "{differences:#?}");
    }

    #[track_caller]
    fn has_boot_files(&self, directory: &str, flavor: &str) {
        assert_eq!(
            read(&self.at(&format!("{directory}/kernel.systemimager"))),
            format!("kernel of {flavor}")
        );
        assert_eq!(
            read(&self.at(&format!("{directory}/initrd.img.systemimager"))),
            format!("initrd of {flavor}")
        );
        assert!(!self.at(&format!("{directory}/.si-autoinstall")).exists());
    }
}

#[test]
fn systemd_boot_boots_installer_once() {
    require!(NEEDED);

    let node = Node::with_flavors(&["big", "standard"]).with_grub();
    write_text(&node.at("boot/efi/EFI/systemd/systemd-bootx64.efi"), "MZ");
    fs::create_dir_all(node.at("boot/efi/loader/entries")).expect("makes");
    node.record_calls("usr/bin/bootctl");
    node.autoinstalled(&["--append", "console=ttyS0 quiet"]);
    node.has_boot_files("boot/efi", "standard");

    assert_eq!(
        read(&node.at(&format!("boot/efi/loader/entries/{ENTRY}.conf"))),
        "title SystemImager autoinstall\nlinux /kernel.systemimager\n\
         initrd /initrd.img.systemimager\n\
         options console=ttyS0 quiet root=/dev/ram ramdisk_blocksize=1024 SKIP_LOCAL_CFG=y\n"
    );
    assert_eq!(node.take_records(), [format!("bootctl set-oneshot {ENTRY}.conf")]);
}

#[test]
fn grub_entry_is_in_separate_file() {
    require!(NEEDED);

    let node = Node::with_flavors(&["big", "standard"]).with_grub();
    node.autoinstalled(&["--flavor", "big"]);
    node.has_boot_files("boot", "big");
    let entry = read(&node.at("boot/grub/custom.cfg"));

    assert!(entry.contains(&format!("--id {ENTRY} {{")), "{entry}");
    assert!(
        entry
            .contains("linux '/boot/kernel.systemimager' 'root=/dev/ram' 'ramdisk_blocksize=1024'"),
        "{entry}"
    );
    assert_eq!(node.take_records(), [format!("grub-reboot {ENTRY}")]);

    // Again, with another flavor and a path from grub's own tool.
    node.script("usr/bin/grub-mkrelpath", "echo \"/@$1\"");
    node.autoinstalled(&[]);
    node.has_boot_files("boot", "standard");
    let entry = read(&node.at("boot/grub/custom.cfg"));

    assert!(entry.contains("initrd '/@/boot/initrd.img.systemimager'"), "{entry}");
}

#[test]
fn grub_file_of_administrator_is_unchanged() {
    require!(NEEDED);

    let node = Node::with_flavors(&["only"]).with_grub();
    write_text(&node.at("boot/grub/custom.cfg"), "set color=blue\n");
    fs::create_dir_all(node.at("etc/grub.d")).expect("makes");
    node.script(
        "usr/sbin/update-grub",
        "/etc/grub.d/42_systemimager_autoinstall >/boot/grub/grub.cfg",
    );
    node.autoinstalled(&[]);
    node.has_boot_files("boot", "only");

    assert_eq!(read(&node.at("boot/grub/custom.cfg")), "set color=blue\n");
    assert!(
        read(&node.at("boot/grub/grub.cfg"))
            .starts_with("menuentry 'SystemImager autoinstall' --id")
    );
    assert_eq!(node.take_records(), [format!("grub-reboot {ENTRY}")]);
}

#[test]
fn kexec_is_used_without_boot_loader() {
    require!(NEEDED);

    let node = Node::with_flavors(&["standard"]);
    for dir in ["proc", "dev"] {
        fs::create_dir_all(node.at(dir)).expect("makes");
    }
    machine::install(Path::new(AGENT), &node.site.node(), "bin/agent");
    machine::install(&machine::program("rsync"), &node.site.node(), "bin/rsync");
    node.record_calls("usr/sbin/kexec");

    // A kernel of another system cannot use kexec.
    node.refused(&[], 5, &["cannot arrange a boot of the installer"]);

    node.record_calls("usr/bin/systemctl");
    let run_inside = |more: &[&str]| {
        let mut command = machine::chroot_command(&node.site.node());
        command
            .arg("/bin/agent")
            .args(node.arguments())
            .arg("--yes")
            .args(more)
            .stdin(Stdio::null());
        Run::from_output(command.output().expect("it runs"))
    };

    run_inside(&["--reboot"]).ended(0, &["systemctl kexec", "rebooting"]);

    node.has_boot_files("boot", "standard");
    let parameters = "root=/dev/ram ramdisk_blocksize=1024 SKIP_LOCAL_CFG=y";
    let loaded = format!(
        "kexec -l /boot/kernel.systemimager --initrd=/boot/initrd.img.systemimager \
         --command-line={parameters}"
    );

    assert_eq!(node.take_records(), [loaded.clone(), "systemctl kexec".to_owned()]);
    run_inside(&[]).ended(0, &["but not by any other boot"]);
    assert_eq!(node.take_records(), [loaded]);
}

#[test]
fn missing_or_ambiguous_flavor_is_refused() {
    require!(NEEDED);

    let node = Node::with_flavors(&["big", "small"]).with_grub();
    write_text(&node.server("ssh", "kernel"), "no flavor");

    node.refused(&[], 4, &["big, small", "--flavor"]);
    node.refused(&["--flavor", "standard"], 4, &["\"standard\"", "big, small"]);
    node.refused(&["--flavor", "ssh"], 4, &["big, small"]);
    node.refused(&["--flavor", "../small"], 4, &["big, small"]);

    let none = Node::with_flavors(&[]).with_grub();
    none.refused(&[], 4, &["no boot files for this architecture"]);
    assert_eq!(none.take_records(), [""; 0]);
}

#[test]
fn failed_autoinstall_leaves_nothing() {
    require!(NEEDED);

    let node = Node::with_flavors(&["standard"]).with_grub();
    write_text(&node.at("local.cfg"), "DEVICE=old\n");
    node.script("usr/sbin/grub-reboot", "echo the environment block is full; exit 1");

    node.refused(&["--configure-from", "lo"], 5, &["grub-reboot", "the environment block is full"]);

    fs::create_dir_all(node.at("etc/grub.d")).expect("makes");

    // Again, after the configuration was generated again.
    write_text(&node.at("boot/grub/grub.cfg"), "the golden client's\n");
    node.script("usr/sbin/update-grub", "echo anew >/boot/grub/grub.cfg");

    node.refused(&[], 5, &["grub-reboot"]);

    node.script("usr/sbin/update-grub", "exit 1");
    node.refused(&[], 5, &["update-grub"]);

    fs::remove_file(node.server("standard", "initrd.img")).expect("removes");
    node.refused(&[], 4, &["initrd.img"]);

    write_text(&node.server("standard", "initrd.img"), "");
    node.refused(&[], 4, &["initrd.img", "is empty"]);
    node.refused(
        &["--configure-from", "no-such-device"],
        5,
        &["no-such-device has no IPv4 address"],
    );
    node.refused(&["--append", "a'b"], 2, &["--append"]);
    assert_eq!(read(&node.at("local.cfg")), "DEVICE=old\n");
}

#[test]
fn network_settings_are_stored_for_installer() {
    require!(NEEDED);

    let node = Node::with_flavors(&["standard"]).with_grub();
    write_text(&node.at("etc/resolv.conf"), "search cluster.example other.example\n");

    node.autoinstalled(&["--configure-from", "lo"]).ended(0, &["IPADDR=127.0.0.1"]);

    let text = read(&node.at("local.cfg"));
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let names: Vec<&str> = lines.iter().filter_map(|line| line.split('=').next()).collect();

    assert_eq!(
        names,
        [
            "BROADCAST",
            "DEVICE",
            "DOMAINNAME",
            "GATEWAY",
            "GATEWAYDEV",
            "HOSTNAME",
            "IMAGESERVER",
            "IPADDR",
            "NETMASK",
            "NETWORK",
            "SSH_USER"
        ]
    );

    for line in [
        "DEVICE=lo",
        "DOMAINNAME=cluster.example",
        "GATEWAYDEV=lo",
        "IMAGESERVER=127.0.0.1",
        "IPADDR=127.0.0.1",
        "NETMASK=255.0.0.0",
        "NETWORK=127.0.0.0",
    ] {
        assert!(lines.contains(&line), "{line}: {text}");
    }

    let entry = read(&node.at("boot/grub/custom.cfg"));
    assert!(!entry.contains("SKIP_LOCAL_CFG"), "{entry}");
}

#[test]
fn autoinstall_needs_confirmation() {
    require!(NEEDED);

    let node = Node::with_flavors(&["standard"]).with_grub();
    node.autoinstall(&[]).ended(2, &["refusing to reinstall", "without confirmation", "--yes"]);
    assert!(!node.at("boot/kernel.systemimager").exists());
    assert_eq!(node.take_records(), [""; 0]);
}

#[test]
fn files_of_boot_that_did_not_install_are_removed() {
    require!(NEEDED);

    let grub = Node::with_flavors(&["standard"]).with_grub();
    let script = Node::with_flavors(&["standard"]).with_grub();
    write_text(&script.at("boot/grub/custom.cfg"), "set color=blue\n");
    fs::create_dir_all(script.at("etc/grub.d")).expect("makes");
    script.script(
        "usr/sbin/update-grub",
        "for script in /etc/grub.d/*; do [ ! -x $script ] || $script; done >/boot/grub/grub.cfg",
    );
    let systemd_boot = Node::with_flavors(&["standard"]);
    write_text(&systemd_boot.at("boot/efi/EFI/systemd/systemd-bootx64.efi"), "MZ");
    fs::create_dir_all(systemd_boot.at("boot/efi/loader/entries")).expect("makes");
    systemd_boot.record_calls("usr/bin/bootctl");

    for (node, directory, entry) in [
        (grub, "boot", "boot/grub/custom.cfg"),
        (script, "boot", "etc/grub.d/42_systemimager_autoinstall"),
        (systemd_boot, "boot/efi", "boot/efi/loader/entries/systemimager-autoinstall.conf"),
    ] {
        for dir in ["proc", "dev"] {
            fs::create_dir_all(node.at(dir)).expect("makes");
        }
        machine::install(Path::new(AGENT), &node.site.node(), "bin/agent");
        machine::install(&machine::program("rsync"), &node.site.node(), "bin/rsync");
        write_text(&node.at("boot/of-the-node"), "kept");
        let run_inside = |arguments: &[&str]| {
            let mut command = machine::chroot_command(&node.site.node());
            command.arg("/bin/agent").args(arguments).stdin(Stdio::null());
            Run::from_output(command.output().expect("it runs"))
        };
        let update = || run_inside(&["--diff", "--yes", "--image", "node", "--repo", "file:///no"]);
        let arguments = node.arguments();
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend(["--yes", "--configure-from", "lo"]);

        // In the same boot, the installation is still to be started.
        run_inside(&arguments).ended(0, &["will be reinstalled"]);
        update().ended(4, &["file:///no"]);
        node.has_boot_files(directory, "standard");
        assert!(node.at(entry).exists());
        let record = node.at("var/lib/systemimager/client/autoinstall");
        let text = read(&record);

        // In another boot, it has not taken place.
        let boot = text.lines().find(|line| line.starts_with("boot ")).expect("the boot");
        fs::write(&record, text.replace(boot, "boot of-yesterday")).expect("writes");
        update().ended(4, &["that did not take place", "kernel.systemimager"]);

        for path in ["kernel.systemimager", "initrd.img.systemimager", ".si-autoinstall"] {
            assert!(!node.at(directory).join(path).exists(), "{directory}/{path}");
        }
        assert!(!node.at(entry).exists(), "{entry}");
        assert!(!node.at("local.cfg").exists());
        assert!(!record.exists());
        assert_eq!(read(&node.at("boot/of-the-node")), "kept");
        if entry.starts_with("etc") {
            assert_eq!(read(&node.at("boot/grub/grub.cfg")), "");
            assert_eq!(read(&node.at("boot/grub/custom.cfg")), "set color=blue\n");
        }
        assert!(!update().err.contains("did not take place"));
    }
}

#[test]
fn file_of_administrator_is_no_leftover() {
    require!(NEEDED);

    let node = Node::with_flavors(&["standard"]).with_grub();
    write_text(&node.at("local.cfg"), "DEVICE=old\n");

    node.autoinstalled(&["--configure-from", "lo"]);

    let record = read(&node.at("var/lib/systemimager/client/autoinstall"));
    assert!(record.contains("path ./boot/kernel.systemimager\n"), "{record}");
    assert!(!record.contains("local.cfg"), "{record}");

    // A failed arrangement restores the record of the one before.
    node.script("usr/sbin/grub-reboot", "exit 1");
    node.autoinstall(&["--yes"]).ended(5, &["grub-reboot"]);
    assert_eq!(read(&node.at("var/lib/systemimager/client/autoinstall")), record);
}
