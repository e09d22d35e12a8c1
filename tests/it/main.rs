//! Integration tests: one binary.

mod select;
