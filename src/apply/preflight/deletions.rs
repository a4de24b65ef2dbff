//! The deletion budget.

use crate::apply::error::{BudgetExceeded, Untouched};
use crate::apply::plan::{ChangePlan, ItemizedLine};
use crate::host::MaxDelete;

/// Most paths that a refusal names.
const MAX_NAMED: usize = 20;

/// Refuses a plan that deletes more paths than `allowed`, which may be a share of `tracked`.
///
/// `renamed` is the number of paths that have a replacement at another path.
pub fn check_budget(
    plan: &ChangePlan,
    tracked: usize,
    renamed: usize,
    allowed: MaxDelete,
) -> Result<(), Untouched> {
    let deletions = plan.removed_count.saturating_sub(renamed);
    check_deletions(deletions, &plan.itemized, tracked, allowed)
}

/// Refuses a forecast of rsync that deletes more paths than `allowed`.
pub fn check_forecast(
    lines: &[ItemizedLine],
    tracked: usize,
    allowed: MaxDelete,
) -> Result<(), Untouched> {
    let deletions = lines.iter().filter(|line| line.is_deletion()).count();
    check_deletions(deletions, lines, tracked, allowed)
}

fn check_deletions(
    deletions: usize,
    lines: &[ItemizedLine],
    tracked: usize,
    allowed: MaxDelete,
) -> Result<(), Untouched> {
    let (deletions, limit) = (deletions as u64, allowed.paths(tracked as u64));
    if deletions <= limit {
        return Ok(());
    }

    let first = lines
        .iter()
        .filter(|line| line.is_deletion())
        .take(MAX_NAMED)
        .map(|line| format!("{}{}", line.path, line.suffix))
        .collect();
    Err(BudgetExceeded { deletions, limit, first }.into())
}
