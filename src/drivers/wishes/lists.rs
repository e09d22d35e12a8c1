//! Lists of modules: `modules-load.d`, `/etc/modules`, dracut's configuration.

use super::{Wanted, Wish, source};

/// A file of `modules-load.d`: a module a line; `#` and `;` begin comments.
#[must_use]
pub fn modules_load(text: &str, file: &str) -> Vec<Wish> {
    let wish = |(index, line): (usize, &str)| {
        let name = line.trim();
        let named = !name.is_empty() && !name.starts_with(['#', ';']);
        named.then(|| Wish {
            wanted: Wanted::Module(name.to_owned()),
            by: "modules-load.d",
            source: source(file, index + 1),
        })
    };
    text.lines().enumerate().filter_map(wish).collect()
}

/// `/etc/modules` and its like: a module a line, options may follow; `#` begins a comment.
#[must_use]
pub fn modules(text: &str, file: &str, by: &'static str) -> Vec<Wish> {
    let wish = |(index, line): (usize, &str)| {
        let name = line.split('#').next()?.split_ascii_whitespace().next()?;
        Some(Wish { wanted: Wanted::Module(name.to_owned()), by, source: source(file, index + 1) })
    };
    text.lines().enumerate().filter_map(wish).collect()
}

/// A dracut configuration file: the shell assignments of `add_drivers`, `force_drivers` and `filesystems`. Their words are
/// module names, `=DIRECTORY` of the kernel's tree, or file systems; a word with a `$` cannot be known and is left out.
#[must_use]
pub fn dracut(text: &str, file: &str) -> Vec<Wish> {
    let mut out = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim_start();
        let Some((variable, value)) = line.split_once('=') else { continue };
        let filesystems = match variable.trim_end_matches('+') {
            "add_drivers" | "force_drivers" => false,
            "filesystems" => true,
            _ => continue,
        };
        let mut number = index + 1;
        let mut rest = value.to_owned();
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
        loop {
            let (content, closed) = match quote {
                Some(quote) => {
                    let inside = rest.strip_prefix(quote).unwrap_or(&rest);
                    match inside.split_once(quote) {
                        Some((content, _)) => (content.to_owned(), true),
                        None => (inside.to_owned(), false),
                    }
                }
                None => (rest.split_ascii_whitespace().next().unwrap_or_default().to_owned(), true),
            };
            out.extend(words(&content, filesystems).map(|wanted| Wish {
                wanted,
                by: "dracut",
                source: source(file, number),
            }));
            // A quote may span lines.
            match if closed { None } else { lines.next() } {
                Some((index, line)) => (number, rest) = (index + 1, line.to_owned()),
                None => break,
            }
        }
    }
    out
}

fn words(content: &str, filesystems: bool) -> impl Iterator<Item = Wanted> {
    let known = |word: &&str| !word.contains(['$', '`', '\\']);
    content.split_ascii_whitespace().filter(known).map(move |word| match (filesystems, word.strip_prefix('=')) {
        (true, _) => Wanted::Filesystem(word.to_owned()),
        (false, Some(directory)) => Wanted::Directory(directory.trim_matches('/').to_owned()),
        (false, None) => Wanted::Module(file_stem(word).to_owned()),
    })
}

/// dracut takes `NAME.ko` as well.
fn file_stem(word: &str) -> &str {
    let name = word.rsplit('/').next().unwrap_or(word);
    name.split_once(".ko").map_or(name, |(stem, _)| stem)
}
