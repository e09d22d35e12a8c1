//! The Unified Kernel Image.
