use super::*;

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("a good path")
}

/// Changes of these paths; a dash in front marks a removed file.
fn changes(paths: &[&str]) -> BootChanges {
    paths
        .iter()
        .map(|text| match text.strip_prefix('-') {
            Some(removed) => (path(removed), BootFileChange::Removed),
            None => (path(text), BootFileChange::Installed),
        })
        .collect()
}

fn tools(programs: &[&'static str], places: &[&'static str]) -> BootTools {
    let programs = programs.iter().map(|name| (*name, path(&format!("usr/bin/{name}")))).collect();
    BootTools { programs, places: places.iter().copied().collect(), ..BootTools::default() }
}

/// The planned commands as lines, without the directories of the programs.
fn planned(paths: &[&str], tools: &BootTools) -> Vec<String> {
    let BootLoaderPlan::Run(commands) = plan_commands(&changes(paths), tools) else {
        return Vec::new();
    };
    commands
        .iter()
        .map(|command| {
            let mut line = String::from_utf8_lossy(command.program.name()).into_owned();
            for argument in &command.arguments {
                line = format!("{line} {}", argument.display());
            }
            line
        })
        .collect()
}

#[test]
fn pending_changes_stored_until_removed() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let root = Root::open(scratch.path()).expect("opens");
    let changes = changes(&["boot/a b\n", "-lib/modules/6/vmlinuz"]);
    assert_eq!(pending::load(&root).expect("reads"), BootChanges::new());

    pending::save(&root, &changes).expect("writes");
    assert_eq!(pending::load(&root).expect("reads"), changes);

    pending::save(&root, &BootChanges::new()).expect("removes");
    assert_eq!(pending::load(&root).expect("reads"), BootChanges::new());
}

#[test]
fn boot_file_recognised_by_path() {
    for boot in [
        "boot/vmlinuz-6",
        "boot/efi/EFI/debian/grub.cfg",
        "efi/loader/loader.conf",
        "etc/default/grub",
        "etc/default/grub.d/10.cfg",
        "etc/grub.d/40_custom",
        "etc/kernel/cmdline",
        "etc/zipl.conf",
        "lib/modules/6.1/vmlinuz",
        "usr/lib/modules/6.1/vmlinuz",
        "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
    ] {
        assert!(is_boot_file(&path(boot)), "{boot}");
    }
    for other in [
        "boot",
        "bootstrap/x",
        "etc/default/grubby",
        "etc/default/ssh",
        "usr/lib/modules/6.1/modules.dep",
        "usr/lib/modules/6.1/build/vmlinuz",
        "srv/lib/modules/6.1/vmlinuz",
        "usr/lib/systemd/systemd",
    ] {
        assert!(!is_boot_file(&path(other)), "{other}");
    }
}

#[test]
fn debian_runs_update_grub() {
    let debian =
        tools(&["update-grub", "grub-mkconfig", "kernel-install", "bootctl"], &["boot/grub"]);

    let kernel = planned(&["boot/vmlinuz-6", "usr/lib/modules/6/modules.dep"], &debian);

    assert_eq!(kernel, ["update-grub"]);
    assert_eq!(planned(&["etc/default/grub"], &debian), ["update-grub"]);
}

#[test]
fn grub_version_follows_directory() {
    let programs = ["grub2-mkconfig", "grub-mkconfig"];

    let grub2 = planned(&["boot/vmlinuz-6"], &tools(&programs, &["boot/grub2"]));
    let grub = planned(&["boot/vmlinuz-6"], &tools(&programs, &["boot/grub"]));
    let none = plan_commands(&changes(&["boot/vmlinuz-6"]), &tools(&programs, &[]));

    assert_eq!(grub2, ["grub2-mkconfig -o /boot/grub2/grub.cfg"]);
    assert_eq!(grub, ["grub-mkconfig -o /boot/grub/grub.cfg"]);
    assert_eq!(none, BootLoaderPlan::Unknown);
}

/// Fedora's grub reads entries, which kernel-install writes.
#[test]
fn kernel_beside_modules_installed_first() {
    let fedora = tools(
        &["kernel-install", "grub2-mkconfig", "bootctl"],
        &["boot/loader/entries", "boot/grub2"],
    );
    let mkconfig = "grub2-mkconfig -o /boot/grub2/grub.cfg";

    let changed = ["usr/lib/modules/6.2/vmlinuz", "-usr/lib/modules/6.1/vmlinuz"];
    let add = "kernel-install add 6.2 /lib/modules/6.2/vmlinuz";
    assert_eq!(planned(&changed, &fedora), [add, "kernel-install remove 6.1", mkconfig]);

    let with_boot_copy = ["usr/lib/modules/6.2/vmlinuz", "boot/vmlinuz-6.2"];
    assert_eq!(planned(&with_boot_copy, &fedora), [mkconfig]);

    let moved = ["lib/modules/6.1/vmlinuz", "-usr/lib/modules/6.1/vmlinuz"];
    let add = "kernel-install add 6.1 /lib/modules/6.1/vmlinuz";
    assert_eq!(planned(&moved, &fedora)[0], add);
}

/// kernel-install removes the lists of modules that the running kernel needs.
#[test]
fn module_lists_of_running_kernel_made_again() {
    let mut tools = tools(&["kernel-install", "depmod"], &["boot/loader/entries"]);
    tools.running = Some("6.2".to_owned());

    let removed = ["-usr/lib/modules/6.2/vmlinuz", "-usr/lib/modules/6.1/vmlinuz"];

    let [old, running] = ["kernel-install remove 6.1", "kernel-install remove 6.2"];
    assert_eq!(planned(&removed, &tools), [old, running, "depmod 6.2"]);
    let added = "kernel-install add 6.2 /lib/modules/6.2/vmlinuz";
    assert_eq!(planned(&["usr/lib/modules/6.2/vmlinuz"], &tools), [added]);
}

#[test]
fn systemd_boot_updated_if_installed() {
    let mut tools = tools(&["bootctl", "kernel-install"], &["boot/efi/loader/entries"]);
    let binary = ["usr/lib/systemd/boot/efi/systemd-bootx64.efi"];

    assert_eq!(plan_commands(&changes(&binary), &tools), BootLoaderPlan::Nothing);
    tools.systemd_boot = true;
    assert_eq!(planned(&binary, &tools), ["bootctl --graceful update"]);

    // Entries of the image are read at boot.
    let entry =
        ["boot/efi/loader/entries/a-6.conf", "boot/efi/a/6/linux", "usr/lib/modules/6/vmlinuz"];
    assert_eq!(plan_commands(&changes(&entry), &tools), BootLoaderPlan::Nothing);
}

#[test]
fn block_list_written_last() {
    let s390 = tools(&["zipl", "kernel-install"], &["etc/zipl.conf", "boot/loader/entries"]);
    let add = "kernel-install add 6 /lib/modules/6/vmlinuz";
    assert_eq!(planned(&["lib/modules/6/vmlinuz"], &s390), [add, "zipl"]);

    assert_eq!(planned(&["boot/x"], &tools(&["lilo"], &["etc/lilo.conf"])), ["lilo"]);
    let without_config = plan_commands(&changes(&["boot/x"]), &tools(&["zipl"], &[]));
    assert_eq!(without_config, BootLoaderPlan::Unknown);
}
