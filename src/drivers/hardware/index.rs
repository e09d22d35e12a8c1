//! [`AliasIndex`]: which modules a modalias means, for many modaliases. (A selection asks for few: `select` has its own.)

use std::collections::{BTreeSet, HashMap};

use memchr::memmem;

use crate::drivers::target::glob::{alias_matches, literal_prefix};

/// The patterns of a kernel by what stands before their first wildcard. A lookup tries the beginnings of the modalias that are as
/// long as some pattern's of the same bus: of 27,000 patterns a handful is left to be matched.
#[derive(Debug, Clone)]
pub struct AliasIndex<'a, T> {
    by_literal: HashMap<Box<[u8]>, Vec<Pattern<'a, T>>>,
    /// The lengths of the keys by their bus (`pci:`), or by nothing where a wildcard comes before the colon.
    lengths: HashMap<Box<[u8]>, BTreeSet<usize>>,
}

/// A pattern and what it means.
#[derive(Debug, Clone)]
struct Pattern<'a, T> {
    text: &'a str,
    /// The longest piece between its wildcards: what lacks it does not match. Patterns of a PCI class begin alike
    /// (`pci:v*d*sv*sd*bc0Csc03i30*`), and this is what tells them apart.
    piece: Box<[u8]>,
    meaning: T,
}

impl<'a, T: Copy + Ord> AliasIndex<'a, T> {
    /// Indexes patterns of `modules.alias`, each with what it means.
    pub fn new(patterns: impl IntoIterator<Item = (&'a str, T)>) -> Self {
        let mut by_literal: HashMap<Box<[u8]>, Vec<Pattern<'a, T>>> = HashMap::new();
        let mut lengths: HashMap<Box<[u8]>, BTreeSet<usize>> = HashMap::new();
        for (text, meaning) in patterns {
            let literal = normal(literal_prefix(text.as_bytes()));
            lengths.entry(bus(&literal).into()).or_default().insert(literal.len());
            let piece = normal(piece(text.as_bytes())).into();
            by_literal.entry(literal.into()).or_default().push(Pattern { text, piece, meaning });
        }
        Self { by_literal, lengths }
    }

    /// What a modalias means.
    #[must_use]
    pub fn lookup(&self, modalias: &str) -> BTreeSet<T> {
        let key = normal(modalias.as_bytes());
        let own = bus(&key);
        let of_bus = [own, b""].into_iter().take(if own.is_empty() { 1 } else { 2 });
        let lengths = of_bus.filter_map(|bus| self.lengths.get(bus)).flatten();
        let near = lengths.filter_map(|length| self.by_literal.get(key.get(..*length)?)).flatten();
        let near = near.filter(|pattern| memmem::find(&key, &pattern.piece).is_some());
        near.filter(|pattern| alias_matches(pattern.text, modalias)).map(|pattern| pattern.meaning).collect()
    }
}

/// The longest piece of a pattern without a wildcard; nothing where it has a set.
fn piece(pattern: &[u8]) -> &[u8] {
    match pattern.contains(&b'[') {
        true => &[],
        false => {
            pattern.split(|b| matches!(b, b'*' | b'?')).skip(1).max_by_key(|piece| piece.len()).unwrap_or_default()
        }
    }
}

/// What stands before the first colon, and the colon.
fn bus(text: &[u8]) -> &[u8] {
    text.iter().position(|b| *b == b':').and_then(|colon| text.get(..=colon)).unwrap_or_default()
}

/// kmod takes `-` for `_`.
fn normal(text: &[u8]) -> Vec<u8> {
    text.iter().map(|b| if *b == b'-' { b'_' } else { *b }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_by_their_beginnings() {
        let patterns = [
            ("pci:v00008086d*", 1),
            ("pci:v*d*bc0Csc03i30*", 2),
            ("of:N*T*Cfoo-bar", 3),
            ("platform:a_b", 4),
            ("*", 5),
        ];
        let index = AliasIndex::new(patterns);
        let found = |alias: &str| index.lookup(alias).into_iter().collect::<Vec<_>>();
        assert_eq!(found("pci:v00008086d00001533bc02"), [1, 5]);
        assert_eq!(found("pci:v00008086d00000000bc0Csc03i30"), [1, 2, 5]);
        assert_eq!(found("platform:a-b"), [4, 5]);
        assert_eq!(found("of:NxTyCfoo_bar"), [3, 5]);
        assert_eq!(found(""), [5]);
    }
}
