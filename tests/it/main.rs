//! Integration tests, one binary: each file is a subject.

<<<<<<< HEAD
mod architecture;
mod initrd;
=======
mod depmod;
>>>>>>> 360a9eeb3a07ee5594215fb9ab8a90101acb75ed
mod inventory;
mod roots;
mod select;
mod sign;
mod uki;
