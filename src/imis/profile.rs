//! The profile of a person at the time of signing in, from a contact's record or from a query's row.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::base::phone::{self, Preference};
use crate::config::ProfileColumns;
use crate::imis::identity::{PartyId, Row};
use crate::imis::json::{date, is_true, non_blank};

/// The kind of a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Person,
    Company,
}

/// A person's profile. It has no Debug because it is personal data.
#[derive(Clone)]
pub(crate) struct Profile {
    pub(crate) id: PartyId,
    pub(crate) kind: Kind,
    pub(crate) name: Option<String>,
    /// As iMIS has it, not validated.
    pub(crate) email: Option<String>,
    /// E.164.
    pub(crate) phone: Option<String>,
    /// `A` is active.
    pub(crate) status: Option<String>,
    /// The name of the primary organization.
    pub(crate) organization: Option<String>,
    /// `AdditionalAttributes`: IsMember, CustomerTypeCode, PaidThruDate ...
    pub(crate) attributes: BTreeMap<String, Value>,
}

impl Profile {
    pub(crate) fn is_member(&self) -> Option<bool> {
        self.attributes.get("IsMember").map(is_true)
    }

    /// `PaidThruDate` as `YYYY-MM-DD`.
    pub(crate) fn paid_through(&self) -> Option<String> {
        self.attributes.get("PaidThruDate").and_then(date)
    }

    /// The profile as text, to explain a decision.
    pub(crate) fn describe(&self) -> String {
        let kind = if self.kind == Kind::Person { "person" } else { "company" };
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
        let attributes: Vec<String> =
            self.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!(
            "{kind} {}, name {}, e-mail {}, phone {}, status {}, organization {}, attributes {}",
            self.id.as_str(),
            or_none(&self.name),
            or_none(&self.email),
            or_none(&self.phone),
            or_none(&self.status),
            or_none(&self.organization),
            attributes.join(" ")
        )
    }

    pub(crate) fn customer_type(&self) -> Option<&str> {
        let code = self.attributes.get("CustomerTypeCode")?.as_str()?.trim();
        (!code.is_empty()).then_some(code)
    }
}

impl Profile {
    /// The profile in a query's row.
    pub(crate) fn of_row(
        row: &Row,
        columns: &ProfileColumns,
        id: &PartyId,
        phones: &Preference,
    ) -> Result<Self, PartyError> {
        let text = |column: &Option<String>| column.as_ref().and_then(|column| non_blank(row.get(column)?));
        // A missing column must not turn a company into a person, or make a person active.
        let there = |column: &Option<String>| match column {
            None => Ok(None),
            Some(column) => row.get(column).map(Some).ok_or_else(|| PartyError::NoColumn(column.clone())),
        };
        let kind = match there(&columns.company)?.map(parse_bool) {
            None | Some(Some(false)) => Kind::Person,
            Some(Some(true)) => Kind::Company,
            Some(None) => return Err(PartyError::UnknownKind),
        };
        let status = match there(&columns.status)? {
            None | Some(Value::Null) => None,
            Some(value @ (Value::String(_) | Value::Number(_))) => non_blank(value),
            Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
                return Err(PartyError::UnknownStatus);
            }
        };
        Ok(Self {
            id: id.clone(),
            kind,
            name: row.get(&columns.name).and_then(non_blank),
            // Unchanged; the policy checks it.
            email: row
                .get(&columns.email)
                .and_then(Value::as_str)
                .filter(|text| !text.trim().is_empty())
                .map(str::to_owned),
            phone: text(&columns.phone).and_then(|number| phone::e164(&number, phones.region)),
            status,
            organization: None,
            attributes: row.clone(),
        })
    }
}

/// Whether a status is inactive (`I`) or marked for deletion (`D`), as a code or in words. Other codes are
/// the association's own.
pub(crate) fn is_inactive(status: &str) -> bool {
    let words = ["i", "d", "inactive", "deleted", "marked for deletion"];
    words.iter().any(|word| status.trim().eq_ignore_ascii_case(word))
}

/// A boolean as queries write it.
fn parse_bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Null => Some(false),
        Value::Number(number) => match number.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            Some(_) | None => None,
        },
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "" | "false" | "0" | "no" | "n" => Some(false),
            "true" | "1" | "yes" | "y" => Some(true),
            _ => None,
        },
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A response of the API is not a valid profile.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PartyError {
    #[error("is not a contact in JSON")]
    NotAParty,
    #[error("is the record of another contact")]
    AnotherParty,
    #[error("is a record that is neither a person nor an organization")]
    UnknownKind,
    #[error("has an invalid status")]
    UnknownStatus,
    #[error("has invalid attributes: not a list of names and values, or one name with two values")]
    Attributes,
    #[error("is not a page of contacts")]
    NotRows,
    #[error("does not list the person who has the e-mail address: the search by e-mail is not reliable")]
    NotListed,
    #[error("has no column `{0}`")]
    NoColumn(String),
}
