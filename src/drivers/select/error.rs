//! Why a selection cannot be made.

use crate::drivers::target::glob::GlobError;
use crate::names::ModuleName;

/// A selection that would not boot, or that was asked for wrongly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// A pattern of `--keep` or `--drop` that cannot be read.
    #[error("{option} {pattern:?}: {source}")]
    Pattern {
        /// `--keep` or `--drop`.
        option: &'static str,
        /// As given.
        pattern: String,
        /// What is wrong.
        source: GlobError,
    },
    /// A pattern that matches nothing that is there.
    #[error(
        "{option} {pattern:?} matches no module and no firmware of kernel {kernel}{hint}; patterns are module names (nls_*), \
         module paths (kernel/fs/**), firmware names (bnx2/*) or aliases (fs-xfs); --allow-empty goes on without"
    )]
    NoMatch {
        /// `--keep` or `--drop`.
        option: &'static str,
        /// As given.
        pattern: String,
        /// The kernel of the image.
        kernel: String,
        /// `; did you mean "x"` or nothing.
        hint: String,
    },
    /// `why` of what is not there.
    #[error("there is no {what} {item:?} in the root with kernel {kernel}{hint}")]
    NoItem {
        /// As asked.
        item: String,
        /// What was looked for.
        what: &'static str,
        /// The kernel of the image.
        kernel: String,
        /// `; did you mean "x"?` or nothing.
        hint: String,
    },
    /// `--drop` of what is part of the kernel image.
    #[error("--drop {pattern:?}: {module} is built into the kernel and cannot be dropped; take the option away")]
    DropBuiltin {
        /// As given.
        pattern: String,
        /// The built-in module.
        module: ModuleName,
    },
    /// `--keep` and `--drop` name the same item equally exactly.
    #[error("--keep {keep:?} and --drop {drop:?} both match {item}; name it exactly in the one that is to win")]
    KeepAndDrop {
        /// As given.
        keep: String,
        /// As given.
        drop: String,
        /// A module name or a firmware path.
        item: String,
    },
    /// `--drop` of what the image cannot do without.
    #[error("--drop {pattern:?} would take away {module}, which Kairos needs: {evidence} ({source_entry})")]
    DropRequired {
        /// As given.
        pattern: String,
        /// The module.
        module: ModuleName,
        /// The evidence of the rule that requires it.
        evidence: String,
        /// Where that is written.
        source_entry: String,
    },
    /// `--drop` of what a kept module depends on.
    #[error(
        "--drop {pattern:?} would take away {module}, without which the kept module {dependent} cannot load (modules.dep); \
         drop {dependent} too, or keep {module}"
    )]
    DropNeeded {
        /// As given.
        pattern: String,
        /// The module.
        module: ModuleName,
        /// Who needs it.
        dependent: ModuleName,
    },
    /// `modules.dep` names what is not there.
    #[error(
        "modules.dep of kernel {kernel} says that {module} depends on {dependency}, which is neither a module file nor built \
         in; install the missing module, or run depmod in the root"
    )]
    MissingDependency {
        /// The kernel of the image.
        kernel: String,
        /// Who depends.
        module: ModuleName,
        /// On whom.
        dependency: ModuleName,
    },
}
