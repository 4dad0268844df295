//! `imis-gateway audit`: recorded decisions about sign-ins, and e-mail addresses that will cause problems.

use serde_json::Value;

use crate::base::escaped::escaped;
use crate::cli::arguments::{ConfigFile, Format};
use crate::cli::audit_emails::{self, Emails};
use crate::cli::output::{FAILURE, SUCCESS, USAGE, eprint, exit_with, plural, print, print_verbatim};
use crate::config;
use crate::observe::audit::{Filter, read};

#[derive(clap::Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print recorded decisions
    Show(Show),
    /// List e-mail addresses that several active persons in iMIS share, companies with a user account, and
    /// addresses of Zendesk staff
    Emails(Emails),
}

#[derive(clap::Args)]
struct Show {
    #[command(flatten)]
    config_file: ConfigFile,
    #[command(flatten)]
    filter: Filter,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(arguments: &Audit) -> Result<i32, i32> {
    match &arguments.command {
        Command::Show(arguments) => show(arguments),
        Command::Emails(arguments) => audit_emails::run(arguments),
    }
}

fn show(arguments: &Show) -> Result<i32, i32> {
    // Records can be read without the secrets and certificates of the configuration.
    let glance = config::glance(arguments.config_file.path());
    if glance.unread.is_some() {
        arguments.config_file.load_or_exit()?;
        return Err(FAILURE);
    }
    let Some((file, keep)) = &glance.audit else {
        return Err(exit_with(
            FAILURE,
            "no audit.file is configured; decisions are in the log: journalctl -u imis-gateway",
        ));
    };
    if let Some(name) = &arguments.filter.app
        && !glance.apps.contains(name)
    {
        let names = glance.apps.join(", ");
        return Err(exit_with(USAGE, format_args!("there is no app `{name}`; there is {names}")));
    }
    let (records, unreadable) = read(file, *keep, &arguments.filter)
        .map_err(|error| exit_with(FAILURE, format_args!("cannot read {}: {error}", file.display())))?;
    for record in &records {
        match arguments.format {
            Format::Json => print_verbatim(record),
            Format::Text => print_record(record),
        }
    }
    if unreadable > 0 {
        eprint(format_args!("skipped lines that are not records: {}", plural(unreadable, "line")));
    }
    if arguments.format == Format::Text {
        print(plural(records.len(), "decision"));
    }
    Ok(SUCCESS)
}

fn print_record(record: &Value) {
    let text = |name: &str| match &record[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => escaped(text),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    };
    print(format_args!(
        "{}  {:<9}  {:<16}  rule {:<3} imis_id {:<8} signed_in_as {:<8} {}  {}  {}",
        text("time"),
        text("decision"),
        text("reason"),
        text("rule"),
        text("imis_id"),
        text("signed_in_as"),
        text("client"),
        text("app"),
        text("request_id")
    ));
}
