//! Keeps the nodes of a cluster equal to a golden image by small, verified, crash-safe image diffs.
//!
//! Two programs share this library. `si_tardiff` on the image server publishes generations, and the
//! diffs between them, as static files. `si_updateclient` on a node fetches diffs and applies them
//! in one transaction. `docs/architecture.md` describes both, `docs/glossary.md` defines
//! the words.
//!
//! # Layers
//!
//! A module names only modules of lower layers, and of its own layer only those to its left. So a
//! change in one module can affect only the modules above it.
//!
//! | layer | modules |
//! |---|---|
//! | 0 words | [`acl`], [`printable`], [`tree_path`], [`client_paths`], [`digest`], [`entry`], [`generation`], [`image`] |
//! | 1 rules | [`report`], [`cancel`], [`replay`], [`signature`], [`manifest`], [`catalog`], [`plan`], [`filter`], [`delta`], [`diff_archive`] |
//! | 2 one outside thing each | [`allocator`], [`root`], [`process`], [`rsync`], [`state`], [`host`] |
//! | 3 fetching | [`fetch`] |
//! | 4 machinery | [`scan`], [`apply`], [`full_sync`], [`signing`], [`publish`] |
//! | 5 jobs | [`update`], [`tardiff`], [`autoinstall`] |
//! | 6 edge | [`cli`] |
//!
//! # Invariants
//!
//! Each invariant names the tests that fail if it is broken; `tests/invariants.rs` checks that
//! these tests exist. The judge of the first one is `rsync -n`, not our own code.
//!
//! 1. **Exact result.** After an update each tracked path equals the target: type, content, owner,
//!    mode, mtime to the nanosecond, extended attributes, hard-link group, device number and holes.
//!    - `tests/cli_update.rs::five_generations_apply_every_kind_of_change`
//!    - `tests/cli_types.rs::each_metadata_change_is_applied_alone`
//!    - `tests/property_update.rs::any_tree_becomes_any_other_and_is_rolled_back`
//! 2. **Untracked paths belong to the node.** No diff changes or removes them, even if the
//!    directory around them is removed. An excluded directory is at most created, if it is missing.
//!    - `tests/cli_update.rs::untracked_file_keeps_its_removed_directory`
//!    - `tests/cli_update.rs::excluded_paths_are_not_changed`
//!    - `tests/excluded.rs::directories_gained_by_image_are_created_once`
//!    - `tests/property_filter.rs::any_rules_exclude_same_paths_as_rsync`
//! 3. **The recorded state is checked, not trusted.** A diff applies only to its base, the digest
//!    of each delta source is compared, and drift is repaired or reported. The state is written
//!    last.
//!    - `tests/cli_update.rs::drift_is_repaired_or_reported`
//!    - `tests/fallback.rs::drifted_delta_source_is_fetched_by_digest`
//!    - `tests/node_differences.rs::state_from_cloned_tree_is_not_trusted`
//! 4. **One commit point.** Before the seal of the journal a failure, or the end of the process,
//!    leaves the live tree as it was. After the seal every later run completes the transaction,
//!    without a network. A path of a user that refuses is left out; any other refusal reverses the
//!    whole transaction.
//!    - `tests/crash_sweep/main.rs::death_during_type_changes_leaves_one_state`
//!    - `tests/crash_sweep/main.rs::fault_during_content_changes_leaves_one_state`
//!    - `tests/crash_sweep/main.rs::full_sync_leaves_one_state`
//!    - `tests/crash_sweep/main.rs::death_or_fault_during_switch_leaves_one_state`
//!    - `tests/crash_sweep/main.rs::refusal_during_type_changes_ends_in_new_or_old_tree`
//!    - `tests/crash_sweep/main.rs::death_during_reversal_restores_old_tree`
//!    - `tests/hostile_update/refused.rs::closed_mount_made_during_update_is_left_out_and_retried`
//!    - `tests/recovery.rs::recovery_without_server_succeeds_before_download_error`
//! 5. **No path is absent at any moment** if it exists before and after the update.
//!    - `tests/never_absent.rs::path_of_both_generations_is_never_absent`
//! 6. **Slots are disjoint.** Each change of a transaction has a slot number of its own, also
//!    backups of the running kernel's files. Two changes in one slot would lose a backup.
//!    - `tests/running_kernel.rs::rollback_with_removals_backs_up_the_running_kernel`
//!    - `apply::on_disk::tests::taken_slots_are_distinct_and_never_reserved`
//! 7. **Durable in order.** Staged content reaches the disk before the journal, the journal before
//!    the first rename, all renames before the state.
//!    - `tests/power_cut.rs::power_cut_on_ext4_leaves_base_or_target`
//!    - `tests/power_cut.rs::power_cut_during_download_or_switch_leaves_base_or_target`
//!    - `tests/power_cut.rs::power_cut_on_xfs_leaves_base_or_target`
//!    - `tests/boot_loader.rs::boot_partition_on_xfs_is_readable_without_log`
//! 8. **Every transaction can be undone** until the next one, within the configured bound; the undo
//!    set is readable by root only. The boot after a rollback starts a kernel of the restored tree.
//!    - `tests/rollback.rs::rollback_and_its_rollback_restore_every_kind_of_change`
//!    - `tests/rollback.rs::configuration_limits_undo_set`
//!    - `tests/running_kernel.rs::node_boots_old_kernel_after_rollback_and_new_one_after_its_undo`
//!    - `tests/filesystems.rs::rollback_names_filesystem_that_is_not_as_at_the_update`
//! 9. **A fallback is decided before anything is changed,** with a printed reason. A failure of
//!    trust never leads to a weaker check.
//!    - `plan::tests::full_sync_reasons_distinguished`
//!    - `tests/fallback.rs::untrusted_catalog_stops_update_without_fallback`
//!    - `tests/trust/routes.rs::unsigned_changes_of_rsync_module_are_not_installed`
//!    - `tests/trust/recovery.rs::expired_head_repairs_recorded_generation_and_installs_no_other`
//! 10. **Deletions are bounded** by the deletion budget. The agent, its configuration, its keys and
//!     the modules of the running kernel are protected. An image may replace the keys, but not so
//!     that none verifies the present head.
//!     - `tests/deletions.rs::too_many_deletions_are_refused_with_list`
//!     - `tests/deletions.rs::image_without_agent_files_keeps_them`
//!     - `tests/running_kernel.rs::kernel_paths_are_removed_by_first_run_after_reboot`
//!     - `tests/trust/image_keys.rs::image_without_key_of_its_own_head_is_refused`
//! 11. **Data from outside is checked before use**, and the size of each output is limited. No frame
//!     of an archive is decompressed before its digest is known to be right.
//!     - `diff_archive::tests::frames::no_frame_is_decoded_before_its_digest_is_right`
//!     - `tests/hostile_update/main.rs::forged_archive_with_correct_digest_changes_nothing`
//!     - `tests/fetch/main.rs::download_stops_at_size_in_catalog`
//!     - `manifest::tests::text_not_canonical_refused`
//! 12. **Exit code 0 means complete.** A path that could not be updated is named, and the run exits
//!     with another code. An error names the side at fault: this node, the server or the network.
//!     - `tests/cli_mounts.rs::file_under_bind_mount_is_reported_and_untouched`
//!     - `tests/fetch/main.rs::refused_connection_differs_from_unknown_name`
//! 13. **Bounded memory.** The memory of a run grows with the number of entries, not with the size
//!     of files, nor with the number of untracked names.
//!     - `tests/memory.rs::file_of_any_size_is_updated_within_fixed_memory`
//!     - `tests/memory.rs::untracked_names_need_little_memory`
//! 14. **One handle on the tree.** Only [`root`] opens or changes a path of a target tree, and it
//!     follows no symbolic link. `.clippy.toml` refuses calls by path elsewhere. Each change passes
//!     a fault point.
//!     - `tests/hostile_update/traps.rs::planted_symlink_is_not_followed`
//!     - `tests/hostile_update/traps.rs::parent_replaced_during_update_leaves_outside_untouched`
//!     - `root::tests::planted_symlink_never_followed`
//!     - `root::tests::held_object_changes_and_its_replacement_does_not`
//!     - `root::fault::tests::every_changing_call_passes_fault_point`
//! 15. **Layers without circles**, between modules and between the files of a folder.
//!     - `tests/layering.rs::modules_name_only_lower_layers`
//!     - `tests/layering.rs::files_of_folder_use_each_other_without_circle`
//! 16. **Formats are frozen.** Each later version reads every recorded sample, and writes the same
//!     bytes.
//!     - `tests/formats.rs::samples_are_complete_and_unchanged`
//!     - `tests/golden.rs::json_events_of_each_outcome_match_golden_files`
//! 17. **Verification changes nothing, and a repair only selected paths.** The proof digest of a node
//!     equals that of the repository if and only if no tracked path deviates.
//!     - `tests/verify/main.rs::verification_changes_nothing_in_tree_and_state_directory`
//!     - `tests/verify/main.rs::each_kind_of_deviation_is_found_and_changes_the_proof`
//!     - `tests/verify/proof.rs::healthy_node_with_default_excludes_has_proof_of_repository`
//!     - `tests/verify/repair.rs::repair_of_one_path_leaves_all_others_as_they_are`

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod acl;
pub mod client_paths;
pub mod digest;
pub mod entry;
pub mod generation;
pub mod image;
pub mod printable;
pub mod tree_path;

pub mod cancel;
pub mod catalog;
pub mod delta;
pub mod diff_archive;
pub mod filter;
pub mod manifest;
pub mod plan;
pub mod replay;
pub mod report;
pub mod signature;

pub mod allocator;
pub mod host;
pub mod process;
pub mod root;
pub mod rsync;
pub mod state;

pub mod fetch;

pub mod apply;
pub mod full_sync;
pub mod publish;
pub mod scan;
pub mod signing;

pub mod autoinstall;
pub mod tardiff;
pub mod update;

pub mod cli;
