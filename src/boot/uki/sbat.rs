//! SBAT: the merged revocation data of a UKI.
//!
//! Format: shim's `SBAT.md`, lines of comma separated fields. The order is ukify's: the fixed header line, the stub's
//! entries, the kernel's, the user's. No NUL at the end (systemd#33731).

/// The line that every SBAT section begins with.
pub const HEADER: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md";
/// The entry that makes UKIs revocable as such, as ukify adds it where the user gives no SBAT of their own.
pub const UKI: &str = "uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/";

/// The same for addons.
pub const ADDON: &str =
    "uki-addon,1,UKI Addon,addon,1,https://www.freedesktop.org/software/systemd/man/latest/systemd-stub.html";

/// Merges SBAT texts in the order given: empty lines and header lines go, repeated lines stay once.
#[must_use]
pub fn merge<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = HEADER.as_bytes().to_vec();
    out.push(b'\n');
    let mut seen: Vec<&[u8]> = Vec::new();
    for part in parts {
        let end = part.iter().position(|&b| b == 0).unwrap_or(part.len());
        for line in part.get(..end).unwrap_or_default().split(|&b| b == b'\n') {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"sbat,") || seen.contains(&line) {
                continue;
            }
            seen.push(line);
            out.extend_from_slice(line);
            out.push(b'\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_the_one_header_line() {
        let stub = format!("{HEADER}\nsystemd-stub,1,x\n\0\0\0");
        let merged = merge([stub.as_bytes(), b"systemd-stub,1,x\nlinux,1,y".as_slice(), UKI.as_bytes()]);
        assert_eq!(String::from_utf8_lossy(&merged), format!("{HEADER}\nsystemd-stub,1,x\nlinux,1,y\n{UKI}\n"));
    }
}
