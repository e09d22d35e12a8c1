//! The whole run.
