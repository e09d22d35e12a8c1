//! The Secure Boot signature alone: for programs that are no UKI, and for trees of which each file is asked about.

use super::image::{HEADER_LIMIT, Image};
use super::report::Report;
use super::source::{self, Source};
use super::trust::Database;
use super::{VerifyError, pass, reading, signature, signature_hashes};

/// Whether firmware with this db and dbx starts a program: its signature, not what is in it. One reading of the file.
///
/// # Errors
/// Input that cannot be read. What is wrong with the signature is in the report, as `signature`.
pub fn verify_signature(program: &dyn Source, db: &Database, dbx: &Database) -> Result<Report, VerifyError> {
    let failed = reading("the program");
    let mut report = Report::default();
    let length = program.length().map_err(&failed)?;
    let header = source::bytes(program, 0, HEADER_LIMIT.min(length)).map_err(&failed)?;
    let image = match Image::parse(&header, length) {
        Ok(image) => image,
        Err(problem) => {
            report.fail("signature", format!("it is no PE image: {problem}"));
            return Ok(report);
        }
    };
    let table = signature::read(program, &image).map_err(&failed)?;
    let digests = pass::run(program, &image, &signature_hashes(&table), &[], 1).map_err(&failed)?;
    signature::check("signature", &table, &digests, Some(db), dbx, &mut report);
    Ok(report)
}
