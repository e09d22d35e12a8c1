//! `.splash`: the stub shows uncompressed bitmaps only, and nothing but a log line on a screen that nobody sees says why it does not.
//!
//! Source: systemd's `src/boot/splash.c` (`bmp_parse_header`).

use super::UkiError;
use super::pe::{u16_at, u32_at};

/// Bytes of a bitmap's headers that tell all that is checked.
pub const HEADERS: usize = 54;

/// Checks the headers of a bitmap file of this length.
///
/// # Errors
/// [`UkiError::Splash`]: what the stub would not show, and why.
pub fn check(header: &[u8], length: u64) -> Result<(), UkiError> {
    let refuse = |problem: String| Err(UkiError::Splash(problem));
    let fields = (|| {
        Some((
            header.get(..2)? == b"BM",
            u32_at(header, 2)?,
            u32_at(header, 10)?,
            u32_at(header, 14)?,
            u32_at(header, 18)?,
            u32_at(header, 22)?,
            u16_at(header, 26)?,
            u16_at(header, 28)?,
            u32_at(header, 30)?,
        ))
    })();
    let Some((true, size, pixels, dib, width, height, planes, depth, compression)) = fields else {
        return refuse("is no bitmap file (BMP)".to_owned());
    };
    if u64::from(size) != length {
        return refuse(format!("says that it has {size} bytes, and has {length}: it is damaged"));
    }
    if dib < 40 || planes != 1 {
        return refuse("is a bitmap of a kind that nobody uses any more (no BITMAPINFOHEADER)".to_owned());
    }
    // A negative height would mean rows from top to bottom: the stub takes it for a huge one.
    if width == 0 || height == 0 || height > i32::MAX as u32 {
        return refuse(format!("is {width} by {height} pixels; rows must go from bottom to top"));
    }
    match (depth, compression) {
        (1 | 4 | 8 | 24, 0) | (16 | 32, 0 | 3) => {}
        (1 | 4 | 8 | 16 | 24 | 32, _) => return refuse("is compressed: save it as an uncompressed bitmap".to_owned()),
        _ => return refuse(format!("has {depth} bits a pixel; the stub shows 1, 4, 8, 16, 24 and 32")),
    }
    // Rows are filled up to 4 bytes.
    let row = (u64::from(depth) * u64::from(width)).div_ceil(32) * 4;
    let end = row.saturating_mul(u64::from(height)).saturating_add(u64::from(pixels));
    if end > length {
        return refuse(format!("of {width} by {height} pixels needs {end} bytes and has {length}: it is cut short"));
    }
    Ok(())
}
