//! Keeps the nodes of a cluster equal to a golden image by small, verified, crash-safe image diffs.
//!
//! Two programs share this library: `si_tardiff` on the image server builds and publishes generations
//! and the diffs between them as static files; `si_updateclient` on the node fetches and applies them.
//! A module names only modules of lower layers, and of its own layer those that stand before it (kept
//! by `tests/layering.rs`); only [`root`] touches a target tree (kept by `.clippy.toml`):
//!
//! | layer | modules |
//! |---|---|
//! | 0 words | [`tree_path`], [`digest`], [`entry`], [`generation`], [`image`] |
//! | 1 rules | [`report`], [`manifest`], [`catalog`], [`plan`], [`filter`], [`delta`], [`diff_archive`] |
//! | 2 one outside thing each | [`allocator`], [`root`], [`process`], [`rsync`], [`state`], [`host`] |
//! | 3 fetching | [`fetch`] |
//! | 4 machinery | [`scan`], [`apply`], [`full_sync`], [`publish`] |
//! | 5 jobs | [`update`], [`tardiff`], [`autoinstall`] |
//! | 6 edge | [`cli`] |

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod digest;
pub mod entry;
pub mod generation;
pub mod image;
pub mod tree_path;

pub mod catalog;
pub mod delta;
pub mod diff_archive;
pub mod filter;
pub mod manifest;
pub mod plan;
pub mod report;

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

pub mod autoinstall;
pub mod tardiff;
pub mod update;

pub mod cli;
