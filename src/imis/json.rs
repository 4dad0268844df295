//! How iMIS writes JSON: collections in `$values`, values wrapped in `$value`, keys that must not stand twice.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

/// The bytes without a byte order mark, which some IIS set-ups put before JSON.
pub(super) fn without_mark(json: &[u8]) -> &[u8] {
    json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json)
}

/// An object whose every key stands once, in its order.
pub(super) struct Object(pub(super) Vec<(String, Value)>);

impl Object {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Object, A::Error> {
                let mut entries: Vec<(String, Value)> = Vec::new();
                while let Some((name, value)) = access.next_entry()? {
                    if entries.iter().any(|(own, _)| *own == name) {
                        return Err(A::Error::custom("a key stands twice"));
                    }
                    entries.push((name, value));
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The entries of a collection, `{"$values": [..]}`, or of a bare list.
pub(super) fn entries(collection: &Value) -> &[Value] {
    let list = collection.get("$values").unwrap_or(collection).as_array();
    list.map(Vec::as_slice).unwrap_or_default()
}

/// The same where it matters that nothing is overlooked: empty when there is nothing, none when it is something else than a collection.
pub(super) fn list(collection: &Value) -> Option<&[Value]> {
    let list = collection.get("$values").unwrap_or(collection);
    if list.is_null() { Some(&[]) } else { list.as_array().map(Vec::as_slice) }
}

/// A value without the type that iMIS may wrap it in: `{"$type":"System.Boolean","$value":true}`.
pub(super) fn unwrapped(value: &Value) -> &Value {
    value.get("$value").unwrap_or(value)
}

/// Text that is there and not blank, trimmed; a number as its text.
pub(super) fn filled(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// `true`, or `"true"` in any case.
pub(super) fn is_true(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true")))
}
