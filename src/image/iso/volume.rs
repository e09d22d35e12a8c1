//! Volume descriptors (ECMA-119, section 8) and dates.

use super::layout;
use crate::image::ImageError;

/// Bytes of the application identifier.
const APPLICATION: &[u8] = b"KAIROS-INIT";

/// The one date of an image in its two forms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dates {
    /// Of a directory record: ECMA-119, 9.1.5.
    pub(super) short: [u8; 7],
    /// Of a volume descriptor: ECMA-119, 8.4.26.1.
    long: [u8; 17],
}

impl Dates {
    /// Of seconds since 1970.
    ///
    /// # Errors
    /// A year that a directory record cannot count: before 1900 or after 2155.
    pub(super) fn new(time: i64) -> Result<Self, ImageError> {
        let (year, month, day) = civil(time.div_euclid(86_400));
        let second = time.rem_euclid(86_400);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let wrong = || layout(format!("the time {time} is of the year {year}; choose one of 1900 to 2155"));
        let byte = |number: i64| u8::try_from(number).map_err(|_| wrong());
        let short = [byte(year - 1900)?, byte(month)?, byte(day)?, byte(hour)?, byte(minute)?, byte(second)?, 0];
        let text = format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}00\0");
        let long = text.as_bytes().try_into().map_err(|_| wrong())?;
        Ok(Self { short, long })
    }
}

/// Year, month and day of a day since 1970-01-01, in the calendar of today for all times. Years are counted from March, so
/// that the day that some have more is their last one.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_OF_400_YEARS: i64 = 146_097;
    // Days from 0000-03-01 to 1970-01-01.
    let days = days.saturating_add(719_468);
    let (era, day) = (days.div_euclid(DAYS_OF_400_YEARS), days.rem_euclid(DAYS_OF_400_YEARS));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + next_year, month, day)
}

pub(super) fn check_label(label: &str) -> Result<(), ImageError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if (1..=32).contains(&label.len()) && label.bytes().all(is_allowed) {
        return Ok(());
    }
    let problem = format!("the volume label {label:?} cannot be: use 1 to 32 of the characters A-Z a-z 0-9 _ - .");
    Err(layout(problem))
}

/// A number in both byte orders: ECMA-119, 7.3.3.
pub(super) fn both32(number: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d, e, f, g, h]
}

/// ECMA-119, 7.2.3.
pub(super) fn both16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

/// A block's number as it stands in the image.
pub(super) fn block(lba: u64) -> Result<u32, ImageError> {
    u32::try_from(lba).map_err(|_| super::too_large(lba))
}

/// What the primary volume descriptor says.
#[derive(Debug)]
pub(super) struct Primary<'a> {
    pub(super) label: &'a str,
    pub(super) blocks: u64,
    pub(super) path_table: u64,
    pub(super) second_path_table: u64,
    pub(super) path_table_length: u64,
    pub(super) root: Vec<u8>,
    pub(super) dates: &'a Dates,
}

/// ECMA-119, 8.4.
pub(super) fn primary(volume: &Primary<'_>) -> Result<Vec<u8>, ImageError> {
    let mut out = b"\x01CD001\x01\0".to_vec();
    padded(&mut out, b"", 32);
    padded(&mut out, volume.label.as_bytes(), 32);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&both32(block(volume.blocks)?));
    out.extend_from_slice(&[0; 32]);
    // Volumes of the set, this one's number, bytes of a block.
    for number in [1, 1, 2048] {
        out.extend_from_slice(&both16(number));
    }
    out.extend_from_slice(&both32(block(volume.path_table_length)?));
    // No second copies.
    out.extend_from_slice(&[block(volume.path_table)?.to_le_bytes(), [0; 4]].concat());
    out.extend_from_slice(&[block(volume.second_path_table)?.to_be_bytes(), [0; 4]].concat());
    out.extend_from_slice(&volume.root);
    // Volume set, publisher, preparer; application; files of copyright, abstract and bibliography.
    for _ in 0..3 {
        padded(&mut out, b"", 128);
    }
    padded(&mut out, APPLICATION, 128);
    for _ in 0..3 {
        padded(&mut out, b"", 37);
    }
    // Made, changed; it never expires and is in effect since ever.
    let never = *b"0000000000000000\0";
    for date in [volume.dates.long, volume.dates.long, never, never] {
        out.extend_from_slice(&date);
    }
    out.extend_from_slice(&[1, 0]);
    Ok(filled(out))
}

/// El Torito 1.0, figure 7: where the boot catalogue is. It must be in block 17.
pub(super) fn boot_record(catalogue: u64) -> Result<Vec<u8>, ImageError> {
    let mut out = b"\x00CD001\x01EL TORITO SPECIFICATION".to_vec();
    out.resize(71, 0);
    out.extend_from_slice(&block(catalogue)?.to_le_bytes());
    Ok(filled(out))
}

/// ECMA-119, 8.3.
pub(super) fn terminator() -> Vec<u8> {
    filled(b"\xffCD001\x01".to_vec())
}

fn padded(out: &mut Vec<u8>, text: &[u8], length: usize) {
    out.extend(text.iter().copied().chain(std::iter::repeat(b' ')).take(length));
}

fn filled(mut out: Vec<u8>) -> Vec<u8> {
    out.resize(2048, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let long = |time| String::from_utf8(Dates::new(time).unwrap().long.to_vec()).unwrap();
        assert_eq!(long(0), "1970010100000000\0");
        assert_eq!(long(-1), "1969123123595900\0");
        assert_eq!(long(951_782_400), "2000022900000000\0");
        assert_eq!(long(951_868_800), "2000030100000000\0");
        assert_eq!(long(1_763_999_999), "2025112415595900\0");
        assert_eq!(long(4_107_542_400), "2100030100000000\0");
        assert_eq!(Dates::new(315_532_800).unwrap().short, [80, 1, 1, 0, 0, 0, 0]);
        assert_eq!(Dates::new(5_869_583_999).unwrap().short, [255, 12, 31, 23, 59, 59, 0]);
        for wrong in [5_869_584_000, -2_208_988_801, i64::MAX, i64::MIN] {
            assert!(Dates::new(wrong).unwrap_err().to_string().contains("1900 to 2155"));
        }
    }

    #[test]
    fn labels_are_checked() {
        for good in ["UKI_ISO_INSTALL", "a", "kairos-1.2", &"X".repeat(32)] {
            check_label(good).unwrap();
        }
        for wrong in ["", "a b", "ä", "a/b", &"X".repeat(33)] {
            assert!(check_label(wrong).unwrap_err().to_string().contains("1 to 32"));
        }
    }
}
