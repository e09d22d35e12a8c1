//! The one form of time that SPDX knows: `YYYY-MM-DDThh:mm:ssZ`.

/// Seconds since 1970 in UTC; what has no year of four digits becomes the nearest that has.
pub(super) fn utc(seconds: i64) -> String {
    let seconds = seconds.clamp(-62_135_596_800, 253_402_300_799);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// The Gregorian date of a day counted from 1970-01-01. Years are counted from March, so that a leap day is a year's last.
fn date(days: i64) -> (i64, i64, i64) {
    // 0000-03-01 is 719,468 days before 1970; 400 years have 146,097 days.
    let days = days.saturating_add(719_468);
    let (cycle, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, five months have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (cycle * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_date_says() -> Result<(), Box<dyn std::error::Error>> {
        for seconds in
            [0, 951_782_399, 951_782_400, 951_868_799, 1_709_164_800, 1_735_689_599, 4_107_542_399, 253_402_300_799_i64]
        {
            let date = std::process::Command::new("date")
                .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%SZ"])
                .output()?;
            assert_eq!(utc(seconds), String::from_utf8(date.stdout)?.trim());
        }
        assert_eq!(utc(i64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(utc(i64::MIN), "0001-01-01T00:00:00Z");
        Ok(())
    }
}
