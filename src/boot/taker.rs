//! What is taken from a UKI's bytes on their way into the file.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use super::build::BuildError;
use super::measure::SectionDigests;
use super::section::{SectionName, SectionSink};
use super::sign::authenticode::{Existing, SigningPass};
use super::sign::pe::PeLayout;
use super::sign::{Hash, SignError};

const BUFFER: usize = 1 << 20;

/// What covers a file that was written already.
///
/// # Errors
/// It cannot be read.
pub(super) fn read_back(out: &mut (impl Read + Seek), hashes: Vec<Hash>) -> Result<Cover, BuildError> {
    let mut cover = Cover::Begin(hashes);
    out.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut filled = 0;
        // Whole buffers, so that the first holds all headers.
        while filled < buffer.len() {
            match out.read(buffer.get_mut(filled..).unwrap_or_default())? {
                0 => break,
                count => filled += count,
            }
        }
        match filled {
            0 => return Ok(cover),
            count => cover.outside(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// What the Secure Boot signature covers: the whole file, final headers included.
#[derive(Debug, Clone)]
pub(super) enum Cover {
    /// Nothing seen yet; the first bytes hold all headers.
    Begin(Vec<Hash>),
    /// On the way.
    Pass(Box<SigningPass>),
    /// Headers that cannot be signed.
    Failed(Arc<SignError>),
}

impl Cover {
    /// What was seen, to be signed.
    ///
    /// # Errors
    /// Headers that cannot be signed, or none.
    pub(super) fn pass(self) -> Result<SigningPass, BuildError> {
        match self {
            Self::Pass(pass) => Ok(*pass),
            Self::Failed(error) => Err(BuildError::Cover(error)),
            Self::Begin(_) => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

impl SectionSink for Cover {
    fn begin(&mut self, _name: SectionName) {}

    fn data(&mut self, bytes: &[u8]) {
        self.outside(bytes);
    }

    fn end(&mut self) {}

    fn outside(&mut self, bytes: &[u8]) {
        if let Self::Begin(hashes) = self {
            let pass = PeLayout::parse(bytes, "the image")
                .and_then(|layout| SigningPass::new(layout, hashes, Existing::Refuse));
            *self = match pass {
                Ok(pass) => Self::Pass(Box::new(pass)),
                Err(error) => Self::Failed(Arc::new(error)),
            };
        }
        if let Self::Pass(pass) = self {
            pass.update(bytes);
        }
    }
}

/// What is taken from the bytes on their way into the file.
#[derive(Debug, Clone)]
pub(super) enum Taker {
    /// The sections' digests in a bank.
    Bank(Box<SectionDigests>),
    /// What the Secure Boot signature covers.
    Cover(Cover),
}

impl Taker {
    pub(super) fn into_bank(self) -> Option<SectionDigests> {
        match self {
            Self::Bank(digests) => Some(*digests),
            Self::Cover(_) => None,
        }
    }

    pub(super) fn into_cover(self) -> Option<Cover> {
        match self {
            Self::Bank(_) => None,
            Self::Cover(cover) => Some(cover),
        }
    }

    fn sink(&mut self) -> &mut dyn SectionSink {
        match self {
            Self::Bank(digests) => digests.as_mut(),
            Self::Cover(cover) => cover,
        }
    }
}

impl SectionSink for Taker {
    fn begin(&mut self, name: SectionName) {
        self.sink().begin(name);
    }

    fn data(&mut self, bytes: &[u8]) {
        self.sink().data(bytes);
    }

    fn end(&mut self) {
        self.sink().end();
    }

    fn outside(&mut self, bytes: &[u8]) {
        self.sink().outside(bytes);
    }
}
