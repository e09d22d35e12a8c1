//! Whole rooms against real programs and real data.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::string_slice,
    reason = "a test that cannot go on fails"
)]

mod depmod;
mod inventory;
