//! Machines beside a selection: what of a captured machine would still be driven ([`replay`]), what of the machines that people
//! have ([`coverage`]), and how a machine is captured ([`sysfs`]).
//!
//! Nothing here decides what stays: these are the checks of that.

pub mod class;
pub mod coverage;
mod index;
pub mod replay;
pub mod sysfs;

pub use index::AliasIndex;
