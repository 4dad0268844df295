//! Why a person may not enter, in words for the member, and a name for the log.

use crate::config::App;
use crate::config::expression::ExpressionError;

/// Why a person may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the person is acting on behalf of another contact")]
    OnBehalfOf,
    #[error("the record is a company's")]
    CompanyRecord,
    #[error("the record is not active")]
    Inactive,
    #[error("the record has no single primary e-mail address")]
    NoEmail,
    #[error("the primary e-mail address is not one")]
    BadEmail,
    #[error("the record has no usable name")]
    NoName,
    #[error("somebody else has the same primary e-mail address")]
    DuplicateEmail,
    #[error("the e-mail address is of somebody who works in Zendesk")]
    StaffAddress,
    #[error("whether the person is staff cannot be worked out")]
    StaffFailed {
        #[source]
        error: ExpressionError,
    },
    /// Holds the reason, if the rule has one.
    #[error("rule {rule} refuses")]
    Rule { rule: usize, reason: Option<String> },
    #[error("no rule lets the person in")]
    NoRule,
    /// A rule that cannot be worked out lets nobody in.
    #[error("rule {rule} cannot be worked out")]
    RuleFailed {
        rule: usize,
        #[source]
        error: ExpressionError,
    },
}

impl Denied {
    /// For the log.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::OnBehalfOf => "on-behalf-of",
            Self::CompanyRecord => "company-record",
            Self::Inactive => "inactive",
            Self::NoEmail => "no-email",
            Self::BadEmail => "bad-email",
            Self::NoName => "no-name",
            Self::DuplicateEmail => "duplicate-email",
            Self::StaffAddress => "staff-address",
            Self::StaffFailed { .. } => "staff-failed",
            Self::Rule { reason: Some(reason), .. } => reason,
            Self::Rule { reason: None, .. } => "rule",
            Self::NoRule => "no-rule",
            Self::RuleFailed { .. } => "rule-failed",
        }
    }

    /// The rule that refused, counted from 1.
    pub(crate) fn rule(&self) -> Option<usize> {
        match self {
            Self::Rule { rule, .. } | Self::RuleFailed { rule, .. } => Some(*rule),
            Self::OnBehalfOf
            | Self::CompanyRecord
            | Self::Inactive
            | Self::NoEmail
            | Self::BadEmail
            | Self::NoName
            | Self::DuplicateEmail
            | Self::StaffAddress
            | Self::StaffFailed { .. }
            | Self::NoRule => None,
        }
    }

    /// For the member.
    pub(crate) fn title(&self) -> &'static str {
        match self {
            Self::OnBehalfOf => "You are working on behalf of somebody else",
            Self::CompanyRecord => "This account belongs to an organization",
            Self::Inactive => "This account is not active",
            Self::NoEmail | Self::BadEmail => "Your profile needs an e-mail address",
            Self::NoName => "Your profile needs a name",
            Self::DuplicateEmail => "Your e-mail address is used twice",
            Self::StaffAddress | Self::StaffFailed { .. } => {
                "Your e-mail address is of the help desk's staff"
            }
            Self::Rule { .. } | Self::NoRule | Self::RuleFailed { .. } => "This account cannot be used here",
        }
    }

    /// For the member: what to do. A rule's reason may have words of the association's own, in the language the browser prefers.
    pub(crate) fn advice(&self, app: &App, accept_language: &str) -> String {
        if let Self::Rule { reason: Some(reason), .. } = self
            && let Some(reason) = app.reasons.get(reason)
        {
            return preferred(&reason.texts, accept_language).to_owned();
        }
        let text = match self {
            Self::OnBehalfOf => {
                "While you act for another contact you cannot be signed in to the help desk, neither as yourself nor as the contact. \
                 Please end that on this site, then try again."
            }
            Self::CompanyRecord => {
                "The help desk is for people. You are signed in with an organization's account; \
                 please sign out and use your own."
            }
            Self::Inactive => {
                "Please contact the association: your record is marked as inactive, so it cannot be used here."
            }
            Self::NoEmail => {
                "The help desk knows people by their e-mail address, and your profile has no primary one. \
                 Please add it to your profile on this site, then try again."
            }
            Self::BadEmail => {
                "The primary e-mail address in your profile is not complete or has characters that do not belong there. \
                 Please correct it in your profile on this site, then try again."
            }
            Self::NoName => "Please add your name to your profile on this site, then try again.",
            Self::DuplicateEmail => {
                "The help desk knows people by their e-mail address, and another account of this site has the same primary one as yours. \
                 Please use an address of your own in your profile, or contact the association if both accounts are yours."
            }
            Self::StaffAddress | Self::StaffFailed { .. } => {
                "The primary e-mail address in your profile belongs to somebody who works in the help desk, so it cannot be used to sign in from here. \
                 Please use an address of your own in your profile. If you work in the help desk, ask its administrator."
            }
            Self::Rule { .. } | Self::NoRule | Self::RuleFailed { .. } => {
                "The help desk is not open to every account of this site. Please contact the association if you think that yours should be let in."
            }
        };
        text.to_owned()
    }
}

/// The text whose language the browser likes best (RFC 9110 section 12.5.4), else the first.
fn preferred<'a>(texts: &'a [(String, String)], accept_language: &str) -> &'a str {
    let mut wanted: Vec<(&str, f32)> = accept_language
        .split(',')
        .map(|item| {
            let (language, quality) = item.split_once(";q=").unwrap_or((item, "1"));
            (language.trim(), quality.trim().parse().unwrap_or(0.0))
        })
        .filter(|(_, quality)| *quality > 0.0)
        .collect();
    wanted.sort_by(|one, other| other.1.total_cmp(&one.1));
    let primary = |language: &str| language.split('-').next().unwrap_or_default().to_ascii_lowercase();
    let found = wanted.iter().find_map(|(language, _)| {
        let exact = texts.iter().find(|(own, _)| own.eq_ignore_ascii_case(language));
        exact.or_else(|| texts.iter().find(|(own, _)| primary(own) == primary(language)))
    });
    found.or(texts.first()).map_or("", |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_speaks_the_browsers_language() {
        let texts: Vec<_> = [("en", "No."), ("fr-ca", "Non."), ("es", "No, no.")]
            .map(|(l, t)| (l.to_owned(), t.to_owned()))
            .into();
        for (wanted, text) in [
            ("fr-CA,fr;q=0.9,en;q=0.8", "Non."),
            ("fr;q=0.9", "Non."),
            ("de, es-MX;q=0.5, en;q=0.4", "No, no."),
            ("en;q=0.1, es;q=0.2", "No, no."),
            ("de", "No."),
            ("es;q=0, en", "No."),
            ("", "No."),
            (";;q=x,,", "No."),
        ] {
            assert_eq!(preferred(&texts, wanted), text, "{wanted}");
        }
    }
}
