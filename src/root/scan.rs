//! A root directory becomes a tree.
