//! A flag that asks long work to stop, so that Ctrl-C leaves nothing half written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared between the signal handler and every loop that moves many bytes. Cheap to clone and to ask.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// The work was asked to stop before it was done.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted: nothing was written, the root is as it was")]
pub struct Cancelled;

impl Cancel {
    /// Asks all holders of this flag to stop at their next check.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether someone asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// For loops: `cancel.check()?` once for every buffer or file.
    ///
    /// # Errors
    /// [`Cancelled`] once [`Cancel::cancel`] was called.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}
