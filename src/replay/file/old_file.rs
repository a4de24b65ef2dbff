//! The old file whose decisions predict those of a new one.

use std::io::Read;

use super::error::FileOpenError;
use super::reader::{OpenLimits, PartReader};
use crate::replay::prediction::{OldDecisions, OldView, Reach};
use crate::replay::{Packet, TextView, Window};

/// Plain form and decisions of an old file, around the offset that is aligned.
pub struct OldFile<'o> {
    /// The rest of the file; `None` once all of it is read.
    reader: Option<PartReader<Box<dyn Read + 'o>>>,
    text: Window,
    decisions: OldDecisions,
    packets: Vec<Packet>,
    /// Centre of the visible range.
    center: usize,
    /// The visible range; both ends never move back.
    first: usize,
    end: usize,
}

impl<'o> OldFile<'o> {
    /// Prepares to read an old file from its beginning, as far as it is needed.
    pub fn new(input: Box<dyn Read + 'o>, limits: OpenLimits) -> Self {
        OldFile {
            reader: Some(PartReader::new(input, limits)),
            text: Window::default(),
            decisions: OldDecisions::default(),
            packets: Vec::new(),
            center: 0,
            first: 0,
            end: 0,
        }
    }

    /// Reads all of an old file into memory.
    pub fn read(input: Box<dyn Read + 'o>, limits: OpenLimits) -> Result<Self, FileOpenError> {
        let mut file = OldFile::new(input, limits);
        while file.reader.is_some() {
            file.read_step()?;
        }
        Ok(file)
    }

    /// Whether all of the file was read.
    pub fn is_complete(&self) -> bool {
        self.reader.is_none()
    }

    /// The plain form that is held.
    pub fn plain(&self) -> &[u8] {
        self.text.bytes()
    }

    /// Makes `reach` bytes before and after an aligned offset visible.
    ///
    /// The range is part of the format, since a file may be in memory on one side and a stream on
    /// the other. Its centre moves by at most `step` bytes, and never back. So a wrong alignment
    /// does not lose the right one.
    pub fn show(&mut self, aligned: usize, step: usize, reach: Reach) -> Result<(), FileOpenError> {
        self.center = aligned.clamp(self.center, self.center.saturating_add(step));
        let end = self.center.saturating_add(reach.bytes());
        while self.reader.is_some() && self.text.end() < end as u64 {
            self.read_step()?;
        }

        let held = usize::try_from(self.text.end()).unwrap_or(usize::MAX);
        self.end = self.end.max(end.min(held));
        self.first = self.first.max(self.center.saturating_sub(reach.bytes()).min(self.end));
        if let Some(reader) = &self.reader {
            self.text.forget_before_last(reader.dictionary().max(held - self.first.min(held)));
            self.decisions.forget_before(self.first);
        }
        Ok(())
    }

    /// The visible text.
    pub fn text(&self) -> TextView<'_> {
        let held = self.text.view().until(self.end);
        TextView { bytes: held.from(self.first), start: self.first }
    }

    /// The visible text with its decisions.
    pub fn view(&self) -> OldView<'_> {
        OldView { text: self.text(), decisions: &self.decisions }
    }

    /// Begins with the first offset again, for another new file; all must have been read.
    pub fn rewind(&mut self) {
        (self.center, self.first, self.end) = (0, 0, 0);
    }

    fn read_step(&mut self) -> Result<(), FileOpenError> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let before = self.text.end();
        self.packets.clear();
        match reader.read_step(&mut self.text, &mut self.packets)? {
            Some(_) => self.decisions.extend(before, &self.packets),
            None => self.reader = None,
        }
        Ok(())
    }
}
