//! Patterns of firmware names, one path component at a time, as glob(7) has them.

/// Whether a component is a pattern.
pub(super) fn is_pattern(component: &str) -> bool {
    component.contains(['*', '?', '['])
}

/// Whether one component matches a pattern of `*`, `?`, `[abc]`, `[a-z]` and `[!abc]`, as glob(7) has it. A bracket without
/// an end stands for itself.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on after the last star: the pattern behind it, and one more character of the name taken by it.
    let mut star: Option<(usize, usize)> = None;
    while let Some(character) = name.get(n) {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, n));
            p += 1;
        } else if let Some(length) = one(pattern.get(p..).unwrap_or_default(), *character) {
            p += length;
            n += 1;
        } else if let Some((behind, taken)) = star {
            star = Some((behind, taken + 1));
            (p, n) = (behind, taken + 1);
        } else {
            return false;
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == '*')
}

/// The length of the pattern's first element if it matches `character`.
fn one(pattern: &[char], character: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['[', rest @ ..] => {
            let (negated, set) = match rest {
                ['!' | '^', set @ ..] => (true, set),
                set => (false, set),
            };
            // A bracket right at the beginning is a member of the set.
            let Some(length) = set.iter().skip(1).position(|c| *c == ']').map(|at| at + 1) else {
                return (character == '[').then_some(1);
            };
            let mut members = set.get(..length)?;
            let mut inside = false;
            while let [first, rest @ ..] = members {
                if let ['-', last, rest @ ..] = rest {
                    inside |= (*first..=*last).contains(&character);
                    members = rest;
                } else {
                    inside |= *first == character;
                    members = rest;
                }
            }
            (inside != negated).then_some(length + 2 + usize::from(negated))
        }
        [literal, ..] => (*literal == character).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_elements() {
        for (pattern, name, expected) in [
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*", "", true),
            ("[!a]x", "bx", true),
            ("[!a]x", "ax", false),
            ("[]]", "]", true),
            ("[a", "[a", true),
            ("a?", "a", false),
            ("*a*b*", "xaxbx", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
