//! What a tree's own `fstab` says is mounted where.

use crate::tree_path::TreePath;

/// The mount points that an `fstab` names, but for the top, swap and what is no directory of the tree.
///
/// Lines that cannot be read as one are passed by: the file belongs to the system, and the worst that
/// follows is that a missing mount is not noticed.
pub fn mount_points(content: &[u8]) -> Vec<TreePath> {
    let lines = content.split(|&b| b == b'\n');
    let points = lines.filter_map(|line| {
        let mut words = line.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let (device, point) = (words.next()?, words.next()?);
        let below = point.strip_prefix(b"/").filter(|_| !device.starts_with(b"#"))?;
        let path = TreePath::new(unescape(below.strip_suffix(b"/").unwrap_or(below))).ok()?;
        (!path.is_root()).then_some(path)
    });
    points.collect()
}

/// Space, tab and backslash are written as `\ooo` (fstab(5)).
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|_| first == b'\\').and_then(|o| std::str::from_utf8(o).ok());
        let byte = octal.and_then(|o| u8::from_str_radix(o, 8).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_from_an_fstab() {
        let fstab = b"# comment /not\nUUID=1 / ext4 defaults 0 1\nUUID=2 /boot/ ext4 noauto 0 2\n\
            /dev/sdb1 /srv/a\\040b xfs defaults 0 0\nUUID=3 none swap sw 0 0\nproc /proc proc defaults\nbroken\n/x ../y\n";
        let shown: Vec<String> = mount_points(fstab).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["/boot", "/srv/a b", "/proc"]);
    }
}
