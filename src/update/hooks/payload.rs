//! Description of a transaction for hooks: environment variables, and JSON on standard input.
//!
//! Variables and keys are a format: they are added to, never renamed.

use std::ffi::OsString;

use serde::Serialize;

use crate::apply::plan::ItemizedLine;
use crate::generation::GenerationId;
use crate::host::HookPhase;
use crate::image::ImageName;
use crate::root::Root;

/// A transaction, as hooks see it.
pub(in crate::update) struct HookPlan<'a> {
    /// Image of the node after the transaction; `None` if nothing will be recorded.
    pub image: Option<&'a ImageName>,
    /// Generation after the transaction.
    pub generation: Option<GenerationId>,
    /// Generation before the transaction.
    pub base: Option<GenerationId>,
    /// Serial of the publish after the transaction.
    pub serial: Option<u64>,
    /// `diffs`, `full-sync`, `repair` or `rollback`.
    pub strategy: &'static str,
    /// Strategy and reason, as a sentence for people.
    pub description: String,
    /// One line for each changed path.
    pub items: &'a [ItemizedLine],
}

#[derive(Serialize)]
struct HookJson<'a> {
    stage: &'a str,
    image: &'a str,
    generation: Option<String>,
    base: Option<String>,
    serial: Option<u64>,
    #[serde(rename = "way")]
    strategy: &'a str,
    #[serde(rename = "why")]
    description: &'a str,
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
    #[serde(rename = "leads", skip_serializing_if = "str::is_empty")]
    link_target: &'a str,
    bytes: u64,
}

impl HookPlan<'_> {
    /// Returns the environment variables; a value that is not known is empty.
    pub fn environment(&self, moment: HookPhase, root: &Root) -> Vec<(OsString, OsString)> {
        let generation = |id: Option<GenerationId>| id.map(|id| id.to_string()).unwrap_or_default();
        let serial = self.serial.map(|serial| serial.to_string()).unwrap_or_default();
        let values = [
            ("SI_STAGE", moment.word().to_owned()),
            ("SI_IMAGE", self.image.map(ImageName::to_string).unwrap_or_default()),
            ("SI_GENERATION", generation(self.generation)),
            ("SI_BASE", generation(self.base)),
            ("SI_SERIAL", serial),
            ("SI_WAY", self.strategy.to_owned()),
            ("SI_CHANGED", (self.items.len() - self.count_deleted()).to_string()),
            ("SI_DELETED", self.count_deleted().to_string()),
            ("SI_BYTES", self.count_bytes().to_string()),
        ];

        let mut environment: Vec<(OsString, OsString)> =
            values.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        environment.push(("SI_ROOT".into(), root.location().into()));
        environment
    }

    /// Returns the transaction with all changed paths as one JSON object and a newline.
    pub fn json(&self, moment: HookPhase, root: &Root) -> Vec<u8> {
        let json = HookJson {
            stage: moment.word(),
            image: self.image.map(ImageName::as_str).unwrap_or_default(),
            generation: self.generation.map(|id| id.to_string()),
            base: self.base.map(|id| id.to_string()),
            serial: self.serial,
            strategy: self.strategy,
            description: &self.description,
            root: root.location().display().to_string(),
            changed: self.items.len() - self.count_deleted(),
            deleted: self.count_deleted(),
            bytes: self.count_bytes(),
            items: self.items.iter().map(HookItem::from).collect(),
        };

        // Writing to memory cannot fail.
        let mut bytes = serde_json::to_vec(&json).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    fn count_deleted(&self) -> usize {
        self.items.iter().filter(|item| item.is_deletion()).count()
    }

    fn count_bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }
}

impl<'a> From<&'a ItemizedLine> for HookItem<'a> {
    fn from(item: &'a ItemizedLine) -> Self {
        HookItem {
            change: item.change.trim(),
            path: item.path.to_string(),
            link_target: item.link_target(),
            bytes: item.bytes,
        }
    }
}
