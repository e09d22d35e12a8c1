//! What the agent's installation makes of the tree: the image in its four roles, on the disk that it boots from.
//!
//! A raw image is such a disk, made without a machine. The agent also chooses the active entry for the first boot through an EFI
//! variable, which no file can do, so the menu's own order has to put it first. systemd-boot takes the first entry of
//! the menu where no variable names one: those without tries left come last; then by sort key upwards, as text; then by
//! version downwards; then by file name downwards (`boot_entry_compare`, `config_select_default_entry`). Compared are
//! names as versions are, so that `active.conf` comes after `active_foo.conf` and `interactive.conf`, which both get the
//! agent's sort key of the active role. Here they get others: see [`sort_key`].
//!
//! immucore reads the role from the name of the entry that was booted: it begins with `active`, `passive`, `recovery` or
//! `statereset`.

use super::EspError;
use super::entry::Pairs;
use super::names::NOROLE;
use crate::image::{Content, Files, Node};
use crate::names::TreePath;

/// An entry has less.
pub(super) const MAX_CONF: u64 = 64 << 10;
/// Boots that an entry is given to prove itself.
const TRIES: &str = "+3";

/// What an installed image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// What boots.
    Active,
    /// What boots where active fails.
    Passive,
    /// What repairs.
    Recovery,
    /// Recovery that resets the machine by itself.
    StateReset,
}

impl Role {
    /// All, in the order of the menu.
    pub const ALL: [Self; 4] = [Self::Active, Self::Passive, Self::Recovery, Self::StateReset];

    /// As in file names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
            Self::Recovery => "recovery",
            Self::StateReset => "statereset",
        }
    }

    /// What its entries' titles end in.
    #[must_use]
    pub const fn title_suffix(self) -> &'static str {
        match self {
            Self::Active => "",
            Self::Passive => " (fallback)",
            Self::Recovery => " recovery",
            Self::StateReset => " state reset (auto)",
        }
    }

    /// The agent's sort key.
    const fn sort_key(self) -> &'static str {
        match self {
            Self::Active => "0001",
            Self::Passive => "0002",
            Self::Recovery => "0003",
            Self::StateReset => "0004",
        }
    }

    /// A title without the suffix of any role, with this one's.
    fn title(self, title: &str) -> String {
        let base = Self::ALL
            .iter()
            .filter(|role| !role.title_suffix().is_empty())
            .find_map(|role| title.strip_suffix(role.title_suffix()));
        format!("{}{}", base.unwrap_or(title), self.title_suffix())
    }

    /// The role that a file belongs to, by its name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| name.starts_with(role.as_str()))
    }
}

/// The tree as it is on a disk after an installation: everything named `norole...` in each role (the same content, not copied),
/// and no longer by that name; titles, sort keys and counters of boots as the agent sets them. A `default` for the active entry
/// goes out of loader.conf.
///
/// # Errors
/// An entry without a title or a program, or that cannot be read.
pub fn installed(files: &Files) -> Result<Files, EspError> {
    let mut out = Files::new();
    for (path, node) in files.iter() {
        let name = String::from_utf8_lossy(path.file_name()).into_owned();
        let parent = path.parent().unwrap_or_else(TreePath::root);
        let Node::File { content, executable } = node else {
            out.insert(path.clone(), node.clone())?;
            continue;
        };
        let is_conf = name.ends_with(".conf") && !name.contains("loader.conf");
        match (name.starts_with(NOROLE), is_conf) {
            (true, false) => {
                for role in Role::ALL {
                    let path = parent.join(name.replace(NOROLE, role.as_str()))?;
                    out.insert(path, Node::File { content: content.clone(), executable: *executable })?;
                }
            }
            (true, true) => {
                let pairs = read(path, content)?;
                for role in Role::ALL {
                    let name = name.replace(NOROLE, role.as_str());
                    let mut pairs = pairs.clone();
                    give_role(path, &mut pairs, role)?;
                    insert_entry(&mut out, &parent, &name, pairs)?;
                }
            }
            (false, true) => insert_entry(&mut out, &parent, &name, read(path, content)?)?,
            (false, false) if name == "loader.conf" => {
                let text = String::from_utf8_lossy(&content.read(MAX_CONF)?).into_owned();
                let is_kept = |line: &&str| !(line.starts_with("default ") && line.contains(Role::Active.as_str()));
                let text: String = text.lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
                out.insert(path.clone(), Node::bytes(text))?;
            }
            (false, false) => out.insert(path.clone(), node.clone())?,
        }
    }
    Ok(out)
}

fn read(path: &TreePath, content: &Content) -> Result<Pairs, EspError> {
    let bytes = content.read(MAX_CONF)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| bad(path, "is no text: write it anew"))?;
    Ok(Pairs::parse(text))
}

fn bad(path: &TreePath, problem: &str) -> EspError {
    EspError::Tree { path: path.clone(), problem: problem.to_owned() }
}

fn give_role(path: &TreePath, pairs: &mut Pairs, role: Role) -> Result<(), EspError> {
    let (key, program) =
        pairs.program().ok_or_else(|| bad(path, "has neither the key efi nor uki, so it starts nothing"))?;
    let program = program.replace(NOROLE, role.as_str());
    let title = pairs.get("title").filter(|title| !title.is_empty());
    let title = role.title(title.ok_or_else(|| bad(path, "has no title, without which Kairos' agent refuses it"))?);
    pairs.set(key.as_str(), program)?;
    pairs.set("title", title)
}

fn insert_entry(out: &mut Files, parent: &TreePath, name: &str, mut pairs: Pairs) -> Result<(), EspError> {
    let base = name.strip_suffix(".conf").unwrap_or(name);
    pairs.set("sort-key", sort_key(base))?;
    let counted = if is_counted(base) { name.to_owned() } else { format!("{base}{TRIES}.conf") };
    Ok(out.insert(parent.join(counted)?, Node::bytes(pairs.to_text()))?)
}

/// The agent's sort key, but for two kinds of names: what belongs to a role besides its main UKI comes behind that
/// (`0001-1` after `0001`), and a name that has a role's word somewhere inside is of no role. The agent gives both the role's
/// own key, and they would boot by default. At its next upgrade it writes its own keys, and names the entry to boot.
fn sort_key(base: &str) -> String {
    match Role::of_name(base) {
        None => "0010".to_owned(),
        Some(role) => {
            let rest = base.strip_prefix(role.as_str()).unwrap_or_default();
            // A UKI's further profiles are named with a dash, which counts less than the end of the main entry's name.
            let is_main = rest.is_empty() || rest.starts_with("-profile") || rest.starts_with('+');
            format!("{}{}", role.sort_key(), if is_main { "" } else { "-1" })
        }
    }
}

/// Whether a name ends in `+3` or `+2-1`.
fn is_counted(base: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    base.rsplit_once('+').is_some_and(|(_, count)| match count.split_once('-') {
        Some((left, done)) => digits(left) && digits(done),
        None => digits(count),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_change_their_suffix() {
        for title in ["Kairos", "Kairos (fallback)", "Kairos recovery", "Kairos state reset (auto)"] {
            let titles = Role::ALL.map(|role| role.title(title));
            assert_eq!(titles, ["Kairos", "Kairos (fallback)", "Kairos recovery", "Kairos state reset (auto)"]);
        }
    }

    #[test]
    fn the_active_entry_is_first() {
        let keys =
            ["active", "active-profile1", "active_foo", "passive", "interactive", "single_entry_x"].map(sort_key);
        assert_eq!(keys, ["0001", "0001", "0001-1", "0002", "0010", "0010"]);
    }

    #[test]
    fn counters_are_known() {
        for (name, counted) in
            [("a+3", true), ("a+2-1", true), ("a", false), ("a+", false), ("a+x", false), ("a+3-", false)]
        {
            assert_eq!(is_counted(name), counted, "{name}");
        }
    }
}
