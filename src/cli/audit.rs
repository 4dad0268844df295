//! `imis-gateway audit`

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::base::error_chain::Chain;
use crate::cli::Format;
use crate::cli::{FAILED, GOOD, USAGE, WithConfig, complain, counted, plain, report, say};
use crate::imis::survey::Contact;
use crate::observe::audit::{Filter, read};
use crate::server::build;
use crate::sso::site::SignOn;
use crate::zendesk::staff::Standing;

#[derive(clap::Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Print recorded decisions
    Show(Show),
    /// List e-mail addresses that several active people of iMIS have, companies that somebody can sign in as, and addresses of
    /// Zendesk's staff
    Emails(Emails),
}

#[derive(clap::Args)]
struct Emails {
    #[command(flatten)]
    with_config: WithConfig,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Table::Text)]
    format: Table,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Table {
    Text,
    Csv,
    Json,
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
    /// With this incident number (`request_id` in the log) only
    #[arg(long, value_name = "NUMBER")]
    incident: Option<String>,
    /// Of this kind only
    #[arg(long, value_name = "WHICH", value_parser = ["signed-in", "messaging", "refused", "broken"])]
    decision: Option<String>,
    /// From this time on, UTC: 2026-11-27, or 2026-11-27T10:00
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<String>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn audit(arguments: &Audit) -> i32 {
    match &arguments.what {
        What::Show(show) => self::show(show),
        What::Emails(emails) => self::emails(emails),
    }
}

/// Something that would keep people out, or let the wrong ones in.
struct Found {
    site: String,
    what: &'static str,
    email: String,
    imis_ids: Vec<String>,
}

fn emails(arguments: &Emails) -> i32 {
    let config = match arguments.with_config.load() {
        Ok(config) => config,
        Err(problems) => return report(&problems),
    };
    let failed = |text: String| {
        complain(&format!("imis-gateway: {text}"));
        FAILED
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(error.to_string()),
    };
    let gateway = match build::offline_gateway(&config) {
        Ok(gateway) => gateway,
        Err(error) => return failed(Chain(&error).to_string()),
    };
    let mut found = Vec::new();
    let mut is_whole = true;
    for site in &gateway.sites {
        let Some(sign_on) = &site.sign_on else { continue };
        let host = &site.config.hosts[0];
        let progress = |read: usize, total: Option<u64>| match total {
            Some(total) => complain(&format!("{host}: {read} of {total} contacts")),
            None => complain(&format!("{host}: {read} contacts")),
        };
        let contacts = match runtime.block_on(sign_on.imis.contacts(progress)) {
            Ok(contacts) => contacts,
            Err(error) => return failed(format!("{host}: {}", Chain(&error))),
        };
        for staff in sign_on.staff.values() {
            if let Err(error) = runtime.block_on(staff.refresh()) {
                is_whole = false;
                complain(&format!(
                    "imis-gateway: {host}: the staff of Zendesk is not known, so clashes with it are not listed: {}",
                    Chain(&error)
                ));
            }
        }
        found.extend(findings(host, &contacts, sign_on));
    }
    match arguments.format {
        Table::Json => {
            let list: Vec<Value> = found
                .iter()
                .map(|found| json!({"site": found.site, "what": found.what, "email": found.email, "imis_ids": found.imis_ids}))
                .collect();
            say(&json!({"findings": list, "whole": is_whole}).to_string());
        }
        Table::Csv => {
            say("site,what,email,imis_ids");
            for Found { site, what, email, imis_ids } in &found {
                say(&[site, *what, &plain(email), &imis_ids.join(" ")].map(csv).join(","));
            }
        }
        Table::Text => {
            for Found { site, what, email, imis_ids } in &found {
                say(&format!("{what:<24} {:<40} {}  ({site})", plain(email), imis_ids.join(", ")));
            }
            say(&format!("{} found", found.len()));
        }
    }
    if is_whole { GOOD } else { FAILED }
}

fn findings(host: &str, contacts: &[Contact], sign_on: &SignOn) -> Vec<Found> {
    let found = |what, email: &str, imis_ids: Vec<String>| Found {
        site: host.to_owned(),
        what,
        email: email.to_owned(),
        imis_ids,
    };
    let mut by_email: BTreeMap<&str, Vec<&Contact>> = BTreeMap::new();
    for contact in contacts.iter().filter(|contact| contact.is_active && contact.is_person) {
        if let Some(email) = &contact.email {
            by_email.entry(email).or_default().push(contact);
        }
    }
    let ids = |contacts: &[&Contact]| contacts.iter().map(|contact| contact.id.clone()).collect::<Vec<_>>();
    let mut all: Vec<Found> = by_email
        .iter()
        .filter(|(_, contacts)| contacts.len() > 1)
        .map(|(email, contacts)| found("duplicate-email", email, ids(contacts)))
        .collect();
    for contact in contacts.iter().filter(|contact| !contact.is_person && contact.has_credentials) {
        all.push(found(
            "company-with-credentials",
            contact.email.as_deref().unwrap_or_default(),
            vec![contact.id.clone()],
        ));
    }
    for (email, contacts) in &by_email {
        let clashing: Vec<&Contact> = contacts
            .iter()
            .filter(|contact| {
                let standings = sign_on.staff.values().map(|staff| staff.standing(email, &contact.id));
                standings
                    .into_iter()
                    .any(|standing| matches!(standing, Standing::SomebodyOfStaff | Standing::HasTheirId))
            })
            .copied()
            .collect();
        if !clashing.is_empty() {
            all.push(found("staff-address", email, ids(&clashing)));
        }
    }
    all
}

/// RFC 4180 section 2; what a spreadsheet would take for a formula is kept from being one.
fn csv(field: &str) -> String {
    let field = if field.starts_with(['=', '+', '-', '@']) { format!("'{field}") } else { field.to_owned() };
    if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}

/// A date, or a date and time, as records have it.
fn since(text: &str) -> Result<String, String> {
    let is_date = text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10;
    let is_time = text.trim_end_matches('Z').parse::<jiff::civil::DateTime>().is_ok()
        && text.as_bytes().get(10) == Some(&b'T');
    if is_date || is_time {
        Ok(text.trim_end_matches('Z').to_owned())
    } else {
        Err("write it like 2026-11-27, or 2026-11-27T10:00".to_owned())
    }
}

fn show(arguments: &Show) -> i32 {
    // Neither secrets nor certificates are needed to read records.
    let glance = crate::config::glance(arguments.with_config.file());
    if !glance.is_read {
        return match arguments.with_config.load() {
            Ok(_) => FAILED,
            Err(problems) => report(&problems),
        };
    }
    let Some((file, keep)) = &glance.audit else {
        complain(
            "imis-gateway: no audit.file is configured; decisions are in the log: journalctl -u imis-gateway",
        );
        return FAILED;
    };
    if let Some(name) = &arguments.app
        && !glance.apps.contains(name)
    {
        complain(&format!("imis-gateway: there is no app `{name}`; there is {}", glance.apps.join(", ")));
        return USAGE;
    }
    let filter = Filter {
        app: arguments.app.clone(),
        imis_id: arguments.imis_id.clone(),
        request_id: arguments.incident.clone(),
        decision: arguments.decision.clone(),
        since: arguments.since.clone(),
    };
    let (records, odd) = match read(file, *keep, &filter) {
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
        complain(&format!("left out, because they are no records: {}", counted(odd, "line")));
    }
    if arguments.format == Format::Text {
        say(&counted(records.len(), "decision"));
    }
    GOOD
}

fn tell(record: &Value) {
    let text = |name: &str| match &record[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
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
        text("request_id")
    ));
}
