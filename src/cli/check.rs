//! `imis-gateway check`

use super::{GOOD, WithConfig, report, say};

pub(super) fn check(with_config: &WithConfig) -> i32 {
    match with_config.load() {
        Ok(config) => {
            for warning in config.warnings() {
                say(&format!("warning: {warning}"));
            }
            say(&format!("{}: good, {}", config.file.display(), config.summary()));
            GOOD
        }
        Err(problems) => report(&problems),
    }
}
