//! Integration tests, one binary: each file is a subject.

mod architecture;
mod initrd;
mod roots;
mod uki;
