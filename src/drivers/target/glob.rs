//! [`Glob`]: one matcher for module paths, module names, firmware names and modaliases.
//!
//! A checked pattern is run as text, byte by byte, with at most two places to go back to, so that the time is bounded by
//! the product of the lengths and no pattern can blow up. Left out: `{a,b}` and backslash escapes, which no kernel index has.

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GlobError {
    /// Nothing to match.
    #[error("the pattern is empty")]
    Empty,
    /// A `[` without its `]`.
    #[error("pattern {0:?} has a '[' without its ']'")]
    Bracket(String),
    /// `**` beside other characters of a component.
    #[error("pattern {0:?} has a '**' that is not a whole path component; write 'dir/**' or 'dir/**/name'")]
    DoubleStar(String),
}

/// What the wildcards of a pattern may cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `*`, `?` and `[...]` stay inside a path component; `**` is any number of components.
    Path,
    /// `*` crosses everything, and `-` equals `_` (`fnmatch` without flags over names that kmod has normalised).
    Alias,
}

/// A checked pattern: `*`, `?`, `[a-z]`, `[!a-z]`, and in paths `**`. Matching is by bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    text: Box<str>,
    kind: Kind,
    /// Length of what stands before the first wildcard.
    literal: usize,
}

impl Glob {
    /// A pattern for paths and names: `kernel/drivers/nvme/**`, `nls_*`.
    ///
    /// # Errors
    /// An empty pattern, an unclosed bracket, a `**` that is not a whole component.
    pub fn path(text: &str) -> Result<Self, GlobError> {
        let glob = Self::checked(text, Kind::Path)?;
        if text.split('/').any(|component| component.contains("**") && component != "**") {
            return Err(GlobError::DoubleStar(text.to_owned()));
        }
        Ok(glob)
    }

    /// A pattern for modaliases: `pci:v00008086d*`, `crypto-*`.
    ///
    /// # Errors
    /// An empty pattern, an unclosed bracket.
    pub fn alias(text: &str) -> Result<Self, GlobError> {
        Self::checked(text, Kind::Alias)
    }

    fn checked(text: &str, kind: Kind) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        let mut rest = text.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            rest = match first {
                b'[' => set(tail, 0).ok_or_else(|| GlobError::Bracket(text.to_owned()))?.1,
                _ => tail,
            };
        }
        let literal = literal_prefix(text.as_bytes()).len();
        Ok(Self { text: text.into(), kind, literal })
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the first wildcard: every path or name that matches starts with it (an alias but for `-` and `_`).
    #[must_use]
    pub fn literal(&self) -> &str {
        self.text.get(..self.literal).unwrap_or_default()
    }

    /// Whether the pattern is plain text, which only itself matches.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.literal == self.text.len()
    }

    /// Whether `text` matches, from its first byte to its last.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.text.as_bytes(), text.as_bytes());
        // Most candidates differ early: decide on the literal part before the slow walk.
        let (Some((head, pattern)), Some((start, text))) =
            (pattern.split_at_checked(self.literal), text.split_at_checked(self.literal))
        else {
            return false;
        };
        head.iter().zip(start).all(|(&a, &b)| same(a, b, self.kind)) && walk(pattern, text, self.kind)
    }
}

/// Whether the modalias or alias `text` matches a pattern of `modules.alias`, as kmod decides it. The pattern is hostile: an
/// unclosed bracket stands for itself.
#[must_use]
pub fn alias_matches(pattern: &str, text: &str) -> bool {
    walk(pattern.as_bytes(), text.as_bytes(), Kind::Alias)
}

/// What stands before the first wildcard.
#[must_use]
pub fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let end = pattern.iter().position(|b| matches!(b, b'*' | b'?' | b'[')).unwrap_or(pattern.len());
    pattern.get(..end).unwrap_or_default()
}

fn same(a: u8, b: u8, kind: Kind) -> bool {
    a == b || (kind == Kind::Alias && matches!((a, b), (b'-', b'_') | (b'_', b'-')))
}

/// Whether `byte` is in the set whose inside starts `pattern`, and what follows the set; `None` where no `]` ends it.
fn set(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match pattern.split_first() {
        Some((b'!' | b'^', tail)) => (true, tail),
        _ => (false, pattern),
    };
    let mut found = false;
    let mut first = true;
    loop {
        let (&low, tail) = rest.split_first()?;
        if low == b']' && !first {
            return Some((found != negated, tail));
        }
        first = false;
        rest = tail;
        let high = match tail {
            [b'-', high, after @ ..] if *high != b']' => {
                rest = after;
                *high
            }
            _ => low,
        };
        found |= (low..=high).contains(&byte);
    }
}

/// What is left of a pattern and of a text.
type Place<'a> = (&'a [u8], &'a [u8]);

/// Runs a pattern over a text. `near` is where the last `*` of a path stands, `far` the last wildcard that crosses slashes:
/// going back to older ones cannot help, since a newer one takes all that they could.
fn walk(pattern: &[u8], text: &[u8], kind: Kind) -> bool {
    let (mut rest, mut left) = (pattern, text);
    let (mut near, mut far): (Option<Place<'_>>, Option<Place<'_>>) = (None, None);
    // A `[` with no more than this behind it has no `]`: known without looking for it again and again.
    let behind_sets = pattern.iter().rev().position(|&b| b == b']').unwrap_or(pattern.len());
    loop {
        let step = match (rest, left) {
            ([], []) => return true,
            ([b'*', b'*'], _) if kind == Kind::Path => return true,
            ([b'*', b'*', b'/', after @ ..], _) if kind == Kind::Path => {
                (near, far) = (None, Some((after, left)));
                Some((after, left))
            }
            ([b'*', after @ ..], _) => {
                match kind {
                    Kind::Alias if after.is_empty() => return true,
                    Kind::Alias => far = Some((after, left)),
                    Kind::Path => near = Some((after, left)),
                }
                Some((after, left))
            }
            (_, [b'/', ..]) if kind == Kind::Path && !matches!(rest, [b'/', ..]) => None,
            ([b'?', after @ ..], [_, tail @ ..]) => Some((after, tail)),
            ([b'[', inside @ ..], [byte, tail @ ..]) if inside.len() > behind_sets => match set(inside, *byte) {
                Some((true, after)) => Some((after, tail)),
                Some((false, _)) => None,
                None => (*byte == b'[').then_some((inside, tail)),
            },
            ([a, after @ ..], [b, tail @ ..]) if same(*a, *b, kind) => Some((after, tail)),
            _ => None,
        };
        let step = step.or_else(|| {
            // A `*` takes one byte more, up to the end of its component.
            let (after, start) = near.take()?;
            let (&byte, tail) = start.split_first()?;
            if byte == b'/' {
                return None;
            }
            near = Some((after, tail));
            near
        });
        let step = step.or_else(|| {
            let (after, start) = far.take()?;
            let skip = match kind {
                Kind::Alias => 1,
                Kind::Path => start.iter().position(|&b| b == b'/')?.saturating_add(1),
            };
            far = Some((after, start.get(skip..)?));
            far
        });
        match step {
            Some((after, tail)) => (rest, left) = (after, tail),
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths() {
        let yes = |pattern: &str, text: &str| assert!(Glob::path(pattern).unwrap().matches(text), "{pattern} {text}");
        let no = |pattern: &str, text: &str| assert!(!Glob::path(pattern).unwrap().matches(text), "{pattern} {text}");
        yes("kernel/drivers/nvme/**", "kernel/drivers/nvme/host/nvme.ko");
        no("kernel/drivers/nvme/**", "kernel/drivers/nvme-x/nvme.ko");
        yes("kernel/**/nvme.ko", "kernel/nvme.ko");
        yes("kernel/**/nvme.ko", "kernel/drivers/nvme/host/nvme.ko");
        no("kernel/*/nvme.ko", "kernel/drivers/nvme/host/nvme.ko");
        yes("nls_*", "nls_cp437");
        no("nls_*", "nls/cp437");
        yes("x[0-9]?", "x1y");
        no("x[!0-9]", "x1");
        no("a?b", "a/b");
        no("a[!x]b", "a/b");
        yes("**", "a/b/c");
        assert_eq!(Glob::path(""), Err(GlobError::Empty));
        assert!(matches!(Glob::path("a["), Err(GlobError::Bracket(_))));
        assert!(matches!(Glob::path("a/b**"), Err(GlobError::DoubleStar(_))));
    }

    #[test]
    fn aliases_as_kmod_reads_them() {
        assert!(alias_matches("pci:v*d*sv*sd*bc01sc08i02*", "pci:v00008086d00000953sv00008086sd0000370Abc01sc08i02"));
        assert!(!alias_matches("pci:v*d*sv*sd*bc01sc08i02*", "pci:v00008086d00000953sv00008086sd0000370Abc01sc06i02"));
        assert!(alias_matches("crypto-crc32c", "crypto_crc32c"));
        assert!(alias_matches("usb:v046Dp*d[0-9]*", "usb:v046DpC52Bd1201"));
        assert!(alias_matches("odd[", "odd["), "an unclosed bracket stands for itself");
        assert!(alias_matches("of:N*T*Cvendor,a/b", "of:NxTyCvendor,a/b"));
    }

    #[test]
    fn no_pattern_blows_up() {
        let pattern = "a*".repeat(200);
        assert!(!alias_matches(&format!("{pattern}b"), &"a".repeat(5000)));
        let deep = Glob::path(&format!("{}b", "**/a*/".repeat(40))).unwrap();
        assert!(!deep.matches(&"aa/".repeat(400)));
    }

    #[test]
    fn many_open_brackets_take_no_longer() {
        let open = "[".repeat(4000);
        assert!(!alias_matches(&format!("*{open}x"), &open));
        assert!(alias_matches(&format!("*[]]{open}"), &format!("a]{open}")));
    }

    /// The definition, without any cleverness: exponential, for short texts only.
    fn slow(pattern: &[u8], text: &[u8], kind: Kind) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            ([b'*', b'*', b'/', rest @ ..], _) if kind == Kind::Path => {
                slow(rest, text, kind) || (0..text.len()).any(|i| text[i] == b'/' && slow(rest, &text[i + 1..], kind))
            }
            ([b'*', b'*'], _) if kind == Kind::Path => true,
            ([b'*', rest @ ..], _) => (0..=text.len())
                .any(|i| (kind == Kind::Alias || !text[..i].contains(&b'/')) && slow(rest, &text[i..], kind)),
            ([b'?', rest @ ..], [b, tail @ ..]) => (kind == Kind::Alias || *b != b'/') && slow(rest, tail, kind),
            ([a, rest @ ..], [b, tail @ ..]) => same(*a, *b, kind) && slow(rest, tail, kind),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_walk_equals_the_definition(parts in prop::collection::vec("[ab]|\\*|/|\\?|/\\*\\*/", 0..7), text in "[ab/]{0,9}") {
            let pattern = parts.concat();
            if let Ok(glob) = Glob::path(&pattern) {
                prop_assert_eq!(glob.matches(&text), slow(pattern.as_bytes(), text.as_bytes(), Kind::Path));
            }
            prop_assert_eq!(alias_matches(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes(), Kind::Alias));
        }
    }
}
