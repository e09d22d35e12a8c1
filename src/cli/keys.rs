//! `keys generate` and `keys show`.
