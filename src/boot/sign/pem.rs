//! PEM blocks, read the way OpenSSL reads them: text around the blocks is skipped, lines have any length.

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeSliceError, Engine};
use zeroize::Zeroizing;

/// One `-----BEGIN label-----` block.
pub(super) struct Block {
    /// `CERTIFICATE`, `RSA PRIVATE KEY`, ...
    pub(super) label: String,
    /// Whether a `Proc-Type: 4,ENCRYPTED` header is there (RFC 1421); `contents` are then of no use.
    pub(super) encrypted: bool,
    /// The decoded contents, or what is wrong with them. Wiped when dropped, since they may be a key.
    pub(super) contents: Result<Zeroizing<Vec<u8>>, String>,
}

/// Whether the bytes are PEM rather than DER.
pub(super) fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"-----BEGIN ")
}

/// The blocks in their order. A block without its END line has an error as contents.
pub(super) fn blocks(bytes: &[u8]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    while let Some(line) = lines.next() {
        let Some(label) = label(line, b"-----BEGIN ") else { continue };
        let mut text = Zeroizing::new(Vec::with_capacity(bytes.len()));
        let mut encrypted = false;
        let mut closed = false;
        for line in lines.by_ref() {
            if let Some(end) = self::label(line, b"-----END ") {
                closed = end == label;
                break;
            }
            // Headers (RFC 1421) have a colon, which base64 has not.
            if line.contains(&b':') {
                encrypted |= line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED");
            } else {
                text.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
            }
        }
        let contents = match closed {
            false => Err(format!("the PEM block {label:?} has no END line of its own")),
            true => decode(&text).map_err(|error| match error {
                DecodeSliceError::DecodeError(error) => format!("the PEM block {label:?} is not base64: {error}"),
                error => format!("the PEM block {label:?} is not base64: {error}"),
            }),
        };
        blocks.push(Block { label: label.to_owned(), encrypted, contents });
    }
    blocks
}

/// Decodes into memory that is wiped, also where the text turns out to be wrong halfway.
fn decode(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecodeSliceError> {
    let mut contents = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let length = STANDARD.decode_slice(text, &mut contents)?;
    contents.truncate(length);
    Ok(contents)
}

/// The label of a BEGIN or END line.
fn label<'a>(line: &'a [u8], prefix: &[u8]) -> Option<&'a str> {
    std::str::from_utf8(line.strip_prefix(prefix)?.strip_suffix(b"-----")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_text_around_blocks_and_joins_lines_of_any_length() {
        let found = blocks(b"Bag Attributes\r\n-----BEGIN A B-----\r\nAA\r\n E C\r\n-----END A B-----\r\njunk\n-----BEGIN C-----\n\n-----END C-----");
        let shapes: Vec<_> = found.iter().map(|b| (b.label.as_str(), b.contents.as_ref().unwrap().to_vec())).collect();
        assert_eq!(shapes, [("A B", vec![0, 0x01, 0x02]), ("C", vec![])]);
    }

    #[test]
    fn tells_encrypted_and_open_blocks() {
        let found = blocks(b"-----BEGIN K-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: X,1\n\nAAAA\n-----END K-----\n-----BEGIN L-----\nAAAA\n");
        assert!(found[0].encrypted);
        assert_eq!(found[1].contents.as_ref().unwrap_err(), "the PEM block \"L\" has no END line of its own");
        assert!(!is_pem(b"0\x82\x01"));
    }
}
