//! PCR prediction.
