//! The UKIs of a run: one for each planned command line, all with one initrd, which is compressed once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use std::path::Path;

use super::inputs::{read_input, write_microcode};
use super::request::{BootEntry, BuildRequest};
use super::{Keys, PipelineError};
use crate::boot::build::{self, BuildError, BuiltUki, Profile, UkiRequest};
use crate::boot::pcr::Bank;
use crate::boot::section::SectionName;
use crate::boot::uki::assemble::Payload;
use crate::boot::uki::stub::Stub;
use crate::boot::uki::{profile, reuse, splash};
use crate::cancel::Cancel;
use crate::image::esp::{Extra, PlannedUki};
use crate::image::{ImageError, Staging, TREE};
use crate::root::sysroot::Sysroot;

/// A bitmap that is larger is no splash.
const MAX_SPLASH: u64 = 64 << 20;

/// What all UKIs of a run have in common.
pub(super) struct Common<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) keys: &'a Keys,
    pub(super) root: &'a Sysroot,
    pub(super) stub: &'a Stub,
    pub(super) kernel: Vec<u8>,
    pub(super) os_release: Vec<u8>,
    pub(super) uname: Vec<u8>,
    pub(super) has_ucode: bool,
    pub(super) splash: Vec<u8>,
    pub(super) cancel: &'a Cancel,
}

/// Where a UKI lies in the output folder.
pub(super) fn file_name(planned: &PlannedUki) -> String {
    format!("{TREE}EFI/kairos/{}.efi", planned.name)
}

impl Common<'_> {
    /// Builds the first, with the initrd that is being made, then the others with the same.
    pub(super) fn build(
        &self,
        planned: &[PlannedUki],
        initrd: Payload<'_>,
        staging: &mut Staging,
    ) -> Result<Vec<BuiltUki>, PipelineError> {
        let Some((first, others)) = planned.split_first() else { return Ok(Vec::new()) };
        let built = self.one(first, initrd, BTreeMap::new(), staging)?;
        let digests = built.initrd_digests.clone();
        let source = staging.staged(&file_name(first));
        let mut all = vec![built];
        for uki in others {
            let initrd = initrd_of(&source)?;
            all.push(self.one(uki, initrd, digests.clone(), staging)?);
        }
        Ok(all)
    }

    /// The first of them as far as it is known before the long work, for a rehearsal: without initrd, and not signed.
    pub(super) fn stand_in(&self, planned: &[PlannedUki]) -> Result<Vec<u8>, PipelineError> {
        let mut file = Cursor::new(Vec::new());
        if let Some(first) = planned.first() {
            build::build(self.small_sections(first)?, &mut file)?;
        }
        Ok(file.into_inner())
    }

    fn one(
        &self,
        planned: &PlannedUki,
        initrd: Payload<'_>,
        initrd_digests: BTreeMap<Bank, Vec<u8>>,
        staging: &mut Staging,
    ) -> Result<BuiltUki, PipelineError> {
        let Self { request, keys, root, cancel, .. } = self;
        let mut file = staging.create(&file_name(planned))?;
        let request = UkiRequest {
            initrd: Some(initrd),
            // Read when it is written: it need not lie in memory beside the compressor's window.
            ucode: self.has_ucode.then(|| Payload::Producer(Box::new(|out| write_microcode(root, out)))),
            policies: keys.policies(&request.policies)?,
            signings: keys.signings(request.hash),
            initrd_digests,
            ..self.small_sections(planned)?
        };
        build::build(request, &mut file).map_err(|error| match cancel.check() {
            // Ctrl-C arrives as the error of whatever was being written: it is reported as what it is.
            Err(cancelled) => cancelled.into(),
            Ok(()) => error.into(),
        })
    }

    fn small_sections(&self, planned: &PlannedUki) -> Result<UkiRequest<'_>, PipelineError> {
        let main = planned.profiles.first().map(|entry| entry.cmdline.clone()).unwrap_or_default();
        Ok(UkiRequest {
            os_release: self.os_release.clone(),
            profiles: profiles(planned, &self.request.entries)?,
            cmdline: main.into_bytes(),
            uname: self.uname.clone(),
            splash: (!self.splash.is_empty()).then(|| Payload::Bytes(self.splash.clone())),
            jobs: self.request.jobs,
            ..UkiRequest::new(self.stub, self.kernel.clone())
        })
    }
}

/// The bitmap, checked; nothing where none is named.
pub(super) fn splash(path: Option<&Path>) -> Result<Vec<u8>, PipelineError> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let bytes = read_input("the splash image", path, MAX_SPLASH)?;
    splash::check(&bytes, bytes.len() as u64).map_err(BuildError::from)?;
    Ok(bytes)
}

/// The initrd of a UKI that was just built.
fn initrd_of(path: &Path) -> Result<Payload<'static>, PipelineError> {
    let failed = |source| ImageError::Io { action: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let missing = || PipelineError::Uki { path: path.to_owned(), problem: "it has no .initrd section".to_owned() };
    reuse::payload(file, &path.display().to_string(), SectionName::Initrd)?.ok_or_else(missing)
}

/// The further command lines, for the menu.
pub(super) fn extras(entries: &[BootEntry]) -> Vec<Extra> {
    let extra = |entry: &BootEntry| match entry {
        BootEntry::Titled(spec) => Extra { title: Some(spec.title.clone()), arguments: spec.arguments.clone() },
        BootEntry::Untitled(arguments) => Extra { title: None, arguments: arguments.clone() },
    };
    entries.iter().map(extra).collect()
}

/// What the common sections are for first, then one for each further entry; nothing where there are none.
fn profiles(planned: &PlannedUki, entries: &[BootEntry]) -> Result<Vec<Profile<'static>>, PipelineError> {
    let Some((_, further)) = planned.profiles.split_first().filter(|(_, further)| !further.is_empty()) else {
        return Ok(Vec::new());
    };
    let titled = entries.iter().filter_map(|entry| match entry {
        BootEntry::Titled(spec) => Some(spec.clone()),
        BootEntry::Untitled(_) => None,
    });
    let mut titled = profile::entries(&titled.collect::<Vec<_>>(), "").map_err(BuildError::from)?.into_iter();
    let mut out = vec![Profile { text: profile::main_text().into_bytes(), sections: Vec::new() }];
    for ((number, menu), entry) in (1..).zip(further).zip(entries) {
        let text = match entry {
            BootEntry::Titled(_) => titled.next().map(|(text, _)| text),
            BootEntry::Untitled(_) => None,
        };
        let text = text.unwrap_or_else(|| profile::untitled_text(number));
        let cmdline = Payload::Bytes(menu.cmdline.clone().into_bytes());
        out.push(Profile { text: text.into_bytes(), sections: vec![(SectionName::Cmdline, cmdline)] });
    }
    Ok(out)
}
