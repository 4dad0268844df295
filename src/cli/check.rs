//! `imis-gateway check`: loads the configuration and every file it names.

use serde_json::json;

use crate::cli::arguments::{ConfigFile, Format};
use crate::cli::output::{BAD_CONFIGURATION, SUCCESS, bad_configuration, print, print_verbatim};
use crate::config::Config;

#[derive(clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    config_file: ConfigFile,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What a reload cannot change.
const BY_RESTART: &str = "listen, workers, log.format, log.level and log.otlp take effect at the next start, all else with `imis-gateway reload`";

pub(super) fn run(arguments: &Check) -> Result<i32, i32> {
    match (arguments.config_file.load(), arguments.format) {
        (Ok(config), Format::Text) => report(&config),
        (Ok(config), Format::Json) => print_verbatim(json!({
            "good": true, "file": config.file, "hash": config.hash, "summary": config.summary(),
            "problems": [], "warnings": config.warnings(), "secrets": config.secrets().collect::<Vec<_>>(),
        })),
        (Err(problems), Format::Text) => return Err(bad_configuration(&problems)),
        (Err(problems), Format::Json) => {
            print_verbatim(json!({"good": false, "file": problems.file, "problems": problems.list,
                "omitted_problems": problems.omitted, "warnings": []}));
            return Err(BAD_CONFIGURATION);
        }
    }
    Ok(SUCCESS)
}

fn report(config: &Config) {
    for warning in config.warnings() {
        print(format_args!("warning: {warning}"));
    }
    let (file, summary) = (config.file.display(), config.summary());
    print(format_args!("{file}: good, {summary} (configuration {})", config.hash));
    for secret in config.secrets() {
        print(format_args!("{}: {} has the fingerprint {}", secret.app, secret.secret, secret.fingerprint));
    }
    print(BY_RESTART);
}
