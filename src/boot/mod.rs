//! The file that firmware starts: sections in, a measured and signed PE file out. Knows neither roots nor drivers.

pub mod build;
pub mod measure;
pub mod pass;
pub mod pcr;
pub mod reserve;
pub mod section;
pub mod sign;
mod taker;
pub mod uki;
pub mod verify;
