//! `imis-gateway audit emails`: contacts that could not sign in, or that would sign in to another person's account.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use crate::base::error_chain::Chain;
use crate::base::escaped::escaped;
use crate::cli::arguments::{ConfigFile, Offline};
use crate::cli::output::{FAILURE, SUCCESS, eprint, exit_with, print, print_verbatim, spreadsheet};
use crate::imis::contacts::{Contact, read_all};
use crate::sso::site::SignOn;
use crate::zendesk::staff::Standing;

#[derive(clap::Args)]
pub(super) struct Emails {
    #[command(flatten)]
    config_file: ConfigFile,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Csv,
    Json,
}

/// A contact or several that have a problem.
#[derive(Serialize)]
struct Finding {
    site: String,
    what: &'static str,
    email: String,
    imis_ids: Vec<String>,
}

pub(super) fn run(arguments: &Emails) -> Result<i32, i32> {
    let Offline { gateway, runtime, .. } = Offline::build(&arguments.config_file)?;
    let mut findings = Vec::new();
    let mut is_complete = true;
    for site in &gateway.sites {
        let Some(sign_on) = &site.sign_on else { continue };
        let host = &site.config.hosts[0];
        let progress = |read: usize, total: Option<u64>| match total {
            Some(total) => eprint(format_args!("{host}: {read} of {total} contacts")),
            None => eprint(format_args!("{host}: {read} contacts")),
        };
        let contacts = runtime
            .block_on(read_all(&sign_on.imis.api, progress))
            .map_err(|error| exit_with(FAILURE, format_args!("{host}: {}", Chain(&error))))?;
        for staff in sign_on.staff.values() {
            if let Err(error) = runtime.block_on(staff.refresh()) {
                is_complete = false;
                eprint(format_args!(
                    "imis-gateway: {host}: cannot fetch the Zendesk staff list, so addresses of staff are not listed: {}",
                    Chain(&error)
                ));
            }
        }
        findings.extend(findings_of(host, &contacts, sign_on));
    }
    match arguments.format {
        Format::Json => print_verbatim(json!({"findings": findings, "whole": is_complete})),
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(std::io::stdout());
            let mut write = |fields: [&str; 4]| csv.write_record(fields.map(spreadsheet));
            let written = write(["site", "what", "email", "imis_ids"]).and_then(|()| {
                findings.iter().try_for_each(|Finding { site, what, email, imis_ids }| {
                    write([site, *what, &escaped(email), &imis_ids.join(" ")])
                })
            });
            written.map_err(|error| exit_with(FAILURE, Chain(&error)))?;
        }
        Format::Text => {
            for Finding { site, what, email, imis_ids } in &findings {
                print(format_args!("{what:<24} {:<40} {}  ({site})", escaped(email), imis_ids.join(", ")));
            }
            print(format_args!("{} found", findings.len()));
        }
    }
    Ok(if is_complete { SUCCESS } else { FAILURE })
}

fn findings_of(host: &str, contacts: &[Contact], sign_on: &SignOn) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |what, email: &str, contacts: &[&Contact]| {
        let imis_ids = contacts.iter().map(|contact| contact.id.clone()).collect();
        findings.push(Finding { site: host.to_owned(), what, email: email.to_owned(), imis_ids });
    };
    let mut by_email: BTreeMap<&str, Vec<&Contact>> = BTreeMap::new();
    for contact in contacts.iter().filter(|contact| contact.is_active && contact.is_person) {
        if let Some(email) = &contact.email {
            by_email.entry(email).or_default().push(contact);
        }
    }
    for (email, contacts) in by_email.iter().filter(|(_, contacts)| contacts.len() > 1) {
        add("duplicate-email", email, contacts);
    }
    for contact in contacts.iter().filter(|contact| !contact.is_person && contact.has_credentials) {
        add("company-with-credentials", contact.email.as_deref().unwrap_or_default(), &[contact]);
    }
    for (email, mut contacts) in by_email {
        contacts.retain(|contact| {
            let mut standings = sign_on.staff.values().map(|staff| staff.standing(email, &contact.id));
            standings.any(|standing| matches!(standing, Standing::OtherStaffMember | Standing::StaffImisId))
        });
        if !contacts.is_empty() {
            add("staff-address", email, &contacts);
        }
    }
    findings
}
