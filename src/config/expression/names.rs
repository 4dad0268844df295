//! The variables of expressions, and the errors.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use crate::config::section::nearest;

/// Every variable, except `profile.attributes.NAME`.
pub(super) const NAMES: &[&str] = &[
    "profile.id",
    "profile.kind",
    "profile.name",
    "profile.email",
    "profile.email_domain",
    "profile.phone",
    "profile.status",
    "profile.is_member",
    "profile.customer_type",
    "profile.paid_through",
    "profile.organization",
    "profile.groups",
    "profile.memberships",
    "identity.id",
    "identity.on_behalf_of",
    "app.name",
    "app.path",
    "request.brand_id",
    "request.locale_id",
    "request.date",
];
const ATTRIBUTES: &str = "profile.attributes.";
/// Variables that need another request to iMIS.
pub(super) const GROUPS: [&str; 2] = ["profile.groups", "profile.memberships"];

/// Why an expression has no value. Never contains a value of a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpressionError {
    #[error("the person has no attribute `{0}`")]
    NoAttribute(String),
    #[error("the attribute `{0}` has several values, or exists more than once")]
    Unreadable(String),
    #[error("a membership has no `{0}`")]
    NoField(String),
    #[error("expected a boolean, got {0}")]
    NotBoolean(&'static str),
    #[error("the evaluation takes too long")]
    TooLong,
    #[error("{0}")]
    Failed(&'static str),
}

/// Checks that a variable exists.
pub(super) fn require_known(name: &str) -> Result<(), String> {
    let attribute = name.strip_prefix(ATTRIBUTES).is_some_and(|name| !name.is_empty() && !name.contains('.'));
    if NAMES.contains(&name) || attribute {
        return Ok(());
    }
    if name == "profile.attributes" {
        return Err("names no attribute: write profile.attributes.NAME, or profile.attributes.get('A name', 'default'); \
                    profile.attributes.has('NAME') says whether it exists"
            .to_owned());
    }
    Err(match nearest(NAMES, name) {
        Some(near) => format!("knows no `{name}`; did you mean `{near}`?"),
        None => format!("knows no `{name}`; there is {} and profile.attributes.NAME", NAMES.join(", ")),
    })
}

/// An error of minijinja without the values that it may quote.
pub(super) fn failure(error: &Error) -> ExpressionError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's list may grow")]
    match error.kind() {
        ErrorKind::OutOfFuel => ExpressionError::TooLong,
        ErrorKind::UndefinedError => ExpressionError::Failed("a part has no value"),
        ErrorKind::UnknownMethod => ExpressionError::Failed("unknown method"),
        ErrorKind::UnknownFilter => ExpressionError::Failed("unknown filter"),
        ErrorKind::UnknownTest => ExpressionError::Failed("unknown test"),
        ErrorKind::UnknownFunction => ExpressionError::Failed("unknown function"),
        _ => ExpressionError::Failed("an operation does not fit its values"),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library's list may grow")]
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::None => "none",
        ValueKind::Number => "a number",
        ValueKind::String => "text",
        ValueKind::Seq | ValueKind::Iterable => "a list",
        ValueKind::Map => "a mapping",
        _ => "something else",
    }
}
