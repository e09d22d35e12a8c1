//! The root file system: reading and changing it without leaving it, the manifest of what goes into an image, and the initrd.

pub mod conf_files;
pub mod host;
pub mod initrd;
pub mod packages;
pub mod scan;
pub mod sysroot;
pub mod tree;
pub mod writer;
