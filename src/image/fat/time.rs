//! Times as FAT writes them: local by the format's tradition, UTC here.

/// The first and the last second that FAT can tell: 1980-01-01 and 2107-12-31 23:59:58.
const FIRST: i64 = 315_532_800;
const LAST: i64 = 4_354_819_198;
const DAY: i64 = 86_400;

/// A date and a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Years since 1980 (7 bits), month, day.
    pub(super) date: u16,
    /// Hours (5 bits), minutes, seconds halved.
    pub(super) time: u16,
    /// Hundredths of seconds that `time` leaves out: 0 or 100.
    pub(super) rest: u8,
}

impl Stamp {
    /// Clamps seconds since 1970 to what FAT can tell.
    pub(super) fn new(seconds: i64) -> Self {
        let seconds = seconds.clamp(FIRST, LAST);
        let mut days = (seconds - FIRST) / DAY;
        let of_day = seconds % DAY;
        let mut year = 1980;
        while days >= days_of_year(year) {
            days -= days_of_year(year);
            year += 1;
        }
        let mut month = 1;
        while days >= days_of_month(year, month) {
            days -= days_of_month(year, month);
            month += 1;
        }
        // In range after the clamp.
        let field = |value: i64| u16::try_from(value).unwrap_or(0);
        Self {
            date: field(year - 1980) << 9 | field(month) << 5 | field(days + 1),
            time: field(of_day / 3600) << 11 | field(of_day / 60 % 60) << 5 | field(of_day % 60 / 2),
            rest: if of_day % 2 == 0 { 0 } else { 100 },
        }
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_year(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(seconds: i64) -> (u16, u16, u16, u16, u16, u16) {
        let Stamp { date, time, rest } = Stamp::new(seconds);
        let second = (time & 31) * 2 + u16::from(rest) / 100;
        (1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, second)
    }

    // Expected values: date -u -d @SECONDS.
    #[test]
    fn times_are_those_of_date() {
        assert_eq!(parts(315_532_800), (1980, 1, 1, 0, 0, 0));
        assert_eq!(parts(951_827_696), (2000, 2, 29, 12, 34, 56));
        assert_eq!(parts(1_735_689_599), (2024, 12, 31, 23, 59, 59));
        assert_eq!(parts(4_107_542_400), (2100, 3, 1, 0, 0, 0));
        assert_eq!(parts(4_354_819_198), (2107, 12, 31, 23, 59, 58));
    }

    #[test]
    fn times_that_fat_cannot_tell_become_the_nearest() {
        for seconds in [i64::MIN, -1, 0, 315_532_799] {
            assert_eq!(Stamp::new(seconds), Stamp::new(FIRST));
        }
        for seconds in [i64::MAX, LAST + 1] {
            assert_eq!(Stamp::new(seconds), Stamp::new(LAST));
        }
    }
}
