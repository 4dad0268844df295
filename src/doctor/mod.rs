//! Live checks of everything that the configuration refers to. They show what they observed, but no value of a cookie
//! or record.
//!
//! The order: this machine (files and ports); then for each site its public address, the iMIS servers, the records that
//! the service account may read, the pages of iMIS, recognition (without cookies, and with those given), Zendesk, and
//! one member.

mod finding;
mod probe;
pub(crate) mod test_visitor;
mod machine;
mod public_address;
mod upstream;
mod imis_records;
mod site_pages;
mod recognition;
mod zendesk_account;
pub(crate) mod explain;

use http::HeaderValue;
use serde_json::Value;

use crate::config::Config;
use crate::request::gateway::Gateway;
use finding::Findings;
pub(crate) use finding::{DoctorError, Finding, Severity};

/// What to check.
pub(crate) struct Examination<'a> {
    pub(crate) config: &'a Config,
    pub(crate) gateway: &'a Gateway,
    /// The status of the gateway that runs on this machine, if one does.
    pub(crate) running: Option<&'a Value>,
    /// A Cookie header of a member.
    pub(crate) cookies: Option<&'a HeaderValue>,
    pub(crate) imis_id: Option<&'a str>,
}

/// Runs every check, one site after the other.
pub(crate) async fn examine(examination: &Examination<'_>) -> Result<Vec<Finding>, DoctorError> {
    let Examination { config, gateway, running, cookies, imis_id } = *examination;
    let mut all = machine::check(config, running);
    for site in &gateway.sites {
        let mut findings = Findings::default();
        findings.add(public_address::check(config, site, running).await);
        findings.add(upstream::check(site).await);
        if let Some(sign_on) = &site.sign_on {
            findings.add(imis_records::check(site, sign_on).await);
            findings.add(site_pages::check(site, sign_on).await);
            findings.add(recognition::check(site, sign_on, None).await);
            if cookies.is_some() {
                findings.add(recognition::check(site, sign_on, cookies).await);
            }
            for app in &sign_on.apps {
                findings.add(zendesk_account::check(config, site, sign_on, app).await?);
                if let Some(imis_id) = imis_id {
                    findings.add([imis_records::check_member(gateway, site, app, imis_id).await]);
                }
            }
        }
        all.extend(findings.into_vec());
    }
    Ok(all)
}
