//! What can be wrong with a hardware target.

use super::{Architecture, CaptureError};

/// A hardware target cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The text is not TOML of kmod-db's form.
    #[error("{file}:{line}:{column}: {message}; kmod-db/README.md has the form of a hardware file")]
    Form {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong and what was expected, one line.
        message: String,
    },
    /// A captured machine.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A target that is not built in.
    #[error(
        "no hardware target {name:?} is built in; {hint}built in are: {known}; a file of your own needs a '/' in its path or \
         the ending .toml"
    )]
    Target {
        /// As asked.
        name: String,
        /// `did you mean "x"? ` or nothing.
        hint: String,
        /// All names.
        known: String,
    },
    /// A feature that is not built in.
    #[error("no feature {feature:?} is built in, asked for by {request:?}; {hint}built in are: {known}")]
    Feature {
        /// The whole argument.
        request: String,
        /// As asked.
        feature: String,
        /// `did you mean "x"? ` or nothing.
        hint: String,
        /// All names.
        known: String,
    },
    /// Targets for two architectures in one.
    #[error(
        "{file} is for {own}, and another target of the same union for {other}: no kernel runs on both; make two images"
    )]
    Architectures {
        /// The later one.
        file: String,
        /// Its own.
        own: Architecture,
        /// Of those before.
        other: Architecture,
    },
    /// `extends` names a file that is not built in.
    #[error("{file} extends {name:?}, which is not built in; {hint}built in are: {known}")]
    Extends {
        /// The file.
        file: String,
        /// As written.
        name: String,
        /// `did you mean "x"? ` or nothing.
        hint: String,
        /// All names.
        known: String,
    },
    /// A file extends itself by way of others.
    #[error("{file} extends itself by way of another file; take one of the two 'extends' away")]
    Circle {
        /// One of the files.
        file: String,
    },
}
