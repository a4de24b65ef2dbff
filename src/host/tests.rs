use super::*;
use crate::entry::EntryKind;
use crate::filter::Filter;
use crate::tree_path::TreePath;

const SAMPLE: &str = include_str!("../../etc/updateclient.toml");

fn config(text: &str) -> Result<Config, BadFile> {
    Config::parse("updateclient.toml", text.as_bytes())
}

#[test]
fn shipped_sample_documents_defaults() {
    assert_eq!(config(SAMPLE), Ok(Config::default()));

    let shown: String = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => setting,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let shown = config(&shown).expect("every commented line is a good one");
    let example = shown.clone();
    let defaults = Config {
        server: example.server,
        image: example.image,
        repo: example.repo,
        rsync_port: Some(873),
        exclude_file: example.exclude_file,
        overrides: example.overrides,
        fstype: example.fstype,
        ssh_user: example.ssh_user,
        log: example.log,
        ca_file: example.ca_file,
        tls_pins: example.tls_pins,
        tls_client_cert: example.tls_client_cert,
        tls_client_key: example.tls_client_key,
        ..Config::default()
    };

    assert_eq!(shown, defaults);
}

#[test]
fn bad_setting_refused_with_place() {
    let error = config("\ndrift = \"repare\"\n").expect_err("an unknown word").to_string();

    assert!(
        error.starts_with("updateclient.toml: ")
            && error.contains("line 2")
            && error.contains("repair"),
        "{error}"
    );
    assert!(config("servr = 'x'").is_err());
    assert!(config("[download]\nattempts = 0").is_err());
    assert!(config("adopt_share = 1.5").is_err());
    assert!(config("adopt_share = nan").is_err());
    assert!(config("max_delete = '101%'").is_err());
    assert!(config("rsync_port = 70000").is_err());
    assert!(config("image = '../x'").is_err());
    assert!(Config::parse("x", b"\xff").is_err());
}

#[test]
fn deletion_budget_number_or_share() {
    let budget = |text: &str| config(text).expect("a good file").max_delete;
    assert_eq!(budget("max_delete = 12").paths(1), 12);
    assert_eq!(budget("max_delete = '12'").paths(1), 12);
    assert_eq!(budget("max_delete = '10%'").paths(1234), 123);
    assert_eq!(budget("max_delete = '100%'").paths(u64::MAX), u64::MAX);
}

#[test]
fn client_conf_of_old_client_parsed() {
    let content = b"# comment\nfstype = ext4\nfstype=xfs\nRsync_Port 8873\n\nexclude_file = \"/etc/x y\"\nserver: \nserver = s1\nssh_user = `id`\n";
    let conf = ClientConf::parse("client.conf", content).expect("a good file");
    let expected = ClientConf {
        server: Some("s1".into()),
        image: None,
        rsync_port: Some(8873),
        exclude_file: Some("/etc/x y".into()),
        fstypes: vec!["ext4".into(), "xfs".into()],
        ignored: vec!["server:".into(), "ssh_user".into()],
    };

    assert_eq!(conf, expected);

    let error =
        ClientConf::parse("client.conf", b"\nrsync_port = 0").expect_err("no port").to_string();

    assert_eq!(error, "client.conf:2: \"0\" is not a port");
}

#[test]
fn shipped_excludes_cover_node_specific_paths_only() {
    let filter = Filter::builder()
        .exclude_file("default", DEFAULT_EXCLUDES.as_bytes())
        .expect("good rules")
        .build();
    let is_excluded = |at: &str| {
        let path = TreePath::new(at.trim_end_matches('/')).expect("a good path");
        let kind = if at.ends_with('/') { EntryKind::Directory } else { EntryKind::Other };
        filter.excludes(&path, kind).is_some()
    };

    let node_specific = [
        "etc/machine-id",
        "etc/ssh/ssh_host_ed25519_key.pub",
        "etc/hostname",
        "etc/fstab",
        "etc/resolv.conf",
        "var/lib/systemd/random-seed",
        "var/lib/dhcp/dhclient.eth0.leases",
        "var/log/journal/x",
        "var/cache/apt/pkgcache.bin",
        "usr/lib/python3/dist-packages/apt/__pycache__/cache.cpython-311.pyc",
        "tmp/x",
    ];
    for at in node_specific {
        assert!(is_excluded(at), "{at}");
    }

    let of_image = [
        "etc/",
        "tmp/",
        "var/log/",
        "etc/passwd",
        "etc/ssh/sshd_config",
        "usr/lib/x.pyc",
        "var/lib/dpkg/status",
        "etc/systemimager/updateclient.local.exclude",
        "boot/vmlinuz",
        "dev/null",
    ];
    for at in of_image {
        assert!(!is_excluded(at), "{at}");
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(content: Vec<u8>) {
        let _ = Config::parse("x", &content);
        let _ = ClientConf::parse("x", &content);
    }
}
