//! Whole rooms against real programs and real data.

mod inventory;
mod select;
