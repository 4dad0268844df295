//! Printing, and the exit codes of all commands.

use std::error::Error;
use std::fmt::Display;
use std::io::Write;

use crate::base::error_chain::Chain;
use crate::config::Problems;

pub(super) const SUCCESS: i32 = 0;
/// Something failed while the command ran.
pub(super) const FAILURE: i32 = 1;
/// The arguments are wrong.
pub(super) const USAGE: i32 = 2;
/// The configuration is wrong (`EX_CONFIG`).
pub(super) const BAD_CONFIGURATION: i32 = 78;

/// Prints a line to standard output. A reader that has closed the pipe is not an error.
pub(super) fn print(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a line to standard error.
pub(super) fn eprint(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
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
    eprint(format_args!("{} in {}", plural(problems.list.len(), "problem"), problems.file.display()));
    BAD_CONFIGURATION
}

/// Text from another system, safe for a terminal: control characters and those that change the direction of
/// writing are escaped.
pub(super) fn escaped(text: &str) -> String {
    let is_unsafe = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_unsafe(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// `1 decision`, `2 decisions`.
pub(super) fn plural(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
