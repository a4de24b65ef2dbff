//! The edge: arguments, terminals, exit codes.

pub mod tardiff;
pub mod terminal;
