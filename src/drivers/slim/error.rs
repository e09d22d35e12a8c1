//! Why a root cannot be slimmed in place.

use crate::names::{NameError, TreePath};
use crate::root::sysroot::SysrootError;

/// Slimming in place failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlimError {
    /// The root cannot be read.
    #[error(transparent)]
    Root(#[from] SysrootError),
    /// A name that no path can hold.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The root is a running machine's.
    #[error(
        "this root is a running machine's ({evidence}): it would lose the drivers that it does not use right now; slim the root of a container or a folder (--root DIR), or give --allow-host if you mean it"
    )]
    RunningHost {
        /// What shows it.
        evidence: String,
    },
    /// A part of the root is another file system.
    #[error(
        "{path} lies on a file system that is mounted inside the root: it may be the running machine's, as a container's /lib/modules often is; nothing was changed; unmount it, or give --allow-host if it belongs to this root"
    )]
    Mounted {
        /// The directory.
        path: TreePath,
    },
    /// `/lib/modules` or `/lib/firmware` leads to a directory of something else.
    #[error(
        "{name} in the root leads to {path}, which is no directory of that kind: what is there is not touched; make it a real directory"
    )]
    Elsewhere {
        /// As the kernel knows it.
        name: TreePath,
        /// Resolved.
        path: TreePath,
    },
    /// A change that is not slim's to do.
    #[error("cannot slim in place: {path} {problem}; nothing was changed")]
    NotOurs {
        /// Which.
        path: TreePath,
        /// Why.
        problem: &'static str,
    },
    /// The root has no module directory to put the journal into.
    #[error("the root has no /lib/modules: nothing to slim; install a kernel first")]
    NoModules,
    /// Another process slims the same root.
    #[error("another kairos-init is slimming this root: wait for it")]
    Locked,
    /// Nothing was changed: the change could not begin.
    #[error("{0}; nothing was changed{advice}", advice = advice(.0))]
    NotBegun(SysrootError),
    /// The changes have begun and could not be finished.
    #[error(
        "{0}; the root is slimmed halfway{advice}; then run `kairos-init slim` on it again, which finishes the work",
        advice = advice(.0)
    )]
    Halfway(SysrootError),
    /// The root has a journal: it is neither the old nor the new one.
    #[error(
        "slimming this root was interrupted ({path} is left of it): run `kairos-init slim` on it again, which finishes the work"
    )]
    Interrupted {
        /// The journal.
        path: TreePath,
    },
    /// A journal that does not parse.
    #[error(
        "{path} line {line}: {problem}; this is no journal of kairos-init, or a damaged one: nothing was changed; install the root's kernel and firmware packages again, then remove the file"
    )]
    Journal {
        /// The journal.
        path: TreePath,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A journal that wants more than slim does.
    #[error(
        "{path} asks to {action} {item}, which {problem}: kairos-init did not write this journal; nothing was changed; the root may be hostile: make it anew, or remove the file"
    )]
    Planted {
        /// The journal.
        path: TreePath,
        /// "remove", "replace".
        action: &'static str,
        /// What it names.
        item: TreePath,
        /// Why that is refused.
        problem: &'static str,
    },
    /// The root is not the one that the journal was written for.
    #[error(
        "{item} was changed after slimming this root was interrupted: nothing more was changed; install the root's kernel and firmware packages again, then remove the journal {path}"
    )]
    Changed {
        /// The journal.
        path: TreePath,
        /// Which file.
        item: TreePath,
    },
}

/// What to do about an I/O error, as the end of a message.
fn advice(error: &SysrootError) -> &'static str {
    let SysrootError::Path { source, .. } = error else { return "" };
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ": make room on the root's file system",
        std::io::ErrorKind::PermissionDenied => ": run as a user who may write there",
        std::io::ErrorKind::ReadOnlyFilesystem => ": mount the root writable",
        _ => "",
    }
}

impl SlimError {
    /// A failure before the first change.
    pub(super) fn before(error: SysrootError) -> Self {
        match error {
            SysrootError::Path { path, source, .. } if source.kind() == std::io::ErrorKind::CrossesDevices => {
                Self::Mounted { path }
            }
            other => Self::NotBegun(other),
        }
    }
}
