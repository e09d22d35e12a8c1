//! Writing the file: the stub, then each section as its bytes come, every byte shown to a [`SectionSink`] on the way.
//!
//! Where all lengths are known, headers are final with the first byte, and one pass over the payload is all. Where one
//! comes as a stream (an initrd that is being compressed), headers are patched when its length is known.

use std::io::{Read, Seek, SeekFrom, Write};

use super::UkiError;
use super::layout::{Layout, align};
use super::stub::Stub;
use crate::boot::section::{SectionName, SectionSink};

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
}

impl Payload<'_> {
    /// Bytes, where known.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Reader { length, .. } => Some(*length),
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
    /// A section that comes last and is made from what was measured: name and length.
    pub last: Option<(SectionName, u64)>,
}

/// A UKI with all sections but the last one that [`Parts::last`] announced.
#[derive(Debug)]
pub struct Incomplete {
    layout: Layout,
    last: Option<(SectionName, u64)>,
    in_one_pass: bool,
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

/// Writes everything but the last section. `out` is empty and at its start.
///
/// The sink sees sections always; bytes outside of sections only where all lengths are known in advance.
///
/// # Errors
/// As [`Layout::new`]; content that cannot be read or has another length than announced; a full disk.
pub fn assemble(
    parts: Parts<'_>,
    out: &mut (impl Write + Seek),
    sink: &mut dyn SectionSink,
) -> Result<Incomplete, UkiError> {
    let Parts { stub, sbat, nx_compat, sections, last } = parts;
    let mut lengths: Vec<(SectionName, u64)> = Vec::new();
    let in_one_pass = sections.iter().all(|(_, payload)| payload.length().is_some());
    for (name, payload) in &sections {
        lengths.push((*name, payload.length().unwrap_or(0)));
    }
    lengths.extend(last);
    let mut layout = Layout::new(stub, &sbat, &lengths, nx_compat)?;
    let mut file = Shown { out, sink, whole: in_one_pass };

    match layout.sbat {
        Some((start, length)) => {
            file.outside(layout.head.get(..start).unwrap_or_default())?;
            file.section(SectionName::Sbat, layout.head.get(start..start + length).unwrap_or_default())?;
            file.outside(layout.head.get(start + length..).unwrap_or_default())?;
        }
        None => file.outside(&layout.head)?,
    }
    let mut given = sections.into_iter();
    let names: Vec<SectionName> = layout.sections.iter().map(|(name, _)| *name).collect();
    for name in names {
        if last.is_some_and(|(last, _)| last == name) {
            break;
        }
        let length = match layout.sbat {
            None if name == SectionName::Sbat => file.section(name, &sbat)?,
            _ => match given.next() {
                Some((name, payload)) => file.payload(name, payload)?,
                None => break,
            },
        };
        if let Some(entry) = lengths.iter_mut().find(|(other, _)| *other == name) {
            entry.1 = length;
        }
        file.pad(length, stub.pe.file_alignment)?;
    }
    if !in_one_pass {
        layout = Layout::new(stub, &sbat, &lengths, nx_compat)?;
        out.seek(SeekFrom::Start(0))?;
        out.write_all(&layout.head)?;
        out.seek(SeekFrom::End(0))?;
    }
    Ok(Incomplete { layout, last, in_one_pass })
}

impl Incomplete {
    /// Writes the last section and gives the whole file.
    ///
    /// # Errors
    /// `bytes` has another length than announced; a full disk.
    pub fn complete(
        self,
        bytes: &[u8],
        out: &mut (impl Write + Seek),
        sink: &mut dyn SectionSink,
    ) -> Result<UnsignedUki, UkiError> {
        let Self { layout, last, in_one_pass } = self;
        if let Some((section, announced)) = last {
            if announced != bytes.len() as u64 {
                return Err(UkiError::Length { section, found: bytes.len() as u64, announced });
            }
            let mut file = Shown { out, sink, whole: in_one_pass };
            file.section(section, bytes)?;
            let end = layout.file_size;
            let header = layout.sections.iter().find(|(name, _)| *name == section).map(|(_, header)| header);
            let padding = header.map_or(0, |header| end - u64::from(header.raw_offset) - announced);
            file.outside(&vec![0; usize::try_from(padding).unwrap_or(0)])?;
        }
        Ok(UnsignedUki { layout, in_one_pass })
    }
}

/// The output file and the sink side by side.
struct Shown<'a, W> {
    out: &'a mut W,
    sink: &'a mut dyn SectionSink,
    whole: bool,
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
