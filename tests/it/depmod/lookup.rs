//! What finds modules finds the same ones.
