//! The text files of a module directory: no panic, and what parses holds names and paths that stay where they belong.
#![no_main]

use kairos_init::drivers::inventory::indexes;
use kairos_init::names::ModuleName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(info) = indexes::builtin_modinfo(bytes) {
        let strings = bytes.split(|&b| b == 0).count();
        assert!(info.aliases.len() + info.firmware.values().map(Vec::len).sum::<usize>() <= strings);
        for name in info.firmware.values().flatten() {
            stays_inside(name.as_str());
        }
        info.aliases.iter().for_each(|(_, module)| is_normal(module));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lines = text.lines().count();
    let number = |line: usize| assert!((1..=lines).contains(&line), "line {line} of {lines}");
    match indexes::dep(text) {
        Ok(parsed) => {
            assert!(parsed.len() <= lines);
            for line in parsed {
                number(line.line);
                stays_inside(line.path);
                assert_eq!(ModuleName::from_file(line.path.as_bytes()).as_ref(), Some(&line.name));
                line.needs.iter().for_each(is_normal);
            }
        }
        Err(error) => number(error.line),
    }
    match indexes::alias(text.to_owned()) {
        Ok(parsed) => {
            assert!(parsed.len() <= lines);
            assert!(parsed.iter().all(|(pattern, _)| text.contains(pattern)));
            // What was read and is written again as depmod writes it reads the same.
            let again: String = parsed.iter().map(|(pattern, module)| format!("alias {pattern} {module}\n")).collect();
            assert_eq!(indexes::alias(again).as_ref(), Ok(&parsed));
        }
        Err(error) => number(error.line),
    }
    match indexes::softdep(text) {
        Ok(parsed) => parsed.values().flatten().for_each(|(_, target)| is_word(target)),
        Err(error) => number(error.line),
    }
    match indexes::weakdep(text) {
        Ok(parsed) => parsed.values().flatten().for_each(|target| is_word(target)),
        Err(error) => number(error.line),
    }
    match indexes::builtin(text) {
        Ok(parsed) => parsed.iter().for_each(is_normal),
        Err(error) => number(error.line),
    }
    match indexes::order(text) {
        Ok(parsed) => parsed.iter().for_each(|path| stays_inside(path)),
        Err(error) => number(error.line),
    }
    match indexes::devname(text) {
        Ok(parsed) => parsed.iter().for_each(|(_, node)| {
            is_word(node);
            stays_inside(node);
        }),
        Err(error) => number(error.line),
    }
});

fn stays_inside(path: &str) {
    assert!(!path.starts_with('/') && path.split('/').all(|component| component != ".."), "{path:?} leads out");
    assert!(!path.contains('\0'), "{path:?} has a NUL byte");
}

fn is_normal(name: &ModuleName) {
    assert!(!name.as_str().is_empty() && !name.as_str().contains(['/', '-', '\0']), "{name:?} is no module's name");
}

fn is_word(word: &str) {
    assert!(!word.is_empty() && !word.contains(|c: char| c.is_ascii_whitespace()), "{word:?} is no word");
}
