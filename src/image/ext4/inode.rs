//! Inodes and directory entries (kernel: `ext4/inodes.rst`, `ext4/directory.rst`, `ext4/ifork.rst`).

use super::BLOCK;
use super::crc::crc32c;

/// Bytes of an inode.
pub(super) const INODE: u32 = 256;
/// Bytes of it beyond the first 128 that are in use.
pub(super) const EXTRA: u16 = 32;
/// Bytes of a link's target that have room in the inode, with a NUL.
pub(super) const SHORT_LINK: usize = 60;

const HAS_EXTENTS: u32 = 0x8_0000;

/// A run of blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) blocks: u32,
}

/// What an inode's 60 bytes say.
#[derive(Debug)]
pub(super) enum Blocks<'a> {
    /// One run, or none.
    Run(Run),
    /// A link's target.
    Target(&'a [u8]),
    /// The double indirect block of inode 7, and the blocks of it all.
    Resize(Run),
}

/// An inode.
#[derive(Debug)]
pub(super) struct Inode<'a> {
    pub(super) number: u32,
    /// Type and permissions.
    pub(super) mode: u16,
    pub(super) links: u16,
    pub(super) size: u64,
    pub(super) blocks: Blocks<'a>,
}

/// What all inodes share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inodes {
    /// Of checksums.
    pub(super) seed: u32,
    pub(super) time: i64,
}

/// The 60 bytes of an inode that has one run of blocks.
pub(super) fn extents(run: Run) -> [u8; 60] {
    let mut out = Vec::with_capacity(60);
    out.extend_from_slice(&0xf30a_u16.to_le_bytes());
    out.extend_from_slice(&u16::from(run.blocks > 0).to_le_bytes());
    out.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0]);
    if run.blocks > 0 {
        out.extend_from_slice(&[0; 4]);
        // At most a group, of 32768.
        out.extend_from_slice(&u16::try_from(run.blocks).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&run.first.to_le_bytes());
    }
    padded(&out)
}

fn padded(bytes: &[u8]) -> [u8; 60] {
    let mut out = [0; 60];
    out.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
    out
}

impl Inodes {
    /// An inode's seed of checksums: its number, and a generation of 0.
    fn seed_of(self, number: u32) -> u32 {
        crc32c(crc32c(self.seed, &number.to_le_bytes()), &[0; 4])
    }

    /// The bytes of an inode.
    pub(super) fn bytes(self, inode: &Inode<'_>) -> Vec<u8> {
        let (flags, blocks, content) = match inode.blocks {
            Blocks::Run(run) => (HAS_EXTENTS, run.blocks, extents(run)),
            Blocks::Target(target) => (0, 0, padded(target)),
            Blocks::Resize(run) => {
                let mut pointers = vec![0; 13 * 4];
                pointers.extend_from_slice(&run.first.to_le_bytes());
                (0, run.blocks, padded(&pointers))
            }
        };
        let (time, epoch) = time(self.time);
        let [s0, s1, s2, s3, s4, s5, s6, s7] = inode.size.to_le_bytes();
        let mut out = inode.mode.to_le_bytes().to_vec();
        out.extend_from_slice(&[0, 0, s0, s1, s2, s3]);
        // Read, changed, written, deleted (never).
        for seconds in [time, time, time, 0] {
            out.extend_from_slice(&seconds.to_le_bytes());
        }
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&inode.links.to_le_bytes());
        // In units of 512 bytes.
        for field in [blocks.saturating_mul(BLOCK / 512), flags, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&content);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&[s4, s5, s6, s7]);
        out.resize(128, 0);
        out.extend_from_slice(&EXTRA.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        for field in [epoch, epoch, epoch, time, epoch] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.resize(INODE as usize, 0);
        let [a, b, c, d] = crc32c(self.seed_of(inode.number), &out).to_le_bytes();
        out.iter_mut().skip(0x7c).zip([a, b]).for_each(|(to, byte)| *to = byte);
        out.iter_mut().skip(0x82).zip([c, d]).for_each(|(to, byte)| *to = byte);
        out
    }

    /// The blocks of a directory: `entries` are inode, type and name.
    pub(super) fn directory<'a>(
        self,
        number: u32,
        least: u32,
        entries: impl Iterator<Item = (u32, u8, &'a [u8])>,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        let mut block = Entries::default();
        for (inode, kind, name) in entries {
            if !block.has_room(name) {
                out.extend_from_slice(&std::mem::take(&mut block).finish(self.seed_of(number)));
            }
            block.push(inode, kind, name);
        }
        out.extend_from_slice(&block.finish(self.seed_of(number)));
        while out.len() < least as usize * BLOCK as usize {
            out.extend_from_slice(&Entries::default().finish(self.seed_of(number)));
        }
        out
    }
}

/// Bytes of the checksum at the end of a directory's block.
const TAIL: usize = 12;

/// A directory's block in the making.
#[derive(Debug, Default)]
struct Entries {
    bytes: Vec<u8>,
    /// Where the last entry begins.
    last: usize,
}

impl Entries {
    fn has_room(&self, name: &[u8]) -> bool {
        self.bytes.len() + entry_bytes(name) + TAIL <= BLOCK as usize
    }

    fn push(&mut self, inode: u32, kind: u8, name: &[u8]) {
        self.last = self.bytes.len();
        let length = entry_bytes(name);
        self.bytes.extend_from_slice(&inode.to_le_bytes());
        // Both fit after the checks of names.
        self.bytes.extend_from_slice(&u16::try_from(length).unwrap_or(0).to_le_bytes());
        self.bytes.extend_from_slice(&[u8::try_from(name.len()).unwrap_or(0), kind]);
        self.bytes.extend_from_slice(name);
        self.bytes.resize(self.last + length, 0);
    }

    /// The last entry takes what is left; a checksum ends the block, as an entry that is none.
    fn finish(mut self, seed: u32) -> Vec<u8> {
        if self.bytes.is_empty() {
            self.push(0, 0, b"");
        }
        let end = BLOCK as usize - TAIL;
        let length = u16::try_from(end - self.last).unwrap_or(0).to_le_bytes();
        self.bytes.iter_mut().skip(self.last + 4).zip(length).for_each(|(to, byte)| *to = byte);
        self.bytes.resize(end, 0);
        let checksum = crc32c(seed, &self.bytes);
        self.bytes.extend_from_slice(&[0, 0, 0, 0, 12, 0, 0, 0xde]);
        self.bytes.extend_from_slice(&checksum.to_le_bytes());
        self.bytes
    }
}

/// Bytes of an entry: 8 and the name, in fours.
fn entry_bytes(name: &[u8]) -> usize {
    (8 + name.len()).next_multiple_of(4)
}

/// Blocks of a directory with these names, `.` and `..` included.
pub(super) fn directory_blocks<'a>(names: impl Iterator<Item = &'a [u8]>) -> u32 {
    let (mut blocks, mut bytes) = (1, 0);
    for name in names {
        if bytes + entry_bytes(name) + TAIL > BLOCK as usize {
            (blocks, bytes) = (blocks + 1, 0);
        }
        bytes += entry_bytes(name);
    }
    blocks
}

/// Seconds since 1970 as ext4 has them: 32 bits with a sign, and two bits of overflow.
fn time(seconds: i64) -> (u32, u32) {
    let seconds = seconds.clamp(-(1 << 31), (3 << 32) + (1 << 31) - 1);
    let low = u32::try_from(seconds & 0xffff_ffff).unwrap_or(0);
    let epoch = u32::try_from((seconds + (1 << 31)) >> 32).unwrap_or(0);
    (low, epoch)
}
