//! The one pass over the file: Authenticode, the checksum and every bank's section digests, side by side.

use std::collections::BTreeMap;
use std::io::Read;

use rsa::pkcs1v15::Pkcs1v15Sign;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::image::Image;
use super::source::{Part, Source};
use crate::boot::pass::Fanout;
use crate::boot::pcr::Bank;
use crate::boot::section::{SectionName, SectionSink};

const BUFFER: usize = 256 << 10;

/// The hash of a bank, or of a signature.
pub(super) fn hasher(bank: Bank) -> Box<dyn DynDigest + Send> {
    match bank {
        Bank::Sha1 => Box::new(Sha1::new()),
        Bank::Sha256 => Box::new(Sha256::new()),
        Bank::Sha384 => Box::new(Sha384::new()),
        Bank::Sha512 => Box::new(Sha512::new()),
    }
}

/// The hash of these pieces, one behind the other.
pub(super) fn hash(bank: Bank, pieces: &[&[u8]]) -> Vec<u8> {
    let mut hasher = hasher(bank);
    pieces.iter().for_each(|piece| hasher.update(piece));
    hasher.finalize().into_vec()
}

/// RSASSA-PKCS1-v1_5 over a digest of this kind.
pub(super) fn scheme(bank: Bank) -> Pkcs1v15Sign {
    match bank {
        Bank::Sha1 => Pkcs1v15Sign::new::<Sha1>(),
        Bank::Sha256 => Pkcs1v15Sign::new::<Sha256>(),
        Bank::Sha384 => Pkcs1v15Sign::new::<Sha384>(),
        Bank::Sha512 => Pkcs1v15Sign::new::<Sha512>(),
    }
}

/// What the pass gives.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// Authenticode, by hash.
    pub(super) image: BTreeMap<Bank, Vec<u8>>,
    /// The checksum that the header should hold.
    pub(super) checksum: u32,
    /// Digests of the sections' contents, by bank and by index in the section table.
    pub(super) sections: BTreeMap<Bank, BTreeMap<usize, Vec<u8>>>,
}

enum Lane {
    Image { bank: Bank, hash: Box<dyn DynDigest + Send>, position: u64, skip: [(u64, u64); 3] },
    Checksum { sum: u64, position: u64, field: (u64, u64), rest: Vec<u8> },
    Bank { bank: Bank, current: Option<Box<dyn DynDigest + Send>>, done: Vec<Vec<u8>> },
}

impl Lane {
    fn any(&mut self, bytes: &[u8]) {
        match self {
            Self::Image { hash, position, skip, .. } => {
                let end = position.saturating_add(bytes.len() as u64);
                let mut at = *position;
                let mut feed = |from: u64, to: u64| {
                    let index = |offset: u64| usize::try_from(offset.saturating_sub(*position)).unwrap_or(usize::MAX);
                    hash.update(bytes.get(index(from)..index(to)).unwrap_or_default());
                };
                // They are in the file's order.
                for (start, stop) in *skip {
                    if stop > at && start < end {
                        feed(at, start.clamp(at, end));
                        at = stop.clamp(at, end);
                    }
                }
                feed(at, end);
                *position = end;
            }
            Self::Checksum { sum, position, field, rest } => {
                let end = position.saturating_add(bytes.len() as u64);
                if field.0 < end && field.1 > *position {
                    let mut copy = bytes.to_vec();
                    for (offset, byte) in (*position..).zip(&mut copy) {
                        if (field.0..field.1).contains(&offset) {
                            *byte = 0;
                        }
                    }
                    add(sum, rest, &copy);
                } else {
                    add(sum, rest, bytes);
                }
                *position = end;
            }
            Self::Bank { .. } => {}
        }
    }
}

/// The sum of 16-bit words, with the carries kept: of 32-bit words it comes to the same once it is folded.
fn add(sum: &mut u64, rest: &mut Vec<u8>, mut bytes: &[u8]) {
    while !rest.is_empty() && rest.len() < 4 {
        let Some((first, behind)) = bytes.split_first() else { return };
        rest.push(*first);
        bytes = behind;
    }
    let word = |chunk: &[u8]| chunk.try_into().map_or(0, |chunk| u64::from(u32::from_le_bytes(chunk)));
    if rest.len() == 4 {
        *sum = sum.wrapping_add(word(rest));
        rest.clear();
    }
    let chunks = bytes.chunks_exact(4);
    rest.extend_from_slice(chunks.remainder());
    *sum = chunks.fold(*sum, |sum, chunk| sum.wrapping_add(word(chunk)));
}

impl SectionSink for Lane {
    fn begin(&mut self, _: SectionName) {
        if let Self::Bank { bank, current, .. } = self {
            *current = Some(hasher(*bank));
        }
    }

    fn data(&mut self, bytes: &[u8]) {
        if let Self::Bank { current: Some(hash), .. } = self {
            hash.update(bytes);
        }
        self.any(bytes);
    }

    fn end(&mut self) {
        if let Self::Bank { current, done, .. } = self
            && let Some(hash) = current.take()
        {
            done.push(hash.finalize().into_vec());
        }
    }

    fn outside(&mut self, bytes: &[u8]) {
        self.any(bytes);
    }
}

/// Reads the file once, from its first byte to its last. `signatures` are the hashes that signatures use, `banks` those that
/// PCR 11 is wanted in. Sections whose content is not whole, or that overlap, have no digest.
pub(super) fn run(
    source: &dyn Source,
    image: &Image,
    signatures: &[Bank],
    banks: &[Bank],
    jobs: usize,
) -> std::io::Result<Digests> {
    let field = (image.checksum_offset, image.checksum_offset.saturating_add(4));
    let entry = image.certificate_entry.map_or((0, 0), |offset| (offset, offset.saturating_add(8)));
    let table = (image.hashed_end(), if image.certificates.1 == 0 { image.hashed_end() } else { u64::MAX });
    let mut lanes = vec![Lane::Checksum { sum: 0, position: 0, field, rest: Vec::new() }];
    for &bank in signatures {
        let hash = hasher(bank);
        lanes.push(Lane::Image { bank, hash, position: 0, skip: [field, entry, table] });
    }
    lanes.extend(banks.iter().map(|&bank| Lane::Bank { bank, current: None, done: Vec::new() }));

    let mut wanted: Vec<(u64, u64, SectionName, usize)> = Vec::new();
    for (index, section) in image.sections.iter().enumerate() {
        if let (Some(name), Some((start, end))) = (section.known(), section.content(image.length)) {
            wanted.push((start, end, name, index));
        }
    }
    wanted.sort_by_key(|&(start, end, _, index)| (start, end, index));

    let mut sinks = Fanout::new(lanes, jobs);
    let mut position = 0;
    let mut order = Vec::new();
    let mut buffer = vec![0; BUFFER];
    let mut copy = |from: u64, to: u64, each: &mut dyn FnMut(&[u8])| -> std::io::Result<()> {
        let mut part = Part::new(source, from, to.saturating_sub(from));
        let mut missing = to.saturating_sub(from);
        while missing > 0 {
            let count = part.read(&mut buffer)?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            each(buffer.get(..count).unwrap_or_default());
            missing = missing.saturating_sub(count as u64);
        }
        Ok(())
    };
    for (start, end, name, index) in wanted {
        if start < position {
            continue;
        }
        copy(position, start, &mut |bytes| sinks.outside(bytes))?;
        sinks.begin(name);
        copy(start, end, &mut |bytes| sinks.data(bytes))?;
        sinks.end();
        order.push(index);
        position = end;
    }
    copy(position, image.length, &mut |bytes| sinks.outside(bytes))?;

    let mut out = Digests::default();
    for lane in sinks.finish() {
        match lane {
            Lane::Image { bank, mut hash, .. } => {
                // Firmware hashes what is signed filled up to 8 bytes. Counted from the file's start, not from the hash's.
                let padding = image.hashed_end().next_multiple_of(8).saturating_sub(image.hashed_end());
                hash.update([0_u8; 8].get(..usize::try_from(padding).unwrap_or(0)).unwrap_or_default());
                out.image.insert(bank, hash.finalize().into_vec());
            }
            Lane::Checksum { mut sum, rest, .. } => {
                let mut word = [0; 4];
                word.iter_mut().zip(rest).for_each(|(to, from)| *to = from);
                sum = sum.wrapping_add(u32::from_le_bytes(word).into());
                while sum > 0xffff {
                    sum = (sum & 0xffff).wrapping_add(sum >> 16);
                }
                out.checksum = u32::try_from(sum.wrapping_add(image.length) & 0xffff_ffff).unwrap_or(0);
            }
            Lane::Bank { bank, done, .. } => {
                out.sections.insert(bank, order.iter().copied().zip(done).collect());
            }
        }
    }
    Ok(out)
}
