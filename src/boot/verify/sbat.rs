//! `.sbat`: which generations of which programs are inside, and whether one of them is revoked.
//!
//! Format: shim's `SBAT.md`. Levels: the payloads of shim's `SbatLevel_Variable.txt`. A UKI is revoked by what its stub, its
//! kernel or its maker names; so far none of them was.

use std::collections::BTreeMap;

use super::report::{Report, shown};

/// The newest generation that shim revokes below, for each program: SbatLevel 2025051000 (shim, grub, grub.proxmox) and
/// 2024010900 (grub.debian).
const LEVELS: [(&str, u32); 5] = [("sbat", 1), ("shim", 4), ("grub", 5), ("grub.debian", 4), ("grub.proxmox", 2)];

/// Generations by component.
pub(super) type Generations = BTreeMap<String, u32>;

/// Reads the section.
pub(super) fn parse(text: &[u8]) -> Result<Generations, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let mut out = Generations::new();
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        if line.is_empty() {
            return Err(format!("line {number} is empty"));
        }
        let fields: Vec<&str> = line.split(',').collect();
        let (Some(component), Some(generation)) = (fields.first(), fields.get(1)) else {
            return Err(format!("line {number} has no generation: {}", shown(line.as_bytes())));
        };
        if fields.len() < 6 {
            let shown = shown(line.as_bytes());
            return Err(format!("line {number} has {} of the 6 fields: {shown}", fields.len()));
        }
        let digits = !generation.is_empty() && generation.bytes().all(|byte| byte.is_ascii_digit());
        let generation = digits.then(|| generation.parse().ok()).flatten().filter(|generation| *generation > 0);
        let Some(generation) = generation else {
            return Err(format!(
                "line {number} has a generation that is no number from 1 on: {}",
                shown(line.as_bytes())
            ));
        };
        if number == 1 && (*component, generation) != ("sbat", 1) {
            return Err(format!("line 1 is not sbat,1: {}", shown(line.as_bytes())));
        }
        // Of two lines for one component the lower generation decides.
        let entry = out.entry((*component).to_owned()).or_insert(generation);
        *entry = generation.min(*entry);
    }
    if out.is_empty() { Err("it is empty".to_owned()) } else { Ok(out) }
}

/// Checks the section; gives what it holds.
pub(super) fn check(text: Option<&[u8]>, report: &mut Report) -> Option<Generations> {
    let Some(text) = text else {
        report.warn("sbat", "there is no .sbat section: shim refuses it, and it can never be revoked by generation");
        return None;
    };
    let stripped = text.strip_suffix(b"\0").unwrap_or(text);
    if stripped.len() < text.len() {
        report.warn("sbat", "it ends with a NUL, which is against its format (systemd#33731)");
    }
    match parse(stripped) {
        Err(problem) => {
            report.fail("sbat", problem);
            None
        }
        Ok(generations) => {
            let mut revoked = false;
            for (component, level) in LEVELS {
                if let Some(generation) = generations.get(component).filter(|generation| **generation < level) {
                    report
                        .fail("sbat", format!("{component} generation {generation} is revoked: shim asks for {level}"));
                    revoked = true;
                }
            }
            if !revoked {
                let list: Vec<String> = generations.iter().map(|(name, number)| format!("{name} {number}")).collect();
                report.pass("sbat", shown(list.join(", ").as_bytes()).trim_matches('"'));
            }
            Some(generations)
        }
    }
}
