//! Records of decisions. An e-mail address is recorded as a keyed hash by default, which only shows that two records
//! share an address.

use aws_lc_rs::hmac;
use serde::Serialize;
use tracing::{info, warn};

use crate::base::clock;
use crate::base::hex::hex;
use crate::config::{AuditConfig, Config, Emails, Secret};
use crate::observe::audit::file::AuditFile;

/// A decision about a sign-in.
#[derive(Serialize)]
pub(crate) struct Decision<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) app: &'a str,
    /// The address of the client.
    pub(crate) client: String,
    /// `signed-in`, `messaging`, `refused` or `broken`.
    pub(crate) decision: &'static str,
    /// Why a sign-in was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<usize>,
    /// The party whose profile was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) imis_id: Option<&'a str>,
    /// The party that is signed in to iMIS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signed_in_as: Option<&'a str>,
    /// In plain text; it is recorded as `audit.emails` says.
    #[serde(skip)]
    pub(crate) email: Option<&'a str>,
    /// The host of the Zendesk account.
    pub(crate) zendesk: String,
}

/// A line of the audit file.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    decision: &'a Decision<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    config_hash: &'a str,
}

/// Records decisions under one configuration.
pub(crate) struct Audit {
    email_key: hmac::Key,
    config: AuditConfig,
    config_hash: String,
    file: Option<AuditFile>,
}

impl Audit {
    /// `previous`: its file stays open if it is configured in the same way.
    pub(crate) fn new(config: &Config, email_key: &Secret, previous: Option<&Self>) -> Self {
        let file = match previous.filter(|previous| previous.config == config.audit) {
            Some(previous) => previous.file.clone(),
            None => AuditFile::open(&config.audit),
        };
        Self {
            email_key: hmac::Key::new(hmac::HMAC_SHA256, email_key.expose().as_bytes()),
            config: config.audit.clone(),
            config_hash: config.hash.clone(),
            file,
        }
    }

    pub(crate) fn record(&self, decision: &Decision<'_>) {
        let email = decision.email.and_then(|email| self.recorded_email(email));
        let Decision { request_id, app, client, reason, rule, imis_id, signed_in_as, zendesk, .. } = decision;
        info!(
            target: "imis_gateway::audit",
            request_id, app, client, decision = decision.decision, reason, rule, imis_id, signed_in_as, email, zendesk,
            config_hash = self.config_hash, "decision"
        );
        let Some(file) = &self.file else { return };
        let line = Line { time: clock::rfc_3339(), decision, email, config_hash: &self.config_hash };
        let is_queued = serde_json::to_string(&line).is_ok_and(|line| file.append(line));
        if !is_queued {
            warn!(request_id, "the audit file cannot keep up; this decision is only in the log");
        }
    }

    /// Waits until the records are written, or for a short time.
    pub(crate) fn flush(&self) {
        if let Some(file) = &self.file {
            file.flush();
        }
    }

    fn recorded_email(&self, email: &str) -> Option<String> {
        match self.config.emails {
            Emails::None => None,
            Emails::Plain => Some(email.to_owned()),
            Emails::Hashed => {
                let tag = hmac::sign(&self.email_key, email.to_lowercase().as_bytes());
                Some(hex(&tag.as_ref()[..8]))
            }
        }
    }
}
