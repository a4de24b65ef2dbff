//! The listing of a diff: everything about it except the contents (clauses 6 to 9).
//!
//! The writer derives each member after the listing from it, and the reader compares
//! each member with it. So the listing is the only part of an archive that is interpreted; it is
//! checked against itself before anything else is read.

use std::io::{BufReader, Read, Write};

use crate::delta::REBUILD_RATE;
use crate::diff_archive::changes::{DeltaMode, KnownContent, ListingParts};
use crate::diff_archive::error::{ArchiveError, ListingDefect};
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::header::Header;
use crate::diff_archive::limits::ArchiveLimits;
use crate::diff_archive::member::{link_target, own_header, padding};
use crate::diff_archive::source_lines::{read_sources, write_sources};
use crate::diff_archive::tar_input::TarInput;
use crate::entry::Entry;
use crate::manifest::{self, Manifest};

const BUFFER: usize = 128 << 10;

/// Everything about a diff except the contents; checked against itself.
#[derive(Clone, Debug)]
pub struct Listing {
    header: Header,
    removed: Vec<Entry>,
    changed: Vec<Entry>,
    /// Indices of the changed entries whose content is in the archive as a whole, in order.
    whole: Vec<u32>,
    known: Vec<KnownContent>,
    groups: Vec<DeltaGroup>,
}

/// A member after the listing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected<'l> {
    /// An entry as itself, with its content if it is a file.
    Itself(&'l Entry),
    /// An entry as a link to the first of its hard-link group.
    Link(&'l Entry),
    /// A patch.
    Patch(&'l DeltaGroup),
}

impl Listing {
    /// Checks the parts and counts them.
    pub(super) fn new(parts: ListingParts) -> Result<Self, ArchiveError> {
        let whole = parts.check()?;
        let header = Header::count(&parts, &whole);
        let ListingParts { removed, changed, known, groups, .. } = parts;
        Ok(Listing { header, removed, changed, whole, known, groups })
    }

    /// Records the rebuild time of gzip files, from their
    /// [cost](crate::delta::gzip::Decomposition::cost).
    pub(super) fn with_rebuild_cost(mut self, cost: u64) -> Self {
        self.header.rebuild_ms =
            u64::try_from(u128::from(cost) * 1000 / u128::from(REBUILD_RATE)).unwrap_or(u64::MAX);
        self
    }

    /// Names and counts of the archive.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Entries of the base that are removed, in order.
    pub fn removed(&self) -> &[Entry] {
        &self.removed
    }

    /// Entries of the target that are new or changed, in order.
    pub fn changed(&self) -> &[Entry] {
        &self.changed
    }

    /// Contents of changed entries that the base has and the archive lacks, by digest.
    pub fn known(&self) -> &[KnownContent] {
        &self.known
    }

    /// Delta groups, by number.
    pub fn groups(&self) -> &[DeltaGroup] {
        &self.groups
    }

    /// The changed files whose content is in the archive as a whole, in order.
    ///
    /// With deltas these have each content once; without them, these are all files except links.
    pub fn whole(&self) -> impl Iterator<Item = &Entry> {
        self.whole.iter().map(|at| &self.changed[*at as usize])
    }

    /// Applies the changes to the manifest `base`; fails unless the result has the id of the
    /// target.
    pub fn target_of(&self, base: &Manifest) -> Result<Manifest, ArchiveError> {
        if base.id() != self.header.base {
            return Err(ArchiveError::OtherBase { wanted: self.header.base, found: base.id() });
        }

        let target = base.apply(&self.removed, &self.changed).map_err(ListingDefect::OtherBase)?;
        if target.id() != self.header.target {
            return Err(ListingDefect::OtherTarget.into());
        }
        Ok(target)
    }

    /// The member number `at` after the listing, counted from 0.
    pub(super) fn expected(&self, at: usize) -> Option<Expected<'_>> {
        match self.header.mode() {
            DeltaMode::WithDeltas => match self.whole.get(at) {
                Some(index) => Some(Expected::Itself(&self.changed[*index as usize])),
                None => self.groups.get(at - self.whole.len()).map(Expected::Patch),
            },
            DeltaMode::WithoutDeltas => match self.changed.get(at) {
                Some(entry) => Some(Expected::from_entry(entry)),
                None => self.groups.get(at - self.changed.len()).map(Expected::Patch),
            },
        }
    }

    /// Whether members follow the listing.
    pub(super) fn has_members(&self) -> bool {
        self.expected(0).is_some()
    }

    /// Writes the members of the listing.
    pub(super) fn write(&self, mut to: impl Write) -> Result<(), ArchiveError> {
        let mut text = self.header.to_toml()?.into_bytes();
        write_own_member(&mut to, "header.toml", &text)?;

        for (name, entries) in [("removed.mtree", &self.removed), ("changed.mtree", &self.changed)]
        {
            text.clear();
            manifest::write_entries(entries, &mut text)?;
            write_own_member(&mut to, name, &text)?;
        }

        write_own_member(&mut to, "sources", &write_sources(&self.known, &self.groups))
    }

    /// Reads the members of the listing.
    pub(super) fn read(
        input: &mut TarInput<impl Read>,
        limits: &ArchiveLimits,
    ) -> Result<Self, ArchiveError> {
        let mut text = Vec::new();
        input.own_member("header.toml", limits.header)?.read_to_end(&mut text)?;
        let header = Header::parse(&text)?;

        let removed = read_fragment(input, "removed.mtree", limits)?;
        let changed = read_fragment(input, "changed.mtree", limits)?;
        let content = input.own_member("sources", limits.text)?;
        let (known, groups) = read_sources(BufReader::with_capacity(BUFFER, content))?;
        input.end_own_members()?;

        let mut listing = Listing::new(ListingParts {
            image: header.image.clone(),
            base: header.base,
            target: header.target,
            mode: header.mode(),
            removed,
            changed,
            known,
            groups,
        })?;

        // Nothing else in the listing gives this number; it is 0 if nothing is rebuilt.
        listing.header.rebuild_ms = if header.rebuilt > 0 { header.rebuild_ms } else { 0 };
        if listing.header != header {
            return Err(ListingDefect::HeaderCounts.into());
        }
        Ok(listing)
    }
}

impl<'l> Expected<'l> {
    /// The member of `entry` in an archive without deltas.
    pub fn from_entry(entry: &'l Entry) -> Self {
        if link_target(entry).is_some() { Expected::Link(entry) } else { Expected::Itself(entry) }
    }
}

fn read_fragment(
    input: &mut TarInput<impl Read>,
    name: &'static str,
    limits: &ArchiveLimits,
) -> Result<Vec<Entry>, ArchiveError> {
    let content = input.own_member(name, limits.text)?;
    manifest::parse_entries(BufReader::with_capacity(BUFFER, content))
        .map_err(|source| ListingDefect::Fragment { name, source }.into())
}

fn write_own_member(to: &mut impl Write, name: &str, text: &[u8]) -> Result<(), ArchiveError> {
    let size = text.len() as u64;
    to.write_all(&own_header(name, size))?;
    to.write_all(text)?;
    to.write_all(&[0; 512][..padding(size)])?;
    Ok(())
}
