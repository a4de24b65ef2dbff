//! Streams of the .xz format as plain content and coding decisions.
//!
//! [`XzReader`] decodes a stream and reports, step by step, the decisions of its encoder. [`XzWriter`]
//! makes the same bytes from the plain content and these decisions; it needs no match finder.
//! Both hold one chunk at a time, and an index of bounded size.
//!
//! "Plain content" is the output of LZMA2. If other filters (BCJ, delta) precede LZMA2 in the
//! chain, this is still filtered content. The terms are those of the .xz file format
//! specification 1.2.1, except that the uncompressed size is called plain size.

mod block;
mod check;
mod chunk;
mod chunk_decoder;
mod error;
mod index;
mod model;
mod reader;
mod stream;
mod varint;
mod writer;

#[cfg(test)]
mod tests;

pub use block::XzBlockHead;
pub use check::{CheckKind, XzCheck};
pub use chunk::{ChunkHead, ChunkKind, DictionaryUse, Properties, Reset};
pub use error::{SizeKind, XzDefect, XzOpenError, XzRefusal, XzWriteError};
pub use reader::{XzLimits, XzReader, XzStep};
pub use stream::StreamHead;
pub use writer::XzWriter;
