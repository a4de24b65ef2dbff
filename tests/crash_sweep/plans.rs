//! Trees of the sweeps, and the changes between them.

use super::*;

/// Adds an entry of one of the seven kinds, `0` to `6`.
fn put_entry_of_kind(tree: &mut Tree, path: &str, kind: usize, text: &str) {
    let item = match kind {
        0 => Item::dir(),
        1 => Item::file(format!("{path} {text}")),
        2 => Item::new(ItemKind::Symlink(format!("../{path}{text}").into_bytes())),
        3 => Item::new(ItemKind::Fifo),
        4 => Item::new(ItemKind::Char(1, 3)),
        5 => Item::new(ItemKind::Block(7, 1)),
        _ => Item::new(ItemKind::Link(b"etc/leader".to_vec())),
    };
    if kind == 0 {
        trees::put(tree, &format!("{path}/child"), Item::file(format!("in {path}")));
    }
    trees::put(tree, path, item);
}

/// A tree with the directories of the agent's own files.
fn bare() -> Tree {
    let mut tree = Tree::from([(Vec::new(), Item::dir())]);
    trees::put(&mut tree, "etc/leader", Item::file("one inode, many names"));
    trees::put(&mut tree, "etc/systemimager", Item::dir());
    trees::put(&mut tree, "var/lib/systemimager", Item::dir());
    tree
}

/// Each kind becomes each other kind. The stage is large enough for one syncfs.
pub fn types() -> Plan {
    let round = |second: bool| {
        let mut tree = bare();
        for (from, to) in
            (0..7).flat_map(|from| (0..7).map(move |to| (from, to))).filter(|(from, to)| from != to)
        {
            put_entry_of_kind(
                &mut tree,
                &format!("types/{from}-{to}"),
                if second { to } else { from },
                "",
            );
        }
        tree
    };

    let mut untracked = Tree::new();
    trees::put(&mut untracked, "own/file", Item::file("the node's"));
    Plan {
        generations: vec![round(false), round(true)],
        untracked,
        recorded: true,
        ..Plan::default()
    }
}

/// Each change without a change of type, over two diffs. The stage is small enough for an fsync of
/// each file.
pub fn contents() -> Plan {
    let generations = (0..3).map(content).collect();
    let (mut untracked, mut drift) = (Tree::new(), Tree::new());
    trees::put(&mut untracked, "etc/of-the-node", Item::file("the node's").owner(7, 7));
    trees::put(&mut drift, "etc/drifted", Item::file("edited here").mode(0o600));
    Plan { generations, start: 0, untracked, drift, recorded: true }
}

fn content(round: u8) -> Tree {
    let mut tree = bare();
    let mut put = |path: &str, item: Item| trees::put(&mut tree, path, item);
    let text = |name: &str| format!("{name} in round {round}");
    let mut large = noise(40_000, 1);
    large[20_000..20_050].copy_from_slice(&noise(50, u64::from(round) + 2));
    put("etc/drifted", Item::file("as the image has it"));
    put("usr/large", Item::file(large));
    put("usr/text", Item::file(text("text")).mode(0o755));
    put("usr/sparse", Item::new(ItemKind::File { hole: 64 << 10, data: text("end").into_bytes() }));
    put("usr/mode", Item::file("mode").mode(0o600 + u32::from(round)));
    put("usr/owner", Item::file("owner").owner(round.into(), 5).mode(0o4755));
    put("usr/note", Item::file("note").xattr("user.note", text("note")));
    put("usr/time", Item::file("time").mtime(1_600_000_000 + i64::from(round), 5));
    put("usr/both", Item::file("both").mtime(1_600_000_000, i64::from(round)));
    put("usr/both-too", Item::new(ItemKind::Link(b"usr/both".to_vec())));
    put(
        "usr/link",
        Item::new(ItemKind::Symlink(text("target").into_bytes())).mtime(9, round.into()),
    );
    put("usr/null", Item::new(ItemKind::Char(1, 3 + u32::from(round))));
    put("usr/pipe", Item::new(ItemKind::Fifo).mode(0o600 + u32::from(round)));
    put("usr/dir-mode", Item::dir().mode(0o700 + u32::from(round)).owner(round.into(), 0));
    put("usr/dir-time", Item::dir().mtime(1_600_000_000, round.into()));
    put("usr/dir-note", Item::dir().xattr("user.note", text("note")));
    put("opt/stays", Item::file("stays"));
    put(&format!("opt/name-{round}"), Item::file("the same under another name".repeat(9)));
    put(&format!("opt/only-{round}/deep/file"), Item::file(text("only")).xattr("user.x", "y"));
    put("opt/first", Item::file(text("a group")).owner(1000, 100));
    put(&format!("opt/member-{round}"), Item::new(ItemKind::Link(b"opt/first".to_vec())));
    let everything = trees::everything();
    for (path, once) in [("etc/acl", 1), ("usr/bin/ping", 2)] {
        let mut item = everything[path.as_bytes()].clone();
        if round == once {
            item.xattrs.clear();
        }
        put(path, item);
    }

    tree
}

/// Some thousand entries of all kinds, some hundred of which change.
pub fn large() -> Plan {
    let round = |round: u32| {
        let mut tree =
            (0..round).fold(trees::everything(), |tree, round| trees::mutate(&tree, round));
        tree.extend(bare());
        for (dir, file) in (0..40).flat_map(|dir| (0..40).map(move |file| (dir, file))) {
            let text = format!("file {dir} {file} {} ", if file % 7 == 0 { round } else { 0 });
            let name = if file == 9 { 9 * round } else { file };
            trees::put(&mut tree, &format!("many/{dir:02}/{name:02}"), Item::file(text.repeat(30)));
        }
        tree
    };
    Plan { generations: vec![round(1), round(2)], recorded: true, ..Plan::default() }
}
