//! [`KernelConfig`]: the settings that a kernel was built with, from the file that its package installs.
//!
//! The form is that of Kconfig's `.config`: `CONFIG_X=y`, `=m`, `="text"`, `=0x10`, and `# CONFIG_X is not set`. A setting that
//! the file does not mention does not exist in this kernel (its version is older or newer, or what it depends on is off).

use std::collections::BTreeMap;

use crate::drivers::inventory::Kernel;
use crate::names::{NameError, TreePath};
use crate::root::sysroot::{Sysroot, SysrootError};

/// Bytes that a configuration may have. Debian's for arm64 has 340 KB.
const CONFIG_LIMIT: u64 = 8 << 20;

/// What a setting is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `y`: part of the kernel image.
    Yes,
    /// `m`: a module.
    Module,
    /// `is not set`, or `n`.
    No,
    /// `"text"`, without the quotes.
    Text(String),
    /// A number, as written.
    Number(String),
}

/// A kernel's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelConfig {
    values: BTreeMap<Box<str>, Value>,
}

/// A line that Kconfig would not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", if *line == 0 { String::new() } else { format!("line {line}: ") })]
pub struct ConfigError {
    /// From 1; 0 where it is the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

impl KernelConfig {
    /// Reads the text of a configuration.
    ///
    /// # Errors
    /// A line that is neither a setting nor a comment; a text without any setting.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            let unset =
                |line: &'_ str| Some((line.strip_prefix("# CONFIG_")?.strip_suffix(" is not set")?.into(), Value::No));
            let setting = match line.as_bytes().first() {
                None => continue,
                Some(b'#') => match unset(line) {
                    Some(setting) => setting,
                    None => continue,
                },
                Some(_) => setting(line).ok_or_else(|| {
                    // A binary file's line may be endless.
                    let shown: String = line.chars().take(40).collect();
                    ConfigError { line: index + 1, problem: format!("{shown:?} is no setting of a kernel") }
                })?,
            };
            values.insert(setting.0, setting.1);
        }
        match values.is_empty() {
            true => Err(ConfigError { line: 0, problem: "the file holds no setting".to_owned() }),
            false => Ok(Self { values }),
        }
    }

    /// A setting, named without `CONFIG_`; `None` where the kernel does not have it at all.
    #[must_use]
    pub fn get(&self, symbol: &str) -> Option<&Value> {
        self.values.get(symbol)
    }

    /// Built in (`y`).
    #[must_use]
    pub fn is_yes(&self, symbol: &str) -> bool {
        self.get(symbol) == Some(&Value::Yes)
    }

    /// A module (`m`).
    #[must_use]
    pub fn is_module(&self, symbol: &str) -> bool {
        self.get(symbol) == Some(&Value::Module)
    }

    /// The text or number of a setting.
    #[must_use]
    pub fn text(&self, symbol: &str) -> Option<&str> {
        match self.get(symbol)? {
            Value::Text(text) | Value::Number(text) => Some(text),
            Value::Yes | Value::Module | Value::No => None,
        }
    }
}

/// `CONFIG_NAME=VALUE`.
fn setting(line: &str) -> Option<(Box<str>, Value)> {
    let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return None;
    }
    let is_number = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(hex) => !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()),
            None => !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()),
        }
    };
    let value = match value {
        "y" => Value::Yes,
        "m" => Value::Module,
        "n" => Value::No,
        // Kconfig writes nothing for a number that has no value.
        "" => Value::Number(String::new()),
        number if is_number(number) => Value::Number(number.to_owned()),
        text => Value::Text(unescaped(text.strip_prefix('"')?.strip_suffix('"')?)),
    };
    Some((name.into(), value))
}

/// Kconfig puts a backslash before `"` and `\`.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

/// What came of looking for a kernel's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// It is here.
    Found {
        /// The file.
        path: TreePath,
        /// What it says.
        config: KernelConfig,
    },
    /// There is a file that cannot be understood.
    Damaged {
        /// The file.
        path: TreePath,
        /// Why.
        problem: String,
    },
    /// There is none at these places.
    Missing(Vec<TreePath>),
}

impl Loaded {
    /// The configuration, where there is one.
    #[must_use]
    pub fn config(&self) -> Option<&KernelConfig> {
        match self {
            Self::Found { config, .. } => Some(config),
            Self::Damaged { .. } | Self::Missing(_) => None,
        }
    }
}

/// Where packages put the configuration: Debian, Ubuntu, Alpine; Fedora, openSUSE; the build tree; kernel-install.
fn places(kernel: &Kernel) -> Result<[TreePath; 4], NameError> {
    let Kernel { release, modules, .. } = kernel;
    Ok([
        TreePath::new(format!("boot/config-{release}"))?,
        modules.join("config")?,
        modules.join("build/.config")?,
        TreePath::new(format!("usr/lib/kernel/config-{release}"))?,
    ])
}

/// The configuration of `kernel`, from the first place that has one.
///
/// # Errors
/// A release that no path can hold.
pub fn load(root: &Sysroot, kernel: &Kernel) -> Result<Loaded, NameError> {
    let places = places(kernel)?;
    for path in &places {
        let problem = match root.read_text(path, CONFIG_LIMIT) {
            Ok(text) => match KernelConfig::parse(&text) {
                Ok(config) => return Ok(Loaded::Found { path: path.clone(), config }),
                Err(error) => error.to_string(),
            },
            // Not there, a link to nothing or in a loop, a directory: the next place may have it.
            Err(SysrootError::Path { .. }) => continue,
            Err(error) => error.to_string(),
        };
        return Ok(Loaded::Damaged { path: path.clone(), problem });
    }
    Ok(Loaded::Missing(places.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_setting_is_read() -> Result<(), ConfigError> {
        let text = "#\n# Automatically generated file; DO NOT EDIT.\n#\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\n\
            CONFIG_D=\"sha256 \\\"x\\\" \\\\\"\nCONFIG_E=0x1f\nCONFIG_F=-3\nCONFIG_G=n\n\nCONFIG_H=\"\"\nCONFIG_I=\r\n";
        let config = KernelConfig::parse(text)?;
        assert!(config.is_yes("A") && !config.is_module("A") && config.is_module("B"));
        assert_eq!(config.get("C"), Some(&Value::No));
        assert_eq!(config.get("G"), Some(&Value::No));
        assert_eq!(config.text("D"), Some("sha256 \"x\" \\"));
        assert_eq!([config.text("E"), config.text("F"), config.text("H")], [Some("0x1f"), Some("-3"), Some("")]);
        assert_eq!(config.text("I"), Some(""));
        assert_eq!(config.get("Z"), None);
        Ok(())
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_its_line() {
        let error = |text: &str| KernelConfig::parse(text).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(error("CONFIG_A=y\nhello\n"), Err("line 2: \"hello\" is no setting of a kernel".to_owned()));
        for wrong in [
            "CONFIG_A",
            "CONFIG_=y",
            "CONFIG_A B=y",
            "CONFIG_A=z",
            "CONFIG_A=\"x",
            "CONFIG_A=0x",
            "CONFIG_A=1.5",
            "A=y",
        ] {
            assert!(error(wrong).is_err(), "{wrong}");
        }
        assert!(error(&"\u{1b}".repeat(1 << 20)).is_err_and(|text| text.len() < 400));
        assert_eq!(error("# only words\n"), Err("the file holds no setting".to_owned()));
    }
}
