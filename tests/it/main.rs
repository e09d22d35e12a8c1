//! Integration tests, one binary: each file is a subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::string_slice,
    reason = "a test that cannot go on fails"
)]

mod architecture;
mod depmod;
mod initrd;
mod inventory;
mod roots;
mod select;
mod sign;
mod uki;
