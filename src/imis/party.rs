//! The record of a contact in the REST API.
//!
//! iMIS omits nulls, strings may be blank and IDs are strings. The record of another contact, or of an
//! unknown kind, is an error.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::base::phone::{self, Preference};
use crate::imis::identity::PartyId;
use crate::imis::json::{is_true, list, list_or_empty, non_blank, object, readable, unwrapped};
use crate::imis::profile::{Kind, PartyError, Profile, is_inactive};

/// The contacts that may have an account besides active persons.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AccountScope {
    pub(crate) companies: bool,
    pub(crate) inactive: bool,
}

/// The record. ID, type and status must be valid, and no key may occur twice. Invalid optional entries are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Party {
    #[serde(rename = "$type")]
    type_name: String,
    party_id: Value,
    #[serde(default)]
    name: Value,
    #[serde(default)]
    person_name: Value,
    #[serde(default)]
    primary_organization: Value,
    #[serde(default)]
    emails: Value,
    #[serde(default)]
    phones: Value,
    #[serde(default)]
    status: Value,
    #[serde(default)]
    additional_attributes: Value,
}

impl Party {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, PartyError> {
        object(&readable(json)).ok_or(PartyError::NotAParty)
    }

    /// The profile of `asked`, provided that this is the record of `asked`.
    pub(crate) fn profile(self, asked: &PartyId, phones: &Preference) -> Result<Profile, PartyError> {
        if self.id().as_ref() != Some(asked) {
            return Err(PartyError::AnotherParty);
        }
        Ok(Profile {
            id: asked.clone(),
            kind: self.kind()?,
            name: self.full_name(),
            email: self.primary_email().map(str::to_owned),
            phone: self.primary_phone(&phones.order).and_then(|number| phone::e164(&number, phones.region)),
            status: self.status()?,
            organization: non_blank(&self.primary_organization["Name"]),
            attributes: self.attributes()?,
        })
    }

    /// The iMIS ID, if it is valid.
    pub(crate) fn id(&self) -> Option<PartyId> {
        match &self.party_id {
            Value::String(text) => PartyId::parse(text),
            Value::Number(number) => PartyId::parse(&number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// An unreadable status counts as active.
    pub(super) fn is_active(&self) -> bool {
        !matches!(self.status(), Ok(Some(status)) if is_inactive(&status))
    }

    /// Whether this contact could have an account with this primary e-mail address. Unreadable values count as a yes.
    pub(crate) fn may_have_account(&self, email: &str, scope: AccountScope) -> bool {
        let kind = scope.companies || !matches!(self.kind(), Ok(Kind::Company));
        let status = scope.inactive || self.is_active();
        let same = self.primary_email().is_none_or(|own| own.trim().eq_ignore_ascii_case(email));
        kind && status && same
    }

    /// The kind, from the name of the type without its assembly.
    pub(super) fn kind(&self) -> Result<Kind, PartyError> {
        let name = self.type_name.as_str();
        let name = name.split(',').next().unwrap_or_default().trim();
        match name.rsplit('.').next().unwrap_or_default() {
            "PersonData" => Ok(Kind::Person),
            "OrganizationData" => Ok(Kind::Company),
            _ => Err(PartyError::UnknownKind),
        }
    }

    /// The status code, if there is one. An unreadable one is an error because it could mean inactive.
    fn status(&self) -> Result<Option<String>, PartyError> {
        let code = match &self.status {
            Value::Object(status) => status.get("PartyStatusId").unwrap_or(&Value::Null),
            other
            @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => other,
        };
        match unwrapped(code) {
            Value::Null => Ok(None),
            text @ (Value::String(_) | Value::Number(_)) => Ok(non_blank(text)),
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(PartyError::UnknownStatus),
        }
    }

    fn full_name(&self) -> Option<String> {
        let parts = &self.person_name;
        non_blank(&parts["FullName"]).or_else(|| non_blank(&self.name)).or_else(|| {
            let both = ["FirstName", "LastName"].map(|part| non_blank(&parts[part]).unwrap_or_default());
            non_blank(&Value::String(both.join(" ")))
        })
    }

    /// The address marked `IsPrimary`, else the one of type `_Primary`. None if there are two different ones.
    /// It is returned unchanged; the policy checks it.
    pub(super) fn primary_email(&self) -> Option<&str> {
        let emails = || list_or_empty(&self.emails).iter();
        let only = |chosen: &dyn Fn(&Value) -> bool| {
            let mut addresses = emails().filter(|email| chosen(email)).filter_map(|email| {
                let address = email["Address"].as_str()?;
                (!address.trim().is_empty()).then_some(address)
            });
            let first = addresses.next();
            if addresses.all(|other| Some(other) == first) { Ok(first) } else { Err(()) }
        };
        match only(&|email| is_true(&email["IsPrimary"])) {
            Ok(None) => only(&|email| email["EmailType"] == "_Primary").ok().flatten(),
            Ok(found) => found,
            Err(()) => None,
        }
    }

    /// The number marked `IsPrimary`, else the first of the preferred types. Never a fax number.
    fn primary_phone(&self, order: &[String]) -> Option<String> {
        let kind = |phone: &Value| phone["PhoneType"].as_str().unwrap_or_default().to_owned();
        let usable = || {
            let phones = list_or_empty(&self.phones).iter();
            phones.filter(|phone| {
                non_blank(&phone["Number"]).is_some() && !kind(phone).eq_ignore_ascii_case("_Fax")
            })
        };
        let primary = usable().find(|phone| is_true(&phone["IsPrimary"]));
        let by_type = |wanted: &String| usable().find(|phone| kind(phone) == *wanted);
        non_blank(&primary.or_else(|| order.iter().find_map(by_type))?["Number"])
    }

    /// `AdditionalAttributes`. Rules use them, so an unreadable one is an error.
    fn attributes(&self) -> Result<BTreeMap<String, Value>, PartyError> {
        let mut all: BTreeMap<String, Value> = BTreeMap::new();
        for entry in list(&self.additional_attributes).ok_or(PartyError::Attributes)? {
            let name = entry["Name"].as_str().map(str::trim).ok_or(PartyError::Attributes)?;
            let value = unwrapped(&entry["Value"]);
            let mut same = all.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
            if same.any(|(_, known)| known != value) {
                return Err(PartyError::Attributes);
            }
            all.insert(name.to_owned(), value.clone());
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn preference() -> Preference {
        Preference {
            order: ["Mobile", "_Work Phone", "_Home Phone"].map(str::to_owned).to_vec(),
            region: Some(phone::Region::US),
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
                {"Address": "ann@example.org", "EmailType": "_Primary", "IsPrimary": true}]},
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
    fn an_address_is_handed_on_with_every_blank() {
        let mut party = person();
        party["Emails"] = json!({"$values": [{"Address": "ann@example.org\u{2028}", "IsPrimary": true}]});
        assert_eq!(profile(party).ok().unwrap().email.as_deref(), Some("ann@example.org\u{2028}"));
    }

    #[test]
    fn odd_optional_fields_do_not_keep_anybody_out() {
        for (field, odd) in [
            ("Phones", json!({})),
            ("Phones", json!({"$values": null})),
            ("Phones", json!(null)),
            ("Phones", json!({"$values": [{"Number": {}}, 7, null]})),
            ("AdditionalAttributes", json!(null)),
            ("AdditionalAttributes", json!({"$values": null})),
            ("PersonName", json!([])),
        ] {
            let mut party = person();
            party[field] = odd.clone();
            let profile = profile(party).ok().unwrap_or_else(|| panic!("{field}: {odd}"));
            assert_eq!(profile.email.as_deref(), Some("ann@example.org"));
        }
        let mut party = person();
        party["Phones"] = json!([{"Number": 5_124_742_222_u64, "PhoneType": "Mobile"}]);
        let primary = json!({"Address": "ann@example.org", "IsPrimary": "True"});
        party["Emails"] = json!({"$values": [primary, {"Address": "x@example.org"}]});
        let profile = profile(party).ok().unwrap();
        assert_eq!(profile.phone.as_deref(), Some("+15124742222"));
        assert_eq!(profile.email.as_deref(), Some("ann@example.org"));
    }

    #[test]
    fn attributes_are_read_or_are_an_error_since_rules_ask_about_them() {
        let attributes = |attributes: Value| {
            let mut party = person();
            party["AdditionalAttributes"] = attributes;
            profile(party).map(|profile| profile.attributes)
        };
        let named = |name: &str, value: Value| json!({"Name": name, "Value": value});
        let same = json!({"$values": [named("A", json!(1)), named("a", json!(1)), named(" B ", json!("x"))]});
        assert_eq!(attributes(same).ok().unwrap()["B"], "x");
        for odd in [
            json!("none"),
            json!({"Suspended": true}),
            json!([{"Value": 1}]),
            json!([{"Name": 2, "Value": 1}]),
            json!(["x"]),
            json!([named("Suspended", json!(true)), named("Suspended", json!(false))]),
            json!([named("Suspended", json!(true)), named("SUSPENDED", json!(false))]),
        ] {
            assert_eq!(attributes(odd.clone()).err(), Some(PartyError::Attributes), "{odd}");
        }
    }

    #[test]
    fn a_status_is_read_or_is_an_error_and_never_passed_over() {
        let status = |status: Value| {
            let mut party = person();
            party["Status"] = status;
            profile(party).map(|profile| profile.status)
        };
        let wrapped = json!({"PartyStatusId": {"$type": "System.String", "$value": "I"}});
        for inactive in [json!({"PartyStatusId": "I"}), wrapped, json!("I")] {
            assert_eq!(status(inactive).ok(), Some(Some("I".to_owned())));
        }
        for none in [json!(null), json!({}), json!({"PartyStatusId": null})] {
            assert_eq!(status(none).ok(), Some(None));
        }
        for odd in [
            json!({"PartyStatusId": ["I"]}),
            json!([{"PartyStatusId": "I"}]),
            json!(true),
            json!({"PartyStatusId": {}}),
        ] {
            assert_eq!(status(odd).err(), Some(PartyError::UnknownStatus));
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_an_error() {
        let text = person().to_string();
        for twice in
            [r#""PartyId":"9","#, r#""$type":"A.OrganizationData","#, r#""Status":null,"#, r#""Emails":{},"#]
        {
            let json = text.replacen('{', &format!("{{{twice}"), 1);
            assert_eq!(Party::parse(json.as_bytes()).err(), Some(PartyError::NotAParty), "{twice}");
        }
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
