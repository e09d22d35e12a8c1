//! Firmware as the kernel finds it (`drivers/base/firmware_loader/main.c`): search directories, links, compressed forms.
//!
//! For each form in turn (plain, `.zst`, `.xz`) the kernel looks through all directories: `updates/RELEASE`, `updates`,
//! `RELEASE`, then `/lib/firmware` itself. What the command line adds (`firmware_class.path`) is not known here.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{FirmwarePath, KernelRelease, TreePath};
use crate::root::sysroot::{EntryType, Sysroot};

use super::glob::{is_pattern, matches};
use super::links::{MOST, Node, Tree};
use super::{Compression, Firmware, FirmwareKind, InventoryError};

/// Where firmware is.
const BASE: &str = "lib/firmware";
/// Depth of directories outside of the search directories that a directory link leads to.
const DEEPEST: usize = 16;

/// A firmware name that the root has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name that the driver would ask for: for a pattern, one that matches.
    pub name: FirmwarePath,
    /// The path that the kernel opens: a directory with the name (and `.zst` or `.xz`) below it, directory links resolved.
    pub path: TreePath,
    /// How the file is compressed.
    pub compression: Compression,
    /// All that must be kept for this name: links, directory links, the final file; `path` among them.
    pub keep: BTreeSet<TreePath>,
    /// Other forms, or files of the same name in later directories: never loaded while `path` is there.
    pub shadowed: Vec<TreePath>,
}

impl Firmware {
    /// What the firmware directories of a root hold for a kernel. A root without any gives an empty value.
    ///
    /// # Errors
    /// The root cannot be read; links that multiply the tree without end.
    pub fn load(root: &Sysroot, release: &KernelRelease) -> Result<Self, InventoryError> {
        let mut out = Self::default();
        for tail in [format!("updates/{release}"), "updates".into(), release.to_string(), String::new()] {
            let name = TreePath::new(format!("{BASE}/{tail}"))?;
            let (path, links) = match root.resolve(&name) {
                Ok(found) => found,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            if root.kind(&path)? == Some(EntryType::Directory) && !out.directories.contains(&path) {
                out.directories.push(path);
                out.directory_links.extend(links);
            }
        }
        // The plain directory holds the others, unless they are links.
        let tree = Tree::walk(root, out.directories.iter().rev())?;
        let mut entries = Vec::with_capacity(tree.nodes.len());
        for (path, node) in &tree.nodes {
            let kind = match node {
                Node::File(bytes) => FirmwareKind::File { bytes: *bytes },
                Node::Link(target) => match tree.follow(path, target)? {
                    Some((Node::File(_), file, mut chain)) => {
                        chain.push(file);
                        FirmwareKind::Link { chain }
                    }
                    Some((Node::Directory, target, links)) => {
                        if !out.is_inside(&target) {
                            let way: Vec<_> = [path.clone()].into_iter().chain(links.iter().cloned()).collect();
                            out.add_outside(&tree, path, &target, &way)?;
                        }
                        FirmwareKind::DirectoryLink { target, links }
                    }
                    _ => FirmwareKind::Dangling,
                },
                Node::Directory | Node::Other => continue,
            };
            entries.push((path.clone(), kind));
        }
        // In the order of the paths, so that the map is built, not searched for each.
        match out.entries.is_empty() {
            true => out.entries = entries.into_iter().collect(),
            false => out.entries.extend(entries),
        }
        // The way to /lib/firmware itself (/lib -> /usr/lib) is no firmware: nothing here would ever drop it.
        let (directories, entries) = (&out.directories, &out.entries);
        out.directory_links.retain(|link| {
            entries.contains_key(link) || directories.iter().any(|directory| link.starts_with(directory))
        });
        Ok(out)
    }

    fn is_inside(&self, path: &TreePath) -> bool {
        self.directories.iter().any(|directory| path.starts_with(directory))
    }

    /// The files of a directory outside, under their names through the link `link`. `way`: the links to the directory.
    fn add_outside(
        &mut self,
        tree: &Tree<'_>,
        link: &TreePath,
        target: &TreePath,
        way: &[TreePath],
    ) -> Result<(), InventoryError> {
        // A link to /usr or to / holds the search directories themselves: nobody's firmware.
        if self.directories.iter().any(|directory| directory.starts_with(target)) {
            return Ok(());
        }
        let mut pending = vec![(link.clone(), target.clone(), 0)];
        while let Some((name, real, depth)) = pending.pop() {
            for entry in tree.root.read_dir(&real)? {
                let (name, real) = (name.join(&entry.name)?, real.join(&entry.name)?);
                let found = match tree.node(&real)? {
                    Some(Node::Directory) if depth < DEEPEST => {
                        pending.push((name, real, depth + 1));
                        continue;
                    }
                    Some(Node::File(_)) => Some((real, Vec::new())),
                    Some(Node::Link(to)) => match tree.follow(&real, &to)? {
                        Some((Node::File(_), file, links)) => {
                            Some((file, [real].into_iter().chain(links).collect::<Vec<_>>()))
                        }
                        _ => None,
                    },
                    _ => None,
                };
                if let Some((file, links)) = found {
                    let chain = way.iter().cloned().chain(links).chain([file]).collect();
                    self.entries.insert(name, FirmwareKind::Link { chain });
                }
                if self.entries.len() + pending.len() > MOST {
                    return Err(InventoryError::TooManyFiles { path: link.clone(), limit: MOST });
                }
            }
        }
        Ok(())
    }

    /// Everything that `name` can load: one for a plain name, any number for a pattern, sorted by name; empty where the root
    /// does not have it. Directory links are followed; a name whose link dangles is not there, so the kernel's search goes on.
    #[must_use]
    pub fn lookup(&self, name: &FirmwarePath) -> Vec<Found> {
        let mut components: Vec<&str> =
            name.as_str().split('/').filter(|component| !component.is_empty() && *component != ".").collect();
        let Some(last) = components.pop() else { return Vec::new() };
        let mut by_name: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
        for (order, directory) in self.directories.iter().enumerate() {
            for place in self.places(directory, &components) {
                for (compression, file) in self.files(&place.directory, last) {
                    let Some(entry) = self.child(&place.directory, &file) else { continue };
                    let Some(kind) = self.entries.get(&entry) else { continue };
                    let chain = match kind {
                        FirmwareKind::File { .. } => &[][..],
                        FirmwareKind::Link { chain } => chain.as_slice(),
                        FirmwareKind::DirectoryLink { .. } | FirmwareKind::Dangling => continue,
                    };
                    let keep =
                        place.links.iter().chain(&self.directory_links).chain(chain).chain([&entry]).cloned().collect();
                    let plain = file.get(..file.len() - suffix(compression).len()).unwrap_or(&file);
                    let name = format!("{}{plain}", place.name);
                    by_name.entry(name).or_default().push(Candidate { compression, order, entry, keep });
                }
            }
        }
        by_name.into_iter().filter_map(|(name, candidates)| first(&name, candidates)).collect()
    }

    /// Directories below `top` that match `components`, with the directory links on the way.
    fn places(&self, top: &TreePath, components: &[&str]) -> Vec<Place> {
        let mut places = vec![Place { directory: top.clone(), links: Vec::new(), name: String::new() }];
        for component in components {
            let mut next = Vec::new();
            for place in &places {
                let names = match is_pattern(component) {
                    true => {
                        let children = self.children(&place.directory, literal(component));
                        children.filter(|name| matches(component, name)).collect()
                    }
                    false => vec![(*component).to_owned()],
                };
                for name in names {
                    let Some(mut directory) = self.child(&place.directory, &name) else { continue };
                    let mut links = place.links.clone();
                    match self.entries.get(&directory) {
                        None => {}
                        Some(FirmwareKind::DirectoryLink { target, links: more }) => {
                            links.push(directory.clone());
                            links.extend(more.iter().cloned());
                            // A directory outside has its files under their names through the link.
                            if self.is_inside(target) {
                                directory = target.clone();
                            }
                        }
                        Some(_) => continue,
                    }
                    next.push(Place { directory, links, name: format!("{}{name}/", place.name) });
                }
            }
            // Only patterns through directory links in a circle get here.
            next.truncate(MOST);
            places = next;
        }
        places
    }

    /// The file names in a directory that `last` may mean, with their form.
    fn files(&self, directory: &TreePath, last: &str) -> Vec<(Compression, String)> {
        if !is_pattern(last) {
            return FORMS.iter().map(|form| (*form, format!("{last}{}", suffix(*form)))).collect();
        }
        let form = |file: String| {
            let (compression, plain) = match Compression::of(file.as_bytes()) {
                (Compression::Gzip, _) => (Compression::None, file.as_bytes()),
                other => other,
            };
            matches(last, std::str::from_utf8(plain).ok()?).then_some((compression, file))
        };
        self.children(directory, literal(last)).filter_map(form).collect()
    }

    /// The names in a directory that begin with `start` and are UTF-8 (no driver asks for others), each once.
    fn children(&self, directory: &TreePath, start: &str) -> impl Iterator<Item = String> {
        let mut previous: &[u8] = &[];
        let first = directory.join(start).unwrap_or_else(|_| directory.clone());
        let begins = first.clone();
        let below = self.entries.range(first..).map(|(path, _)| path);
        let below = below.take_while(move |path| path.as_bytes().starts_with(begins.as_bytes()));
        let directory = directory.clone();
        below.filter_map(move |path| {
            let name = path.strip_prefix(&directory)?.split(|&b| b == b'/').next()?;
            if previous == name {
                return None;
            }
            previous = name;
            std::str::from_utf8(name).ok().map(str::to_owned)
        })
    }

    fn child(&self, directory: &TreePath, name: &str) -> Option<TreePath> {
        directory.join(name).ok()
    }
}

/// What stands before the first wildcard of a component.
fn literal(component: &str) -> &str {
    component.split(['*', '?', '[']).next().unwrap_or_default()
}

/// The kernel's order.
const FORMS: [Compression; 3] = [Compression::None, Compression::Zstd, Compression::Xz];

fn suffix(form: Compression) -> &'static str {
    match form {
        Compression::None => "",
        Compression::Gzip => ".gz",
        Compression::Xz => ".xz",
        Compression::Zstd => ".zst",
    }
}

/// A directory that may hold a name.
struct Place {
    directory: TreePath,
    links: Vec<TreePath>,
    /// As a driver would write it, with a slash at the end.
    name: String,
}

/// One file that the kernel would try for a name.
struct Candidate {
    compression: Compression,
    /// Of its search directory.
    order: usize,
    entry: TreePath,
    keep: BTreeSet<TreePath>,
}

fn first(name: &str, mut candidates: Vec<Candidate>) -> Option<Found> {
    let form = |candidate: &Candidate| FORMS.iter().position(|form| *form == candidate.compression);
    candidates.sort_by_key(|candidate| (form(candidate), candidate.order));
    let mut candidates = candidates.into_iter();
    let Candidate { compression, entry: path, keep, .. } = candidates.next()?;
    let shadowed = candidates.map(|candidate| candidate.entry).collect();
    Some(Found { name: FirmwarePath::new(name).ok()?, path, compression, keep, shadowed })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn firmware(files: &[&str], links: &[(&str, &str)]) -> Result<Firmware, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join("usr/lib/firmware").join(name);
        for name in files.iter().chain(links.iter().map(|(name, _)| name)) {
            std::fs::create_dir_all(at(name).parent().unwrap())?;
        }
        for name in files {
            std::fs::write(at(name), "x")?;
        }
        for (name, target) in links {
            symlink(target, at(name))?;
        }
        symlink("usr/lib", dir.path().join("lib"))?;
        Ok(Firmware::load(&Sysroot::open(dir.path())?, &KernelRelease::new("6.1")?)?)
    }

    /// Of each match: name, what is kept, what is shadowed, without the directory.
    fn look(firmware: &Firmware, name: &str) -> Vec<(String, Vec<String>, Vec<String>)> {
        let short = |path: &TreePath| path.to_string().trim_start_matches("/usr/lib/firmware/").to_owned();
        let found = firmware.lookup(&FirmwarePath::new(name).unwrap());
        found
            .iter()
            .map(|f| {
                assert!(f.keep.contains(&f.path));
                (f.name.to_string(), f.keep.iter().map(short).collect(), f.shadowed.iter().map(short).collect())
            })
            .collect()
    }

    fn one_match(name: &str, keep: &[&str], shadowed: &[&str]) -> Vec<(String, Vec<String>, Vec<String>)> {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        vec![(name.to_owned(), owned(keep), owned(shadowed))]
    }

    #[test]
    fn forms_come_before_directories() -> Outcome {
        let fw = firmware(&["a.bin", "updates/a.bin.zst", "updates/6.1/a.bin.xz", "6.1/b", "b", "c.xz"], &[])?;
        assert_eq!(look(&fw, "a.bin"), one_match("a.bin", &["a.bin"], &["updates/a.bin.zst", "updates/6.1/a.bin.xz"]));
        assert_eq!(look(&fw, "b"), one_match("b", &["6.1/b"], &["b"]));
        assert_eq!(look(&fw, "c"), one_match("c", &["c.xz"], &[]));
        assert_eq!(look(&fw, "d"), []);
        Ok(())
    }

    #[test]
    fn links_are_kept_whole() -> Outcome {
        let fw = firmware(
            &["real/x.bin", "other"],
            &[
                ("dir", "dir2"),
                ("dir2", "real"),
                ("one", "two"),
                ("two", "/lib/firmware/dir/x.bin"),
                ("gone", "nothing"),
                ("gone.xz", "other"),
                ("loop", "loop"),
            ],
        )?;
        assert_eq!(look(&fw, "dir/x.bin"), one_match("dir/x.bin", &["dir", "dir2", "real/x.bin"], &[]));
        let all = ["dir", "dir2", "one", "real/x.bin", "two"];
        // `/lib` is a link on the way, though no firmware.
        let found = look(&fw, "one");
        assert!(all.iter().all(|path| found[0].1.iter().any(|kept| kept == path)), "{found:?}");
        assert_eq!(look(&fw, "gone"), one_match("gone", &["gone.xz", "other"], &[]));
        assert_eq!(look(&fw, "loop"), []);
        let kind = |name: &str| fw.entries[&TreePath::new(format!("usr/lib/firmware/{name}")).unwrap()].clone();
        assert_eq!(kind("loop"), FirmwareKind::Dangling);
        assert_eq!(kind("other"), FirmwareKind::File { bytes: 1 });
        assert!(matches!(kind("dir"), FirmwareKind::DirectoryLink { links, .. } if links.len() == 1));
        Ok(())
    }

    #[test]
    fn patterns_match_names_without_the_suffix() -> Outcome {
        let fw = firmware(&["i/a1.bin.xz", "i/a2.bin", "i/b.bin", "j/a1.bin"], &[("k", "i")])?;
        let names = |pattern: &str| look(&fw, pattern).into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
        assert_eq!(names("i/a*"), ["i/a1.bin", "i/a2.bin"]);
        assert_eq!(names("?/a[0-1].bin"), ["i/a1.bin", "j/a1.bin", "k/a1.bin"]);
        assert_eq!(names("*.bin"), Vec::<String>::new());
        Ok(())
    }

    #[test]
    fn directories_outside_are_reached_but_are_nobodys_to_drop() -> Outcome {
        let fw = firmware(&["../vendor/v.bin", "x"], &[("out", "../vendor"), ("up", ".."), ("rootlink", "/")])?;
        let found = look(&fw, "out/v.bin");
        assert_eq!(found[0].1, ["out", "out/v.bin", "/usr/lib/vendor/v.bin"].map(str::to_owned).to_vec().tap_sorted());
        assert_eq!(fw.entries.len(), 5);
        Ok(())
    }

    trait Sorted {
        fn tap_sorted(self) -> Self;
    }

    impl Sorted for Vec<String> {
        /// By the path that the short form stands for.
        fn tap_sorted(mut self) -> Self {
            self.sort_by_key(
                |name| if name.starts_with('/') { name.clone() } else { format!("/usr/lib/firmware/{name}") },
            );
            self
        }
    }
}
