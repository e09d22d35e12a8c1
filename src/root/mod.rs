//! The root file system: reading it without leaving it, the manifest of what goes into an image, and the initrd.

pub mod initrd;
pub mod scan;
pub mod sysroot;
pub mod tree;
