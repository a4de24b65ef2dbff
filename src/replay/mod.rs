//! Compressed files as plain content and coding decisions, from which the same bytes are made.
//!
//! A compressor of the LZ77 family chooses literals and matches, and then codes them. The choice
//! differs between programs, versions and settings; the coding is fixed by the format. So the
//! compressed bytes follow from the plain content and the decisions of any such program.
//!
//! | module | content |
//! |---|---|
//! | [`xz`], [`zstd`] | readers and writers of each container, by decisions |
//! | [`prediction`] | decisions of a file, predicted from those of an old one |
//! | [`mod@file`] | files of several parts, and their decision streams |
//!
#![doc = include_str!("format.md")]

mod cpio_header;
pub mod file;
mod packet;
mod peek_input;
pub mod prediction;
pub mod range_coder;
mod text_view;
mod window;
pub mod xz;
pub mod zstd;

pub use cpio_header::{CPIO_HEADER, CpioHeader};
pub use packet::{Packet, PacketKind};
pub use peek_input::PeekInput;
pub use text_view::TextView;
pub use window::Window;
