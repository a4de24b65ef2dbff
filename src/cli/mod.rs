//! The edge: command lines, exit codes, terminals. The only place that prints.

pub mod json;
pub mod log;
pub mod signals;
pub mod tardiff;
pub mod terminal;
pub mod updateclient;
