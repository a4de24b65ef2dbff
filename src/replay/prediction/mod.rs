//! Decision streams: the coding decisions of a file, predicted from those of an old file.
//!
//! A change of the plain content changes only a few of the decisions. Each packet is predicted from
//! the old packet at the aligned offset, and a [`range coder`](super::range_coder) codes only the
//! deviations. The code for both directions is the same, so an encoder and a decoder predict alike.
//!
//! The predictor is part of the format: its order of candidates, its hash functions, its limits and
//! its contexts. A change of any of them is a new format, which test vectors show.

mod alignment;
mod comparison;
mod match_finder;
mod models;
mod old_text;
mod predictor;
mod reach;
mod repeats;

pub use models::{ByteModel, Models, SizeModel};
pub use old_text::{OldDecisions, OldView};
pub use predictor::{DecisionDefect, NewView, Predictor};
pub(in crate::replay) use reach::REACH_BITS;
pub use reach::Reach;
pub use repeats::Family;
