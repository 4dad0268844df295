//! JSON as iMIS writes it: collections in `$values`, values wrapped in `$value`. Duplicate keys are an error.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// JSON as serde_json can read it: without the byte order mark that some IIS installations put before it, and with a
/// replacement character for each lone surrogate. .NET writes those for text that was cut within a character.
pub(super) fn readable(json: &[u8]) -> Cow<'_, [u8]> {
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    let mut lone = Vec::new();
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &json[at..]) {
        at += found;
        match (escaped_unit(&json[at..]), escaped_unit(json.get(at + 6..).unwrap_or_default())) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => at += 12,
            (Some(0xd800..=0xdfff), _) => {
                lone.push(at);
                at += 6;
            }
            _ => at = json.len().min(at + 2),
        }
    }
    if lone.is_empty() {
        return Cow::Borrowed(json);
    }
    let mut json = json.to_vec();
    for at in lone {
        json[at..at + 6].copy_from_slice(b"\\ufffd");
    }
    Cow::Owned(json)
}

/// The UTF-16 unit of an escape such as `\ud83d` at the beginning of `json`.
fn escaped_unit(json: &[u8]) -> Option<u16> {
    let digits = json.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Parses an object. A list is an error: serde would read its items as fields by position.
pub(super) fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// The items of a collection, `{"$values": [..]}`, or of a plain list. Empty if it is something else.
pub(super) fn list_or_empty(collection: &Value) -> &[Value] {
    list(collection).unwrap_or_default()
}

/// The items of a collection or of a plain list. Empty for null, `None` if it is something else.
pub(super) fn list(collection: &Value) -> Option<&[Value]> {
    let list = collection.get("$values").unwrap_or(collection);
    if list.is_null() { Some(&[]) } else { list.as_array().map(Vec::as_slice) }
}

/// A page of a list in the REST API.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Rows {
    items: Value,
    #[serde(default)]
    total_count: Value,
    #[serde(default)]
    has_next: Value,
    #[serde(default)]
    next_offset: Value,
}

impl Rows {
    /// `None` if it is not a page.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        let is_list = |rows: &Self| rows.items.is_array() || rows.items["$values"].is_array();
        object(&readable(json)).filter(is_list)
    }

    pub(super) fn items(&self) -> &[Value] {
        list_or_empty(&self.items)
    }

    pub(super) fn total(&self) -> Option<u64> {
        self.total_count.as_u64()
    }

    pub(super) fn has_next(&self) -> bool {
        is_true(&self.has_next)
    }

    /// The offset of the page after the one at `offset`, or `Some(None)` after the last page. `None` if
    /// `NextOffset` is not valid: part of a list must not pass for all of it.
    pub(super) fn next(&self, offset: u64) -> Option<Option<u64>> {
        if !self.has_next() {
            return Some(None);
        }
        self.next_offset.as_u64().filter(|next| *next > offset).map(Some)
    }
}

/// The value inside a wrapper like `{"$type":"System.Boolean","$value":true}`.
pub(super) fn unwrapped(value: &Value) -> &Value {
    value.get("$value").unwrap_or(value)
}

/// Text that is not blank, trimmed. Numbers are converted to text.
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

/// The date of a date and time without a time zone.
pub(super) fn date(value: &Value) -> Option<String> {
    let text = unwrapped(value).as_str()?.get(..10)?;
    let shaped = text
        .bytes()
        .enumerate()
        .all(|(at, byte)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() });
    shaped.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_surrogate_becomes_a_replacement_character() {
        for (json, expected) in [
            (r#""\ud83d\ude00""#, "\u{1f600}"),
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""\udE00\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ud83dx\ude00""#, "\u{fffd}x\u{fffd}"),
            (r#""\\ud83d""#, r"\ud83d"),
            (r#""\\\ud83d""#, "\\\u{fffd}"),
            (r#""\"\u00e4""#, "\"\u{e4}"),
            ("\u{feff}\"a\"", "a"),
        ] {
            let text: String = serde_json::from_slice(&readable(json.as_bytes())).unwrap();
            assert_eq!(text, expected, "{json}");
        }
        for invalid in [r#""\ud8"#, r#""\u+83d""#, "\"\\", r#""\ud83d\"#] {
            assert!(serde_json::from_slice::<String>(&readable(invalid.as_bytes())).is_err(), "{invalid}");
        }
    }
}
