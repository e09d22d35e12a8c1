//! Room on the disk for a file of known length, before its first byte is written.

use std::fs::File;
use std::io::{Cursor, Error, ErrorKind};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// A file in which room can be reserved.
pub trait Reserve {
    /// Reserves room for this many bytes; the length of the file stays as it is. A file system that cannot
    /// reserve is no error.
    ///
    /// That a disk is too full is known before the work. And the rename in the end is quick: ext4 puts the blocks of a file that
    /// takes another's place on the disk at once, unless they have their places already, and that takes as long as all
    /// the writing.
    ///
    /// # Errors
    /// There is no room.
    fn reserve(&mut self, bytes: u64) -> Result<(), Error>;

    /// Gives the file its final length, and what was reserved beyond it back.
    ///
    /// # Errors
    /// What the system says.
    fn cut(&mut self, bytes: u64) -> Result<(), Error>;
}

impl Reserve for &File {
    fn reserve(&mut self, bytes: u64) -> Result<(), Error> {
        match fallocate(&**self, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Err(Errno::NOSPC | Errno::DQUOT) => {
                let text = format!("there is no room for its {bytes} bytes");
                Err(Error::new(ErrorKind::StorageFull, text))
            }
            Err(Errno::FBIG) => {
                let text = format!("the file system cannot hold a file of {bytes} bytes; write elsewhere");
                Err(Error::new(ErrorKind::FileTooLarge, text))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn cut(&mut self, bytes: u64) -> Result<(), Error> {
        self.set_len(bytes)
    }
}

impl Reserve for File {
    fn reserve(&mut self, bytes: u64) -> Result<(), Error> {
        (&*self).reserve(bytes)
    }

    fn cut(&mut self, bytes: u64) -> Result<(), Error> {
        (&*self).cut(bytes)
    }
}

impl Reserve for Cursor<Vec<u8>> {
    fn reserve(&mut self, _: u64) -> Result<(), Error> {
        Ok(())
    }

    fn cut(&mut self, bytes: u64) -> Result<(), Error> {
        self.get_mut().truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_disk_that_is_too_small_is_known_before_the_first_byte() {
        let mut file = tempfile::tempfile().unwrap();
        let error = file.reserve(1 << 58).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::FileTooLarge), "{error}");
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    #[test]
    fn what_was_reserved_and_not_used_is_given_back() {
        let mut file = tempfile::tempfile().unwrap();
        file.reserve(8 << 20).unwrap();
        assert!(
            file.metadata().unwrap().blocks() * 512 >= 8 << 20,
            "nothing was reserved: the other tests show nothing"
        );
        assert_eq!(file.metadata().unwrap().len(), 0);
        file.write_all(b"ten bytes!").unwrap();
        file.cut(10).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 10);
        assert!(metadata.blocks() * 512 <= 64 << 10, "{} blocks", metadata.blocks());
    }
}
