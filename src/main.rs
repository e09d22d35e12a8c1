//! The command line: parse, run, print the error, exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(cli::args::Cli::read()) {
        Ok(()) => ExitCode::SUCCESS,
        // One line, the causes behind colons: what, where, why, and what to do stand in the messages themselves.
        Err(error) => {
            eprintln!("error: {}", cli::render::one_line(&error));
            ExitCode::FAILURE
        }
    }
}
