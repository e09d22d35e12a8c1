//! [`Capture`]: the devices of one machine, as modaliases. What `hardware capture` writes, and what a machine needs to become a
//! target of its own.
//!
//! The form is text: a first line `kairos-init capture 1`, then `architecture NAME` where it is known, then one modalias a line,
//! sorted. Modaliases name models, not machines: no serial number, no address. Of `dmi:`, which has free text of the maker, only the
//! fields that name the model stay ([`reduced`]).
//!
//! Dumps of `lspci` and `lsusb`, which people have already, are read as well ([`dump`]). All of these are hostile input.

pub mod dump;

use std::collections::BTreeSet;
use std::fmt;

use super::Architecture;

/// First line of a capture.
const HEADER: &str = "kairos-init capture 1";
/// Begins the line with the architecture.
const ARCHITECTURE: &str = "architecture ";
/// Bytes that a modalias may have: the kernel's own limit is a page.
const LONGEST: usize = 4096;
/// Devices that a machine may have. Large servers have some thousands.
const MOST: usize = 100_000;

/// A capture cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// Neither a capture nor a dump.
    #[error(
        "{file} is neither a capture (its first line is not '{HEADER}') nor a dump of 'lspci -n', 'lspci -nn' or 'lsusb'"
    )]
    NoCapture {
        /// As given.
        file: String,
    },
    /// A capture of another version of this program.
    #[error(
        "{file} is a capture of another version ({found:?}); this program reads '{HEADER}': capture the machine again"
    )]
    Version {
        /// As given.
        file: String,
        /// The first line.
        found: String,
    },
    /// A line that is none.
    #[error("{file}:{line}: {problem}; a capture has one modalias a line, such as 'pci:v00008086d...'")]
    Line {
        /// As given.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// No device at all.
    #[error("{file} names no device: capture the machine again, as root if /sys is restricted")]
    Empty {
        /// As given.
        file: String,
    },
    /// More devices than a machine has.
    #[error("{file} names more than {MOST} devices, more than any machine has")]
    TooMany {
        /// As given.
        file: String,
    },
}

/// The devices of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// Of the machine, where it is known: dumps do not tell.
    pub architecture: Option<Architecture>,
    /// The modaliases of its devices.
    pub devices: BTreeSet<String>,
}

/// Whether a text is a capture, whatever its version.
#[must_use]
pub fn is_capture(text: &str) -> bool {
    text.starts_with("kairos-init capture ")
}

impl Capture {
    /// Reads a capture, or a dump of `lspci` or `lsusb`. `file` is its name for messages.
    ///
    /// # Errors
    /// Another form or version, a line that is no modalias, no device, more than [`MOST`].
    pub fn parse(text: &str, file: &str) -> Result<Self, CaptureError> {
        let capture = if is_capture(text) { Self::own(text, file)? } else { dump::parse(text, file)? };
        match capture.devices.len() {
            0 => Err(CaptureError::Empty { file: file.to_owned() }),
            devices if devices > MOST => Err(CaptureError::TooMany { file: file.to_owned() }),
            _ => Ok(capture),
        }
    }

    fn own(text: &str, file: &str) -> Result<Self, CaptureError> {
        let mut lines = text.lines().map(|line| line.trim_end_matches('\r')).enumerate();
        match lines.next() {
            Some((_, HEADER)) => {}
            other => {
                let found = printable(other.map_or("", |(_, line)| line));
                return Err(CaptureError::Version { file: file.to_owned(), found });
            }
        }
        let mut out = Self::default();
        for (index, line) in lines {
            let wrong = |problem: String| CaptureError::Line { file: file.to_owned(), line: index + 1, problem };
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix(ARCHITECTURE) {
                let known = Architecture::from_name(name);
                let known =
                    known.ok_or_else(|| wrong(format!("{:?} is no architecture that is known", printable(name))))?;
                if out.architecture.replace(known).is_some_and(|before| before != known) {
                    return Err(wrong("a second architecture".to_owned()));
                }
                continue;
            }
            check(line).map_err(|problem| wrong(format!("{:?} is no modalias: {problem}", printable(line))))?;
            out.devices.insert(line.to_owned());
        }
        Ok(out)
    }

    /// Adds a device, unless its modalias is none. Of free text only what names the model is kept.
    pub fn add(&mut self, modalias: &str) {
        let modalias = reduced(modalias);
        if check(&modalias).is_ok() {
            self.devices.insert(modalias);
        }
    }

    /// Adds the devices of another capture.
    pub fn unite(&mut self, other: Self) {
        self.architecture = self.architecture.or(other.architecture);
        self.devices.extend(other.devices);
    }
}

impl fmt::Display for Capture {
    /// The file, the same for the same machine.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(architecture) = self.architecture {
            writeln!(f, "{ARCHITECTURE}{architecture}")?;
        }
        self.devices.iter().try_for_each(|device| writeln!(f, "{device}"))
    }
}

fn check(modalias: &str) -> Result<(), &'static str> {
    match modalias.split_once(':') {
        _ if modalias.len() > LONGEST => Err("it is longer than 4096 bytes"),
        _ if modalias.chars().any(char::is_control) => Err("it has a control character"),
        _ if modalias.contains(['*', '[', '?']) && !modalias.starts_with("dmi:") => Err("it has a wildcard"),
        Some((bus, _)) if !bus.is_empty() && bus.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-+".contains(&b)) => {
            Ok(())
        }
        _ => Err("it does not begin with a bus and a colon"),
    }
}

/// A modalias without what could name the one machine: of `dmi:` only the fields for the makers and models of the system, board
/// and firmware and the kind of chassis. Versions and stock numbers, in which makers write what they like, are left empty.
#[must_use]
pub fn reduced(modalias: &str) -> String {
    const STAY: [&str; 7] = ["bvn", "svn", "pn", "rvn", "rn", "cvn", "ct"];
    const ALL: [&str; 14] =
        ["bvn", "bvr", "bd", "br", "efr", "svn", "pn", "pvr", "rvn", "rn", "rvr", "cvn", "ct", "cvr"];
    let Some(fields) = modalias.strip_prefix("dmi:") else { return modalias.trim_end().to_owned() };
    let mut fields = fields.trim_end().split(':').peekable();
    let mut out = "dmi:".to_owned();
    // The fields stand in a fixed order; what is not the next one is passed over.
    for key in ALL {
        let value = fields.peek().and_then(|field| field.strip_prefix(key));
        if value.is_some() {
            out += key;
            out += value.filter(|_| STAY.contains(&key)).unwrap_or_default();
            out.push(':');
            fields.next();
        }
    }
    out
}

fn printable(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut capture = Capture { architecture: Some(Architecture::X86_64), ..Capture::default() };
        capture.add("pci:v00008086d00001533sv00008086sd00001533bc02sc00i00\n");
        capture.add("acpi:MSFT0101:");
        let text = capture.to_string();
        assert_eq!(text.lines().nth(2), Some("acpi:MSFT0101:"));
        assert_eq!(Capture::parse(&text, "t"), Ok(capture));
    }

    #[test]
    fn what_names_the_one_machine_is_left_out() {
        let given = "dmi:bvnLENOVO:bvrN2C:bd01/02/2020:br1.2:efr1.1:svnLENOVO:pn20L5:pvrThinkPad SN1234:rvnLENOVO:rn20L5:rvrSDK:cvnLENOVO:ct10:cvrNone SN:sku99:";
        assert_eq!(
            reduced(given),
            "dmi:bvnLENOVO:bvr:bd:br:efr:svnLENOVO:pn20L5:pvr:rvnLENOVO:rn20L5:rvr:cvnLENOVO:ct10:cvr:"
        );
    }

    #[test]
    fn lines_that_are_none() {
        let parse = |body: &str| Capture::parse(&format!("{HEADER}\n{body}"), "box.capture").unwrap_err().to_string();
        for body in [
            "nothing",
            ":x",
            "pci:v*",
            "a b:x",
            "pci:\u{1b}[31m",
            "architecture vax",
            "architecture x86_64\narchitecture aarch64",
        ] {
            let error = parse(body);
            assert!(error.starts_with("box.capture:") && !error.contains('\u{1b}'), "{body:?}: {error}");
        }
        assert!(parse("").contains("names no device"));
        assert!(parse(&format!("pci:{}", "x".repeat(5000))).contains("4096"));
        let other = Capture::parse("kairos-init capture 2\n", "t").unwrap_err().to_string();
        assert!(other.contains("another version"), "{other}");
        assert!(Capture::parse("hello", "t").unwrap_err().to_string().contains("neither a capture"));
    }
}
