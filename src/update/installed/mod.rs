//! What the node is: recorded, recognised, or unknown.

pub(super) mod adopt;

use std::collections::{BTreeMap, HashSet};

use crate::apply::Untouched;
use crate::generation::GenerationId;
use crate::manifest::Manifest;
use crate::state::{self, KernelPaths, OverrideRecord, SeenCatalog, State, made};
use crate::tree_path::TreePath;
use crate::update::source::overrides::{self, OverrideLayer};
use crate::update::source::published::PublishedImage;
use crate::update::{Report, Run, UpdateError, UpdateOutcome};

/// The generation that a node is at, but for deviations.
pub(super) struct Installed {
    /// Everything that the generation has, excluded paths too.
    pub manifest: Manifest,
    /// What is laid over it, each over the ones before it.
    pub overrides: Vec<OverrideRecord>,
    /// Both together.
    pub composed: Manifest,
    /// Tracked paths known not to match.
    pub deviating: HashSet<TreePath>,
    /// The deviations in words.
    pub deviations: BTreeMap<String, String>,
    /// The serial of the publish.
    pub serial: u64,
    /// Whether the catalog lists the generation.
    pub published: bool,
    /// Whether this was recorded for this very tree and under this very filter; else every tracked path
    /// has to be looked at once.
    pub settled: bool,
    /// Whether this was found out in this very run.
    pub adopted: bool,
    /// Whether the manifest is recorded on this node.
    pub stored: bool,
    /// What was recorded before the tree was recognised as something else: what it names and the
    /// target does not is stale, and not the node's own.
    pub former: Option<Manifest>,
    /// What stayed for the kernel that ran when the state was recorded.
    pub kernel: Option<KernelPaths>,
}

impl Installed {
    /// What the tree was made, as one name.
    pub fn made(&self) -> GenerationId {
        made(self.manifest.id(), self.overrides.iter().map(|laid| laid.generation))
    }
}

impl Run<'_> {
    /// What is recorded; where nothing is, or nothing that is published, the generation that the tree
    /// resembles; `None` where it resembles none.
    pub(super) fn base(
        &self,
        published: &PublishedImage,
        layers: &[OverrideLayer],
        state: Option<&State>,
    ) -> Result<Option<Installed>, UpdateError> {
        let recorded = match state {
            Some(state) => self.recorded(published, state)?,
            None => None,
        };
        let kernel = state.and_then(|state| state.kernel.clone());
        if self.request.adopt_only || recorded.as_ref().is_none_or(|base| !base.published) {
            let recognised = self.adopt(published, layers)?;
            return Ok(match (recognised, recorded) {
                (Some(base), recorded) => Some(Installed {
                    former: recorded.map(|recorded| recorded.composed),
                    kernel,
                    ..base
                }),
                (None, recorded) => recorded,
            });
        }
        Ok(recorded)
    }

    fn recorded(
        &self,
        published: &PublishedImage,
        state: &State,
    ) -> Result<Option<Installed>, UpdateError> {
        let catalog = &published.catalog;
        let root = &self.session.root;
        let (manifest, stored) = match state::load_manifest(root, state.generation)? {
            Some(manifest) => (manifest, true),
            None => {
                self.monitor.warn("the manifest of the recorded generation is lost or damaged");
                let Some(publish) = catalog.publish_of(state.generation) else { return Ok(None) };
                (published.manifest(publish)?, false)
            }
        };
        Ok(Some(Installed {
            composed: overrides::as_recorded(manifest.clone(), state),
            overrides: state.overrides.clone(),
            manifest,
            deviating: state.deviating().collect(),
            deviations: state.deviations.clone(),
            serial: state.serial,
            published: catalog.publish_of(state.generation).is_some(),
            settled: self.is_settled(state)?,
            adopted: false,
            stored,
            former: None,
            kernel: state.kernel.clone(),
        }))
    }

    /// Ends a run that was only to find out which generation the tree is.
    pub(super) fn adopted(
        &self,
        base: Option<Installed>,
        seen: &SeenCatalog,
    ) -> Result<Report, UpdateError> {
        let Some(base) = base.filter(|base| base.adopted) else {
            let share = self.request.adopt_share * 100.0;
            let why = format!(
                "the tree resembles no published generation: more than {share:.0} % of the entries differ in each"
            );
            return Err(Untouched::refused(why).into());
        };
        if !self.request.dry_run {
            self.record(&base, seen)?;
        }
        Ok(Report {
            outcome: UpdateOutcome::Adopted,
            generation: Some(base.manifest.id()),
            serial: Some(base.serial),
            way: "the tree was compared with the published manifests".to_owned(),
            items: Vec::new(),
            bytes: 0,
            mixed: None,
            repaired: BTreeMap::new(),
            deviations: base.deviations,
            kernels: 0,
            displaced: Vec::new(),
            untracked: None,
            refusal: None,
            afterwards: Vec::new(),
        })
    }

    /// Records what was found out, so that it need not be found out again.
    pub(super) fn record(&self, base: &Installed, seen: &SeenCatalog) -> Result<(), UpdateError> {
        let root = &self.session.root;
        let home = root.identity().map_err(Untouched::from)?;
        let image = self.request.image.clone();
        let mut state =
            State::new(image, base.serial, base.manifest.id(), self.filter.digest(), home);
        // The etag belongs to the head: it may only be recorded with that, and without deviations.
        state.catalog = Some(SeenCatalog { etag: None, ..seen.clone() });
        state.deviations = base.deviations.clone();
        state.kernel = base.kernel.clone();
        state.overrides = base.overrides.clone();
        let mut manifest = Vec::new();
        // Writing to memory does not fail.
        let _ = base.manifest.write_zstd(&mut manifest, crate::update::transaction::RECORDED_LEVEL);
        Ok(state::save(root, &state, Some(&manifest))?)
    }
}
