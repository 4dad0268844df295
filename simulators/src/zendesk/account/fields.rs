//! The account's user fields, and which values they take.

use serde_json::{Value, json};

/// The type of a user field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Zendesk's")]
pub enum FieldKind {
    Checkbox,
    Date,
    Decimal,
    Dropdown,
    Integer,
    Lookup,
    Multiselect,
    Regexp,
    Text,
    Textarea,
}

impl FieldKind {
    fn name(self) -> &'static str {
        match self {
            Self::Checkbox => "checkbox",
            Self::Date => "date",
            Self::Decimal => "decimal",
            Self::Dropdown => "dropdown",
            Self::Integer => "integer",
            Self::Lookup => "lookup",
            Self::Multiselect => "multiselect",
            Self::Regexp => "regexp",
            Self::Text => "text",
            Self::Textarea => "textarea",
        }
    }
}

/// A regular expression, and a function that decides the same.
pub type Pattern = (String, fn(&str) -> bool);

/// A user field.
#[derive(Debug, Clone)]
pub struct UserField {
    /// Its key in `user_fields`.
    pub key: String,
    /// Its type.
    pub kind: FieldKind,
    /// Inactive fields are listed; values for them are ignored.
    pub active: bool,
    /// The tags of a dropdown or a multiselect.
    pub options: Vec<String>,
    /// What values of a field of the type `Regexp` must match.
    pub regexp: Option<Pattern>,
}

impl UserField {
    /// An active field without options.
    pub fn new(key: &str, kind: FieldKind) -> Self {
        Self { key: key.to_owned(), kind, active: true, options: Vec::new(), regexp: None }
    }

    /// The field with these tags as options.
    #[must_use]
    pub fn with_options(mut self, options: &[&str]) -> Self {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
        self
    }

    pub(crate) fn json(&self, id: u64) -> Value {
        let mut shown = json!({"id": id, "key": self.key, "type": self.kind.name(), "title": self.key,
            "active": self.active, "position": id, "system": false, "description": "",
            "regexp_for_validation": null});
        if let Some((text, _)) = &self.regexp {
            shown["regexp_for_validation"] = json!(text);
        }
        if matches!(self.kind, FieldKind::Dropdown | FieldKind::Multiselect) {
            let options = self.options.iter().zip(1..);
            let shown_option = |(value, id): (&String, u64)| json!({"id": id, "name": value, "value": value});
            shown["custom_field_options"] = options.map(shown_option).collect();
        }
        shown
    }

    /// What a field shows that has never been written.
    pub(crate) fn empty(&self) -> Value {
        match self.kind {
            FieldKind::Checkbox => json!(false),
            FieldKind::Multiselect => json!([]),
            FieldKind::Date
            | FieldKind::Decimal
            | FieldKind::Dropdown
            | FieldKind::Integer
            | FieldKind::Lookup
            | FieldKind::Regexp
            | FieldKind::Text
            | FieldKind::Textarea => Value::Null,
        }
    }

    /// The value as Zendesk shows it afterwards, or nothing if the field does not take it.
    pub(crate) fn accepted(&self, value: &Value) -> Option<Value> {
        if value.is_null() || value == "" {
            return Some(self.empty());
        }
        let text =
            || value.as_str().map(str::to_owned).or_else(|| value.as_number().map(ToString::to_string));
        match self.kind {
            FieldKind::Checkbox => match value {
                Value::Bool(_) => Some(value.clone()),
                Value::String(_) | Value::Number(_) => match text()?.as_str() {
                    "true" | "1" => Some(json!(true)),
                    "false" | "0" => Some(json!(false)),
                    _ => None,
                },
                Value::Null | Value::Array(_) | Value::Object(_) => None,
            },
            // A date comes back with a time.
            FieldKind::Date => date(value.as_str()?).map(|day| json!(format!("{day}T00:00:00Z"))),
            FieldKind::Decimal => {
                text()?.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from)
            }
            FieldKind::Integer | FieldKind::Lookup => text()?.parse::<i64>().ok().map(Value::from),
            FieldKind::Dropdown => self.options.iter().any(|own| value == own).then(|| value.clone()),
            FieldKind::Multiselect => {
                let all = value.as_array()?;
                all.iter().all(|one| self.options.iter().any(|own| one == own)).then(|| value.clone())
            }
            FieldKind::Regexp => {
                let text = text()?;
                self.regexp.as_ref().is_none_or(|(_, matches)| matches(&text)).then(|| json!(text))
            }
            FieldKind::Text | FieldKind::Textarea => {
                text().filter(|text| text.len() <= 65_535).map(Value::from)
            }
        }
    }
}

/// The day of a date; `yyyy-mm-dd`, alone or with a time.
fn date(text: &str) -> Option<&str> {
    let (day, rest) = text.split_at_checked(10)?;
    let number = |range: std::ops::Range<usize>| day.get(range)?.parse::<u16>().ok();
    let (year, month) = (i32::from(number(0..4)?), u8::try_from(number(5..7)?).ok()?);
    let month = time::Month::try_from(month).ok()?;
    time::Date::from_calendar_date(year, month, u8::try_from(number(8..10)?).ok()?).ok()?;
    let dashes = day.as_bytes()[4] == b'-' && day.as_bytes()[7] == b'-';
    (dashes && (rest.is_empty() || rest.starts_with('T'))).then_some(day)
}

/// One field of every type that members need.
pub(crate) fn sample() -> Vec<UserField> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    vec![
        UserField::new("membership", FieldKind::Text),
        UserField::new("paid_through", FieldKind::Date),
        UserField::new("chapter", FieldKind::Dropdown).with_options(&["chapter_north", "chapter_south"]),
        UserField::new("is_fellow", FieldKind::Checkbox),
        UserField::new("points", FieldKind::Integer),
        UserField::new("dues", FieldKind::Decimal),
        UserField::new("interests", FieldKind::Multiselect).with_options(&["law", "standards"]),
        UserField {
            regexp: Some(("\\A[0-9]+\\z".to_owned(), is_number)),
            ..UserField::new("member_number", FieldKind::Regexp)
        },
        UserField::new("biography", FieldKind::Textarea),
        UserField { active: false, ..UserField::new("retired", FieldKind::Text) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_by_the_type_of_the_field() {
        let fields = sample();
        let accepted = |key: &str, value: Value| {
            fields.iter().find(|field| field.key == key).and_then(|field| field.accepted(&value))
        };
        assert_eq!(accepted("paid_through", json!("2027-02-28")), Some(json!("2027-02-28T00:00:00Z")));
        for wrong in ["2027-02-30", "28.02.2027", "2027-2-8"] {
            assert_eq!(accepted("paid_through", json!(wrong)), None, "{wrong}");
        }
        assert_eq!(accepted("chapter", json!("chapter_west")), None);
        assert_eq!(accepted("chapter", Value::Null), Some(Value::Null));
        assert_eq!(accepted("dues", json!("5.10")), Some(json!(5.1)));
        assert_eq!(accepted("points", json!(1.5)), None);
        assert_eq!(accepted("member_number", json!("12a")), None);
        assert_eq!(accepted("interests", json!(["law", "tax"])), None);
    }
}
