//! `rules`, `reasons` and `guards` of an app: who may sign in.

use std::collections::BTreeMap;

use crate::config::expression::{Expression, Language};
use crate::config::section::Value;
use crate::config::values;

/// One rule.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) effect: Effect,
    pub(crate) when: Expression,
    /// Of a refusal.
    pub(crate) reason: Option<String>,
}

/// What a rule does when it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Allow,
    Deny,
}

/// Reasons for which the gateway itself refuses a member, as the log names them. A rule must use another name.
const RESERVED_REASONS: [&str; 15] = [
    "on-behalf-of",
    "company-record",
    "inactive",
    "no-email",
    "bad-email",
    "no-name",
    "duplicate-email",
    "staff-address",
    "staff-failed",
    "rule",
    "no-rule",
    "rule-failed",
    "rate",
    "loop",
    "broken",
];

/// What a refused member reads, by language (RFC 5646, lower case).
pub(crate) type Reason = Vec<(String, String)>;

/// Who is refused before the rules are asked.
#[derive(Debug, Clone)]
pub(crate) struct Guards {
    pub(crate) duplicate_email: OnDuplicate,
    pub(crate) refuses_companies: bool,
    pub(crate) refuses_inactive: bool,
    pub(crate) refuses_staff: bool,
    /// Domains of the agents' addresses, in lower case.
    pub(crate) staff_domains: Vec<String>,
    pub(crate) is_staff: Option<Expression>,
}

/// What to do with a member whose e-mail address another record has, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDuplicate {
    Refuse,
    Warn,
    Off,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Default for Guards {
    fn default() -> Self {
        Self {
            duplicate_email: OnDuplicate::Refuse,
            refuses_companies: true,
            refuses_inactive: true,
            refuses_staff: true,
            staff_domains: Vec::new(),
            is_staff: None,
        }
    }
}

pub(super) fn rules(list: &Value<'_>, language: &Language) -> Vec<Rule> {
    let items =
        list.some_items("no rule at all would let nobody in; leave the key out to let every member sign in");
    items.iter().filter_map(|item| rule(&item.as_section(), language)).collect()
}

fn rule(section: &Value<'_>, language: &Language) -> Option<Rule> {
    let expression = |key| section.value(key).map(|value| value.as_text(|text| language.read(text)));
    let (effect, when) = match (expression("allow"), expression("deny")) {
        (Some(when), None) => (Effect::Allow, when),
        (None, Some(when)) => (Effect::Deny, when),
        (Some(_), Some(_)) | (None, None) => {
            section.report("a rule is either {allow: EXPRESSION} or {deny: EXPRESSION, reason: NAME}");
            return None;
        }
    };
    let reason = section.parsed("reason", reason_name);
    if effect == Effect::Allow && reason.is_some() {
        section.report("only a deny has a reason");
    }
    Some(Rule { effect, when: when?, reason })
}

fn reason_name(text: &str) -> Result<String, String> {
    if RESERVED_REASONS.contains(&text) {
        return Err(format!("`{text}` is a name for which the gateway itself refuses; use another"));
    }
    let is_plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let is_name = is_plain && (1..=64).contains(&text.len());
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| format!("`{text}` is not a reason's name; use lower-case letters, digits and hyphens"))
}

/// What members read, by the reason's name.
pub(super) fn reasons(value: &Value<'_>) -> BTreeMap<String, Reason> {
    let mut reasons = BTreeMap::new();
    for (name, value) in value.entries() {
        let texts = if value.is_mapping() {
            value.entries().into_iter().filter_map(|(language, text)| in_language(language, &text)).collect()
        } else {
            value.as_text(values::not_empty).map(|text| ("en".to_owned(), text)).into_iter().collect()
        };
        match reason_name(name) {
            Ok(name) => drop(reasons.insert(name, texts)),
            Err(problem) => value.report(problem),
        }
    }
    reasons
}

fn in_language(language: &str, text: &Value<'_>) -> Option<(String, String)> {
    if !language.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') || language.len() > 16 {
        text.report(format!("`{language}` is not a language; write it like en or fr-CA"));
    }
    Some((language.to_ascii_lowercase(), text.as_text(values::not_empty)?))
}

pub(super) fn guards(section: &Value<'_>, language: &Language) -> Guards {
    let duplicates =
        [("refuse", OnDuplicate::Refuse), ("warn", OnDuplicate::Warn), ("off", OnDuplicate::Off)];
    let refuses = |key| section.word(key, &[("refuse", true), ("off", false)]);
    Guards {
        duplicate_email: section.word("duplicate_email", &duplicates),
        refuses_companies: refuses("company_records"),
        refuses_inactive: refuses("inactive_records"),
        refuses_staff: refuses("staff"),
        staff_domains: section.texts("staff_domains", values::domain),
        is_staff: section.parsed("is_staff", |text| language.read(text)),
    }
}
