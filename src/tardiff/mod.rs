//! The jobs of the image server: building, publishing, showing and checking.

pub mod image_tar;
pub mod serve;
