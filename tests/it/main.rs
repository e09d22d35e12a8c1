//! Integration tests, one binary: each file is a subject.

// A test that cannot go on panics: that is how it fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod architecture;
mod auroraboot;
mod cache;
mod check;
mod cli;
mod closure;
mod depmod;
mod duplicates;
mod early;
mod esp;
mod eventlog;
mod hardware;
mod holeless;
mod image_budget;
mod image_disk;
mod image_ext4;
mod image_fat;
mod image_iso;
mod image_tools;
mod initrd;
mod inside;
mod inventory;
mod kmod_db;
mod place;
mod roots;
mod sbom;
mod select;
mod shipped;
mod sign;
mod slim;
mod uki;
mod uki_matrix;
mod uki_reuse;
mod uki_sign;
mod verify;
mod why;
