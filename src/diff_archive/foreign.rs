//! Archives that others made.
