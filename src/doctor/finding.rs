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

/// What checks depend on. If it fails, so do they.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Every iMIS server.
    Servers,
    /// The REST API, as the service account.
    Api,
    BasePath,
    /// A page that recognises visitors, by its path.
    Page(String),
    /// By the host of the account.
    ZendeskAccount(String),
    ZendeskApi(String),
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
    /// What does not work if this check fails.
    breaks: Option<Part>,
    needs: Vec<Part>,
}

impl Finding {
    /// A check whose result is still open.
    pub(super) fn of(subject: &str, check: impl Into<String>) -> Self {
        let (result, seen) = (String::new(), String::new());
        let site = subject.to_owned();
        let (severity, check) = (Severity::Good, check.into());
        Self { severity, site, check, result, seen, advice: None, breaks: None, needs: Vec::new() }
    }

    pub(super) fn of_site(site: &Site, check: impl Into<String>) -> Self {
        Self::of(&site.config.hosts[0], check)
    }

    pub(super) fn seen(mut self, seen: impl Into<String>) -> Self {
        self.seen = seen.into();
        self
    }

    /// If this check fails, `part` does not work.
    pub(super) fn breaks(mut self, part: Part) -> Self {
        self.breaks = Some(part);
        self
    }

    /// If one of the parts does not work, that is why this check fails.
    pub(super) fn needs(mut self, parts: impl IntoIterator<Item = Part>) -> Self {
        self.needs.extend(parts);
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

/// The findings of one site. A failure that follows from an earlier one is only counted there: one cause has one line.
#[derive(Default)]
pub(super) struct Findings {
    all: Vec<Finding>,
    /// The parts that do not work, with the position of the failure that explains it.
    broken: Vec<(Part, usize)>,
    /// The checks that fail because of an earlier failure, with its position.
    consequences: Vec<(usize, String)>,
}

impl Findings {
    pub(super) fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            if finding.severity == Severity::Good {
                self.all.push(finding);
                continue;
            }
            let cause = self.broken.iter().find(|(part, _)| finding.needs.contains(part)).map(|(_, at)| *at);
            let position = cause.unwrap_or(self.all.len());
            if finding.severity == Severity::Failed {
                self.broken.extend(finding.breaks.iter().map(|part| (part.clone(), position)));
            }
            match cause {
                Some(cause) => self.consequences.push((cause, finding.check)),
                None => self.all.push(finding),
            }
        }
    }

    pub(super) fn into_vec(mut self) -> Vec<Finding> {
        for (position, cause) in self.all.iter_mut().enumerate() {
            let consequences = self.consequences.iter().filter(|(of, _)| *of == position);
            let names: Vec<_> = consequences.map(|(_, check)| check.as_str()).collect();
            if !names.is_empty() {
                let verb = if names.len() == 1 { "fails" } else { "fail" };
                cause.seen += &format!("; {} more {verb} because of this: {}", names.len(), names.join("; "));
            }
        }
        self.all
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
