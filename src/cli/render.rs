//! Results to standard output, progress to standard error.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use kairos_init::pipeline::Progress;
use kairos_init::size::{Class, Report, human};

use super::args::GlobalArgs;

/// An error and its causes in one line; a cause that the message above already tells is not told twice.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().replace(['\n', '\r'], " ");
        if !line.contains(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
    }
    line
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

/// One JSON object and a newline.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&(serde_json::to_string(value).context("cannot make JSON")? + "\n"))
}

/// A bar on a terminal, a line for each step elsewhere, nothing when quiet.
pub(crate) enum Reporter {
    Quiet,
    Lines(Instant),
    Bar(Mutex<Option<ProgressBar>>),
}

impl Reporter {
    pub(crate) fn new(global: &GlobalArgs) -> Self {
        match (global.quiet, std::io::stderr().is_terminal()) {
            (true, _) => Self::Quiet,
            (false, false) => Self::Lines(Instant::now()),
            (false, true) => Self::Bar(Mutex::new(None)),
        }
    }

    /// Clears the bar, so that results stand alone.
    pub(crate) fn finish(&self) {
        if let Self::Bar(bar) = self
            && let Ok(mut bar) = bar.lock()
            && let Some(bar) = bar.take()
        {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Reporter {
    fn step(&self, text: &str) {
        match self {
            Self::Quiet => {}
            Self::Lines(start) => eprintln!("[{:6.2} s] {text}", start.elapsed().as_secs_f64()),
            Self::Bar(bar) => {
                self.finish();
                if let Ok(mut bar) = bar.lock() {
                    let spinner = ProgressBar::new_spinner().with_message(text.to_owned());
                    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
                    *bar = Some(spinner);
                }
            }
        }
    }

    fn bytes(&self, done: u64, total: u64) {
        if let Self::Bar(bar) = self
            && let Ok(bar) = bar.lock()
            && let Some(bar) = bar.as_ref()
        {
            if bar.length() != Some(total) {
                let style = ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes} {eta}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.set_length(total);
            }
            bar.set_position(done);
        }
    }
}

/// `1,234`
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The summary of a plan or a run.
pub(crate) fn summary(report: &Report) -> String {
    let class = |class: &Class| {
        let side = |number, bytes| format!("{:>6} {:>11}", count(number), human(bytes));
        format!("{}   dropped {}", side(class.kept, class.kept_bytes), side(class.dropped, class.dropped_bytes))
    };
    let mut out = format!("kernel    {}\ntarget    {}\n", report.kernel, report.target.join(" + "));
    out += &format!("modules   kept {}\n", class(&report.modules));
    out += &format!("firmware  kept {}\n", class(&report.firmware));
    if !report.missing_firmware.is_empty() {
        let missing = count(report.missing_firmware.len() as u64);
        out += &format!("missing   {missing} firmware names that kept drivers declare and the root does not have\n");
    }
    let unknown = &report.unknown_firmware;
    if !unknown.items.is_empty() {
        let fate = if unknown.kept { "kept" } else { "dropped" };
        let number = count(unknown.items.len() as u64);
        out += &format!(
            "unknown   {number} firmware files, {}, that no driver declares and kmod-db does not know: {fate}\n",
            human(unknown.bytes)
        );
    }
    if let Some(rootfs) = &report.rootfs {
        out += &format!("root      {} in {} files\n", human(rootfs.bytes), count(rootfs.files));
    }
    if let Some(initrd) = &report.initrd {
        out += &format!("initrd    {} (zstd level {})\n", human(initrd.bytes), initrd.level);
    }
    if let Some(uki) = &report.uki {
        out += &format!("uki       {}\n", human(uki.bytes));
    }
    if let Some(budget) = &report.budget {
        out += &budget.text();
    }
    out
}

/// Warnings shown of each run; a kernel much smaller than a target expects would otherwise bury the result.
const WARNINGS: usize = 12;

/// Warnings, a line each, to standard error; all of them stand in the report.
pub(crate) fn warn(warnings: &[String]) {
    for warning in warnings.iter().take(WARNINGS) {
        eprintln!("warning: {warning}");
    }
    if warnings.len() > WARNINGS {
        eprintln!("warning: ... and {} more (--json lists all)", warnings.len() - WARNINGS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn errors_are_one_line_and_say_nothing_twice() {
        let error = anyhow::anyhow!("cause\nof it").context("what: cause of it");
        assert_eq!(one_line(&error), "what: cause of it");
    }
}
