//! Reads the installed generation from the recorded state, and records an adopted one.

use crate::apply::Untouched;
use crate::manifest::{Manifest, path_text};
use crate::state::{self, LoadedState, SeenCatalog, State};
use crate::update::error::UpdateError;
use crate::update::installed::{Installed, Origin, RecordScope};
use crate::update::notice::UpdateNotice;
use crate::update::run::Run;
use crate::update::source::overrides;
use crate::update::source::published::PublishedImage;

/// Compression level of a recorded manifest: each update writes it and the next one reads it.
const RECORDED_LEVEL: i32 = 1;

/// Loads the recorded state, if it belongs to this tree and to the requested image.
pub(in crate::update) fn load_state(run: &Run<'_>) -> Result<Option<State>, UpdateError> {
    let request = run.request;
    let monitor = run.monitor;

    match state::load(&run.session.root).map_err(Untouched::from)? {
        LoadedState::Missing => Ok(None),
        LoadedState::Rejected(error) => {
            monitor.warn(UpdateNotice::StateIgnored(error));
            Ok(None)
        }
        LoadedState::Valid(state) | LoadedState::FromCopy(state)
            if state.image != request.image =>
        {
            let (recorded, requested) = (state.image, &request.image);
            monitor.note(UpdateNotice::OtherImage { recorded, requested });
            Ok(None)
        }
        LoadedState::Valid(state) => Ok(Some(*state)),
        LoadedState::FromCopy(state) => {
            monitor.note(UpdateNotice::StateCopied);
            Ok(Some(*state))
        }
    }
}

/// Returns the generation that `state` records; `None` if its manifest is nowhere.
///
/// If the manifest is lost on this node, it is fetched from the repository.
pub(in crate::update) fn read_installed(
    run: &Run<'_>,
    published: &PublishedImage,
    state: &State,
) -> Result<Option<Installed>, UpdateError> {
    let scope = if run.matches_state(state)? { RecordScope::Same } else { RecordScope::Other };
    let publish = published.catalog.publish_of(state.generation);

    let stored = state::load_manifest(&run.session.root, state.generation)?;
    let (manifest, origin) = match (stored, publish) {
        (Some(manifest), Some(_)) => (manifest, Origin::Recorded(scope)),
        (Some(manifest), None) => (manifest, Origin::Unlisted(scope)),
        (None, publish) => {
            run.monitor.warn(UpdateNotice::ManifestLost);
            let Some(publish) = publish else { return Ok(None) };
            (published.manifest(publish)?, Origin::Refetched(scope))
        }
    };

    Ok(Some(into_installed(state, manifest, origin)))
}

/// Returns the generation that `state` records; `None` if its manifest is lost on this node.
///
/// Nothing is known of the repository, so that no diff can start at it.
pub(in crate::update) fn read_stored(
    run: &Run<'_>,
    state: &State,
) -> Result<Option<Installed>, UpdateError> {
    let scope = if run.matches_state(state)? { RecordScope::Same } else { RecordScope::Other };
    let stored = state::load_manifest(&run.session.root, state.generation)?;
    Ok(stored.map(|manifest| into_installed(state, manifest, Origin::Unlisted(scope))))
}

fn into_installed(state: &State, manifest: Manifest, origin: Origin) -> Installed {
    Installed {
        composed: overrides::compose_recorded(manifest.clone(), state),
        overrides: state.overrides.clone(),
        manifest,
        deviating: state.deviating_paths().collect(),
        deviations: state.deviations.clone(),
        filter: Some(state.filter),
        left_out: state.left_out_paths().collect(),
        serial: state.serial,
        kernel: state.kernel.clone(),
        origin,
    }
}

/// Records an adopted generation with its deviations, so that the next run need not adopt again.
pub(in crate::update) fn record_adopted(
    run: &Run<'_>,
    installed: &Installed,
    seen: &SeenCatalog,
) -> Result<(), UpdateError> {
    let root = &run.session.root;
    let identity = root.identity().map_err(Untouched::from)?;
    let mut state = State::new(
        run.request.image.clone(),
        installed.serial,
        installed.manifest.id(),
        run.filter.digest(),
        identity,
    );
    // The digest lets the next run end early. It may only be recorded with the head itself.
    state.catalog = Some(SeenCatalog { sha256: None, ..seen.clone() });
    state.deviations = installed.deviations.clone();
    state.left_out = installed.left_out.iter().map(path_text).collect();
    state.kernel = installed.kernel.clone();
    state.overrides = installed.overrides.clone();

    Ok(state::save(root, &state, Some(&compress_manifest(&installed.manifest)))?)
}

/// Compresses a manifest for the state directory.
pub(in crate::update) fn compress_manifest(manifest: &Manifest) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to memory cannot fail.
    let _ = manifest.write_zstd(&mut bytes, RECORDED_LEVEL);
    bytes.shrink_to_fit();
    bytes
}
