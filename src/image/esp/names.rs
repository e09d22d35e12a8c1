//! From command lines to UKIs, their profiles, file names and titles, as AuroraBoot makes them (`pkg/uki/uki.go`,
//! `pkg/utils/common.go`): what users have in scripts keeps its name.

use super::entry::check_value;
use super::loader::LoaderVersion;
use super::{EspError, roles};

/// Kairos' command line for a UKI, as AuroraBoot writes it; names are computed with it as a literal prefix.
pub const BASE_CMDLINE: &str = "console=ttyS0 console=tty1 net.ifnames=1 rd.immucore.oemlabel=COS_OEM rd.immucore.oemtimeout=2 \
     rd.immucore.uki selinux=0 panic=5 rd.shell=0 systemd.crash_reboot=yes";
/// What the default entry has behind [`BASE_CMDLINE`]: it acts only where a medium for installation was booted.
pub const INSTALL_MODE: &str = "install-mode";
/// The base name of what no role was given to yet.
pub const NOROLE: &str = "norole";
/// The base name of entries of [`Single`] without a title.
const SINGLE: &str = "single_entry";
/// UTF-16 units of a base name: FAT has 255 for a name, and `-profile123+3-0.conf` comes behind it.
const NAME_LIMIT: usize = 230;

/// `--cmdline-layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CmdlineLayout {
    /// Profiles where the loader's entries can show them, else entries.
    #[default]
    Auto,
    /// Profiles of one UKI.
    Profiles,
    /// One UKI for each.
    Entries,
}

/// Where further command lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Into profiles of each UKI: one kernel, one initrd.
    Profiles,
    /// Into UKIs of their own, as AuroraBoot without `--cmd-lines-v2`: each has all of the root.
    Entries,
}

impl CmdlineLayout {
    /// What a loader can do.
    ///
    /// # Errors
    /// [`EspError::TooOld`]: profiles asked for and a loader whose entries cannot choose one.
    pub fn decide(self, loader: &LoaderVersion) -> Result<Layout, EspError> {
        match (self, loader.knows_profiles()) {
            (Self::Entries, _) | (Self::Auto, false) => Ok(Layout::Entries),
            (Self::Auto | Self::Profiles, true) => Ok(Layout::Profiles),
            (Self::Profiles, false) => Err(EspError::TooOld {
                loader: loader.to_string(),
                wanted: "profiles as entries (key `profile`) need systemd-boot 259".to_owned(),
                advice: "give a newer systemd-boot with --loader, or choose --cmdline-layout entries",
            }),
        }
    }
}

/// A further command line, added to the default one (`--profile`, AuroraBoot's `--extra-cmdline`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// What the menu shows in brackets; AuroraBoot's have none.
    pub title: Option<String>,
    /// What is added.
    pub arguments: String,
}

/// A UKI of its own whose name holds no role, so that it stays as it is on an installed system (AuroraBoot's
/// `--single-efi-cmdline`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Single {
    /// What stands before the first colon.
    pub title: Option<String>,
    /// What is added to the default command line.
    pub arguments: String,
}

impl Single {
    /// Reads `Title: arguments`, or arguments alone: the first colon counts.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((title, arguments)) => Self { title: Some(title.to_owned()), arguments: arguments.to_owned() },
            None => Self { title: None, arguments: text.to_owned() },
        }
    }
}

/// What the boot menu shall offer.
#[derive(Debug, Clone)]
pub struct Menu {
    /// The title of the default entry: `Kairos`.
    pub branding: String,
    /// The default command line, whole.
    pub cmdline: String,
    /// Further ones.
    pub extra: Vec<Extra>,
    /// UKIs of their own.
    pub single: Vec<Single>,
    /// Where the further ones go.
    pub layout: Layout,
}

/// An entry of the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MenuEntry {
    /// What it is called.
    pub title: String,
    /// The whole command line.
    pub cmdline: String,
    /// What of it is not Kairos' own: the value of the key `cmdline`.
    pub added: String,
}

/// A UKI to be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedUki {
    /// Base name of `NAME.efi` and `NAME.conf`.
    pub name: String,
    /// Its profiles, the default first; only that one where [`Layout::Entries`] is asked for.
    pub profiles: Vec<MenuEntry>,
}

impl Menu {
    /// The UKIs, the default first, and what is to be said about their order in the menu.
    ///
    /// # Errors
    /// [`EspError::FileName`]: two with one name, or one that neither systemd-boot nor the agent would take for what it is;
    /// [`EspError::Text`] for control characters.
    pub fn plan(&self) -> Result<(Vec<PlannedUki>, Vec<String>), EspError> {
        let mut ukis = vec![self.uki(NOROLE.to_owned(), self.branding.clone(), self.cmdline.clone())];
        if self.layout == Layout::Entries {
            for extra in &self.extra {
                let cmdline = format!("{} {}", self.cmdline, extra.arguments);
                let title =
                    extra.title.as_ref().map_or_else(|| self.branding.clone(), |t| format!("{} ({t})", self.branding));
                ukis.push(self.uki(name(NOROLE, &self.added(&cmdline)), title, cmdline));
            }
        }
        for single in &self.single {
            let cmdline = format!("{} {}", self.cmdline, single.arguments);
            let (name, title) = match &single.title {
                Some(title) => (title.replace(' ', "_").to_lowercase(), format!("{} ({title})", self.branding)),
                None => (name(SINGLE, &self.added(&single.arguments)), self.branding.clone()),
            };
            check_single(&name)?;
            ukis.push(self.uki(name, title, cmdline));
        }
        for (index, uki) in ukis.iter().enumerate() {
            check_name(&uki.name)?;
            if ukis.iter().skip(index + 1).any(|other| other.name == uki.name) {
                let problem =
                    "two command lines get this name, of which all but letters, digits and ._- is taken out".to_owned();
                return Err(EspError::FileName { name: uki.name.clone(), problem });
            }
            for entry in &uki.profiles {
                check_value("title", &entry.title)?;
                check_value("command line", &entry.cmdline)?;
            }
        }
        let warnings = self.order_warnings(&ukis);
        Ok((ukis, warnings))
    }

    fn uki(&self, name: String, title: String, cmdline: String) -> PlannedUki {
        let further = |extra: &Extra| {
            let cmdline = format!("{cmdline} {}", extra.arguments);
            let shown = extra.title.as_ref().unwrap_or(&extra.arguments);
            MenuEntry { title: format!("{title} ({shown})"), added: self.added(&cmdline), cmdline }
        };
        let extra = if self.layout == Layout::Profiles { self.extra.as_slice() } else { &[] };
        let mut profiles =
            vec![MenuEntry { title: title.clone(), added: self.added(&cmdline), cmdline: cmdline.clone() }];
        profiles.extend(extra.iter().map(further));
        PlannedUki { name, profiles }
    }

    /// What a command line has beyond Kairos' own; nothing for the default. Behind a command line of the user's own (`--cmdline`)
    /// what is added to that.
    fn added(&self, cmdline: &str) -> String {
        let rest = cmdline.strip_prefix(BASE_CMDLINE);
        let rest = rest.or_else(|| cmdline.strip_prefix(&self.cmdline)).unwrap_or(cmdline).trim();
        if rest == INSTALL_MODE { String::new() } else { rest.to_owned() }
    }

    /// Upstream's names and sort keys put some entries before the default one. They are kept, since scripts and documents know
    /// them; who builds should know.
    fn order_warnings(&self, ukis: &[PlannedUki]) -> Vec<String> {
        let mut warnings = Vec::new();
        for uki in ukis.iter().skip(1) {
            let UkiOrder { on_medium, installed } = order(&uki.name);
            let name = &uki.name;
            if on_medium {
                warnings.push(format!(
                    "{name}.conf is sorted before {NOROLE}.conf by its name: on a medium for installation it boots by default; \
                     give it a title that begins with a letter after n"
                ));
            }
            if installed {
                warnings.push(format!(
                    "{name}: on a disk that kairos-agent installs it gets the sort key of the active system and comes before it: \
                     it boots by default once the first boot is over; choose --cmdline-layout profiles (systemd-boot 259), or \
                     another title (a raw image of ours is sorted otherwise)"
                ));
            }
        }
        warnings
    }
}

struct UkiOrder {
    on_medium: bool,
    installed: bool,
}

/// Where systemd-boot puts an entry: by sort key upwards, and where those are equal by file name downwards, `_` counting for
/// nothing and `.` before letters (`strverscmp_improved`). The agent's sort key goes by the role's word anywhere in the name.
fn order(name: &str) -> UkiOrder {
    let role_of = name.strip_prefix(NOROLE).map(|rest| format!("active{rest}"));
    let is_active = role_of.as_deref().unwrap_or(name).contains("active");
    UkiOrder { on_medium: format!("{name}-0").as_str() < "norole-0", installed: is_active }
}

/// `base`, `_` and what is added, all but letters, digits and `._-` being one `_`; in lower case.
fn name(base: &str, added: &str) -> String {
    let is_kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let mut name = format!("{base}_");
    let mut in_gap = false;
    for c in added.chars() {
        if is_kept(c) {
            name.push(c);
        } else if !in_gap {
            name.push('_');
        }
        in_gap = !is_kept(c);
    }
    name.strip_suffix('_').unwrap_or(&name).to_lowercase()
}

/// Whether FAT can hold it, and systemd-boot shows it.
pub(super) fn check_name(name: &str) -> Result<(), EspError> {
    let problem = if name.is_empty() || name.starts_with('.') {
        "systemd-boot shows no file whose name begins with a dot or is empty".to_owned()
    } else if let Some(c) = name.chars().find(|c| c.is_control() || "\"*/:<>?\\|".contains(*c)) {
        format!("a file on the EFI system partition cannot have {c:?} in its name")
    } else if name.encode_utf16().count() > NAME_LIMIT {
        format!(
            "it has more than {NAME_LIMIT} characters, and a file on the EFI system partition has 255; --cmdline-layout profiles needs no such name"
        )
    } else if name.to_ascii_lowercase().starts_with("auto-") {
        "systemd-boot keeps names that begin with auto- for itself".to_owned()
    } else if name.contains('+') {
        "what follows a + is a count of boots to systemd-boot".to_owned()
    } else if name.ends_with([' ', '.']) {
        "a file on the EFI system partition cannot end in a space or a dot".to_owned()
    } else {
        return Ok(());
    };
    Err(EspError::FileName { name: name.to_owned(), problem })
}

/// The agent takes every file that begins with a role's name for that role's: it would copy it, or delete it at an upgrade.
fn check_single(name: &str) -> Result<(), EspError> {
    let roles = roles::Role::ALL.iter().map(|role| role.as_str()).chain([NOROLE]);
    match roles.into_iter().find(|role| name.starts_with(role)) {
        Some(role) => {
            let problem = format!(
                "Kairos' agent would take it for part of the role {role}, which is copied and deleted as a whole"
            );
            Err(EspError::FileName { name: name.to_owned(), problem })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn menu(extra: &[&str], single: &[&str], layout: Layout) -> Menu {
        Menu {
            branding: "Kairos".to_owned(),
            cmdline: format!("{BASE_CMDLINE} {INSTALL_MODE}"),
            extra: extra.iter().map(|text| Extra { title: None, arguments: (*text).to_owned() }).collect(),
            single: single.iter().map(|text| Single::parse(text)).collect(),
            layout,
        }
    }

    fn names(menu: &Menu) -> Vec<String> {
        menu.plan().unwrap().0.into_iter().map(|uki| uki.name).collect()
    }

    #[test]
    fn names_are_cleaned() {
        assert_eq!(name("norole", ""), "norole");
        assert_eq!(name("norole", "install-mode Foo=bar  b,,c/d"), "norole_install-mode_foo_bar_b_c_d");
        // One trailing underscore goes, a second stays; underscores of the text itself are kept, and joined with nothing.
        assert_eq!(name("x", "a="), "x_a");
        assert_eq!(name("x", "a_="), "x_a_");
        assert_eq!(name("x", "a_ b"), "x_a__b");
    }

    #[test]
    fn a_command_line_of_the_users_own_is_taken_out_of_names() {
        let menu = Menu { cmdline: "quiet".to_owned(), ..menu(&["a=b"], &[], Layout::Entries) };
        assert_eq!(names(&menu), ["norole", "norole_a_b"]);
        assert_eq!(menu.plan().unwrap().0[0].profiles[0].added, "");
    }

    #[test]
    fn what_would_be_taken_for_something_else_is_refused() {
        for title in ["Auto-Update", ".x", "a/b", "a+3", "x?", "Active", "recovery 2", "Norole", "x.", &"n".repeat(231)]
        {
            let refused = menu(&[], &[&format!("{title}: x")], Layout::Entries).plan();
            assert!(matches!(refused, Err(EspError::FileName { .. })), "{title}");
        }
        for extra in [["a=b", "a b"], ["x", "x"]] {
            assert!(matches!(menu(&extra, &[], Layout::Entries).plan(), Err(EspError::FileName { .. })));
            assert!(menu(&extra, &[], Layout::Profiles).plan().is_ok());
        }
        assert!(matches!(menu(&["a\nefi /x"], &[], Layout::Profiles).plan(), Err(EspError::Text { .. })));
    }

    #[test]
    fn who_comes_before_the_default_is_told() {
        let warnings = |menu: Menu| menu.plan().unwrap().1.join("\n");
        assert_eq!(warnings(menu(&["a"], &["Zero: x"], Layout::Profiles)), "");
        assert!(warnings(menu(&[], &["Debug: x"], Layout::Profiles)).contains("before norole.conf"));
        assert!(warnings(menu(&[], &["Pure interactive: x"], Layout::Profiles)).contains("kairos-agent installs"));
        assert!(warnings(menu(&["a"], &[], Layout::Entries)).contains("kairos-agent installs"));
    }

    #[test]
    fn layouts_follow_the_loader() {
        let (old, new) = (LoaderVersion::of_text("257.13"), LoaderVersion::of_text("259"));
        assert_eq!(CmdlineLayout::Auto.decide(&old).unwrap(), Layout::Entries);
        assert_eq!(CmdlineLayout::Auto.decide(&new).unwrap(), Layout::Profiles);
        assert_eq!(CmdlineLayout::Entries.decide(&new).unwrap(), Layout::Entries);
        assert_eq!(CmdlineLayout::Auto.decide(&LoaderVersion::default()).unwrap(), Layout::Entries);
        let error = CmdlineLayout::Profiles.decide(&old).unwrap_err().to_string();
        assert!(error.starts_with("a loader too old for the entries asked for: systemd-boot 257.13"), "{error}");
    }
}
