//! What hooks are told of a transaction.

use std::ffi::OsString;

use serde::Serialize;

use crate::apply::plan::ItemizedLine;
use crate::generation::GenerationId;
use crate::host::Moment;
use crate::image::ImageName;
use crate::root::Root;

/// One transaction, as hooks are told of it: in their environment, and whole on their standard input.
pub(in crate::update) struct HookPlan<'a> {
    /// The image that the node follows afterwards; `None` where nothing will be recorded.
    pub image: Option<&'a ImageName>,
    /// The generation that the node will be at.
    pub generation: Option<GenerationId>,
    /// The one that it is at.
    pub base: Option<GenerationId>,
    /// The serial of the publish.
    pub serial: Option<u64>,
    /// `diffs`, `full-sync`, `repair` or `rollback`.
    pub way: &'static str,
    /// The way and its reason, for people.
    pub why: &'a str,
    /// Every change.
    pub items: &'a [ItemizedLine],
}

#[derive(Serialize)]
struct HookJson<'a> {
    stage: &'a str,
    image: &'a str,
    generation: Option<String>,
    base: Option<String>,
    serial: Option<u64>,
    way: &'a str,
    why: &'a str,
    root: String,
    changed: usize,
    deleted: usize,
    bytes: u64,
    items: Vec<HookItem<'a>>,
}

#[derive(Serialize)]
struct HookItem<'a> {
    change: &'a str,
    path: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    leads: &'a str,
    bytes: u64,
}

impl HookPlan<'_> {
    fn deleted(&self) -> usize {
        self.items.iter().filter(|item| item.is_deletion()).count()
    }

    fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }

    /// The variables for the hooks of this moment. What is not known is empty.
    pub(in crate::update) fn environment(
        &self,
        moment: Moment,
        root: &Root,
    ) -> Vec<(OsString, OsString)> {
        let id = |id: Option<GenerationId>| id.map(|id| id.to_string()).unwrap_or_default();
        let text = |name: &str, value: String| (OsString::from(name), OsString::from(value));
        vec![
            text("SI_STAGE", moment.word().to_owned()),
            text("SI_IMAGE", self.image.map(ImageName::to_string).unwrap_or_default()),
            text("SI_GENERATION", id(self.generation)),
            text("SI_BASE", id(self.base)),
            text("SI_SERIAL", self.serial.map(|serial| serial.to_string()).unwrap_or_default()),
            text("SI_WAY", self.way.to_owned()),
            text("SI_CHANGED", (self.items.len() - self.deleted()).to_string()),
            text("SI_DELETED", self.deleted().to_string()),
            text("SI_BYTES", self.bytes().to_string()),
            ("SI_ROOT".into(), root.shown().into()),
        ]
    }

    /// The same and each change, as one JSON object with a newline behind it.
    pub(in crate::update) fn json(&self, moment: Moment, root: &Root) -> Vec<u8> {
        let told = HookJson {
            stage: moment.word(),
            image: self.image.map(ImageName::as_str).unwrap_or_default(),
            generation: self.generation.map(|id| id.to_string()),
            base: self.base.map(|id| id.to_string()),
            serial: self.serial,
            way: self.way,
            why: self.why,
            root: root.shown().display().to_string(),
            changed: self.items.len() - self.deleted(),
            deleted: self.deleted(),
            bytes: self.bytes(),
            items: self.items.iter().map(HookItem::from).collect(),
        };
        // Writing to memory does not fail.
        let mut bytes = serde_json::to_vec(&told).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

impl<'a> From<&'a ItemizedLine> for HookItem<'a> {
    fn from(item: &'a ItemizedLine) -> Self {
        HookItem {
            change: item.change.trim(),
            path: item.path.to_string(),
            leads: item.link_target(),
            bytes: item.bytes,
        }
    }
}
