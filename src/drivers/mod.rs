//! What the hardware needs: what a root has of modules and firmware, what a target asks for, and what stays.

pub mod check;
pub mod depmod;
pub mod hardware;
pub mod inventory;
pub mod select;
pub mod slim;
pub mod target;
pub mod wishes;
