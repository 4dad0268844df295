//! `imis-gateway check`

use serde_json::json;

use crate::cli::{BAD_CONFIGURATION, Format, GOOD, WithConfig, report, say};

#[derive(clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    with_config: WithConfig,
    /// How to print what was found
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What a reload cannot change.
const BY_RESTART: &str = "listen, workers, log.format, log.level and log.otlp take effect at the next start, all else with `imis-gateway reload`";

pub(super) fn check(arguments: &Check) -> i32 {
    let loaded = arguments.with_config.load();
    match (loaded, arguments.format) {
        (Ok(config), Format::Text) => {
            for warning in config.warnings() {
                say(&format!("warning: {warning}"));
            }
            say(&format!(
                "{}: good, {} (configuration {})",
                config.file.display(),
                config.summary(),
                config.hash
            ));
            for secret in config.secrets() {
                say(&format!("{}: {} has the fingerprint {}", secret.app, secret.secret, secret.fingerprint));
            }
            say(BY_RESTART);
            GOOD
        }
        (Ok(config), Format::Json) => {
            say(&json!({
                "good": true, "file": config.file, "hash": config.hash, "summary": config.summary(),
                "problems": [], "warnings": config.warnings(), "secrets": config.secrets().collect::<Vec<_>>(),
            })
            .to_string());
            GOOD
        }
        (Err(problems), Format::Text) => report(&problems),
        (Err(problems), Format::Json) => {
            say(&json!({"good": false, "file": problems.file, "problems": problems.list, "warnings": []})
                .to_string());
            BAD_CONFIGURATION
        }
    }
}
