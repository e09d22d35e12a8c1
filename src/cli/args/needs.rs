//! Which options of the whole run need which others. An option without what it is for would be ignored, and an ignored option is
//! a mistake that nobody sees: it is wrong usage.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::ArtifactArg;

/// What an option is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Artifacts, which go to the output folder.
    Output,
    /// The ISO.
    Iso,
    /// The disk image.
    Raw,
    /// A root that is changed.
    InPlace,
}

/// Options of the whole run by the name of their field. Those that are not here are for every run: which root, what of it, what
/// is run.
const NEEDS: [(&str, Need); 43] = [
    ("allow_host", Need::InPlace),
    ("dry_run", Need::InPlace),
    ("artifact", Need::Output),
    ("name", Need::Output),
    ("sb_key", Need::Output),
    ("sb_cert", Need::Output),
    ("sb_hash", Need::Output),
    ("pcr_key", Need::Output),
    ("pcr_public_key", Need::Output),
    ("signer_input", Need::Output),
    ("signer", Need::Output),
    ("key_passphrase", Need::Output),
    ("unsigned", Need::Output),
    ("pcr_banks", Need::Output),
    ("phases", Need::Output),
    ("policy_ref", Need::Output),
    ("profile", Need::Output),
    ("cmdline", Need::Output),
    ("extend_cmdline", Need::Output),
    ("cmdline_layout", Need::Output),
    ("stub", Need::Output),
    ("loader", Need::Output),
    ("boot_branding", Need::Output),
    ("include_version_in_config", Need::Output),
    ("include_cmdline_in_config", Need::Output),
    ("public_keys", Need::Output),
    ("secure_boot_enroll", Need::Output),
    ("splash", Need::Output),
    ("overlay_rootfs", Need::Output),
    ("init", Need::Output),
    ("compression", Need::Output),
    ("source_date_epoch", Need::Output),
    ("max_uki_size", Need::Output),
    ("max_boot_ram", Need::Output),
    ("overlay_iso", Need::Iso),
    ("install_data", Need::Iso),
    ("partition_table", Need::Iso),
    ("esp_size", Need::Raw),
    ("oem", Need::Raw),
    ("oem_size", Need::Raw),
    ("persistent_size", Need::Raw),
    ("compress", Need::Raw),
    ("qcow2", Need::Raw),
];

/// Refuses options that would be ignored. What comes from the environment or is a default was not asked for.
///
/// # Errors
/// Wrong usage: the option, and what to add.
pub(super) fn check(matches: &ArgMatches, command: &mut Command) -> Result<(), clap::Error> {
    // The options of commands are their own.
    if matches.subcommand_name().is_some() {
        return Ok(());
    }
    let is_given = |option: &str| matches.value_source(option) == Some(ValueSource::CommandLine);
    for (option, need) in NEEDS.into_iter().filter(|(option, _)| is_given(option)) {
        if let Some(advice) = advice(need, matches) {
            let text = format!("--{} {advice}", option.replace('_', "-"));
            return Err(command.error(ErrorKind::MissingRequiredArgument, text));
        }
    }
    Ok(())
}

/// What is missing; nothing where all is there.
fn advice(need: Need, matches: &ArgMatches) -> Option<&'static str> {
    let has_output = matches.contains_id("output");
    let makes =
        |wanted| matches.get_many("artifact").is_some_and(|mut all| all.any(|one: &ArtifactArg| *one == wanted));
    Some(match (need, has_output) {
        (Need::Output, false) => {
            "is for artifacts, and without --output none are made (the root is slimmed in place): add --output DIR"
        }
        (Need::Iso, false) => "is for the ISO, and without --output none is made: add --output DIR and --artifact iso",
        (Need::Raw, false) => {
            "is for the disk image, and without --output none is made: add --output DIR and --artifact raw"
        }
        (Need::Iso, true) if !makes(ArtifactArg::Iso) => {
            "is for the ISO, which --artifact does not name: add --artifact iso"
        }
        (Need::Raw, true) if !makes(ArtifactArg::Raw) => {
            "is for the disk image, which --artifact does not name: add --artifact raw"
        }
        (Need::InPlace, true) => {
            "is for slimming in place, and with --output the root is not changed: leave one of them out"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use clap::{Args, CommandFactory};

    use super::super::{Cli, RunArgs};
    use super::*;

    /// Options of every run.
    const ALWAYS: [&str; 15] = [
        "root",
        "hardware",
        "keep",
        "drop",
        "allow_empty",
        "firmware_versions",
        "unknown_firmware",
        "cache",
        "kernel",
        "target",
        "stage",
        "output",
        "json",
        "quiet",
        "jobs",
    ];

    fn run(more: &[&str]) -> Result<(), String> {
        let mut command = Cli::command();
        let all = ["kairos-init", "--stage", "build", "--target", "uki"].iter().chain(more);
        let matches = command.try_get_matches_from_mut(all).map_err(|error| error.to_string())?;
        check(&matches, &mut command).map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    /// The option as it may be written, with a value that it takes.
    fn given(option: &str) -> Vec<String> {
        let value = match option {
            "artifact" => "uki",
            "sb_hash" | "pcr_banks" => "sha256",
            "key_passphrase" => "env:X",
            "signer_input" => "digest",
            "cmdline_layout" => "auto",
            "secure_boot_enroll" => "off",
            "partition_table" => "mbr",
            "compress" => "zstd",
            "source_date_epoch" => "1",
            "allow_host"
            | "dry_run"
            | "unsigned"
            | "include_version_in_config"
            | "include_cmdline_in_config"
            | "qcow2" => "",
            "max_uki_size" | "max_boot_ram" | "esp_size" | "oem_size" | "persistent_size" => "1GiB",
            _ => "x",
        };
        let mut words = vec![format!("--{}", option.replace('_', "-"))];
        words.extend((!value.is_empty()).then(|| value.to_owned()));
        if option == "signer_input" {
            words.extend(["--signer".to_owned(), "x".to_owned()]);
        }
        words
    }

    #[test]
    fn no_option_is_ignored() {
        for (option, need) in NEEDS {
            let words = given(option);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let with = |more: &[&str]| run(&[&words[..], more].concat());
            let refuses = |more: &[&str], advice: &[&str]| {
                let error = with(more).expect_err(option);
                assert!(error.starts_with(&format!("error: {} is for ", words[0])), "{option}: {error}");
                assert!(advice.iter().all(|word| error.contains(word)), "{option}: {error}");
            };
            let (iso, raw) = (["--output", "o", "--artifact", "iso"], ["--output", "o", "--artifact", "uki,raw"]);
            match need {
                Need::Output => {
                    refuses(&[], &["add --output DIR"]);
                    assert_eq!(with(&["--output", "o"]), Ok(()), "{option}");
                }
                Need::Iso => {
                    refuses(&[], &["add --output DIR and --artifact iso"]);
                    refuses(&["--output", "o"], &["add --artifact iso"]);
                    refuses(&raw, &["add --artifact iso"]);
                    assert_eq!(with(&iso), Ok(()), "{option}");
                }
                Need::Raw => {
                    refuses(&[], &["add --output DIR and --artifact raw"]);
                    refuses(&["--output", "o"], &["add --artifact raw"]);
                    refuses(&iso, &["add --artifact raw"]);
                    assert_eq!(with(&raw), Ok(()), "{option}");
                }
                Need::InPlace => {
                    refuses(&["--output", "o"], &["leave one of them out"]);
                    assert_eq!(with(&[]), Ok(()), "{option}");
                }
            }
        }
        assert_eq!(run(&["--hardware", "x86-generic"]), Ok(()));
    }

    /// A new option has a place in the table or is for every run.
    #[test]
    fn every_option_is_known() {
        let command = RunArgs::augment_args(Command::new("x"));
        let all: Vec<String> = command.get_arguments().map(|option| option.get_id().to_string()).collect();
        for option in &all {
            let times = NEEDS.iter().filter(|(name, _)| name == option).count()
                + ALWAYS.iter().filter(|name| *name == option).count();
            assert_eq!(times, 1, "{option}");
        }
        assert!(NEEDS.iter().all(|(name, _)| all.iter().any(|option| option == name)));
    }
}
