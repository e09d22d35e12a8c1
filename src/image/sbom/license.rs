//! Whether what a packager wrote as a licence is an SPDX licence expression (SPDX 2.3, annex D).

use spdx::{Expression, LicenseItem, ParseMode};

/// Longer than any licence expression of a package.
const MAX: usize = 4096;

/// The licences of an expression that are on no list and have to be declared in the document, `LicenseRef-...`; `None` where it is no
/// expression that SPDX 2.3 knows.
pub(super) fn references(text: &str) -> Option<Vec<String>> {
    // Deprecated names are still on the list.
    let mode = ParseMode { allow_deprecated: true, allow_postfix_plus_on_gpl: true, ..ParseMode::STRICT };
    if text.len() > MAX || text.split_whitespace().any(is_small_operator) {
        return None;
    }
    let expression = Expression::parse_mode(text, mode).ok()?;
    let mut references = Vec::new();
    for requirement in expression.requirements() {
        let is_exception = |addition: &spdx::AdditionItem| matches!(addition, spdx::AdditionItem::Spdx(_));
        if !requirement.req.addition.as_ref().is_none_or(is_exception) {
            return None;
        }
        match &requirement.req.license {
            LicenseItem::Spdx { .. } => {}
            // What another document says cannot be looked up.
            LicenseItem::Other(reference) if reference.doc_ref.is_some() => return None,
            LicenseItem::Other(reference) => references.push(format!("LicenseRef-{}", reference.lic_ref)),
        }
    }
    Some(references)
}

/// The operators are upper case; the parser takes others too.
fn is_small_operator(word: &str) -> bool {
    let word = word.trim_matches(['(', ')']);
    ["AND", "OR", "WITH"].iter().any(|operator| word.eq_ignore_ascii_case(operator) && word != *operator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_expressions_of_the_list_are_declared() {
        for good in
            ["MIT", "GPL-2.0-or-later AND (MIT OR BSD-3-Clause)", "GPL-2.0-only WITH Linux-syscall-note", "GPL-2.0+"]
        {
            assert_eq!(references(good), Some(Vec::new()), "{good}");
        }
        assert_eq!(
            references("MIT AND LicenseRef-Fedora-Public-Domain"),
            Some(vec!["LicenseRef-Fedora-Public-Domain".to_owned()])
        );
        for bad in [
            "",
            "GPLv2+",
            "GPLv2+ and MIT",
            "MIT and BSD-3-Clause",
            "mit",
            "MIT, BSD",
            "MIT/Apache-2.0",
            "(MIT",
            "MIT BSD-3-Clause",
            "DocumentRef-a:LicenseRef-b",
            "LicenseRef-Callaway-GPLv2+",
            "MIT WITH AdditionRef-x",
            "Public Domain",
        ] {
            assert_eq!(references(bad), None, "{bad}");
        }
        assert_eq!(references(&"(".repeat(4000)), None);
        assert_eq!(references(&"MIT OR ".repeat(1000)), None);
    }
}
