//! The result of a check.

use crate::request::gateway::Site;
use crate::zendesk::api::ApiBuildError;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Good,
    /// It works, but needs attention.
    Warning,
    Failed,
}

impl Severity {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
        }
    }
}

/// The result of one check.
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) site: String,
    /// What was checked.
    pub(crate) check: String,
    pub(crate) result: String,
    /// What was observed, without values.
    pub(crate) seen: String,
    /// How to fix it.
    pub(crate) advice: Option<String>,
}

impl Finding {
    /// A check whose result is still open.
    pub(super) fn of(subject: &str, check: impl Into<String>) -> Self {
        let (result, seen) = (String::new(), String::new());
        let site = subject.to_owned();
        Self { severity: Severity::Good, site, check: check.into(), result, seen, advice: None }
    }

    pub(super) fn of_site(site: &Site, check: impl Into<String>) -> Self {
        Self::of(&site.config.hosts[0], check)
    }

    pub(super) fn seen(mut self, seen: impl Into<String>) -> Self {
        self.seen = seen.into();
        self
    }

    pub(super) fn good(mut self, result: impl Into<String>) -> Self {
        self.result = result.into();
        self
    }

    pub(super) fn warning(self, result: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, advice: Some(advice.into()), ..self.good(result) }
    }

    pub(super) fn failed(self, result: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { severity: Severity::Failed, advice: Some(advice.into()), ..self.good(result) }
    }
}

/// The checks could not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoctorError {
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
    #[error("the client of Zendesk's API cannot be set up")]
    Zendesk(#[source] ApiBuildError),
}
