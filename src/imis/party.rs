//! A contact as the REST API tells it, and the profile made of it.
//!
//! Nulls are omitted, strings may be blank, ids are strings; a record that is not the one asked for, or of an unknown
//! kind, is an error, never a profile.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::PartyId;
use super::phone::{self, Preference};

/// What the gateway knows of a person at the moment of signing in. It has no Debug: it is personal.
pub(crate) struct Profile {
    pub(crate) id: PartyId,
    pub(crate) kind: Kind,
    pub(crate) name: Option<String>,
    /// As iMIS has it; not yet checked.
    pub(crate) email: Option<String>,
    /// E.164.
    pub(crate) phone: Option<String>,
    /// `A` is active.
    pub(crate) status: Option<String>,
    /// `AdditionalAttributes`: IsMember, CustomerTypeCode, PaidThruDate ...
    pub(crate) attributes: BTreeMap<String, Value>,
}

impl Profile {
    pub(crate) fn is_member(&self) -> Option<bool> {
        let value = self.attributes.get("IsMember")?;
        value.as_bool().or_else(|| value.as_str()?.to_ascii_lowercase().parse().ok())
    }

    pub(crate) fn customer_type(&self) -> Option<&str> {
        self.attributes.get("CustomerTypeCode")?.as_str()
    }
}

/// What kind of record it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Person,
    Company,
}

/// Why an answer of the API is not a profile.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PartyError {
    #[error("is not the JSON of a contact")]
    NotAParty,
    #[error("is another contact than the one asked for")]
    AnotherParty,
    #[error("is a record that is neither a person nor an organization")]
    UnknownKind,
}

/// The record, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Party {
    #[serde(rename = "$type")]
    type_name: String,
    party_id: Value,
    name: Option<String>,
    person_name: Option<PersonName>,
    emails: Option<Values<Email>>,
    phones: Option<Values<Phone>>,
    status: Option<Status>,
    additional_attributes: Option<Values<Attribute>>,
}

#[derive(Deserialize)]
struct Values<T> {
    #[serde(rename = "$values")]
    values: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PersonName {
    full_name: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Email {
    address: Option<String>,
    email_type: Option<String>,
    is_primary: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Phone {
    number: Option<String>,
    phone_type: Option<String>,
    is_primary: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    party_status_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    name: String,
    #[serde(default)]
    value: Value,
}

impl Party {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, PartyError> {
        // Some IIS set-ups put a byte order mark before JSON.
        let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
        serde_json::from_slice(json).map_err(|_| PartyError::NotAParty)
    }

    /// The profile of `asked`, provided that this is the record of `asked`.
    pub(crate) fn profile(self, asked: &PartyId, phones: &Preference) -> Result<Profile, PartyError> {
        let id = match &self.party_id {
            Value::String(text) => PartyId::parse(text),
            Value::Number(number) => PartyId::parse(&number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        if id.as_ref() != Some(asked) {
            return Err(PartyError::AnotherParty);
        }
        Ok(Profile {
            id: asked.clone(),
            kind: self.kind()?,
            name: self.full_name(),
            email: self.primary_email(),
            phone: self.primary_phone(&phones.order).and_then(|number| phone::e164(number, phones.region)),
            status: self.status.and_then(|status| filled(status.party_status_id)),
            attributes: attributes(self.additional_attributes),
        })
    }

    /// From the type's name; the assembly after the comma says nothing.
    fn kind(&self) -> Result<Kind, PartyError> {
        let name = self.type_name.split(',').next().unwrap_or_default().trim();
        match name.rsplit('.').next().unwrap_or_default() {
            "PersonData" => Ok(Kind::Person),
            "OrganizationData" => Ok(Kind::Company),
            _ => Err(PartyError::UnknownKind),
        }
    }

    fn full_name(&self) -> Option<String> {
        let parts = self.person_name.as_ref();
        let full =
            parts.and_then(|name| filled(name.full_name.clone())).or_else(|| filled(self.name.clone()));
        full.or_else(|| {
            let name = parts?;
            let both =
                [&name.first_name, &name.last_name].map(|part| part.as_deref().unwrap_or_default().trim());
            filled(Some(both.join(" ")))
        })
    }

    /// `IsPrimary`, else type `_Primary`; two different ones are none.
    fn primary_email(&self) -> Option<String> {
        let emails = &self.emails.as_ref()?.values;
        let only = |chosen: &dyn Fn(&Email) -> bool| {
            let mut found =
                emails.iter().filter(|email| chosen(email)).filter_map(|email| filled(email.address.clone()));
            let first = found.next();
            if found.all(|other| Some(other) == first) { Ok(first) } else { Err(()) }
        };
        match only(&|email| email.is_primary == Some(true)) {
            Ok(None) => only(&|email| email.email_type.as_deref() == Some("_Primary")).ok().flatten(),
            Ok(found) => found,
            Err(()) => None,
        }
    }

    /// `IsPrimary`, else the first of the wanted types; never a fax.
    fn primary_phone(&self, order: &[String]) -> Option<&str> {
        let phones = &self.phones.as_ref()?.values;
        let number = |phone: &'_ Phone| {
            phone.number.as_deref().map(str::trim).is_some_and(|number| !number.is_empty())
        };
        let fax =
            |phone: &Phone| phone.phone_type.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("_Fax"));
        let usable = || phones.iter().filter(|phone| number(phone) && !fax(phone));
        let primary = usable().find(|phone| phone.is_primary == Some(true));
        let by_type = |wanted: &String| usable().find(|phone| phone.phone_type.as_ref() == Some(wanted));
        primary.or_else(|| order.iter().find_map(by_type))?.number.as_deref()
    }
}

fn attributes(list: Option<Values<Attribute>>) -> BTreeMap<String, Value> {
    let unwrapped = |value: Value| match value {
        // {"$type":"System.Boolean","$value":true}
        Value::Object(mut typed) => typed.remove("$value").unwrap_or(Value::Object(typed)),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            plain
        }
    };
    let list = list.map(|list| list.values).unwrap_or_default();
    list.into_iter().map(|attribute| (attribute.name, unwrapped(attribute.value))).collect()
}

/// Text that is there and not blank, trimmed.
fn filled(text: Option<String>) -> Option<String> {
    let trimmed = text.as_deref()?.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn preference() -> Preference {
        Preference {
            order: ["Mobile", "_Work Phone", "_Home Phone"].map(str::to_owned).to_vec(),
            region: Some(phonenumber::country::Id::US),
        }
    }

    fn profile(json: Value) -> Result<Profile, PartyError> {
        Party::parse(json.to_string().as_bytes())?.profile(&PartyId::parse("104019").unwrap(), &preference())
    }

    fn person() -> Value {
        json!({
            "$type": "Asi.Soa.Membership.DataContracts.PersonData, Asi.Contracts",
            "PartyId": "104019", "Id": "104019", "Name": "Ms. Ann Müller-O'Brien",
            "PersonName": {"$type": "x", "FirstName": "Ann", "LastName": "Müller-O'Brien", "FullName": "Ann Müller-O'Brien"},
            "Emails": {"$type": "x", "$values": [
                {"Address": "work@example.org", "EmailType": "Work"},
                {"Address": " ann@example.org ", "EmailType": "_Primary", "IsPrimary": true}]},
            "Phones": {"$type": "x", "$values": [
                {"Number": "512-474-0000", "PhoneType": "_Fax", "IsPrimary": true},
                {"Number": "512-474-1111", "PhoneType": "_Home Phone"},
                {"Number": "512-474-2222", "PhoneType": "Mobile"}]},
            "Status": {"PartyStatusId": "A", "Description": "Active"},
            "AdditionalAttributes": {"$values": [
                {"Name": "IsMember", "Value": {"$type": "System.Boolean", "$value": true}},
                {"Name": "CustomerTypeCode", "Value": "M"}, {"Name": "Nothing"}]}
        })
    }

    #[test]
    fn a_person_is_read_in_full() {
        let profile = profile(person()).ok().unwrap();
        assert_eq!(profile.kind, Kind::Person);
        assert_eq!(profile.name.as_deref(), Some("Ann Müller-O'Brien"));
        assert_eq!(profile.email.as_deref(), Some("ann@example.org"));
        assert_eq!(profile.phone.as_deref(), Some("+15124742222"), "mobile first, never the fax");
        assert_eq!(profile.status.as_deref(), Some("A"));
        assert_eq!(profile.is_member(), Some(true));
        assert_eq!(profile.customer_type(), Some("M"));
    }

    #[test]
    fn a_company_is_told_by_the_type_and_not_by_the_assembly() {
        let mut company = person();
        company["$type"] = json!("Asi.Soa.Membership.DataContracts.OrganizationData, PersonData");
        assert_eq!(profile(company).ok().unwrap().kind, Kind::Company);
        let mut other = person();
        other["$type"] = json!("Asi.Soa.Core.DataContracts.GroupData, Asi.Contracts");
        assert_eq!(profile(other).err(), Some(PartyError::UnknownKind));
    }

    #[test]
    fn another_partys_record_is_never_a_profile() {
        for id in
            [json!("104020"), json!(""), json!(null), json!(["104019"]), json!("104019 "), json!(104_020)]
        {
            let mut other = person();
            other["PartyId"] = id;
            assert_eq!(profile(other).err(), Some(PartyError::AnotherParty));
        }
        let mut number = person();
        number["PartyId"] = json!(104_019);
        assert!(profile(number).is_ok());
    }

    #[test]
    fn omitted_and_blank_values_are_absent() {
        let bare = json!({"$type": "A.PersonData, B", "PartyId": "104019", "Name": " ", "PersonName": {"FirstName": "Ann"},
            "Emails": {"$values": [{"Address": " ", "IsPrimary": true}]}});
        let profile = profile(bare).ok().unwrap();
        assert_eq!(profile.name.as_deref(), Some("Ann"));
        assert_eq!((profile.email, profile.phone, profile.status), (None, None, None));
    }

    #[test]
    fn the_primary_email_is_the_marked_one_or_the_typed_one_and_never_one_of_two() {
        let email = |emails: Value| {
            let mut party = person();
            party["Emails"] = json!({"$values": emails});
            profile(party).ok().unwrap().email
        };
        let typed = json!([{"Address": "a@x.org", "EmailType": "Work"}, {"Address": "b@x.org", "EmailType": "_Primary"}]);
        assert_eq!(email(typed).as_deref(), Some("b@x.org"));
        assert_eq!(email(json!([{"Address": "a@x.org", "EmailType": "Work"}])), None);
        let two =
            json!([{"Address": "a@x.org", "IsPrimary": true}, {"Address": "b@x.org", "IsPrimary": true}]);
        assert_eq!(email(two), None);
    }

    #[test]
    fn what_is_not_a_party_is_an_error() {
        for json in
            ["", "null", "[]", "{}", "<html>", r#"{"PartyId":"104019"}"#, r#"{"$type":"A.PersonData"}"#]
        {
            assert!(Party::parse(json.as_bytes()).is_err(), "{json}");
        }
    }
}
