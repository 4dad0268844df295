//! `rules`, `reasons`, `claims` and `guards` of an app: who may enter, and what Zendesk is told.

use std::collections::BTreeMap;

use crate::base::error_chain::Chain;
use crate::config::expression::{Expression, Language};
use crate::config::raw::{Section, Value};
use crate::config::{Claims, Effect, Guards, OnDuplicate, Reason, Rule, Source, values};
use crate::sso::REASONS;
use crate::sso::claims::{self, OVERWRITING, RESERVED, kind_of};

/// A reason's name: it stands in logs and in this file.
fn reason_name(text: &str) -> Result<String, String> {
    if REASONS.contains(&text) {
        return Err(format!("`{text}` is a name under which the gateway itself refuses; use another"));
    }
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if plain && !text.is_empty() && text.len() <= 64 {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a reason's name; use lower-case letters, digits and hyphens"))
    }
}

fn expression(value: &Value<'_>, language: &Language) -> Option<Expression> {
    value.text(|text| language.read(text))
}

pub(super) fn rules(list: &Value<'_>, language: &Language) -> Option<Vec<Rule>> {
    let items = list.items()?;
    if items.is_empty() {
        list.report(
            "no rule at all would let nobody in; leave the key out to let everybody in whom iMIS signed in",
        );
    }
    let rules: Vec<Option<Rule>> =
        items.iter().map(|item| item.section().and_then(|section| rule(section, language))).collect();
    rules.into_iter().collect()
}

fn rule(mut section: Section<'_>, language: &Language) -> Option<Rule> {
    let allow = section.optional("allow").map(|value| expression(&value, language));
    let deny = section.optional("deny").map(|value| expression(&value, language));
    let reason = section.optional("reason").map(|value| value.text(reason_name));
    let (effect, when) = match (allow, deny) {
        (Some(when), None) => (Effect::Allow, when),
        (None, Some(when)) => (Effect::Deny, when),
        (Some(_), Some(_)) | (None, None) => {
            section.report("a rule is either {allow: EXPRESSION} or {deny: EXPRESSION, reason: NAME}");
            section.finish();
            return None;
        }
    };
    if effect == Effect::Allow && reason.is_some() {
        section.report("only a deny has a reason");
    }
    section.finish();
    Some(Rule { effect, when: when?, reason: reason.map_or(Some(None), |reason| reason.map(Some))? })
}

/// What members read when a rule refuses them, by the reason's name.
pub(super) fn reasons(section: Section<'_>) -> Option<BTreeMap<String, Reason>> {
    let read = |(name, value): (&str, Value<'_>)| {
        let name = reason_name(name).map_err(|problem| value.report(problem)).ok();
        let texts = if value.is_mapping() {
            let entries = value.section()?.entries();
            let text = |(language, text): (&str, Value<'_>)| {
                let known =
                    language.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && language.len() <= 16;
                if !known {
                    text.report(format!("`{language}` is not a language; write it like en or fr-CA"));
                }
                Some((language.to_ascii_lowercase(), text.text(values::not_empty)?))
            };
            entries.into_iter().map(text).collect::<Option<Vec<_>>>()
        } else {
            value.text(values::not_empty).map(|text| vec![("en".to_owned(), text)])
        };
        Some((name?, Reason { texts: texts? }))
    };
    section.entries().into_iter().map(read).collect()
}

pub(super) fn claims(section: Section<'_>, overwriting: &[String], language: &Language) -> Option<Claims> {
    let mut claims = Claims::default();
    let mut good = true;
    for (name, value) in section.entries() {
        if name == "user_fields" {
            match value.section().map(|section| user_fields(section, language)) {
                Some(Some(fields)) => claims.user_fields = fields,
                Some(None) | None => good = false,
            }
            continue;
        }
        let Some(kind) = kind_of(name) else {
            value.report(if RESERVED.contains(&name) {
                format!("`{name}` is always set by the gateway and cannot be a claim of your own")
            } else {
                format!("`{name}` is not a claim of Zendesk's single sign-on")
            });
            good = false;
            continue;
        };
        if OVERWRITING.iter().any(|(own, _)| *own == name) && !overwriting.iter().any(|own| own == name) {
            let what = OVERWRITING.iter().find(|(own, _)| *own == name).map_or("", |(_, what)| what);
            value.report(format!("{what}; if that is meant, write overwrite: [{name}] beside claims"));
            good = false;
        }
        match source(&value, language) {
            Some(Source::Constant(constant)) => match kind.typed(&constant) {
                Ok(_) => claims.named.push((kind, Source::Constant(constant))),
                Err(problem) => {
                    value.report(problem.to_string());
                    good = false;
                }
            },
            Some(expression) => claims.named.push((kind, expression)),
            None => good = false,
        }
    }
    good.then_some(claims)
}

fn user_fields(section: Section<'_>, language: &Language) -> Option<Vec<(String, Source)>> {
    let read = |(key, value): (&str, Value<'_>)| {
        let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !key.is_empty();
        if !plain {
            value.report(format!(
                "`{key}` is not a field key; Zendesk's keys have letters, digits and underscores"
            ));
        }
        let source = source(&value, language)?;
        if let Source::Constant(constant) = &source
            && let Err(error) = claims::field(constant)
        {
            value.report(error.to_string());
        }
        Some((key.to_owned(), source))
    };
    section.entries().into_iter().map(read).collect()
}

/// Text is an expression, everything else stands for itself. What is the same for everybody is worked out here, so that it is checked.
fn source(value: &Value<'_>, language: &Language) -> Option<Source> {
    if let Some(constant) = value.constant() {
        return Some(Source::Constant(constant));
    }
    let expression = expression(value, language)?;
    if !expression.is_constant() {
        return Some(Source::Expression(expression));
    }
    match claims::constant(&expression, language) {
        Ok(constant) => Some(Source::Constant(constant)),
        Err(error) => {
            value.report(Chain(&error).to_string());
            None
        }
    }
}

pub(super) fn overwrite(list: &Value<'_>) -> Option<Vec<String>> {
    list.texts(|text| {
        if OVERWRITING.iter().any(|(name, _)| *name == text) {
            Ok(text.to_owned())
        } else {
            let names: Vec<&str> = OVERWRITING.iter().map(|(name, _)| *name).collect();
            Err(format!("`{text}` overwrites nothing; those that do are {}", names.join(", ")))
        }
    })
}

pub(super) fn guards(mut section: Section<'_>, language: &Language) -> Option<Guards> {
    let default = Guards::default();
    let refuses = |text: &str| match text {
        "refuse" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("`{other}` is not what can be done; use refuse or off")),
    };
    let duplicate_email = section
        .optional("duplicate_email")
        .map_or(Some(default.duplicate_email), |value| value.word(on_duplicate));
    let company_records = section
        .optional("company_records")
        .map_or(Some(default.refuses_companies), |value| value.word(refuses));
    let inactive_records = section
        .optional("inactive_records")
        .map_or(Some(default.refuses_inactive), |value| value.word(refuses));
    let staff = section.optional("staff").map_or(Some(default.refuses_staff), |value| value.word(refuses));
    let staff_domains = match section.optional("staff_domains") {
        Some(list) => list.texts(domain),
        None => Some(Vec::new()),
    };
    let is_staff = match section.optional("is_staff") {
        Some(value) => expression(&value, language).map(Some),
        None => Some(None),
    };
    section.finish();
    Some(Guards {
        duplicate_email: duplicate_email?,
        refuses_companies: company_records?,
        refuses_inactive: inactive_records?,
        refuses_staff: staff?,
        staff_domains: staff_domains?,
        is_staff: is_staff?,
    })
}

fn domain(text: &str) -> Result<String, String> {
    let text = text.trim_start_matches('@').to_ascii_lowercase();
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
    if plain && text.contains('.') {
        Ok(text)
    } else {
        Err(format!("`{text}` is not a domain; write it like association.org"))
    }
}

fn on_duplicate(text: &str) -> Result<OnDuplicate, String> {
    match text {
        "refuse" => Ok(OnDuplicate::Refuse),
        "warn" => Ok(OnDuplicate::Warn),
        "off" => Ok(OnDuplicate::Off),
        other => Err(format!("`{other}` is not what can be done; use refuse, warn or off")),
    }
}
