//! What the operator reads when the configuration is wrong: every problem at once, each with its place.
//!
//! A problem never holds a value that came out of a secret.

use std::fmt;
use std::path::PathBuf;

/// One thing wrong with the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, counted from 1; 0 when the problem concerns the file as a whole.
    pub line: u64,
    /// Column in characters, counted from 1.
    pub column: u64,
    /// Dotted path of the key, `sites[0].upstream.servers[0]`; empty for the file as a whole.
    pub key: String,
    /// What is wrong, and where possible what to write instead.
    pub reason: String,
}

/// All problems of one file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file that was read.
    pub file: PathBuf,
    /// At least one problem.
    pub list: Vec<Problem>,
}

impl Problems {
    pub(super) fn of_file(file: PathBuf, reason: String) -> Self {
        Self { file, list: vec![Problem { line: 0, column: 0, key: String::new(), reason }] }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.file.display())?;
            if problem.line > 0 {
                write!(f, ":{}:{}", problem.line, problem.column)?;
            }
            if !problem.key.is_empty() {
                write!(f, ": {}", problem.key)?;
            }
            write!(f, ": {}", problem.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
