//! What a UKI has of drivers and firmware: the indexes and the names in its initrd.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use crate::boot::uki::pe::PeHeaders;
use crate::drivers::inventory::{AliasList, FirmwareKind, Inventory, indexes};
use crate::drivers::select;
use crate::drivers::target;
use crate::names::{FirmwarePath, ModuleName, TreePath};
use crate::root::initrd::{ArchiveEntry, NewcReader, decompress};

use super::{PipelineError, Plan};

/// Bytes that an index in a UKI may have.
const INDEX_LIMIT: u64 = 64 << 20;

/// A UKI's drivers and firmware.
#[derive(Debug)]
pub(super) struct Shipped {
    path: PathBuf,
    /// Of `modules.alias`.
    pub(super) aliases: AliasList,
    /// The modules of `modules.dep`.
    pub(super) modules: BTreeSet<ModuleName>,
    /// Files and links of the firmware directories that the root has.
    firmware: BTreeSet<TreePath>,
}

impl Shipped {
    /// Reads a UKI that was made of the root with this inventory: the indexes of the root's kernel must be in it.
    pub(super) fn load(path: &Path, inventory: &Inventory) -> Result<Self, PipelineError> {
        let wrong = |problem: String| PipelineError::Uki { path: path.to_owned(), problem };
        let mut reader = NewcReader::new(initrd(path)?);
        let directory = TreePath::new(format!("usr/lib/modules/{}", inventory.kernel.release))?;
        let mut indexes_found: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        let mut firmware = BTreeSet::new();
        while let Some(entry) = reader.next_entry().map_err(|error| wrong(error.to_string()))? {
            if inventory.firmware.entries.contains_key(&entry.path) {
                firmware.insert(entry.path);
                continue;
            }
            let is_index = entry.path.parent() == Some(directory.clone())
                && [&b"modules.alias"[..], b"modules.dep"].contains(&entry.path.file_name());
            if !is_index {
                continue;
            }
            let text = content(&mut reader, &entry, path)?;
            indexes_found.insert(entry.path.file_name().to_vec(), text);
        }
        let mut take = |name: &str| {
            let missing = || wrong(format!("its initrd has no {directory}/{name}: it was made of another root"));
            indexes_found.remove(name.as_bytes()).ok_or_else(missing)
        };
        let (dep, alias) = (take("modules.dep")?, take("modules.alias")?);
        let line = |error: indexes::LineError| wrong(error.to_string());
        Ok(Self {
            path: path.to_owned(),
            aliases: indexes::alias(alias).map_err(line)?,
            modules: indexes::dep(&dep).map_err(line)?.into_iter().map(|entry| entry.name).collect(),
            firmware,
        })
    }

    /// What its drivers ask for and it does not have, with who asks: a plan that keeps its modules, in a root that has its
    /// firmware and no other.
    pub(super) fn missing_firmware(
        &self,
        plan: &Plan,
    ) -> Result<BTreeMap<FirmwarePath, Vec<ModuleName>>, PipelineError> {
        let names: Vec<&str> = self.modules.iter().map(ModuleName::as_str).collect();
        let text = format!("[[rule]]\nmodule = {names:?}\nevidence = \"modules.dep of the UKI\"\noptional = true\n");
        let path = self.path.display().to_string();
        let target = target::resolve(&[target::Request::File { path: &path, text: &text }])?;
        let mut inventory = plan.inventory.clone();
        let has = |path: &TreePath| self.firmware.contains(path) || !plan.inventory.firmware.entries.contains_key(path);
        inventory.firmware.entries.retain(|path, kind| {
            has(path)
                && match kind {
                    FirmwareKind::Link { chain } => chain.iter().all(has),
                    FirmwareKind::DirectoryLink { links, .. } => links.iter().all(has),
                    FirmwareKind::File { .. } | FirmwareKind::Dangling => true,
                }
        });
        let selection = select::select(&inventory, &plan.declarations, &target, &plan.wishes, &plan.options)?;
        Ok(selection.missing_firmware)
    }
}

/// The text of an entry of a UKI's initrd.
pub(super) fn content<R: Read>(
    reader: &mut NewcReader<R>,
    entry: &ArchiveEntry,
    path: &Path,
) -> Result<String, PipelineError> {
    let wrong = |problem: String| PipelineError::Uki { path: path.to_owned(), problem };
    if u64::from(entry.length) > INDEX_LIMIT {
        return Err(wrong(format!("{} in its initrd has {} bytes: no index has so many", entry.path, entry.length)));
    }
    let mut bytes = vec![0; usize::try_from(entry.length).unwrap_or(0)];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match reader.read_content(rest).map_err(|error| wrong(error.to_string()))? {
            0 => return Err(wrong(format!("its initrd ends within {}", entry.path))),
            read => done += read,
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong(format!("{} is not UTF-8 text", entry.path)))
}

/// The decompressed `.initrd` section of a UKI.
pub(super) fn initrd(path: &Path) -> Result<BufReader<Box<dyn Read>>, PipelineError> {
    let failed = |source| PipelineError::Input { what: "UKI", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let headers = PeHeaders::read(&mut file, &path.display().to_string())?;
    let section = headers.section(".initrd");
    let section = section.ok_or_else(|| failed(std::io::Error::other("it has no .initrd section")))?;
    file.seek(SeekFrom::Start(section.raw_offset.into())).map_err(failed)?;
    let section: Take<File> = file.take(section.content_size().into());
    Ok(BufReader::new(decompress(BufReader::new(section)).map_err(failed)?))
}
