//! Contents that a stage will lack after the live tree and a chain of diffs.
//!
//! The listings of the archives are enough to know them, so a dry run can say how many bytes are
//! fetched by digest.

use std::collections::HashSet;

use crate::apply::plan::ChangePlan;
use crate::apply::stage::live_source::LiveSource;
use crate::delta::Kind;
use crate::diff_archive::{DeltaGroup, Listing};
use crate::digest::Digest;

/// Finds the contents of `plan` that neither `live` nor the archives of a chain supply.
///
/// The answer is right as far as the live tree has the contents that are expected of it.
pub fn find_shortfall(
    plan: &ChangePlan,
    live: &LiveSource,
    chain: &[&Listing],
) -> Vec<(Digest, u64)> {
    let mut supplied: HashSet<Digest> = HashSet::new();
    for listing in chain {
        supplied.extend(listing.whole().filter_map(|entry| entry.digest()));
        let (copying, rebuilding) =
            listing.groups().iter().partition::<Vec<_>, _>(|group| group.kind == Kind::Copies);

        // A group that copies may need targets of other groups of the same archive.
        for group in rebuilding.into_iter().chain(copying) {
            if has_sources(group, live, &supplied) {
                supplied.extend(group.targets.iter().map(|target| target.digest));
            }
        }
    }

    plan.contents()
        .into_iter()
        .filter(|(digest, _)| !live.contains(digest) && !supplied.contains(digest))
        .collect()
}

fn has_sources(group: &DeltaGroup, live: &LiveSource, supplied: &HashSet<Digest>) -> bool {
    let mut digests = group.sources.iter().map(|source| &source.digest);
    digests.all(|digest| live.contains(digest) || supplied.contains(digest))
}
