//! How iMIS writes JSON: collections in `$values`, values wrapped in `$value`, keys that must not stand twice.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

/// The bytes without a byte order mark, which some IIS set-ups put before JSON.
pub(super) fn without_bom(json: &[u8]) -> &[u8] {
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

/// The entries of a collection, `{"$values": [..]}`, or of a bare list; none where it is something else.
pub(super) fn list_or_empty(collection: &Value) -> &[Value] {
    list(collection).unwrap_or_default()
}

/// The same where it matters that nothing is overlooked: empty when there is nothing, none when it is something else than a collection.
pub(super) fn list(collection: &Value) -> Option<&[Value]> {
    let list = collection.get("$values").unwrap_or(collection);
    if list.is_null() { Some(&[]) } else { list.as_array().map(Vec::as_slice) }
}

/// A page of rows, as the REST API answers questions about many.
pub(super) struct Rows(Object);

impl Rows {
    /// None when it is something else.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        let rows = Self(serde_json::from_slice(without_bom(json)).ok()?);
        let items = rows.0.get("Items")?;
        let is_list = items.is_array() || items["$values"].is_array();
        is_list.then_some(rows)
    }

    pub(super) fn items(&self) -> &[Value] {
        self.0.get("Items").map(list_or_empty).unwrap_or_default()
    }

    pub(super) fn total(&self) -> Option<u64> {
        self.0.get("TotalCount").and_then(Value::as_u64)
    }

    pub(super) fn has_next(&self) -> bool {
        self.0.get("HasNext").is_some_and(is_true)
    }

    /// Where the next page begins, if there is one behind this, which began at `offset`. None of that when the list does not go on
    /// where it says: half a list could pass for the whole.
    pub(super) fn next(&self, offset: u64) -> Option<Option<u64>> {
        if !self.has_next() {
            return Some(None);
        }
        self.0.get("NextOffset").and_then(Value::as_u64).filter(|next| *next > offset).map(Some)
    }
}

/// A value without the type that iMIS may wrap it in: `{"$type":"System.Boolean","$value":true}`.
pub(super) fn unwrapped(value: &Value) -> &Value {
    value.get("$value").unwrap_or(value)
}

/// Text that is there and not blank, trimmed; a number as its text.
pub(super) fn non_blank(value: &Value) -> Option<String> {
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

/// The day of a date and time without a zone, as iMIS writes them.
pub(super) fn date(value: &Value) -> Option<String> {
    let text = unwrapped(value).as_str()?.get(..10)?;
    let shaped = text
        .bytes()
        .enumerate()
        .all(|(at, byte)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() });
    shaped.then(|| text.to_owned())
}
