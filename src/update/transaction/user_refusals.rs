//! Paths that would refuse their change, and that users can have made so.
//!
//! A user must not be able to stop an update or a rollback. So the plan is made again without such
//! paths. Any other path that refuses ends the run before anything is changed.

use std::collections::BTreeMap;

use crate::apply::plan::ChangePlan;
use crate::apply::session::Session;
use crate::apply::{Untouched, preflight};
use crate::tree_path::TreePath;
use crate::update::error::UpdateError;

/// Most plans of one run. Without one path another one may refuse, such as a directory that is no
/// longer removed.
const MAX_PLANS: usize = 5;

/// Plans without the paths of users that the preflight refuses.
pub(in crate::update) fn plan_without_user_refusals(
    session: &Session,
    plan: impl Fn(&BTreeMap<TreePath, String>) -> Result<ChangePlan, UpdateError>,
) -> Result<ChangePlan, UpdateError> {
    let mut refused = BTreeMap::new();
    let mut planned = plan(&refused)?;
    for _ in 1..MAX_PLANS {
        let refusals = find_user_refusals(session, &planned)?;
        if refusals.is_empty() {
            break;
        }
        refused.extend(refusals);
        planned = plan(&refused)?;
    }
    Ok(planned)
}

fn find_user_refusals(
    session: &Session,
    plan: &ChangePlan,
) -> Result<BTreeMap<TreePath, String>, UpdateError> {
    let root = &session.root;
    let refusals = preflight::find_refusals(root, plan, &plan.filesystems, &session.mounts)
        .map_err(Untouched::from)?;
    let of_users = refusals
        .into_iter()
        .filter(|refusal| root.is_writable_by_others(&refusal.path).unwrap_or(false));
    Ok(of_users.map(|refusal| (refusal.path, refusal.reason.to_string())).collect())
}
