//! Why an inventory cannot be made.

use crate::names::{KernelRelease, ModuleName, NameError, TreePath};
use crate::root::sysroot::SysrootError;

use super::indexes::LineError;

/// Taking the inventory of a root failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InventoryError {
    /// The root cannot be read.
    #[error(transparent)]
    Root(#[from] SysrootError),
    /// A name in the root that no path can hold.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no module directory.
    #[error(
        "no kernel in the root: neither /lib/modules nor /usr/lib/modules holds one; install the distribution's kernel package (Debian: linux-image-amd64, Fedora: kernel-core and kernel-modules, openSUSE: kernel-default, Alpine: linux-lts)"
    )]
    NoKernel,
    /// The kernel that was asked for is not there.
    #[error("no kernel {asked} in the root; there is {}", list(.found))]
    UnknownKernel {
        /// As asked.
        asked: KernelRelease,
        /// Those that are there, sorted.
        found: Vec<KernelRelease>,
    },
    /// An index without which nothing can be said.
    #[error("{path} is missing in the root: run 'depmod {release}' inside the root")]
    NoIndex {
        /// The index.
        path: TreePath,
        /// The kernel.
        release: KernelRelease,
    },
    /// A line of an index is wrong.
    #[error("{path} line {}: {}; the file is damaged or hostile: run 'depmod {release}' inside the root", .source.line, .source.problem)]
    Line {
        /// The index.
        path: TreePath,
        /// The kernel.
        release: KernelRelease,
        /// Line and problem.
        source: LineError,
    },
    /// `modules.dep` names a file that is not there.
    #[error("{path} line {line}: there is no module file {module}: run 'depmod {release}' inside the root")]
    MissingModule {
        /// `modules.dep`.
        path: TreePath,
        /// From 1.
        line: usize,
        /// As written.
        module: String,
        /// The kernel.
        release: KernelRelease,
    },
    /// Two lines of `modules.dep` for the same module.
    #[error("{path} line {line}: a second file {module} of the module {name}: run 'depmod {release}' inside the root")]
    DuplicateModule {
        /// `modules.dep`.
        path: TreePath,
        /// From 1.
        line: usize,
        /// As written.
        module: String,
        /// The module's name.
        name: ModuleName,
        /// The kernel.
        release: KernelRelease,
    },
    /// Module files that no index knows: nothing could load them.
    #[error(
        "{count} module files are not listed in {path} ({first} is the first): run 'depmod {release}' inside the root"
    )]
    Unlisted {
        /// `modules.dep`.
        path: TreePath,
        /// Files.
        count: usize,
        /// The first of them.
        first: TreePath,
        /// The kernel.
        release: KernelRelease,
    },
    /// Another file of a module is the one that depmod takes.
    #[error(
        "{path} names {listed} as the module {name}, but by depmod's search order {better} comes first: the index is older than that file or than depmod.d; run 'depmod {release}' inside the root"
    )]
    NotFirst {
        /// `modules.dep`.
        path: TreePath,
        /// The module.
        name: ModuleName,
        /// The file that is listed.
        listed: TreePath,
        /// The file that depmod takes.
        better: TreePath,
        /// The kernel.
        release: KernelRelease,
    },
    /// `modules.dep` names a file that depmod passes over.
    #[error(
        "{path} line {line}: the module file {module} is excluded by depmod.d: run 'depmod {release}' inside the root, or take the exclude away"
    )]
    Excluded {
        /// `modules.dep`.
        path: TreePath,
        /// From 1.
        line: usize,
        /// The file.
        module: TreePath,
        /// The kernel.
        release: KernelRelease,
    },
    /// Modules outside of the module directory.
    #[error(
        "{path} line {line}: the module {module} is outside of the kernel's module directory, by 'external {directory}' in {file}: move it to updates/ there, remove that line, and run 'depmod {release}' inside the root"
    )]
    External {
        /// `modules.dep`.
        path: TreePath,
        /// From 1.
        line: usize,
        /// As written.
        module: String,
        /// The external directory, as written.
        directory: String,
        /// The file of depmod.d.
        file: String,
        /// The kernel.
        release: KernelRelease,
    },
    /// A module declares a dependency that `modules.dep` does not have.
    #[error(
        "modules.dep is older than the module {module}: it does not say that this needs {needs}; run 'depmod {release}' inside the root"
    )]
    OlderThanModule {
        /// The module's file.
        module: TreePath,
        /// What it needs.
        needs: ModuleName,
        /// The kernel.
        release: KernelRelease,
    },
    /// A module file cannot be understood.
    #[error("cannot read the module {path}: {source}; the file is damaged: reinstall the package that owns it")]
    Module {
        /// The file.
        path: TreePath,
        /// Why.
        source: ModuleFileError,
    },
    /// A microcode file cannot be understood.
    #[error("cannot read the microcode {path}: {source}; the file is damaged: reinstall the package that owns it")]
    Microcode {
        /// The file.
        path: TreePath,
        /// Why.
        source: ModuleFileError,
    },
    /// Directory links that multiply the firmware tree.
    #[error("more than {limit} files below {path}: the root's directory links are hostile")]
    TooManyFiles {
        /// The directory.
        path: TreePath,
        /// Allowed.
        limit: usize,
    },
}

/// Why a module file (or a microcode file) cannot be understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleFileError {
    /// Reading or decompressing failed: truncated, not in the form that its name says.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// More bytes than a module may have, decompressed.
    #[error("more than {limit} bytes when decompressed")]
    TooLarge {
        /// Bytes.
        limit: u64,
    },
    /// Not an ELF file, or one whose parts lie outside of it.
    #[error("not a sound ELF file: {0}")]
    Elf(String),
    /// Not a module.
    #[error("no .modinfo section")]
    NoModinfo,
}

fn list(releases: &[KernelRelease]) -> String {
    releases.iter().map(KernelRelease::as_str).collect::<Vec<_>>().join(", ")
}
