//! Reasons in words, as `report.json` and `plan` show them.

use std::fmt;

use super::{Edge, Link, Reason};

/// Drivers named in a reason; the selection has all.
const NAMED: usize = 3;

impl fmt::Display for Link {
    /// Who asked for it and where that is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, source, .. } = self;
        match self.edge {
            Edge::Rule => write!(f, "rule {from} ({source})"),
            Edge::Depends => write!(f, "{from} depends on it ({source})"),
            Edge::Softdep => write!(f, "soft dependency of {from} ({source})"),
            Edge::Weakdep => write!(f, "weak dependency of {from} ({source})"),
            Edge::Install => write!(f, "{from} is loaded with it ({source})"),
            Edge::Request => write!(f, "{from} asks for its kind at run time ({source})"),
            Edge::Alias => write!(f, "{from} asks for it by alias ({source})"),
            Edge::Firmware => write!(f, "firmware of {from} ({source})"),
            Edge::Curated => write!(f, "{from} needs it without saying so ({source})"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(link) => write!(f, "{link}"),
            Self::NotAsked => f.write_str("nothing in the target asks for it"),
            Self::OtherKernel => f.write_str("belongs to another kernel than the image's"),
            Self::DriverDropped(drivers) => {
                let named: Vec<_> = drivers.iter().take(NAMED).map(crate::names::ModuleName::as_str).collect();
                write!(f, "only dropped drivers ask for it: {}", named.join(", "))?;
                match drivers.len().saturating_sub(NAMED) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Self::DriverBlacklisted(driver, line) => {
                write!(f, "only {driver} asks for it, which is not loaded ({line})")
            }
            Self::DriverAbsent(driver) => write!(f, "asked for by {driver}, which this kernel does not have"),
            Self::OlderVersion(newer) => write!(f, "older than {newer}, which is kept"),
            Self::OtherVersion(driver) => write!(f, "{driver} does not ask for this version"),
            Self::OtherName(file) => write!(f, "another name of {file}, which no kept driver asks for"),
            Self::Unasked(source) => write!(f, "no driver asks for it by this name ({source})"),
            Self::Unknown => f.write_str("no driver declares it and kmod-db does not know it"),
            Self::Shadowed(by) => write!(f, "never loaded: {by} comes first"),
            Self::Dangling => f.write_str("points to nothing"),
            Self::InUcode => f.write_str("microcode: travels in the .ucode section"),
            Self::Dropped(pattern) => write!(f, "--drop {pattern}"),
        }
    }
}
