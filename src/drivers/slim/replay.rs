//! A journal done: checked whole, then step by step, each of which may have been done before.
//!
//! The order: new indexes beside the old ones, so that a full disk is noticed before anything is gone; renamed; files removed;
//! empty directories removed; the times of the directories set back; the journal removed. A kill at any point leaves the journal,
//! and doing it again ends in the same tree. So does a loss of power, on file systems that keep the order in which directories
//! were changed (ext4, XFS, btrfs): the journal and the indexes are waited for, hundreds of directories are not.
//!
//! The journal lies in the directory of all kernels' modules, whose own time changes when the journal goes. So that a kill
//! right there loses nothing, that time stands in an extended attribute of the directory meanwhile. (A file system without
//! such attributes can lose this one time.)

use std::collections::BTreeMap;

use crate::names::TreePath;
use crate::root::sysroot::{EntryType, Sysroot, SysrootError};
use crate::root::writer::{Mounts, RootWriter, WritableDirectory};

use super::SlimError;
use super::changes::Summary;
use super::journal::{Journal, JournalError, Mark, sha256, time};
use super::places::Places;

/// The journal's name, in the directory of all kernels' modules.
const JOURNAL: &str = ".kairos-init-slim.journal";
/// Its name while it is written, where a file system has no unnamed files.
const UNFINISHED: &str = ".kairos-init-slim.journal.new";
/// Before the name of an index while it is written.
const STAGED: &[u8] = b".kairos-init-slim.";
/// The index that is always there.
const DEPENDENCIES: &[u8] = b"modules.dep";
/// The attribute with the time of the journal's directory: seconds and nanoseconds.
const TIME: &str = "user.kairos-init.slim";
/// Bytes that a journal may have. That of all of Debian's modules and firmware has 5 MB.
const LIMIT: u64 = 256 << 20;
/// Bytes that an index may have.
const INDEX_LIMIT: u64 = 64 << 20;

/// `ENOENT`.
const GONE: i32 = 2;

/// No other process slims the root while this value lives.
#[derive(Debug)]
pub struct Lock {
    _directory: WritableDirectory,
}

impl Lock {
    /// Takes the lock of a root.
    ///
    /// # Errors
    /// Another process has it; the root has no module directory, or one that cannot be changed.
    pub fn take(writer: &RootWriter<'_>) -> Result<Self, SlimError> {
        let places = Places::find(writer.root())?;
        let home = places.journals().first().ok_or(SlimError::NoModules)?;
        let directory = writer.directory(home).map_err(SlimError::before)?;
        match directory.lock()? {
            true => Ok(Self { _directory: directory }),
            false => Err(SlimError::Locked),
        }
    }
}

/// Refuses a root that was left halfway: what is in it is neither the old nor the new state.
///
/// # Errors
/// [`SlimError::Interrupted`]; the root cannot be read.
pub fn refuse_interrupted(root: &Sysroot) -> Result<(), SlimError> {
    let reader = RootWriter::new(root, Mounts::Enter);
    for parent in Places::journal_names() {
        let parent = match root.canonical(&TreePath::new(parent)?) {
            Ok(parent) if root.kind(&parent)? == Some(EntryType::Directory) => parent,
            Ok(_) => continue,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        for name in [JOURNAL, UNFINISHED] {
            let path = parent.join(name)?;
            if root.kind(&path)?.is_some() {
                return Err(SlimError::Interrupted { path });
            }
        }
        if reader.directory(&parent)?.attribute(TIME)?.is_some() {
            return Err(SlimError::Interrupted { path: parent });
        }
    }
    Ok(())
}

/// A slimming that was killed, as its journal has it: checked, not yet done.
#[derive(Debug)]
pub struct Interrupted {
    journal: Journal,
    path: TreePath,
    /// In numbers, what was killed before included.
    pub summary: Summary,
}

impl Interrupted {
    /// The journal of a root, if there is one. (What was left before a journal was whole is removed: nothing had begun.)
    ///
    /// # Errors
    /// A journal that is damaged, or that asks for more than slimming does.
    pub fn find(writer: &RootWriter<'_>) -> Result<Option<Self>, SlimError> {
        let places = Places::find(writer.root())?;
        for home in places.journals() {
            let directory = writer.directory(home).map_err(SlimError::before)?;
            let path = home.join(JOURNAL)?;
            if directory.metadata_of(JOURNAL.as_bytes())?.is_none() {
                directory.remove_file(UNFINISHED.as_bytes()).map_err(SlimError::before)?;
                restore_time(&directory).map_err(SlimError::before)?;
                continue;
            }
            let wrong = |JournalError { line, problem }| SlimError::Journal { path: path.clone(), line, problem };
            let bytes = directory.read(JOURNAL.as_bytes(), LIMIT)?;
            let text = String::from_utf8(bytes)
                .map_err(|_| wrong(JournalError { line: 1, problem: "is not UTF-8 text".to_owned() }))?;
            let journal = Journal::parse(&text).map_err(wrong)?;
            permit(&places, &journal).map_err(|Refused { action, item, problem }| SlimError::Planted {
                path: path.clone(),
                action,
                item,
                problem,
            })?;
            let summary = Summary::of(&journal);
            return Ok(Some(Self { journal, path, summary }));
        }
        Ok(None)
    }

    /// The digest of what that run was asked for.
    #[must_use]
    pub fn request(&self) -> &str {
        &self.journal.request
    }

    /// Finishes it.
    ///
    /// # Errors
    /// The root is not the one that was slimmed; it cannot be written to.
    pub fn finish(&self, writer: &RootWriter<'_>) -> Result<(), SlimError> {
        verify(writer, &self.journal, &self.path)?;
        stage(writer, &self.journal).and_then(|()| run(writer, &self.journal, &self.path)).map_err(SlimError::Halfway)
    }
}

/// What a journal must not ask for.
#[derive(Debug)]
pub(super) struct Refused {
    action: &'static str,
    pub(super) item: TreePath,
    pub(super) problem: &'static str,
}

/// Holds every line against the law of places.
pub(super) fn permit(places: &Places, journal: &Journal) -> Result<(), Refused> {
    let kernel = &journal.kernel;
    let refused = |action, item: &TreePath| {
        let item = item.clone();
        move |problem| Refused { action, item, problem }
    };
    places.permit_kernel(kernel).map_err(refused("slim", kernel))?;
    for path in journal.removals.keys() {
        places.permit_removal(path, kernel).map_err(refused("remove", path))?;
    }
    for path in &journal.directories {
        places.permit_directory_removal(path, kernel).map_err(refused("remove", path))?;
    }
    for path in journal.times.keys() {
        places.permit_time(path).map_err(refused("set the time of", path))?;
    }
    for path in journal.indexes.keys() {
        Places::permit_index(path, kernel).map_err(refused("replace", path))?;
    }
    Ok(())
}

/// Writes the journal and does what it says.
pub(super) fn commit(writer: &RootWriter<'_>, places: &Places, journal: &Journal) -> Result<(), SlimError> {
    let home = places.journals().first().ok_or(SlimError::NoModules)?;
    let path = home.join(JOURNAL)?;
    verify(writer, journal, &path)?;
    let directory = writer.directory(home).map_err(SlimError::before)?;
    note_time(journal, &directory).map_err(SlimError::before)?;
    if let Err(error) = directory.create_whole(JOURNAL.as_bytes(), UNFINISHED.as_bytes(), journal.to_text().as_bytes())
    {
        restore_time(&directory).map_err(SlimError::before)?;
        return Err(SlimError::NotBegun(error));
    }
    if let Err(error) = stage(writer, journal) {
        // No room for the new indexes: nothing is gone yet, so all of it can be undone.
        return Err(match undo(writer, journal, &directory) {
            Ok(()) => SlimError::NotBegun(error),
            Err(_) => SlimError::Halfway(error),
        });
    }
    run(writer, journal, &path).map_err(SlimError::Halfway)
}

/// What can be known before the first change: that every file is the one that was meant, and can be removed or replaced.
fn verify(writer: &RootWriter<'_>, journal: &Journal, path: &TreePath) -> Result<(), SlimError> {
    let changed = |item: TreePath| SlimError::Changed { path: path.clone(), item };
    for (parent, names) in by_parent(journal.removals.iter().map(|(path, mark)| (path, Some(*mark))))
        .into_iter()
        .chain(by_parent(journal.directories.iter().map(|path| (path, None))))
    {
        let Some(directory) = existing(writer, &parent).map_err(SlimError::before)? else { continue };
        directory.check_writable().map_err(SlimError::before)?;
        for (name, mark) in names {
            let Some(metadata) = directory.metadata_of(&name)? else { continue };
            let is_directory = EntryType::of(&metadata) == EntryType::Directory;
            if is_directory != mark.is_none() || mark.is_some_and(|mark| mark != Mark::of(&metadata)) {
                return Err(changed(parent.join(&name)?));
            }
            directory.check_removable(&name).map_err(SlimError::before)?;
        }
    }
    let kernel = writer.directory(&journal.kernel).map_err(SlimError::before)?;
    for (index, replacement) in &journal.indexes {
        let now = match kernel.read(index.file_name(), INDEX_LIMIT) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let is_new = now.as_ref() == Some(&replacement.new);
        if !is_new && now.as_deref().map(sha256) != replacement.old {
            return Err(changed(index.clone()));
        }
        kernel.check_writable().map_err(SlimError::before)?;
        if now.is_some() {
            kernel.check_removable(index.file_name()).map_err(SlimError::before)?;
        }
    }
    Ok(())
}

fn staged(index: &TreePath) -> Vec<u8> {
    [STAGED, index.file_name()].concat()
}

/// Writes the new indexes beside the old ones.
fn stage(writer: &RootWriter<'_>, journal: &Journal) -> Result<(), SysrootError> {
    let kernel = writer.directory(&journal.kernel)?;
    for (index, replacement) in &journal.indexes {
        // One that comes in is like the index that every kernel has.
        let like = if replacement.old.is_some() { index.file_name() } else { DEPENDENCIES };
        kernel.stage(&staged(index), like, &replacement.new)?;
    }
    Ok(())
}

fn undo(writer: &RootWriter<'_>, journal: &Journal, home: &WritableDirectory) -> Result<(), SysrootError> {
    let kernel = writer.directory(&journal.kernel)?;
    for index in journal.indexes.keys() {
        kernel.remove_file(&staged(index))?;
    }
    if let Some(mtime) = journal.times.get(kernel.path()) {
        kernel.set_mtime(*mtime)?;
    }
    finish(journal, home)
}

/// Everything behind staging, to the end.
fn run(writer: &RootWriter<'_>, journal: &Journal, path: &TreePath) -> Result<(), SysrootError> {
    let kernel = writer.directory(&journal.kernel)?;
    for index in journal.indexes.keys() {
        kernel.rename(&staged(index), index.file_name())?;
    }
    for (parent, names) in by_parent(journal.removals.keys().map(|path| (path, ()))) {
        if let Some(directory) = existing(writer, &parent)? {
            for (name, ()) in names {
                directory.remove_file(&name)?;
            }
        }
    }
    // The last in path order is the deepest of its branch.
    for path in journal.directories.iter().rev() {
        if let Some(parent) = path.parent()
            && let Some(directory) = existing(writer, &parent)?
        {
            directory.remove_directory(path.file_name())?;
        }
    }
    kernel.sync()?;
    for (path, mtime) in &journal.times {
        if let Some(directory) = existing(writer, path)? {
            directory.set_mtime(*mtime)?;
        }
    }
    finish(journal, &writer.directory(&path.parent().unwrap_or_default())?)
}

/// The journal goes last, and then the note of its directory's time.
fn finish(journal: &Journal, home: &WritableDirectory) -> Result<(), SysrootError> {
    // Noted before, unless the root was copied meanwhile, without attributes.
    note_time(journal, home)?;
    home.remove_file(JOURNAL.as_bytes())?;
    if let Some(mtime) = journal.times.get(home.path()) {
        home.set_mtime(*mtime)?;
    }
    home.set_attribute(TIME, None)?;
    home.sync()
}

fn note_time(journal: &Journal, home: &WritableDirectory) -> Result<(), SysrootError> {
    if let Some((seconds, nanoseconds)) = journal.times.get(home.path()) {
        home.set_attribute(TIME, Some(format!("{seconds} {nanoseconds}").as_bytes()))?;
    }
    Ok(())
}

/// What is left to do where a kill came between the journal and its note.
fn restore_time(home: &WritableDirectory) -> Result<(), SysrootError> {
    let Some(note) = home.attribute(TIME)? else { return Ok(()) };
    let time = std::str::from_utf8(&note).ok().and_then(|text| {
        let (seconds, nanoseconds) = text.split_once(' ')?;
        time(seconds, nanoseconds).ok()
    });
    if let Some(mtime) = time {
        home.set_mtime(mtime)?;
    }
    home.set_attribute(TIME, None)?;
    home.sync()
}

/// The directory, unless it went already. One that became something else is an error.
fn existing(writer: &RootWriter<'_>, path: &TreePath) -> Result<Option<WritableDirectory>, SysrootError> {
    match writer.directory(path) {
        Ok(directory) => Ok(Some(directory)),
        Err(SysrootError::Path { source, .. }) if source.raw_os_error() == Some(GONE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names by the directory that holds them, so that each directory is opened once.
fn by_parent<'a, T>(paths: impl Iterator<Item = (&'a TreePath, T)>) -> BTreeMap<TreePath, Vec<(Vec<u8>, T)>> {
    let mut out: BTreeMap<TreePath, Vec<(Vec<u8>, T)>> = BTreeMap::new();
    for (path, value) in paths {
        out.entry(path.parent().unwrap_or_default()).or_default().push((path.file_name().to_vec(), value));
    }
    out
}
