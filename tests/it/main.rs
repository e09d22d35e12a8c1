//! Integration tests, one binary: each file is a subject.

mod architecture;
mod depmod;
mod initrd;
mod inventory;
mod roots;
mod select;
mod sign;
mod uki;
