//! The initrd: a newc cpio archive of a tree, compressed.
