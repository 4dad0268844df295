//! Why a person may not sign in: a name for the log, and a text for the member.

use crate::config::App;
use crate::config::expression::ExpressionError;

/// Why a person may not sign in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the person is acting on behalf of another contact")]
    OnBehalfOf,
    #[error("the record is a company")]
    CompanyRecord,
    #[error("the record is not active")]
    Inactive,
    #[error("the record has no single primary e-mail address")]
    NoEmail,
    #[error("the primary e-mail address is not valid")]
    BadEmail,
    #[error("the record has no usable name")]
    NoName,
    #[error("another contact has the same primary e-mail address")]
    DuplicateEmail,
    #[error("the e-mail address belongs to Zendesk staff")]
    StaffAddress,
    #[error("guards.is_staff cannot be evaluated")]
    StaffFailed {
        #[source]
        error: ExpressionError,
    },
    /// `reason`: of the rule, if it has one.
    #[error("rule {rule} denies")]
    Rule { rule: usize, reason: Option<String> },
    #[error("no rule allows the sign-in")]
    NoRule,
    /// A rule that cannot be evaluated refuses.
    #[error("rule {rule} cannot be evaluated")]
    RuleFailed {
        rule: usize,
        #[source]
        error: ExpressionError,
    },
}

/// How a refusal is shown: its name in the log, and the title and advice that the member reads.
struct Texts(&'static str, &'static str, &'static str);

impl Denied {
    fn texts(&self) -> Texts {
        match self {
            Self::OnBehalfOf => Texts(
                "on-behalf-of",
                "You are working on behalf of somebody else",
                "You cannot sign in to the help desk while you act for another contact. \
                 Please stop acting for the contact on this site, then try again.",
            ),
            Self::CompanyRecord => Texts(
                "company-record",
                "This account belongs to an organization",
                "You are signed in with an organization's account, but the help desk is for people. \
                 Please sign out and use your own account.",
            ),
            Self::Inactive => Texts(
                "inactive",
                "This account is not active",
                "Your record is marked as inactive. Please contact the association.",
            ),
            Self::NoEmail => Texts(
                "no-email",
                "Your profile needs an e-mail address",
                "The help desk identifies people by their e-mail address, and your profile has no primary one. \
                 Please add one to your profile on this site, then try again.",
            ),
            Self::BadEmail => Texts(
                "bad-email",
                "Your profile needs an e-mail address",
                "The primary e-mail address in your profile is incomplete or contains invalid characters. \
                 Please correct it in your profile on this site, then try again.",
            ),
            Self::NoName => Texts(
                "no-name",
                "Your profile needs a name",
                "Please add your name to your profile on this site, then try again.",
            ),
            Self::DuplicateEmail => Texts(
                "duplicate-email",
                "Your e-mail address is used twice",
                "The help desk identifies people by their e-mail address, and another account of this site has the same one. \
                 Please use your own address in your profile. If both accounts are yours, please contact the association.",
            ),
            Self::StaffAddress => Texts("staff-address", STAFF_TITLE, STAFF_ADVICE),
            Self::StaffFailed { .. } => Texts("staff-failed", STAFF_TITLE, STAFF_ADVICE),
            Self::Rule { .. } => Texts("rule", RULE_TITLE, RULE_ADVICE),
            Self::NoRule => Texts("no-rule", RULE_TITLE, RULE_ADVICE),
            Self::RuleFailed { .. } => Texts("rule-failed", RULE_TITLE, RULE_ADVICE),
        }
    }

    /// The reason for the log, audit record and metric.
    pub(crate) fn name(&self) -> &str {
        if let Self::Rule { reason: Some(reason), .. } = self { reason } else { self.texts().0 }
    }

    /// The number of the rule that refused, counted from 1.
    pub(crate) fn rule(&self) -> Option<usize> {
        if let Self::Rule { rule, .. } | Self::RuleFailed { rule, .. } = self { Some(*rule) } else { None }
    }

    /// The title of the member's page.
    pub(crate) fn title(&self) -> &'static str {
        self.texts().1
    }

    /// What the member can do. A rule's reason may have the association's own text, in several languages.
    pub(crate) fn advice<'a>(&self, app: &'a App, accept_language: &str) -> &'a str {
        if let Self::Rule { reason: Some(reason), .. } = self
            && let Some(texts) = app.reasons.get(reason)
        {
            return preferred(texts, accept_language);
        }
        self.texts().2
    }
}

const STAFF_TITLE: &str = "Your e-mail address belongs to staff of the help desk";
const STAFF_ADVICE: &str = "The primary e-mail address in your profile belongs to somebody who works in the help desk, so you cannot sign in with it. \
    Please use your own address in your profile. If you work in the help desk, ask its administrator.";
const RULE_TITLE: &str = "This account cannot be used here";
const RULE_ADVICE: &str = "The help desk is not open to every account of this site. If you think that yours should have access, please contact the association.";

/// The text in the language that the client prefers (RFC 9110 section 12.5.4), or else the first.
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
    fn a_reason_is_shown_in_the_preferred_language() {
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
