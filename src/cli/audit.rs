//! `imis-gateway audit`

use serde_json::Value;

use super::doctor::Format;
use super::{FAILED, GOOD, WithConfig, complain, report, say};
use crate::audit::{Wanted, read};

#[derive(clap::Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Print recorded decisions
    Show(Show),
}

#[derive(clap::Args)]
struct Show {
    #[command(flatten)]
    with_config: WithConfig,
    /// Of this app only
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// About this person only
    #[arg(long, value_name = "ID")]
    imis_id: Option<String>,
    /// With this incident number only
    #[arg(long, value_name = "NUMBER")]
    incident: Option<String>,
    /// signed-in, refused or broken
    #[arg(long, value_name = "WHICH")]
    decision: Option<String>,
    /// From this time on, UTC: 2026-11-27, or 2026-11-27T10:00
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn audit(arguments: &Audit) -> i32 {
    match &arguments.what {
        What::Show(show) => self::show(show),
    }
}

fn show(arguments: &Show) -> i32 {
    let config = match arguments.with_config.load() {
        Ok(config) => config,
        Err(problems) => return report(&problems),
    };
    let Some(file) = &config.audit.file else {
        complain(
            "imis-gateway: no audit.file is configured; decisions are in the log: journalctl -u imis-gateway",
        );
        return FAILED;
    };
    let wanted = Wanted {
        app: arguments.app.clone(),
        imis_id: arguments.imis_id.clone(),
        incident: arguments.incident.clone(),
        decision: arguments.decision.clone(),
        since: arguments.since.clone(),
    };
    let (records, odd) = match read(file, config.audit.keep, &wanted) {
        Ok(found) => found,
        Err(error) => {
            complain(&format!("imis-gateway: cannot read {}: {error}", file.display()));
            return FAILED;
        }
    };
    for record in &records {
        match arguments.format {
            Format::Json => say(&record.to_string()),
            Format::Text => tell(record),
        }
    }
    if odd > 0 {
        complain(&format!("{odd} lines are no records and were left out"));
    }
    if arguments.format == Format::Text {
        say(&format!("{} decisions", records.len()));
    }
    GOOD
}

fn tell(record: &Value) {
    let text = |name: &str| match &record[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    };
    say(&format!(
        "{}  {:<9}  {:<16}  rule {:<3} imis_id {:<8} signed_in_as {:<8} {}  {}  {}",
        text("time"),
        text("decision"),
        text("reason"),
        text("rule"),
        text("imis_id"),
        text("signed_in_as"),
        text("client"),
        text("app"),
        text("incident")
    ));
}
