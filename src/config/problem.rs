//! What the operator reads when the configuration is wrong: every problem at once, each with its place.
//!
//! A problem never holds a value that came out of a secret.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::escaped::escaped;

/// One thing wrong with the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// At least one problem, and at most a hundred.
    pub list: Vec<Problem>,
    /// The number of further problems.
    pub omitted: usize,
}

/// More problems than that have one cause, such as a file of another program.
const MAX_LISTED: usize = 100;

impl Problem {
    /// `FILE:LINE:COLUMN: KEY: REASON`, in one line.
    pub(crate) fn shown(&self, file: &Path) -> String {
        let mut text = file.display().to_string();
        if self.line > 0 {
            text += &format!(":{}:{}", self.line, self.column);
        }
        if !self.key.is_empty() {
            text += &format!(": {}", self.key);
        }
        escaped(&format!("{text}: {}", self.reason))
    }
}

impl Problems {
    pub(crate) fn new(file: PathBuf, mut list: Vec<Problem>) -> Self {
        let omitted = list.len().saturating_sub(MAX_LISTED);
        list.truncate(MAX_LISTED);
        Self { file, list, omitted }
    }

    pub(crate) fn of_file(file: PathBuf, reason: String) -> Self {
        Self::new(file, vec![Problem { line: 0, column: 0, key: String::new(), reason }])
    }

    pub(crate) fn count(&self) -> usize {
        self.list.len() + self.omitted
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.list.iter().map(|problem| problem.shown(&self.file)).collect();
        f.write_str(&lines.join("\n"))?;
        if self.omitted > 0 { write!(f, "\nand {} more", self.omitted) } else { Ok(()) }
    }
}

impl std::error::Error for Problems {}
