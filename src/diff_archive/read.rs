//! Strict readers of archives: the listing first, then each member in its order.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;

use crate::diff_archive::error::ArchiveError;
use crate::diff_archive::frame_head::{FrameHead, FramedFile};
use crate::diff_archive::frames::VerifiedFrames;
use crate::diff_archive::group::DeltaGroup;
use crate::diff_archive::limits::ArchiveLimits;
use crate::diff_archive::listing::{Expected, Listing};
use crate::diff_archive::member::{
    AclRecords, content_header, entry_header, link_target, own_header, patch_name,
};
use crate::diff_archive::tar_input::{MemberContent, TarInput};
use crate::entry::Entry;
use crate::manifest::Manifest;

/// One member of an archive.
pub enum ArchiveMember<'a> {
    /// A regular file with its content, which has exactly the size of the entry.
    ///
    /// The caller checks the digest. Unread bytes are skipped.
    Whole(&'a Entry, MemberContent<'a>),
    /// The complete patch of a group.
    Patch(&'a DeltaGroup, Vec<u8>),
    /// An entry without a content of its own; the listing has everything about it.
    Plain(&'a Entry),
}

/// Reads the listing from the head of a diff.
pub fn read_listing(head: &FrameHead, limits: &ArchiveLimits) -> Result<Listing, ArchiveError> {
    let mut input = TarInput::new(head.frames());
    let listing = Listing::read(&mut input, limits)?;
    if listing.has_members() {
        input.expect_end_of_input()?;
    } else {
        input.read_end()?;
    }
    Ok(listing)
}

/// Reader of a whole diff.
pub struct Reader<'l, R> {
    input: TarInput<VerifiedFrames<R>>,
    listing: Cow<'l, Listing>,
    /// Number of members read after the listing.
    next: usize,
}

impl<'l, R: Read> Reader<'l, R> {
    /// Reads the head, with the listing.
    pub fn open(mut file: FramedFile<R>, limits: &ArchiveLimits) -> Result<Self, ArchiveError> {
        let head = FrameHead::read(&mut file)?;
        let listing = read_listing(&head, limits)?;
        let frames = VerifiedFrames::new(file.bytes, Arc::clone(head.table()), file.compression);
        Ok(Reader { input: TarInput::new(frames), listing: Cow::Owned(listing), next: 0 })
    }

    /// Continues after the head of an archive, from which `listing` was read.
    pub fn after(listing: &'l Listing, frames: VerifiedFrames<R>) -> Self {
        Reader { input: TarInput::new(frames), listing: Cow::Borrowed(listing), next: 0 }
    }

    /// The listing of the archive.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    /// Returns the listing and drops the reader.
    pub fn into_listing(self) -> Listing {
        self.listing.into_owned()
    }

    /// The next member; `None` after a valid end of the archive.
    pub fn next_member(&mut self) -> Result<Option<ArchiveMember<'_>>, ArchiveError> {
        let Some(expected) = self.listing.expected(self.next) else {
            // Without members the end of the archive is in the head.
            if self.listing.has_members() {
                self.input.read_end()?;
            } else {
                self.input.expect_end_of_input()?;
            }
            return Ok(None);
        };
        self.next += 1;

        match expected {
            Expected::Itself(entry) => {
                let header = content_header(entry, self.listing.header().acl_records());
                read_entry(&mut self.input, entry, &header).map(Some)
            }
            Expected::Link(entry) => {
                let header = entry_header(entry, AclRecords::Omitted);
                self.input.member(&header, 0, || entry.path.to_string())?;
                Ok(Some(ArchiveMember::Plain(entry)))
            }
            Expected::Patch(group) => {
                let name = patch_name(group.number);
                let header = own_header(&name, group.patch_length);
                // The listing was checked: no patch is longer than the limit.
                let mut patch =
                    Vec::with_capacity(usize::try_from(group.patch_length).unwrap_or(0));
                self.input
                    .member(&header, group.patch_length, || name.clone())?
                    .read_to_end(&mut patch)?;
                Ok(Some(ArchiveMember::Patch(group, patch)))
            }
        }
    }
}

/// Reader of a full archive, whose manifest is known.
pub struct FullReader<'m, R> {
    input: TarInput<VerifiedFrames<R>>,
    entries: std::slice::Iter<'m, Entry>,
}

impl<'m, R: Read> FullReader<'m, R> {
    /// Prepares to read the archive of `manifest`.
    pub fn open(mut file: FramedFile<R>, manifest: &'m Manifest) -> Result<Self, ArchiveError> {
        let head = FrameHead::read(&mut file)?;
        TarInput::new(head.frames()).expect_end_of_input()?;
        let frames = VerifiedFrames::new(file.bytes, Arc::clone(head.table()), file.compression);
        Ok(FullReader { input: TarInput::new(frames), entries: manifest.entries().iter() })
    }

    /// The next member; `None` after a valid end of the archive.
    pub fn next_member(&mut self) -> Result<Option<ArchiveMember<'_>>, ArchiveError> {
        let Some(entry) = self.entries.next() else {
            self.input.read_end()?;
            return Ok(None);
        };

        let header = entry_header(entry, AclRecords::Omitted);
        if link_target(entry).is_some() {
            self.input.member(&header, 0, || entry.path.to_string())?;
            return Ok(Some(ArchiveMember::Plain(entry)));
        }
        read_entry(&mut self.input, entry, &header).map(Some)
    }
}

fn read_entry<'a>(
    input: &'a mut TarInput<impl Read>,
    entry: &'a Entry,
    header: &[u8],
) -> Result<ArchiveMember<'a>, ArchiveError> {
    let size = entry.file().map(|(size, _)| size);
    let content = input.member(header, size.unwrap_or(0), || entry.path.to_string())?;
    Ok(if size.is_some() {
        ArchiveMember::Whole(entry, content)
    } else {
        ArchiveMember::Plain(entry)
    })
}
