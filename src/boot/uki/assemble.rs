//! Writing the file: the stub, then each section as its bytes come, every byte shown to a [`SectionSink`] on the way.
//!
//! Where all lengths are known, headers are final with the first byte, and one pass over the payload is all. Where one
//! comes as a stream (an initrd that is being compressed), headers are patched when its length is known.

use std::collections::VecDeque;
use std::io::{Read, Seek, SeekFrom, Write};

use super::UkiError;
use super::layout::{Layout, align};
use super::stub::Stub;
use crate::boot::section::{SectionName, SectionSink};
use crate::cancel::Cancel;

/// Bytes that are read and shown at a time.
const BUFFER: usize = 1 << 20;

/// Writes a stream whose length nobody knows yet.
pub type Producer<'a> = Box<dyn FnOnce(&mut dyn Write) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + 'a>;

/// A section's content.
pub enum Payload<'a> {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// A file of known length, read once.
    Reader {
        /// Bytes that must come, neither more nor less.
        length: u64,
        /// The file.
        reader: Box<dyn Read + 'a>,
    },
    /// A stream of unknown length.
    Producer(Producer<'a>),
    /// What is made of what was written before it: [`Assembler::write`] stops there.
    Later {
        /// Bytes that it will have.
        length: u64,
    },
}

impl Payload<'_> {
    /// Bytes, where known.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Reader { length, .. } | Self::Later { length } => Some(*length),
            Self::Producer(_) => None,
        }
    }
}

impl std::fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({:?} bytes)", self.length())
    }
}

/// What goes into a UKI besides the stub.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The stub.
    pub stub: &'a Stub,
    /// The merged SBAT data.
    pub sbat: Vec<u8>,
    /// Whether the kernel may run with NX protection.
    pub nx_compat: bool,
    /// Sections in file order, none empty.
    pub sections: Vec<(SectionName, Payload<'a>)>,
    /// Asked while files are copied.
    pub cancel: Cancel,
}

/// A UKI that is being written.
#[derive(Debug)]
pub struct Assembler<'a> {
    stub: &'a Stub,
    /// Where it takes the place of the stub's own.
    sbat: Option<Vec<u8>>,
    nx_compat: bool,
    layout: Layout,
    lengths: Vec<(SectionName, u64)>,
    left: VecDeque<(SectionName, Payload<'a>)>,
    in_one_pass: bool,
    begun: bool,
    cancel: Cancel,
}

/// A whole UKI in a file, without a signature.
#[derive(Debug)]
pub struct UnsignedUki {
    layout: Layout,
    in_one_pass: bool,
}

impl UnsignedUki {
    /// Where everything lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the sink saw the whole file with its final headers; otherwise the file must be read once more for what
    /// covers the headers (Authenticode, the PE checksum).
    #[must_use]
    pub fn in_one_pass(&self) -> bool {
        self.in_one_pass
    }
}

impl<'a> Assembler<'a> {
    /// Lays the file out. SBAT data for which the stub has no room becomes a section, before the first `.profile`, so that all
    /// profiles have it, and before the first `.pcrsig`, which depends on it.
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub fn new(parts: Parts<'a>) -> Result<Self, UkiError> {
        let Parts { stub, sbat, nx_compat, mut sections, cancel } = parts;
        let in_one_pass = sections.iter().all(|(_, payload)| payload.length().is_some());
        let sbat = match Layout::has_room_for(stub, &sbat) {
            true => Some(sbat),
            false => {
                let is_end = |name: &SectionName| matches!(name, SectionName::Profile | SectionName::Pcrsig);
                let at = sections.iter().position(|(name, _)| is_end(name)).unwrap_or(sections.len());
                sections.insert(at, (SectionName::Sbat, Payload::Bytes(sbat)));
                None
            }
        };
        let lengths: Vec<_> = sections.iter().map(|(name, payload)| (*name, payload.length().unwrap_or(0))).collect();
        let layout = Layout::new(stub, sbat.as_deref(), &lengths, nx_compat)?;
        Ok(Self { stub, sbat, nx_compat, layout, lengths, left: sections.into(), in_one_pass, begun: false, cancel })
    }

    /// Bytes of the file, without signatures, where the lengths of all sections are known.
    #[must_use]
    pub fn file_size(&self) -> Option<u64> {
        self.in_one_pass.then_some(self.layout.file_size)
    }

    /// Writes on, from the start of an empty file, to the next section that is [`Payload::Later`], or to the end. Gives whether
    /// such a section waits for [`Assembler::put`].
    ///
    /// The sink sees sections always; bytes outside of sections only where all lengths are known in advance.
    ///
    /// # Errors
    /// Content that cannot be read or has another length than announced; a full disk.
    pub fn write(&mut self, out: &mut impl Write, sink: &mut dyn SectionSink) -> Result<bool, UkiError> {
        let mut file = Shown { out, sink, whole: self.in_one_pass, cancel: &self.cancel };
        if !std::mem::replace(&mut self.begun, true) {
            let head = &self.layout.head;
            match self.layout.sbat {
                Some((start, length)) => {
                    file.outside(head.get(..start).unwrap_or_default())?;
                    file.section(SectionName::Sbat, head.get(start..start + length).unwrap_or_default())?;
                    file.outside(head.get(start + length..).unwrap_or_default())?;
                }
                None => file.outside(head)?,
            }
        }
        while let Some((name, payload)) = self.left.pop_front() {
            if matches!(payload, Payload::Later { .. }) {
                self.left.push_front((name, payload));
                return Ok(true);
            }
            let index = self.lengths.len().saturating_sub(self.left.len() + 1);
            let length = file.payload(name, payload)?;
            if let Some(entry) = self.lengths.get_mut(index) {
                entry.1 = length;
            }
            file.pad(length, self.stub.pe.file_alignment)?;
        }
        Ok(false)
    }

    /// Writes the section that waits.
    ///
    /// # Errors
    /// `bytes` has another length than announced; a full disk.
    pub fn put(&mut self, bytes: &[u8], out: &mut impl Write, sink: &mut dyn SectionSink) -> Result<(), UkiError> {
        let Some((section, payload)) = self.left.pop_front() else { return Ok(()) };
        let (found, announced) = (bytes.len() as u64, payload.length().unwrap_or(0));
        if found != announced {
            return Err(UkiError::Length { section, found, announced });
        }
        let mut file = Shown { out, sink, whole: self.in_one_pass, cancel: &self.cancel };
        file.section(section, bytes)?;
        file.pad(found, self.stub.pe.file_alignment)
    }

    /// Makes the headers final, after the last section.
    ///
    /// # Errors
    /// A file that became too large; a full disk.
    pub fn finish(self, out: &mut (impl Write + Seek)) -> Result<UnsignedUki, UkiError> {
        let Self { stub, sbat, nx_compat, mut layout, lengths, in_one_pass, .. } = self;
        if !in_one_pass {
            layout = Layout::new(stub, sbat.as_deref(), &lengths, nx_compat)?;
            out.seek(SeekFrom::Start(0))?;
            out.write_all(&layout.head)?;
            out.seek(SeekFrom::End(0))?;
        }
        Ok(UnsignedUki { layout, in_one_pass })
    }
}

/// The output file and the sink side by side.
struct Shown<'a, W> {
    out: &'a mut W,
    sink: &'a mut dyn SectionSink,
    whole: bool,
    cancel: &'a Cancel,
}

impl<W: Write> Shown<'_, W> {
    fn outside(&mut self, bytes: &[u8]) -> Result<(), UkiError> {
        self.out.write_all(bytes)?;
        if self.whole {
            self.sink.outside(bytes);
        }
        Ok(())
    }

    fn pad(&mut self, length: u64, alignment: u32) -> Result<(), UkiError> {
        let padding = align(length, alignment) - length;
        self.outside(&vec![0; usize::try_from(padding).unwrap_or(0)])
    }

    fn section(&mut self, name: SectionName, bytes: &[u8]) -> Result<u64, UkiError> {
        self.out.write_all(bytes)?;
        self.sink.begin(name);
        self.sink.data(bytes);
        self.sink.end();
        Ok(bytes.len() as u64)
    }

    fn payload(&mut self, section: SectionName, payload: Payload<'_>) -> Result<u64, UkiError> {
        match payload {
            Payload::Bytes(bytes) => self.section(section, &bytes),
            Payload::Later { length } => Err(UkiError::Length { section, found: 0, announced: length }),
            Payload::Reader { length, mut reader } => {
                self.sink.begin(section);
                // One byte more than announced is enough to see that the file grew.
                let found = self.copy(section, &mut reader.by_ref().take(length.saturating_add(1)))?;
                self.sink.end();
                match found == length {
                    true => Ok(length),
                    false => Err(UkiError::Length { section, found, announced: length }),
                }
            }
            Payload::Producer(produce) => {
                self.sink.begin(section);
                let mut counted = Counted { out: &mut *self.out, sink: &mut *self.sink, bytes: 0 };
                produce(&mut counted).map_err(|source| UkiError::Section { section, source })?;
                let bytes = counted.bytes;
                self.sink.end();
                Ok(bytes)
            }
        }
    }

    fn copy(&mut self, section: SectionName, reader: &mut dyn Read) -> Result<u64, UkiError> {
        let mut buffer = vec![0; BUFFER];
        let mut bytes = 0;
        loop {
            self.cancel.check()?;
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(bytes),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(UkiError::Section { section, source: source.into() }),
            };
            let filled = buffer.get(..count).unwrap_or_default();
            self.out.write_all(filled)?;
            self.sink.data(filled);
            bytes += count as u64;
        }
    }
}

struct Counted<'a, W> {
    out: &'a mut W,
    sink: &'a mut dyn SectionSink,
    bytes: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.sink.data(bytes.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
