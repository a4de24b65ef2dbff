//! Both programs: command lines, exit codes and output. Only this layer prints.

pub mod console;
pub mod json;
pub mod log;
pub mod meter;
pub mod signals;
pub mod tardiff;
pub mod terminal;
pub mod updateclient;
