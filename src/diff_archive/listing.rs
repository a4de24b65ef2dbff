//! The listing: everything about a diff but the contents.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, Read, Write};

use crate::delta::{Kind, REBUILD_RATE};
use crate::diff_archive::group::{DeltaGroup, GroupSource, GroupTarget, Inside};
use crate::diff_archive::header::Header;
use crate::diff_archive::member::{OWN, link_target, own_header, padding};
use crate::diff_archive::tar_input::TarInput;
use crate::diff_archive::{ArchiveError, ArchiveLimits};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::generation::GenerationId;
use crate::image::ImageName;
use crate::manifest::{self, Manifest};
use crate::tree_path::TreePath;

/// Everything about a diff but the contents; checked against itself.
#[derive(Clone, Debug)]
pub struct Listing {
    header: Header,
    removed: Vec<Entry>,
    changed: Changed,
    known: Vec<KnownContent>,
    groups: Vec<DeltaGroup>,
}

/// A content that the base holds, so that the archive need not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownContent {
    /// Of the content.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Where the base has it; a hint, the digest decides.
    pub path: TreePath,
}

/// The changed entries, and which of them bring a content along.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub entries: Vec<Entry>,
    /// Indices of the entries whose content travels whole, in order.
    whole: Vec<u32>,
}

/// What stands after the first frame, in order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected<'l> {
    /// An entry as itself, with its content if it is a file.
    Itself(&'l Entry),
    /// An entry as a link to the first of its group.
    Link(&'l Entry),
    /// A patch.
    Patch(&'l DeltaGroup),
}

impl Listing {
    /// Puts a listing together; fails where it contradicts itself.
    pub(super) fn new(
        names: (ImageName, GenerationId, GenerationId),
        deltas: bool,
        removed: Vec<Entry>,
        changed: Vec<Entry>,
        known: Vec<KnownContent>,
        groups: Vec<DeltaGroup>,
    ) -> Result<Self, ArchiveError> {
        let changed = check(deltas, &removed, changed, &known, &groups)?;
        let header = Header::count(names, deltas, &removed, &changed, &known, &groups);
        Ok(Listing { header, removed, changed, known, groups })
    }

    /// The same, with what the rebuilding of compressed files costs.
    pub(super) fn costing(mut self, cost: u64) -> Self {
        self.header.rebuild_ms =
            u64::try_from(u128::from(cost) * 1000 / u128::from(REBUILD_RATE)).unwrap_or(u64::MAX);
        self
    }

    /// What the archive is, and how much of everything it holds.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Entries of the base that go, in order.
    pub fn removed(&self) -> &[Entry] {
        &self.removed
    }

    /// Entries of the target that come or change, in order.
    pub fn changed(&self) -> &[Entry] {
        &self.changed.entries
    }

    /// Contents of changed entries that the base holds and the archive does not, by digest.
    pub fn known(&self) -> &[KnownContent] {
        &self.known
    }

    /// Contents of changed entries that travel as patches.
    pub fn groups(&self) -> &[DeltaGroup] {
        &self.groups
    }

    /// The changed files whose content travels whole, in order: with deltas each content once, without
    /// them every file that is not written as a link.
    pub fn whole(&self) -> impl Iterator<Item = &Entry> {
        self.changed.whole()
    }

    /// The manifest that `base` becomes: fails unless it has the id of the listing's target.
    pub fn target_of(&self, base: &Manifest) -> Result<Manifest, ArchiveError> {
        if base.id() != self.header.base {
            return Err(ArchiveError::OtherBase { wanted: self.header.base, found: base.id() });
        }
        let target = base
            .apply(&self.removed, &self.changed.entries)
            .map_err(|e| ArchiveError::Listing(format!("it does not fit its base: {e}")))?;
        if target.id() != self.header.target {
            return Err(ArchiveError::Listing(
                "it does not make the generation that it names".to_owned(),
            ));
        }
        Ok(target)
    }

    /// The members after the listing.
    pub(super) fn expected(&self, at: usize) -> Option<Expected<'_>> {
        let entries = &self.changed.entries;
        let before = if self.header.deltas { self.changed.whole.len() } else { entries.len() };
        if at >= before {
            return self.groups.get(at - before).map(Expected::Patch);
        }
        if self.header.deltas {
            return Some(Expected::Itself(&entries[self.changed.whole[at] as usize]));
        }
        Some(Expected::of(&entries[at]))
    }

    /// Writes the members of the first frame.
    pub(super) fn write(&self, mut to: impl Write) -> Result<(), ArchiveError> {
        let mut text = self.header.to_toml()?.into_bytes();
        own_member(&mut to, "header.toml", &text)?;
        for (name, entries) in
            [("removed.mtree", &self.removed), ("changed.mtree", &self.changed.entries)]
        {
            text.clear();
            manifest::write_entries(entries, &mut text)?;
            own_member(&mut to, name, &text)?;
        }
        own_member(&mut to, "sources", &self.sources_text())
    }

    fn sources_text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut line = |words: String, path: Option<&TreePath>| {
            text.extend_from_slice(words.as_bytes());
            if let Some(path) = path {
                text.push(b' ');
                manifest::write_path(&mut text, path);
            }
            text.push(b'\n');
        };
        for KnownContent { digest, size, path } in &self.known {
            line(format!("known {digest} {size}"), Some(path));
        }
        for group in &self.groups {
            let DeltaGroup { number, kind, patch_length, .. } = group;
            match kind {
                Kind::Prefix => line(format!("group {number} {patch_length}"), None),
                _ => line(format!("group {number} {patch_length} {kind}"), None),
            }
            for GroupSource { digest, size, path, plain } in &group.sources {
                match plain {
                    None => line(format!("from {digest} {size}"), Some(path)),
                    Some(plain) => line(format!("gunzip {plain} {digest} {size}"), Some(path)),
                }
            }
            for GroupTarget { digest, size, inside } in &group.targets {
                match inside {
                    None => line(format!("to {digest} {size}"), None),
                    Some(Inside { corrections, plain }) => {
                        line(format!("gzip {corrections} {plain} {digest} {size}"), None);
                    }
                }
            }
        }
        text
    }

    /// Reads the members of the first frame.
    pub(super) fn read(
        input: &mut TarInput<impl Read>,
        limits: &ArchiveLimits,
    ) -> Result<Self, ArchiveError> {
        let mut text = Vec::new();
        input.own("header.toml", limits.header)?.read_to_end(&mut text)?;
        let header = Header::parse(&text)?;
        let mut fragment = |name| {
            let content = input.own(name, limits.text)?;
            let entries =
                manifest::parse_entries(std::io::BufReader::with_capacity(128 << 10, content));
            entries.map_err(|e| ArchiveError::Listing(format!("{name}: {e}")))
        };
        let removed = fragment("removed.mtree")?;
        let changed = fragment("changed.mtree")?;
        let content = input.own("sources", limits.text)?;
        let (known, groups) = parse_sources(std::io::BufReader::with_capacity(128 << 10, content))?;
        input.end_of_own()?;
        let names = (header.image.clone(), header.base, header.target);
        let mut listing = Listing::new(names, header.deltas, removed, changed, known, groups)?;
        // That nothing else says; where nothing is rebuilt there is none.
        listing.header.rebuild_ms = if header.rebuilt > 0 { header.rebuild_ms } else { 0 };
        if listing.header != header {
            return Err(ArchiveError::Listing(
                "header.toml does not count what the listing holds".to_owned(),
            ));
        }
        Ok(listing)
    }
}

impl<'l> Expected<'l> {
    /// How `entry` stands in an archive without deltas.
    pub fn of(entry: &'l Entry) -> Self {
        if link_target(entry).is_some() { Expected::Link(entry) } else { Expected::Itself(entry) }
    }
}

impl Changed {
    /// The entries whose content travels whole.
    pub fn whole(&self) -> impl Iterator<Item = &Entry> {
        self.whole.iter().map(|at| &self.entries[*at as usize])
    }
}

fn own_member(to: &mut impl Write, name: &str, text: &[u8]) -> Result<(), ArchiveError> {
    let size = text.len() as u64;
    to.write_all(&own_header(name, size))?;
    to.write_all(text)?;
    to.write_all(&[0; 512][..padding(size)])?;
    Ok(())
}

/// Clauses 6 to 9.
fn check(
    deltas: bool,
    removed: &[Entry],
    changed: Vec<Entry>,
    known: &[KnownContent],
    groups: &[DeltaGroup],
) -> Result<Changed, ArchiveError> {
    let invalid = |why: String| Err(ArchiveError::Listing(why));
    let own = |entry: &&Entry| entry.path.components().next() == Some(OWN.as_bytes());
    if let Some(entry) = removed.iter().chain(&changed).find(own) {
        return invalid(format!("{} is a name of the archive's own", entry.path));
    }
    let going: HashSet<&TreePath> = removed.iter().map(|entry| &entry.path).collect();
    if let Some(entry) = changed.iter().find(|entry| going.contains(&entry.path)) {
        return invalid(format!("{} both goes and comes", entry.path));
    }
    let mut sizes: HashMap<Digest, u64> = HashMap::new();
    for entry in &changed {
        let Some((size, digest)) = entry.file() else { continue };
        if *sizes.entry(digest).or_insert(size) != size {
            return invalid(format!("{} has the digest of a file of another size", entry.path));
        }
    }
    if u32::try_from(changed.len()).is_err() {
        return invalid("it has more than 4294967295 entries".to_owned());
    }
    let absent = absent(&sizes, known, groups)?;
    if !deltas && !groups.is_empty() {
        return invalid("it has delta groups, but says that it has none".to_owned());
    }
    let mut carried = HashSet::new();
    let carries = |(at, entry): (usize, &Entry)| {
        let (_, digest) = entry.file()?;
        let whole = match deltas {
            true => !absent.contains(&digest) && !carried.contains(&digest),
            false => link_target(entry).is_none(),
        };
        if whole {
            carried.insert(digest);
        }
        whole.then_some(at as u32)
    };
    let whole = changed.iter().enumerate().filter_map(carries).collect();
    if !deltas && sizes.keys().any(|digest| absent.contains(digest) == carried.contains(digest)) {
        return invalid("a content is neither known nor carried, or both".to_owned());
    }
    Ok(Changed { entries: changed, whole })
}

/// The contents that are known or patched, each of which must be of a changed entry, and only once.
fn absent(
    sizes: &HashMap<Digest, u64>,
    known: &[KnownContent],
    groups: &[DeltaGroup],
) -> Result<HashSet<Digest>, ArchiveError> {
    let invalid = |why: String| Err(ArchiveError::Listing(why));
    if !known.is_sorted_by(|a, b| a.digest < b.digest) {
        return invalid("the known contents are not in order".to_owned());
    }
    for (number, group) in groups.iter().enumerate() {
        if group.number != number as u64 {
            return invalid(format!("delta group {} is out of order", group.number));
        }
        if let Some(fault) = group.fault() {
            return invalid(format!("delta group {number} {fault}"));
        }
    }
    if !groups.is_sorted_by_key(|group| group.kind == Kind::Copies) {
        return invalid("a group that copies stands before one that does not".to_owned());
    }
    let targets =
        groups.iter().flat_map(|group| &group.targets).map(|target| (target.digest, target.size));
    let mut absent = HashSet::new();
    for (digest, size) in known.iter().map(|known| (known.digest, known.size)).chain(targets) {
        if sizes.get(&digest) != Some(&size) {
            return invalid(format!("content {digest} belongs to no changed file of {size} bytes"));
        }
        if !absent.insert(digest) {
            return invalid(format!("content {digest} is listed twice"));
        }
    }
    Ok(absent)
}

fn parse_sources(
    mut from: impl BufRead,
) -> Result<(Vec<KnownContent>, Vec<DeltaGroup>), ArchiveError> {
    /// The longest line: a digest, a number and a path of 4,095 bytes, all of them escaped.
    const MAX_LINE: u64 = 32 << 10;
    let (mut known, mut groups) = (Vec::new(), Vec::<DeltaGroup>::new());
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        if from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let fault = || ArchiveError::Listing(format!("sources: line {number} is not valid"));
        let content = line.strip_suffix(b"\n").ok_or_else(fault)?;
        let mut words = content.split(|b| *b == b' ');
        let keyword = words.next();
        match (keyword, groups.last_mut()) {
            (Some(b"known"), None) => known.push(parse_known(&mut words).ok_or_else(fault)?),
            (Some(b"group"), _) => groups.push(parse_group(&mut words).ok_or_else(fault)?),
            (Some(word @ (b"from" | b"gunzip")), Some(group)) if group.targets.is_empty() => {
                group.sources.push(parse_source(word == b"gunzip", &mut words).ok_or_else(fault)?);
            }
            (Some(word @ (b"to" | b"gzip")), Some(group)) => {
                group.targets.push(parse_target(word == b"gzip", &mut words).ok_or_else(fault)?);
            }
            _ => return Err(fault()),
        }
        if words.next().is_some() {
            return Err(fault());
        }
    }
    Ok((known, groups))
}

type LineWords<'a, 'w> = &'a mut dyn Iterator<Item = &'w [u8]>;

fn parse_known(words: LineWords<'_, '_>) -> Option<KnownContent> {
    let (digest, size) = parse_content(words)?;
    Some(KnownContent { digest, size, path: manifest::parse_path(words.next()?).ok()? })
}

fn parse_source(gunzip: bool, words: LineWords<'_, '_>) -> Option<GroupSource> {
    let plain = if gunzip { Some(parse_number(words)?) } else { None };
    let KnownContent { digest, size, path } = parse_known(words)?;
    Some(GroupSource { digest, size, path, plain })
}

fn parse_target(gzip: bool, words: LineWords<'_, '_>) -> Option<GroupTarget> {
    let inside = match gzip {
        true => Some(Inside { corrections: parse_number(words)?, plain: parse_number(words)? }),
        false => None,
    };
    let (digest, size) = parse_content(words)?;
    Some(GroupTarget { digest, size, inside })
}

fn parse_content(words: LineWords<'_, '_>) -> Option<(Digest, u64)> {
    let digest = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    Some((digest, parse_number(words)?))
}

fn parse_group(words: LineWords<'_, '_>) -> Option<DeltaGroup> {
    let (number, patch_length) = (parse_number(words)?, parse_number(words)?);
    let kind = match words.next() {
        None => Kind::Prefix,
        Some(word) => {
            std::str::from_utf8(word).ok()?.parse().ok().filter(|kind| *kind != Kind::Prefix)?
        }
    };
    Some(DeltaGroup { number, kind, patch_length, sources: Vec::new(), targets: Vec::new() })
}

/// Digits in their one form: no sign, no leading zero.
pub(super) fn parse_number<'w>(
    words: &mut (impl Iterator<Item = &'w [u8]> + ?Sized),
) -> Option<u64> {
    let text = std::str::from_utf8(words.next()?).ok()?;
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
