//! `claims` of an app: what Zendesk learns about a person beside who it is.
//!
//! Zendesk silently ignores a claim of the wrong type, so each claim is checked against the type in Zendesk's
//! documentation. A claim without a value is left out; one with a wrong value refuses the sign-in.

use std::collections::BTreeMap;

use minijinja::Value;
use minijinja::value::ValueKind;
use serde_json::Value as Json;

use crate::config::expression::{Expression, ExpressionError, Facts, Language};
use crate::config::section::Value as Entry;

/// Claims that the gateway itself sets.
const RESERVED: [&str; 6] = ["iat", "jti", "email", "name", "external_id", "exp"];
/// Claims that replace what Zendesk already has, and what that means.
const OVERWRITING: [(&str, &str); 3] = [
    (
        "role",
        "role sets what a person may do in Zendesk at every sign-in: end_user takes the seat of an agent away",
    ),
    (
        "tags",
        "tags REPLACE all tags of the user in Zendesk at every sign-in, also those that agents and triggers set",
    ),
    ("organizations", "organizations OVERWRITE all organizations of the user in Zendesk at every sign-in"),
];
/// Of a name.
const MAX_CHARACTERS: usize = 255;
const MAX_TAGS: usize = 100;
/// Of all organizations together.
const MAX_ORGANIZATIONS_CHARACTERS: usize = 2000;

/// A claim (Zendesk, "Anatomy of a JWT request").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Organization,
    Organizations,
    OrganizationId,
    Tags,
    Phone,
    Locale,
    LocaleId,
    RemotePhotoUrl,
    Role,
    CustomRoleId,
}

/// Why a claim has no valid value. Never contains the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("has to be {0}")]
    Type(&'static str),
    #[error("expression")]
    Expression(#[from] ExpressionError),
    #[error("custom_role_id goes only with role: agent")]
    CustomRole,
}

/// The claims of a token beside who the person is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims {
    pub(crate) named: Vec<(Kind, Source)>,
    pub(crate) user_fields: Vec<(String, Source)>,
}

impl Claims {
    /// What its claims replace in Zendesk, in words.
    pub(super) fn overwriting(&self) -> impl Iterator<Item = &'static str> {
        let named = |name: &str| self.named.iter().any(|(kind, _)| kind.name() == name);
        OVERWRITING.into_iter().filter(move |(name, _)| named(name)).map(|(_, what)| what)
    }
}

/// Where the value of a claim comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Constant(Json),
    Expression(Expression),
}

const KINDS: [(&str, Kind); 10] = [
    ("organization", Kind::Organization),
    ("organizations", Kind::Organizations),
    ("organization_id", Kind::OrganizationId),
    ("tags", Kind::Tags),
    ("phone", Kind::Phone),
    ("locale", Kind::Locale),
    ("locale_id", Kind::LocaleId),
    ("remote_photo_url", Kind::RemotePhotoUrl),
    ("role", Kind::Role),
    ("custom_role_id", Kind::CustomRoleId),
];

fn kind_of(name: &str) -> Option<Kind> {
    KINDS.iter().find(|(own, _)| *own == name).map(|(_, kind)| *kind)
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// The value as the token contains it; `None` for an empty one.
    pub(crate) fn typed(self, value: &Json) -> Result<Option<Json>, ClaimError> {
        let wrong = |what| Err(ClaimError::Type(what));
        let is_empty = value.as_str().is_some_and(|text| text.trim().is_empty())
            || value.as_array().is_some_and(Vec::is_empty);
        if value.is_null() || is_empty {
            return Ok(None);
        }
        match self {
            Self::Organization => match text(value) {
                Some(text) => Ok(Some(text.into())),
                None => wrong("a text of at most 255 characters"),
            },
            // Zendesk takes one text with commas in it, so a name with one would be two.
            Self::Organizations => {
                let one = std::slice::from_ref(value);
                let names = value.as_array().map_or(one, Vec::as_slice);
                let texts: Option<Vec<String>> =
                    names.iter().map(|name| text(name).filter(|text| !text.contains(','))).collect();
                match texts.map(|texts| texts.join(",")) {
                    Some(names) if names.chars().count() <= MAX_ORGANIZATIONS_CHARACTERS => {
                        Ok(Some(names.into()))
                    }
                    _ => wrong("a name, or a list of names, without commas"),
                }
            }
            Self::OrganizationId | Self::LocaleId | Self::CustomRoleId => match whole(value) {
                Some(number) => Ok(Some(number.into())),
                None => wrong("a whole number above zero"),
            },
            Self::Tags => match value.as_array() {
                Some(tags) if tags.len() <= MAX_TAGS && tags.iter().all(is_tag) => Ok(Some(value.clone())),
                _ => wrong("a list of at most 100 tags: texts without blanks and commas"),
            },
            Self::Phone => match value.as_str() {
                Some(number) if crate::base::phone::e164(number, None).as_deref() == Some(number) => {
                    Ok(Some(value.clone()))
                }
                _ => wrong("a phone number in E.164, like +15125550123"),
            },
            Self::Locale => match value.as_str() {
                Some(locale)
                    if locale.len() <= 35
                        && locale.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') =>
                {
                    Ok(Some(value.clone()))
                }
                _ => wrong("a locale, like en-US"),
            },
            Self::RemotePhotoUrl => match value.as_str().map(url::Url::parse) {
                Some(Ok(url)) if url.scheme() == "https" => Ok(Some(value.clone())),
                _ => wrong("an https URL"),
            },
            Self::Role => match value.as_str() {
                Some("end_user" | "agent" | "admin") => Ok(Some(value.clone())),
                _ => wrong("end_user, agent or admin"),
            },
        }
    }
}

/// A name. Tabs and line breaks in it become spaces; other control characters make it another name.
fn text(value: &Json) -> Option<String> {
    let text = value.as_str()?.replace("\r\n", " ").replace(['\t', '\r', '\n', '\u{85}'], " ");
    let text = text.trim();
    (!text.is_empty() && text.chars().count() <= MAX_CHARACTERS && !text.contains(char::is_control))
        .then(|| text.to_owned())
}

/// Checks the value of a user field.
pub(crate) fn field(value: &Json) -> Result<(), ClaimError> {
    if matches!(value, Json::Object(_) | Json::Array(_)) {
        return Err(ClaimError::Type("a text, a number, true or false, or none to clear the field"));
    }
    Ok(())
}

fn whole(value: &Json) -> Option<u64> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    number.filter(|number| *number > 0)
}

fn is_tag(value: &Json) -> bool {
    value.as_str().is_some_and(|tag| {
        !tag.is_empty()
            && tag.len() <= MAX_CHARACTERS
            && !tag.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',')
    })
}

/// A value of an expression as JSON, if it can be.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's list may grow")]
fn json(value: &Value) -> Option<Json> {
    match value.kind() {
        ValueKind::None => Some(Json::Null),
        ValueKind::Bool => Some(value.is_true().into()),
        ValueKind::Number => serde_json::from_str(&value.to_string()).ok(),
        ValueKind::String => value.as_str().map(Into::into),
        ValueKind::Seq | ValueKind::Iterable => value.try_iter().ok()?.map(|item| json(&item)).collect(),
        _ => None,
    }
}

/// The value of an expression without variables.
fn constant(expression: &Expression, language: &Language) -> Result<Json, ClaimError> {
    evaluated(expression, language, &Facts::new(&BTreeMap::new(), [], []))
}

pub(crate) fn evaluated(
    expression: &Expression,
    language: &Language,
    facts: &Facts,
) -> Result<Json, ClaimError> {
    json(&language.value(expression, facts)?)
        .ok_or(ClaimError::Type("a text, a number, true or false, or a list of these"))
}

/// The name of a claim that replaces what Zendesk already has.
pub(super) fn overwriting_name(text: &str) -> Result<String, String> {
    if OVERWRITING.iter().any(|(name, _)| *name == text) {
        return Ok(text.to_owned());
    }
    let names = OVERWRITING.map(|(name, _)| name);
    Err(format!("`{text}` overwrites nothing; the claims that do are {}", names.join(", ")))
}

pub(super) fn claims(value: &Entry<'_>, overwrite: &[String], language: &Language) -> Claims {
    let mut claims = Claims::default();
    for (name, value) in value.entries() {
        if name == "user_fields" {
            claims.user_fields = user_fields(&value, language);
            continue;
        }
        let Some(kind) = kind_of(name) else {
            value.report(if RESERVED.contains(&name) {
                format!("`{name}` is always set by the gateway and cannot be a claim of your own")
            } else {
                format!("`{name}` is not a claim of Zendesk's single sign-on")
            });
            continue;
        };
        let replaces =
            OVERWRITING.iter().find(|(own, _)| *own == name && !overwrite.iter().any(|own| own == name));
        if let Some((_, what)) = replaces {
            value.report(format!("{what}; if that is intended, write overwrite: [{name}] beside claims"));
        }
        let Some(source) = source(&value, language) else { continue };
        if let Source::Constant(constant) = &source
            && let Err(problem) = kind.typed(constant)
        {
            value.report(problem.to_string());
        }
        claims.named.push((kind, source));
    }
    claims
}

fn user_fields(value: &Entry<'_>, language: &Language) -> Vec<(String, Source)> {
    let mut fields = Vec::new();
    for (key, value) in value.entries() {
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            value.report(format!("`{key}` is not a field key; use letters, digits and underscores"));
        }
        let Some(source) = source(&value, language) else { continue };
        if let Source::Constant(constant) = &source
            && let Err(error) = field(constant)
        {
            value.report(error.to_string());
        }
        fields.push((key.to_owned(), source));
    }
    fields
}

/// A text is an expression, everything else a constant. An expression without variables is evaluated now, to check it.
fn source(value: &Entry<'_>, language: &Language) -> Option<Source> {
    if let Some(constant) = value.constant() {
        return Some(Source::Constant(constant));
    }
    let expression = value.as_text(|text| language.read(text))?;
    if !expression.is_constant() {
        return Some(Source::Expression(expression));
    }
    let constant = constant(&expression, language).map_err(|error| {
        value.report(match error {
            ClaimError::Expression(error) => format!("the expression has no value: {error}"),
            error @ (ClaimError::Type(_) | ClaimError::CustomRole) => error.to_string(),
        });
    });
    constant.ok().map(Source::Constant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn typed(name: &str, value: Json) -> Result<Option<Json>, ClaimError> {
        kind_of(name).unwrap().typed(&value)
    }

    #[test]
    fn each_claim_is_of_its_kind() {
        for (name, value, carried) in [
            ("organization", json!(" Contoso Ltd. "), json!("Contoso Ltd.")),
            ("organization", json!("Contoso\tLtd.\r\nNorth\n"), json!("Contoso Ltd. North")),
            ("organizations", json!(["A", "B & C"]), json!("A,B & C")),
            ("organizations", json!(" A Ltd. "), json!("A Ltd.")),
            ("organization_id", json!(7), json!(7)),
            ("organization_id", json!("7"), json!(7)),
            ("tags", json!(["gold", "north"]), json!(["gold", "north"])),
            ("phone", json!("+15124741234"), json!("+15124741234")),
            ("locale", json!("fr-CA"), json!("fr-CA")),
            ("locale_id", json!(16), json!(16)),
            ("remote_photo_url", json!("https://example.org/a.png"), json!("https://example.org/a.png")),
            ("role", json!("end_user"), json!("end_user")),
            ("custom_role_id", json!(5), json!(5)),
        ] {
            assert_eq!(typed(name, value), Ok(Some(carried)), "{name}");
        }
        for (name, value) in [
            ("organization", json!(1)),
            ("organization", json!("x".repeat(256))),
            ("organizations", json!(["A,B"])),
            ("organizations", json!([1])),
            ("organizations", json!("A Ltd.,B")),
            ("organizations", json!(["A\u{1b}"])),
            ("organization_id", json!(0)),
            ("organization_id", json!(1.5)),
            ("tags", json!("gold")),
            ("tags", json!(["two words"])),
            ("tags", json!([""])),
            ("phone", json!("512 474 1234")),
            ("locale", json!("en US")),
            ("locale_id", json!("en")),
            ("remote_photo_url", json!("http://example.org/a.png")),
            ("remote_photo_url", json!("javascript:x")),
            ("role", json!("owner")),
            ("custom_role_id", json!(true)),
        ] {
            assert!(typed(name, value.clone()).is_err(), "{name} {value}");
        }
        for nothing in [json!(null), json!(""), json!("  "), json!([])] {
            assert_eq!(typed("organization", nothing.clone()), Ok(None));
            assert_eq!(typed("organizations", nothing.clone()), Ok(None));
            assert_eq!(typed("tags", nothing), Ok(None), "would take all tags away");
        }
        for reserved in RESERVED {
            assert_eq!(kind_of(reserved), None);
        }
    }
}
