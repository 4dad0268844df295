//! Printing, and the exit codes of all commands.

use std::error::Error;
use std::fmt::Display;
use std::io::Write;

use crate::base::error_chain::Chain;
use crate::base::escaped::escaped;
use crate::config::Problems;

pub(super) const SUCCESS: i32 = 0;
/// Something failed while the command ran.
pub(super) const FAILURE: i32 = 1;
/// The arguments are wrong.
pub(super) const USAGE: i32 = 2;
/// The configuration is wrong (`EX_CONFIG`).
pub(super) const BAD_CONFIGURATION: i32 = 78;

/// Prints lines to standard output. Text from files and other systems may be part of them. A reader that has closed the
/// pipe is not an error.
pub(super) fn print(lines: impl Display) {
    let _ = writeln!(std::io::stdout(), "{}", safe(lines));
}

/// Prints lines to standard error.
pub(super) fn eprint(lines: impl Display) {
    let _ = writeln!(std::io::stderr(), "{}", safe(lines));
}

/// Prints JSON, which has its own escapes, or a document of the program itself.
pub(super) fn print_verbatim(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The lines without control characters, which a terminal would obey.
fn safe(lines: impl Display) -> String {
    lines.to_string().split('\n').map(escaped).collect::<Vec<_>>().join("\n")
}

/// Prints why a command ends early, and returns its exit code.
pub(super) fn exit_with(code: i32, reason: impl Display) -> i32 {
    eprint(format_args!("imis-gateway: {reason}"));
    code
}

/// Prints an error with its causes, and returns the exit code of a failure.
pub(super) fn fail(error: &dyn Error) -> i32 {
    exit_with(FAILURE, Chain(error))
}

/// Prints the problems of a configuration, and returns the exit code.
pub(super) fn bad_configuration(problems: &Problems) -> i32 {
    eprint(problems);
    eprint(format_args!("{} in {}", plural(problems.count(), "problem"), problems.file.display()));
    BAD_CONFIGURATION
}

/// `1 decision`, `2 decisions`.
pub(super) fn plural(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A field of a CSV file. A spreadsheet must not take a field for a formula.
pub(super) fn spreadsheet(field: &str) -> String {
    if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{field}") } else { field.to_owned() }
}
