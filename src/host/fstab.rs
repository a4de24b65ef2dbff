//! The `fstab` of a tree.

use crate::tree_path::TreePath;

/// Mount points of an `fstab`, except the root, swap and entries without a directory of the tree.
///
/// Invalid lines are ignored: the file belongs to the system. The worst effect is that a missing
/// mount is not noticed.
pub fn mount_points(content: &[u8]) -> Vec<TreePath> {
    content.split(|&b| b == b'\n').filter_map(mount_point).collect()
}

/// Entry of an fstab by which a disk can be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FstabEntry {
    /// Path of the device, or `UUID=`, `LABEL=`, `PARTUUID=` or `PARTLABEL=` with a value.
    pub device: Vec<u8>,
    /// Type of the filesystem, or `auto`.
    pub kind: Vec<u8>,
    /// Options for mount(2), read-write first.
    pub options: Vec<u8>,
}

/// Prefixes of the device of a disk.
const DISKS: [&[u8]; 5] = [b"/dev/", b"UUID=", b"LABEL=", b"PARTUUID=", b"PARTLABEL="];
/// Options for mount(8) and others in user space; the kernel refuses unknown options.
const USER_SPACE: [&[u8]; 15] = [
    b"defaults",
    b"rw",
    b"ro",
    b"auto",
    b"noauto",
    b"user",
    b"nouser",
    b"users",
    b"owner",
    b"group",
    b"nofail",
    b"_netdev",
    b"bootwait",
    b"nobootwait",
    b"optional",
];
/// Prefixes of such options.
const USER_SPACE_PREFIXES: [&[u8]; 3] = [b"x-", b"X-", b"comment="];

impl FstabEntry {
    /// The first entry for this mount point, if it is one of a disk.
    pub fn find(content: &[u8], mount_point: &TreePath) -> Option<Self> {
        let mut lines = content.split(|&b| b == b'\n');
        let line = lines.find(|line| self::mount_point(line).as_ref() == Some(mount_point))?;
        let mut words = words(line);
        let (device, kind, options) = (words.next()?, words.nth(1)?, words.next());
        let options: Vec<&[u8]> = options.unwrap_or_default().split(|&b| b == b',').collect();

        let is_disk = DISKS.iter().any(|prefix| device.starts_with(prefix));
        if !is_disk
            || options.iter().any(|option: &&[u8]| {
                [&b"bind"[..], b"rbind", b"loop"].contains(option) || option.starts_with(b"loop=")
            })
        {
            return None;
        }

        let kept = options.into_iter().filter(|option: &&[u8]| {
            !option.is_empty()
                && !USER_SPACE.contains(option)
                && !USER_SPACE_PREFIXES.iter().any(|prefix| option.starts_with(prefix))
        });
        let options: Vec<&[u8]> = std::iter::once(&b"rw"[..]).chain(kept).collect();
        Some(FstabEntry {
            device: unescape(device).into_iter().filter(|&b| b != b'"').collect(),
            kind: kind.to_vec(),
            options: unescape(&options.join(&b',')),
        })
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty())
}

fn mount_point(line: &[u8]) -> Option<TreePath> {
    let mut words = words(line);
    let (device, point) = (words.next()?, words.next()?);
    if device.starts_with(b"#") {
        return None;
    }

    let below = point.strip_prefix(b"/")?;
    let path = TreePath::new(unescape(below.strip_suffix(b"/").unwrap_or(below))).ok()?;
    (!path.is_root()).then_some(path)
}

/// Decodes space, tab and backslash, which are written as `\ooo` (fstab(5)).
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\');
        let byte = octal
            .and_then(|octal| std::str::from_utf8(octal).ok())
            .and_then(|octal| u8::from_str_radix(octal, 8).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str, point: &str) -> Option<(String, String, String)> {
        let entry = FstabEntry::find(line.as_bytes(), &TreePath::new(point).expect("a path"))?;
        let text = |field| String::from_utf8(field).expect("text");
        Some((text(entry.device), text(entry.kind), text(entry.options)))
    }

    #[test]
    fn entry_of_disk_has_options_of_kernel_alone() {
        let fstab = "# UUID=0 /var ext4\nUUID=\"ab\" /var btrfs \
            defaults,subvol=@var,nofail,x-systemd.device-timeout=9,noatime,ro 0 2\n\
            /dev/sdb1 /srv/a\\040b xfs\n";

        let var = entry(fstab, "var").expect("an entry");
        let srv = entry(fstab, "srv/a b").expect("an entry");

        let expected = ("UUID=ab", "btrfs", "rw,subvol=@var,noatime");
        assert_eq!((var.0.as_str(), var.1.as_str(), var.2.as_str()), expected);
        assert_eq!((srv.0.as_str(), srv.1.as_str(), srv.2.as_str()), ("/dev/sdb1", "xfs", "rw"));
    }

    #[test]
    fn entry_without_disk_is_unknown() {
        for line in [
            "/srv/x /var none bind 0 0",
            "/dev/loop /var ext4 loop 0 0",
            "server:/var /var nfs defaults 0 0",
            "tmpfs /var tmpfs defaults 0 0",
            "UUID=1 /usr ext4 defaults 0 0",
            "UUID=1 /var",
            "",
        ] {
            assert_eq!(entry(line, "var"), None, "{line}");
        }
    }

    #[test]
    fn mount_points_read_and_other_lines_ignored() {
        let fstab = b"# comment /not\nUUID=1 / ext4 defaults 0 1\n\
            UUID=2 /boot/ ext4 noauto 0 2\n/dev/sdb1 /srv/a\\040b xfs defaults 0 0\n\
            UUID=3 none swap sw 0 0\nproc /proc proc defaults\nbroken\n/x ../y\n";

        let shown: Vec<String> = mount_points(fstab).iter().map(ToString::to_string).collect();

        assert_eq!(shown, ["/boot", "/srv/a b", "/proc"]);
    }
}
