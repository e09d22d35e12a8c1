//! `kairos-init` turns a distribution's root file system into a slim, signed Kairos image.
//!
//! The rooms of the house stand in the order in which data passes through them:
//!
//! | room | takes | gives |
//! |---|---|---|
//! | [`names`], [`cancel`] | | the words that every room shares |
//! | [`root`] | a directory | [`root::sysroot::Sysroot`], the escape-proof view; [`root::tree::FileTree`]; the initrd |
//! | [`drivers`] | a `Sysroot`, a hardware target | what is kept and dropped of modules and firmware, with a reason each |
//! | [`boot`] | sections (bytes and streams) | a measured, signed Unified Kernel Image |
//! | [`image`] | signed files | the output folder: written whole, or not at all |
//! | [`size`] | all of the above | the size report |
//! | [`pipeline`] | a request | an outcome: the only file that knows every room |
//!
//! Rooms import downwards only: `root` <- `drivers`; `boot` knows neither; a test holds the `use crate::` lines to
//! this order. The library reads no clock and no environment: `SOURCE_DATE_EPOCH` arrives as a field.

pub mod boot;
pub mod cancel;
pub mod drivers;
pub mod image;
pub mod names;
pub mod pipeline;
pub mod root;
pub mod size;
