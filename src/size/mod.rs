//! The size report.
