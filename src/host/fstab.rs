//! The mount points in the `fstab` of a tree.

use crate::tree_path::TreePath;

/// Mount points of an `fstab`, except the root, swap and entries without a directory of the tree.
///
/// Invalid lines are ignored: the file belongs to the system. The worst effect is that a missing
/// mount is not noticed.
pub fn mount_points(content: &[u8]) -> Vec<TreePath> {
    content.split(|&b| b == b'\n').filter_map(mount_point).collect()
}

fn mount_point(line: &[u8]) -> Option<TreePath> {
    let mut words = line.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty());
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

    #[test]
    fn mount_points_read_and_other_lines_ignored() {
        let fstab = b"# comment /not\nUUID=1 / ext4 defaults 0 1\n\
            UUID=2 /boot/ ext4 noauto 0 2\n/dev/sdb1 /srv/a\\040b xfs defaults 0 0\n\
            UUID=3 none swap sw 0 0\nproc /proc proc defaults\nbroken\n/x ../y\n";

        let shown: Vec<String> = mount_points(fstab).iter().map(ToString::to_string).collect();

        assert_eq!(shown, ["/boot", "/srv/a b", "/proc"]);
    }
}
