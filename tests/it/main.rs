//! Whole rooms against real programs and real data.

mod depmod;
mod inventory;
