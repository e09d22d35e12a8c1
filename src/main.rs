//! The command line: parse, run, print the error, exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = cli::args::Cli::parse();
    match cli::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        // One line, the causes behind colons: what, where, why, and what to do stand in the messages themselves.
        Err(error) => {
            eprintln!("error: {}", cli::render::one_line(&error));
            ExitCode::FAILURE
        }
    }
}
