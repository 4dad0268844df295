//! The claims of a token beside who the person is, worked out for one person.

use serde_json::{Map, Value as Json};

use crate::config::claims::{ClaimError, evaluated, field};
use crate::config::expression::{Facts, Language};
use crate::config::{Claims, Source};

/// The claim that has no valid value, and why.
#[derive(Debug, thiserror::Error)]
#[error("the claim `{name}`")]
pub(crate) struct NamedError {
    name: String,
    #[source]
    error: ClaimError,
}

/// The claims of a person.
pub(crate) fn of(
    claims: &Claims,
    language: &Language,
    facts: &Facts,
) -> Result<Map<String, Json>, NamedError> {
    let mut all = Map::new();
    for (claim, source) in &claims.named {
        let named = |error| NamedError { name: claim.name.to_owned(), error };
        let value = value_of(source, language, facts).map_err(named)?;
        if let Some(value) = claim.typed(&value).map_err(named)? {
            all.insert(claim.name.to_owned(), value);
        }
    }
    if all.contains_key("custom_role_id") && all.get("role").and_then(Json::as_str) != Some("agent") {
        return Err(NamedError { name: "custom_role_id".to_owned(), error: ClaimError::CustomRole });
    }
    if !claims.user_fields.is_empty() {
        let mut fields = Map::new();
        for (key, source) in &claims.user_fields {
            let named = |error| NamedError { name: format!("user_fields.{key}"), error };
            let value = value_of(source, language, facts).map_err(named)?;
            field(&value).map_err(named)?;
            fields.insert(key.clone(), value);
        }
        all.insert("user_fields".to_owned(), fields.into());
    }
    Ok(all)
}

fn value_of(source: &Source, language: &Language, facts: &Facts) -> Result<Json, ClaimError> {
    match source {
        Source::Constant(value) => Ok(value.clone()),
        Source::Expression(expression) => evaluated(expression, language, facts),
    }
}
