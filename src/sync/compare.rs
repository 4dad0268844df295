//! Compares what a user should be with what Zendesk has.

use serde_json::{Map, Value};

use crate::config::sync::{Policy, Sync};
use crate::zendesk::fields::{UserField, value_problem};

/// A field that would change.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct FieldChange {
    pub(crate) field: String,
    pub(crate) old: Value,
    pub(crate) new: Value,
    /// Why the field is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

impl FieldChange {
    /// The user would lose a value.
    pub(crate) fn loses_value(&self) -> bool {
        self.problem.is_none() && !is_empty(&self.old) && is_empty(&self.new)
    }
}

/// Claims that are no properties of a user in the API.
const ORGANIZATIONS: [&str; 3] = ["organization", "organizations", "organization_external_ids"];
/// Properties that the API accepts and does not return as they were written.
const WRITE_ONLY: &str = "remote_photo_url";

/// What is known of a user besides its properties.
pub(crate) struct Known<'a> {
    /// Whether the user has an e-mail address, primary or not, or had it written before.
    pub(crate) has_address: &'a dyn Fn(&str) -> bool,
    /// Whether a value was written to a write-only property before.
    pub(crate) was_written: &'a dyn Fn(&str, &Value) -> bool,
    /// The fields of the account.
    pub(crate) fields: &'a [UserField],
}

/// The fields of `user` that differ from what is `desired`. `user`: `None` for a user that is to be created.
pub(crate) fn changes(
    desired: &Map<String, Value>,
    user: Option<&Value>,
    sync: &Sync,
    known: &Known<'_>,
) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    let mut add = |field: &str, old: &Value, new: &Value, is_same: bool, problem: Option<String>| {
        let required = user.is_none() && matches!(field, "name" | "email" | "external_id");
        let is_written = match sync.policy(field) {
            Policy::Always => true,
            Policy::IfEmpty => is_empty(old),
            Policy::Never => false,
        };
        if (is_written || required) && !is_same {
            changes.push(FieldChange {
                field: field.to_owned(),
                old: old.clone(),
                new: new.clone(),
                problem,
            });
        }
    };
    for (name, new) in desired.iter().filter(|(name, _)| !ORGANIZATIONS.contains(&name.as_str())) {
        let old = user.map_or(&Value::Null, |user| &user[name.as_str()]);
        match (name.as_str(), user) {
            ("user_fields", _) => {
                for (key, new) in new.as_object().into_iter().flatten() {
                    let old = &old[key.as_str()];
                    let problem = value_problem(known.fields, key, new);
                    add(&format!("user_fields.{key}"), old, new, same_field(old, new), problem);
                }
            }
            ("email", Some(_)) => {
                add(name, old, new, (known.has_address)(new.as_str().unwrap_or_default()), None);
            }
            (WRITE_ONLY, Some(_)) => add(name, &Value::Null, new, (known.was_written)(name, new), None),
            _ => add(name, old, new, same(name, old, new), None),
        }
    }
    changes
}

/// Whether a user lacks one of the properties that were sent.
pub(crate) fn differences(sent: &Map<String, Value>, user: &Value, known: &Known<'_>) -> bool {
    sent.iter().any(|(name, new)| match name.as_str() {
        "email" => !(known.has_address)(new.as_str().unwrap_or_default()),
        "suspended" => user["suspended"] != *new,
        "user_fields" => {
            let fields = new.as_object().into_iter().flatten();
            fields.clone().any(|(key, new)| !same_field(&user["user_fields"][key.as_str()], new))
        }
        WRITE_ONLY => false,
        _ => !same(name, &user[name.as_str()], new),
    })
}

/// The properties to send for these changes.
pub(crate) fn body(changes: &[FieldChange]) -> Map<String, Value> {
    let mut body = Map::new();
    let mut fields = Map::new();
    for change in changes.iter().filter(|change| change.problem.is_none()) {
        match change.field.strip_prefix("user_fields.") {
            Some(key) => _ = fields.insert(key.to_owned(), change.new.clone()),
            None => {
                // Claims and the API have different names for one role.
                let is_end_user = change.field == "role" && change.new == "end_user";
                let value = if is_end_user { "end-user".into() } else { change.new.clone() };
                body.insert(change.field.clone(), value);
            }
        }
    }
    if !fields.is_empty() {
        body.insert("user_fields".to_owned(), fields.into());
    }
    body
}

pub(crate) fn is_empty(value: &Value) -> bool {
    value.is_null()
        || value.as_str().is_some_and(|text| text.trim().is_empty())
        || value.as_array().is_some_and(Vec::is_empty)
}

fn same(name: &str, old: &Value, new: &Value) -> bool {
    let text = |value: &Value| value.as_str().map(str::to_lowercase).unwrap_or_default();
    match name {
        // Zendesk compares them without regard to case.
        "external_id" | "locale" => text(old) == text(new),
        "role" => text(old).replace('-', "_") == text(new).replace('-', "_"),
        "tags" => {
            let set = |value: &Value| {
                let tags = value.as_array().map(Vec::as_slice).unwrap_or_default().iter();
                let mut tags: Vec<String> = tags.map(text).collect();
                tags.sort();
                tags.dedup();
                tags
            };
            set(old) == set(new)
        }
        _ => same_field(old, new),
    }
}

/// Zendesk returns dates with a time, and decimal numbers as texts. An empty text and no value are the same.
fn same_field(old: &Value, new: &Value) -> bool {
    if old == new || (is_empty(old) && is_empty(new)) || (old.is_null() && *new == false) {
        return true;
    }
    match (old, new) {
        (Value::String(old), Value::String(new)) => {
            let is_date = new.parse::<jiff::civil::Date>().is_ok();
            old.trim() == new.trim()
                || (is_date && old.strip_prefix(new.as_str()).is_some_and(|rest| rest.starts_with('T')))
        }
        (Value::String(text), Value::Number(number)) | (Value::Number(number), Value::String(text)) => {
            text.trim().parse::<f64>().is_ok_and(|value| Some(value) == number.as_f64())
        }
        (Value::Number(old), Value::Number(new)) => old.as_f64() == new.as_f64(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_that_zendesk_writes_in_another_way_are_the_same() {
        for (old, new) in [
            (json!("2026-11-27T00:00:00+00:00"), json!("2026-11-27")),
            (json!("3.50"), json!(3.5)),
            (json!(3), json!(3.0)),
            (json!(null), json!("")),
            (json!(null), json!(false)),
            (json!("Ann "), json!("Ann")),
        ] {
            assert!(same_field(&old, &new), "{old} {new}");
        }
        for (old, new) in
            [(json!(true), json!(false)), (json!("3.51"), json!(3.5)), (json!("a"), json!(null))]
        {
            assert!(!same_field(&old, &new), "{old} {new}");
        }
        assert!(same("tags", &json!(["b", "A"]), &json!(["a", "b"])));
        assert!(same("role", &json!("end-user"), &json!("end_user")));
        assert!(!same("name", &json!("ann"), &json!("Ann")));
    }
}
