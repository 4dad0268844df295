//! `claims` of an app: what Zendesk learns about a person beside who it is.
//!
//! Zendesk silently ignores a claim of the wrong type, so each claim is checked against the type in Zendesk's
//! documentation. A claim without a value is left out; one with a wrong value refuses the sign-in.

use std::collections::BTreeMap;

use minijinja::Value;
use minijinja::value::ValueKind;
use serde_json::Value as Json;

use crate::base::phone;
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

/// A claim of Zendesk ("Anatomy of a JWT request").
#[derive(Debug)]
pub(crate) struct ClaimType {
    pub(crate) name: &'static str,
    /// The value as the token contains it; `None` for a wrong one.
    convert: fn(&Json) -> Option<Json>,
    /// What a value has to be.
    expected: &'static str,
}

const fn claim(name: &'static str, convert: fn(&Json) -> Option<Json>, expected: &'static str) -> ClaimType {
    ClaimType { name, convert, expected }
}

static TYPES: [ClaimType; 10] = [
    claim("organization", |value| text(value).map(Json::from), "a text of at most 255 characters"),
    claim("organizations", organizations, "a name, or a list of names, without commas"),
    claim("organization_id", whole, "a whole number above zero"),
    claim("tags", tags, "a list of at most 100 tags: texts without blanks and commas"),
    claim("phone", |value| matching(value, is_e164), "a phone number in E.164, like +15125550123"),
    claim("locale", |value| matching(value, is_locale), "a locale, like en-US"),
    claim("locale_id", whole, "a whole number above zero"),
    claim("remote_photo_url", |value| matching(value, is_https_url), "an https URL"),
    claim("role", |value| matching(value, is_role), "end_user, agent or admin"),
    claim("custom_role_id", whole, "a whole number above zero"),
];

impl ClaimType {
    fn of(name: &str) -> Option<&'static Self> {
        TYPES.iter().find(|claim| claim.name == name)
    }

    /// The value as the token contains it; `None` for an empty one.
    pub(crate) fn typed(&self, value: &Json) -> Result<Option<Json>, ClaimError> {
        let is_blank = value.as_str().is_some_and(|text| text.trim().is_empty());
        if value.is_null() || is_blank || value.as_array().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        (self.convert)(value).map(Some).ok_or(ClaimError::Type(self.expected))
    }
}

/// A name. Tabs and line breaks in it become spaces; other control characters make it another name.
fn text(value: &Json) -> Option<String> {
    let text = value.as_str()?.replace("\r\n", " ").replace(['\t', '\r', '\n', '\u{85}'], " ");
    let text = text.trim();
    (!text.is_empty() && text.chars().count() <= MAX_CHARACTERS && !text.contains(char::is_control))
        .then(|| text.to_owned())
}

/// Zendesk takes one text with commas in it, so a name with one would be two.
fn organizations(value: &Json) -> Option<Json> {
    let names = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let names = names.iter().map(|name| text(name).filter(|text| !text.contains(',')));
    let names = names.collect::<Option<Vec<String>>>()?.join(",");
    (names.chars().count() <= MAX_ORGANIZATIONS_CHARACTERS).then(|| names.into())
}

fn whole(value: &Json) -> Option<Json> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    number.filter(|number| *number > 0).map(Json::from)
}

fn tags(value: &Json) -> Option<Json> {
    let is_wrong = |c: char| c.is_whitespace() || c.is_control() || c == ',';
    let is_tag = |tag: &str| !tag.is_empty() && tag.len() <= MAX_CHARACTERS && !tag.contains(is_wrong);
    let tags = value.as_array()?;
    let are_tags = tags.len() <= MAX_TAGS && tags.iter().all(|tag| tag.as_str().is_some_and(is_tag));
    are_tags.then(|| value.clone())
}

/// A text for which `is_valid` holds.
fn matching(value: &Json, is_valid: fn(&str) -> bool) -> Option<Json> {
    value.as_str().is_some_and(is_valid).then(|| value.clone())
}

fn is_e164(text: &str) -> bool {
    phone::e164(text, None).as_deref() == Some(text)
}

fn is_locale(text: &str) -> bool {
    text.len() <= 35 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_https_url(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| url.scheme() == "https")
}

fn is_role(text: &str) -> bool {
    matches!(text, "end_user" | "agent" | "admin")
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
    pub(crate) named: Vec<(&'static ClaimType, Source)>,
    pub(crate) user_fields: Vec<(String, Source)>,
}

impl Claims {
    pub(super) fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let named = self.named.iter().map(|(_, source)| source);
        let all = named.chain(self.user_fields.iter().map(|(_, source)| source));
        all.filter_map(
            |source| if let Source::Expression(expression) = source { Some(expression) } else { None },
        )
    }

    /// What its claims replace in Zendesk, in words.
    pub(super) fn overwriting(&self) -> impl Iterator<Item = &'static str> {
        let named = |name: &str| self.named.iter().any(|(claim, _)| claim.name == name);
        OVERWRITING.into_iter().filter(move |(name, _)| named(name)).map(|(_, what)| what)
    }
}

/// Where the value of a claim comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Constant(Json),
    Expression(Expression),
}

/// Checks the value of a user field.
pub(crate) fn field(value: &Json) -> Result<(), ClaimError> {
    if matches!(value, Json::Object(_) | Json::Array(_)) {
        return Err(ClaimError::Type("a text, a number, true or false, or none to clear the field"));
    }
    Ok(())
}

/// A value of an expression as JSON, if it can be. A number that is not finite cannot.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's list may grow")]
fn json(value: &Value) -> Option<Json> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::String => serde_json::to_value(value).ok(),
        ValueKind::Number => serde_json::from_str(&value.to_string()).ok(),
        ValueKind::Seq | ValueKind::Iterable => value.try_iter().ok()?.map(|item| json(&item)).collect(),
        _ => None,
    }
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
        let Some(claim) = ClaimType::of(name) else {
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
        let source = source(&value, language, |constant| claim.typed(constant).map(drop));
        claims.named.extend(source.map(|source| (claim, source)));
    }
    claims
}

fn user_fields(value: &Entry<'_>, language: &Language) -> Vec<(String, Source)> {
    let mut fields = Vec::new();
    for (key, value) in value.entries() {
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            value.report(format!("`{key}` is not a field key; use letters, digits and underscores"));
        }
        fields.extend(source(&value, language, field).map(|source| (key.to_owned(), source)));
    }
    fields
}

/// A text is an expression, everything else a constant. An expression without variables is evaluated now, to check it.
fn source(
    value: &Entry<'_>,
    language: &Language,
    check: impl Fn(&Json) -> Result<(), ClaimError>,
) -> Option<Source> {
    let constant = match value.constant() {
        Some(constant) => Ok(constant),
        None => {
            let expression = value.as_text(|text| language.read(text))?;
            if !expression.is_constant() {
                return Some(Source::Expression(expression));
            }
            evaluated(&expression, language, &Facts::new(&BTreeMap::new(), [], []))
        }
    };
    let checked = constant.and_then(|constant| check(&constant).map(|()| Source::Constant(constant)));
    let report = |error| {
        value.report(match error {
            ClaimError::Expression(error) => format!("the expression has no value: {error}"),
            error @ (ClaimError::Type(_) | ClaimError::CustomRole) => error.to_string(),
        });
    };
    checked.map_err(report).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn typed(name: &str, value: Json) -> Result<Option<Json>, ClaimError> {
        ClaimType::of(name).unwrap().typed(&value)
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
            assert!(ClaimType::of(reserved).is_none());
        }
    }
}
