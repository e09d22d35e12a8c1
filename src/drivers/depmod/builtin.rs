//! The binary indexes of what is built into the kernel: from `modules.builtin` and `modules.builtin.modinfo`, which the
//! kernel's build leaves. They do not depend on the modules that are kept; but older versions of kmod write them differently.

use crate::names::ModuleName;

use super::binary::Entry;
use super::text::normalised;

/// `modules.builtin.bin`: the name of each module. A line twice is an entry twice.
pub(super) fn names(builtin: &str) -> Vec<Entry> {
    let lines = builtin.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_alphabetic()));
    let names = lines.filter_map(|line| ModuleName::from_file(line.trim_end().as_bytes()));
    names.map(|name| Entry { key: name.as_str().to_owned(), priority: 0, value: String::new() }).collect()
}

/// `modules.builtin.alias.bin`: the normalised patterns of `module.alias=PATTERN`, to the module.
pub(super) fn aliases(modinfo: &[u8]) -> Vec<Entry> {
    let entry = |string: &[u8]| {
        let string = std::str::from_utf8(string).ok()?;
        // Of the first dot: neither a module's name nor a key has one.
        let (module, rest) = string.split_once('.')?;
        let pattern = rest.strip_prefix("alias=")?;
        let key = normalised(pattern).filter(|key| key.is_ascii() && !key.is_empty())?;
        (module.is_ascii() && !module.is_empty()).then(|| Entry { key, priority: 0, value: module.to_owned() })
    };
    modinfo.split(|&byte| byte == 0).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str) -> Entry {
        Entry { key: key.into(), priority: 0, value: value.into() }
    }

    #[test]
    fn names_and_aliases_are_those_of_the_build() {
        assert_eq!(names("kernel/fs/a-b.ko\n#x\nkernel/c.ko\n"), [entry("a_b", ""), entry("c", "")]);
        let modinfo =
            b"fuse.alias=fs-fuse\0fuse.license=GPL\0x.alias=a[b\0\0x.alias=\0x.author=B\xe9\0y.alias=[a-b]-c\0";
        assert_eq!(aliases(modinfo), [entry("fs_fuse", "fuse"), entry("[a-b]_c", "y")]);
    }
}
