//! What a selection changes in the root itself: the root's module and firmware directories as a manifest, [`apply`] on it, and
//! the difference as a journal.

use std::collections::BTreeMap;

use crate::drivers::inventory::{FirmwareKind, Inventory};
use crate::drivers::select::Selection;
use crate::names::{KernelRelease, TreePath};
use crate::root::sysroot::{EntryType, Sysroot};
use crate::root::tree::{Content, Entry, FileTree, Kind, Seen};
use crate::root::writer::RootWriter;

use super::journal::{Journal, Mark, Replacement, sha256};
use super::places::Places;
use super::{SlimError, apply, replay};

/// Bytes that an index may have, as the inventory has it.
const INDEX_LIMIT: u64 = 64 << 20;

/// What changes, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Files and links that go.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Directories that are empty then and go.
    pub directories: u64,
    /// Indexes that are replaced or come in.
    pub indexes: u64,
    /// Other kernels whose modules go. Their boot images stay.
    pub other_kernels: Vec<KernelRelease>,
}

impl Summary {
    pub(super) fn of(journal: &Journal) -> Self {
        Self {
            removed: journal.removals.len() as u64,
            removed_bytes: journal.removals.values().fold(0, |sum, mark| mark.length.saturating_add(sum)),
            directories: journal.directories.len() as u64,
            indexes: journal.indexes.len() as u64,
            other_kernels: Vec::new(),
        }
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.removed == 0 && self.directories == 0 && self.indexes == 0
    }
}

/// What slimming in place is going to do to a root. Nothing is changed before [`Changes::commit`].
#[derive(Debug)]
pub struct Changes {
    journal: Journal,
    places: Places,
    /// In numbers.
    pub summary: Summary,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Changes {
    /// What `selection` changes in `root`. `request` is a digest of what was asked for: a later run compares.
    ///
    /// # Errors
    /// The root cannot be read, or its directories of modules and firmware are not where they can be slimmed.
    pub fn new(
        root: &Sysroot,
        inventory: &Inventory,
        selection: &Selection,
        indexes: BTreeMap<String, Vec<u8>>,
        request: &str,
    ) -> Result<Self, SlimError> {
        let places = Places::find(root)?;
        let (before, marks) = list(root, &places)?;
        let mut after = before.clone();
        apply(&mut after, inventory, selection, indexes);

        let kernel = inventory.kernel.modules.clone();
        let mut journal = Journal { request: request.to_owned(), kernel, ..Journal::default() };
        for (path, entry) in before.iter() {
            match (after.get(path).map(|entry| &entry.kind), marks.get(path)) {
                (None, Some(_)) if entry.kind == Kind::Directory => {
                    journal.directories.insert(path.clone());
                }
                (None, Some(mark)) => {
                    journal.removals.insert(path.clone(), *mark);
                }
                (Some(Kind::File(Content::Bytes(new))), _) => {
                    if !matches!(entry.kind, Kind::File(_)) {
                        let problem = "is no regular file: run depmod inside the root";
                        return Err(SlimError::NotOurs { path: path.clone(), problem });
                    }
                    let old = root.read(path, INDEX_LIMIT)?;
                    if old != *new {
                        let replacement = Replacement { old: Some(sha256(&old)), new: new.clone() };
                        journal.indexes.insert(path.clone(), replacement);
                    }
                }
                _ => {}
            }
        }
        for (path, entry) in after.iter().filter(|(path, _)| before.get(path).is_none()) {
            if let Kind::File(Content::Bytes(new)) = &entry.kind {
                journal.indexes.insert(path.clone(), Replacement { old: None, new: new.clone() });
            }
        }
        let changed = journal.removals.keys().chain(&journal.directories).chain(journal.indexes.keys());
        let parents = changed.filter_map(TreePath::parent).chain(places.journals().first().cloned());
        for parent in parents.filter(|parent| after.get(parent).is_some()) {
            if let Some(mark) = marks.get(&parent) {
                journal.times.insert(parent, mark.mtime);
            }
        }
        let mut summary = Summary::of(&journal);
        let gone = |kernel: &TreePath| journal.removals.keys().any(|path| path.starts_with(kernel));
        let others = inventory.other_kernels.iter().filter(|other| other.modules != inventory.kernel.modules);
        let others = others.filter(|other| gone(&other.modules));
        summary.other_kernels = others.map(|other| other.release.clone()).collect();
        let warnings = outside(inventory, selection, &places);
        if !summary.is_empty() {
            replay::permit(&places, &journal)
                .map_err(|refused| SlimError::NotOurs { path: refused.item, problem: refused.problem })?;
        }
        Ok(Self { journal, places, summary, warnings })
    }

    /// Does it. The journal is on the disk before the first change and goes with the last.
    ///
    /// # Errors
    /// [`SlimError::NotBegun`] and the like before the first change; [`SlimError::Halfway`] after it.
    pub fn commit(&self, writer: &RootWriter<'_>) -> Result<(), SlimError> {
        match self.summary.is_empty() {
            true => Ok(()),
            false => replay::commit(writer, &self.places, &self.journal),
        }
    }
}

/// The directories of modules and firmware with all they hold, and what tells each file from another.
fn list(root: &Sysroot, places: &Places) -> Result<(FileTree, BTreeMap<TreePath, Mark>), SlimError> {
    let (mut tree, mut marks) = (FileTree::new(), BTreeMap::new());
    let mut pending: Vec<TreePath> = places.all().into_iter().cloned().collect();
    while let Some(path) = pending.pop() {
        let directory = root.directory(&path)?;
        marks.insert(path.clone(), Mark::of(&directory.metadata()?));
        for name in directory.names()? {
            let path = path.join(&name)?;
            let metadata = directory.metadata_of(&name)?;
            let kind = match EntryType::of(&metadata) {
                EntryType::Directory => {
                    pending.push(path);
                    continue;
                }
                EntryType::File => Kind::File(Content::Root { path: path.clone(), seen: Seen::of(&metadata) }),
                EntryType::Symlink => Kind::Symlink(directory.link_target(&name)?),
                // What it is does not matter: it stays, or goes with another kernel's directory.
                EntryType::Other => Kind::Fifo,
            };
            marks.insert(path.clone(), Mark::of(&metadata));
            tree.insert(path, Entry { kind, ..Entry::directory(metadata.st_mtime) });
        }
        tree.insert(path, Entry::directory(0));
    }
    Ok((tree, marks))
}

/// Dropped files that lie elsewhere, behind links: an image leaves them out, the root keeps them.
fn outside(inventory: &Inventory, selection: &Selection, places: &Places) -> Vec<String> {
    let firmware = selection.firmware.values().filter(|item| {
        matches!(inventory.firmware.entries.get(&item.path), Some(FirmwareKind::File { .. })) && !item.kept
    });
    let modules = selection.modules.values().filter(|item| !item.kept);
    let elsewhere: Vec<_> = modules.chain(firmware).filter(|item| !places.hold(&item.path)).collect();
    let Some(first) = elsewhere.first() else { return Vec::new() };
    let (count, path) = (elsewhere.len(), &first.path);
    vec![format!(
        "{count} dropped files lie outside of /lib/modules and /lib/firmware ({path} is the first) and stay in the root: remove the package that owns them"
    )]
}
