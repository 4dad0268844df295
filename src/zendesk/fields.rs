//! The user fields of an account. Zendesk silently ignores unknown fields and invalid values.

use serde_json::Value;

use crate::config::Source;
use crate::zendesk::api::{Api, ApiError, non_blank};

/// A user field of an account.
pub(crate) struct UserField {
    pub(crate) key: String,
    kind: String,
    is_active: bool,
    /// The options of a dropdown or multiselect.
    options: Vec<String>,
    /// The pattern of a field of type `regexp`, if it can be compiled.
    pattern: Option<regex_lite::Regex>,
}

/// The longest text of a field, in characters. Zendesk rejects longer ones.
const MAX_TEXT: usize = 65_535;

/// All user fields of an account.
pub(crate) async fn user_fields(api: &Api) -> Result<Vec<UserField>, ApiError> {
    let all = api.list("user_fields", "user_fields").await?;
    all.iter().map(UserField::read).collect::<Option<_>>().ok_or(ApiError::Answer)
}

/// Why a field cannot have this value, if that is known in advance.
pub(crate) fn problem(fields: &[UserField], key: &str, source: &Source) -> Option<String> {
    let Some(field) = fields.iter().find(|field| field.key == key) else {
        return Some("the account has no field with this key".to_owned());
    };
    if !field.is_active {
        return Some("the field is deactivated".to_owned());
    }
    match source {
        Source::Constant(value) if !field.takes(value) => {
            Some(format!("a field of type {} cannot have the configured value", field.kind))
        }
        Source::Constant(_) | Source::Expression(_) => None,
    }
}

/// Why a user cannot have this value in a field. Never contains the value.
pub(crate) fn value_problem(fields: &[UserField], key: &str, value: &Value) -> Option<String> {
    match fields.iter().find(|field| field.key == key) {
        None => Some("the account has no field with this key".to_owned()),
        Some(field) if !field.is_active => Some("the field is deactivated".to_owned()),
        Some(field) if !field.takes(value) => {
            Some(format!("a field of type {} cannot have this value", field.kind))
        }
        Some(_) => None,
    }
}

impl UserField {
    fn read(value: &Value) -> Option<Self> {
        let options = value["custom_field_options"].as_array().into_iter().flatten();
        Some(Self {
            key: non_blank(&value["key"])?,
            kind: non_blank(&value["type"])?,
            is_active: value["active"] != false,
            options: options.filter_map(|option| non_blank(&option["value"])).collect(),
            pattern: non_blank(&value["regexp_for_validation"])
                .and_then(|pattern| regex_lite::Regex::new(&pattern).ok()),
        })
    }

    fn takes(&self, value: &Value) -> bool {
        // Null clears a field.
        value.is_null()
            || match self.kind.as_str() {
                "checkbox" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                "decimal" => value.is_number(),
                "date" => value.as_str().is_some_and(|text| text.parse::<jiff::civil::Date>().is_ok()),
                "dropdown" => {
                    value.as_str().is_some_and(|text| self.options.iter().any(|option| option == text))
                }
                "multiselect" => {
                    let tags = value.as_array().map(Vec::as_slice).unwrap_or_default();
                    let is_option =
                        |tag: &Value| tag.as_str().is_some_and(|tag| self.options.iter().any(|o| o == tag));
                    value.is_array() && tags.iter().all(is_option)
                }
                "regexp" => value
                    .as_str()
                    .is_some_and(|text| self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))),
                _ => value.as_str().is_none_or(|text| text.chars().count() <= MAX_TEXT),
            }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn constants_have_to_fit_the_field() {
        let field = |kind: &str| {
            UserField::read(&json!({"key": "f", "type": kind, "custom_field_options": [{"name": "North", "value": "north"}]})).unwrap()
        };
        for (kind, good, bad) in [
            ("checkbox", json!(true), json!("true")),
            ("integer", json!(3), json!(3.5)),
            ("decimal", json!(3.5), json!("3.5")),
            ("date", json!("2026-11-27"), json!("27.11.2026")),
            ("dropdown", json!("north"), json!("North")),
        ] {
            assert!(field(kind).takes(&good) && field(kind).takes(&Value::Null), "{kind}");
            assert!(!field(kind).takes(&bad), "{kind}");
        }
        assert!(field("text").takes(&json!("whatever")));
    }

    #[test]
    fn a_field_without_a_key_or_a_type_is_no_field() {
        assert!(UserField::read(&json!({"type": "text"})).is_none());
        assert!(UserField::read(&json!({"key": "a"})).is_none());
    }
}
