//! [`AliasList`]: patterns and modules in a file's order, in one piece of text. A kernel has 27,000 of them, and most are read
//! once: a string of its own for each would take longer than reading the file.

use std::ops::Range;

use crate::names::ModuleName;

/// Patterns, each with the module that it means, in the file's order.
#[derive(Debug, Clone, Default)]
pub struct AliasList {
    text: String,
    entries: Vec<(Range<usize>, ModuleName)>,
}

impl AliasList {
    /// A list whose patterns are parts of `text`. A range outside of the text stands for no pattern.
    pub(super) fn of_text(text: String, entries: Vec<(Range<usize>, ModuleName)>) -> Self {
        Self { text, entries }
    }

    /// Adds one at the end.
    pub fn push(&mut self, (pattern, module): (String, ModuleName)) {
        let start = self.text.len();
        self.text.push_str(&pattern);
        self.entries.push((start..self.text.len(), module));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All, in the file's order.
    pub fn iter(&self) -> Iter<'_> {
        Iter { text: &self.text, entries: self.entries.iter() }
    }
}

/// [`AliasList::iter`].
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    text: &'a str,
    entries: std::slice::Iter<'a, (Range<usize>, ModuleName)>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a ModuleName);

    fn next(&mut self) -> Option<Self::Item> {
        let (range, module) = self.entries.next()?;
        Some((self.text.get(range.clone()).unwrap_or_default(), module))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl<'a> IntoIterator for &'a AliasList {
    type Item = (&'a str, &'a ModuleName);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl PartialEq for AliasList {
    /// By what they say, not by how the text lies.
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other)
    }
}

impl Eq for AliasList {}
