//! The test vectors of forms authentication tickets, for the fuzz target, the benchmark and the unit tests.

use crate::config::machine_keys::{COMPATIBILITY_MODE, MachineKeys, VALIDATION, hexadecimal};
use crate::imis::recognise::forms_ticket::open;

/// A ticket with its keys.
pub struct Vector {
    pub(crate) keys: MachineKeys,
    /// The columns of the file.
    columns: Vec<&'static str>,
}

impl Vector {
    /// All test vectors, one per format.
    pub fn all() -> impl Iterator<Item = Self> {
        let text = include_str!("../../src/imis/recognise/forms_ticket/vectors.txt");
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let [mode, validation, validation_key, decryption_key, ..] = columns[..] else { return None };
            let (_, validation) = VALIDATION.into_iter().find(|(name, _)| *name == validation)?;
            let (_, compatibility) = COMPATIBILITY_MODE.into_iter().find(|(name, _)| *name == mode)?;
            let [own, other] = [validation_key, decryption_key].map(hexadecimal);
            Some(Self { keys: MachineKeys::new(&own?, &other?, validation, compatibility).ok()?, columns })
        })
    }

    /// Mode, validation and size of the decryption key.
    pub fn name(&self) -> String {
        format!("{}, {}, AES-{}", self.columns[0], self.columns[1], self.keys.key_length * 8)
    }

    /// The value of the cookie.
    pub fn cookie(&self) -> &'static str {
        self.columns.last().copied().unwrap_or_default()
    }

    /// Whether a cookie can be opened with the keys of this ticket.
    pub fn opens(&self, cookie: &str) -> bool {
        open(&self.keys, cookie).is_ok()
    }

    /// The user name in the ticket.
    #[cfg(test)]
    pub(crate) fn user_name(&self) -> &'static str {
        self.columns[8]
    }

    /// When the ticket expires, in .NET's ticks.
    #[cfg(test)]
    pub(crate) fn expires(&self) -> i64 {
        self.columns[6].trim_start_matches('~').parse().unwrap()
    }
}
