//! Group memberships of a contact: committees, chapters, staff. They are read only if a rule or a claim uses them.

use serde_json::Value;

use crate::base::query::encoded;
use crate::imis::client::ApiError;
use crate::imis::identity::PartyId;
use crate::imis::json::{Rows, date, list, non_blank, unwrapped};

/// More pages are an error.
pub(super) const MAX_PAGES: usize = 10;
const PAGE: usize = 500;

/// One membership in one group. Dates are `YYYY-MM-DD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) group: String,
    pub(crate) role: Option<String>,
    pub(crate) joined: Option<String>,
    pub(crate) effective: Option<String>,
    pub(crate) expires: Option<String>,
    /// It is valid today.
    pub(crate) is_current: bool,
}

/// Memberships could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupsError {
    #[error("the iMIS API")]
    Api(#[from] ApiError),
    #[error("the response to the search for groups is not a page of rows")]
    NotRows,
    #[error("a group membership belongs to another contact, or has no group")]
    AnotherParty,
    #[error("a group membership has an invalid date")]
    Period,
    #[error("the contact has too many group memberships")]
    TooMany,
}

/// The path for a contact's memberships in all groups, or in one.
pub(super) fn path(id: &PartyId, group: Option<&str>, offset: u64) -> String {
    let group = group.map(|group| format!("GroupId=eq:{}&", encoded(group))).unwrap_or_default();
    format!("api/GroupMember?{group}PartyId=eq:{}&limit={PAGE}&offset={offset}", id.as_str())
}

/// Reads a page. Returns its memberships and the offset of the next page.
pub(super) fn read(
    json: &[u8],
    id: &PartyId,
    offset: u64,
    today: &str,
) -> Result<(Vec<Membership>, Option<u64>), GroupsError> {
    let rows = Rows::parse(json).ok_or(GroupsError::NotRows)?;
    let mut all = Vec::new();
    for row in rows.items() {
        let party = &row["Party"]["PartyId"];
        let group = non_blank(&row["Group"]["GroupId"]).ok_or(GroupsError::AnotherParty)?;
        if !party.is_null() && non_blank(party).as_deref() != Some(id.as_str()) {
            return Err(GroupsError::AnotherParty);
        }
        all.extend(memberships(row, &group, today)?);
    }
    Ok((all, rows.next(offset).ok_or(GroupsError::NotRows)?))
}

/// One membership for each period in a row, or one without dates.
fn memberships(row: &Value, group: &str, today: &str) -> Result<Vec<Membership>, GroupsError> {
    let active = match row.get("IsActive").map(unwrapped) {
        None => true,
        Some(Value::Bool(active)) => *active,
        Some(_) => return Err(GroupsError::Period),
    };
    let joined = date(&row["JoinDate"]);
    // An unreadable date must not become a membership without an end.
    let day = |value: &Value| {
        let is_there = !unwrapped(value).is_null();
        is_there.then(|| date(value).ok_or(GroupsError::Period)).transpose()
    };
    let of = |detail: &Value| {
        let (effective, expires) = (day(&detail["EffectiveDate"])?, day(&detail["ExpirationDate"])?);
        let begun = effective.as_deref().is_none_or(|date| date <= today);
        let over = expires.as_deref().is_some_and(|date| date < today);
        let role = &detail["Role"];
        let role =
            non_blank(role).or_else(|| non_blank(&role["Name"])).or_else(|| non_blank(&role["RoleId"]));
        Ok(Membership {
            group: group.to_owned(),
            role,
            joined: joined.clone(),
            effective,
            expires,
            is_current: active && begun && !over,
        })
    };
    match list(&row["MembershipDetails"]).ok_or(GroupsError::Period)? {
        [] => Ok(vec![of(&Value::Null)?]),
        details => details.iter().map(of).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_rows(rows: Value) -> Result<Vec<Membership>, GroupsError> {
        let answer = json!({"Items": {"$values": rows}, "HasNext": false, "NextOffset": 0});
        read(answer.to_string().as_bytes(), &PartyId::parse("7").unwrap(), 0, "2026-11-27")
            .map(|(all, _)| all)
    }

    #[test]
    fn a_membership_counts_from_its_first_day_to_its_last() {
        let row = |active: bool, from: &str, to: &str| {
            json!({"Group": {"GroupId": "Board"}, "Party": {"PartyId": "7"}, "IsActive": active, "JoinDate": "2020-01-01T00:00:00",
                "MembershipDetails": {"$values": [{"EffectiveDate": from, "ExpirationDate": to, "Role": {"Name": "Chair"}}]}})
        };
        let current = |row: Value| read_rows(json!([row])).unwrap()[0].is_current;
        assert!(current(row(true, "2020-01-01T00:00:00", "2026-11-27T00:00:00")));
        assert!(current(row(true, "2026-11-27T00:00:00", "2027-01-01T00:00:00")));
        assert!(!current(row(true, "2026-11-28T00:00:00", "2027-01-01T00:00:00")));
        assert!(!current(row(true, "2020-01-01T00:00:00", "2026-11-26T00:00:00")));
        assert!(!current(row(false, "2020-01-01T00:00:00", "2027-01-01T00:00:00")));
        let all = read_rows(
            json!([row(true, "2020-01-01T00:00:00", "2027-01-01T00:00:00"), {"Group": {"GroupId": "Staff"}}]),
        )
        .unwrap();
        assert_eq!((all[0].role.as_deref(), all[0].joined.as_deref()), (Some("Chair"), Some("2020-01-01")));
        assert!(all[1].is_current && all[1].group == "Staff");
    }

    #[test]
    fn what_is_not_this_contacts_is_an_error() {
        assert!(read_rows(json!([{"Group": {"GroupId": "Board"}, "Party": {"PartyId": "8"}}])).is_err());
        assert!(read_rows(json!([{"Party": {"PartyId": "7"}}])).is_err());
        for text in ["", "[]", "{}", "<html>", r#"{"Items":null}"#] {
            assert!(read(text.as_bytes(), &PartyId::parse("7").unwrap(), 0, "2026-11-27").is_err(), "{text}");
        }
    }

    #[test]
    fn pages_follow_each_other() {
        let next = |has: bool, offset: u64| {
            let answer = json!({"Items": [], "HasNext": has, "NextOffset": offset}).to_string();
            let id = PartyId::parse("7").unwrap();
            read(answer.as_bytes(), &id, 500, "2026-11-27").map(|(_, next)| next)
        };
        assert!(matches!((next(true, 1000), next(false, 1000)), (Ok(Some(1000)), Ok(None))));
        for stuck in [0, 500] {
            assert!(matches!(next(true, stuck), Err(GroupsError::NotRows)), "{stuck}");
        }
    }

    #[test]
    fn a_period_that_cannot_be_read_is_not_one_without_an_end() {
        let expiring = |date: Value| {
            read_rows(
                json!([{"Group": {"GroupId": "Staff"}, "MembershipDetails": {"$values": [{"ExpirationDate": date}]}}]),
            )
        };
        let wrapped = json!({"$type": "System.DateTime", "$value": "2021-01-01T00:00:00"});
        assert!(!expiring(wrapped).unwrap()[0].is_current);
        assert!(expiring(Value::Null).unwrap()[0].is_current);
        for odd in
            [json!("1/1/2021 12:00:00 AM"), json!("01.01.2021"), json!("/Date(1609459200000)/"), json!(7)]
        {
            assert!(matches!(expiring(odd.clone()), Err(GroupsError::Period)), "{odd}");
        }
        for row in [
            json!({"Group": {"GroupId": "Staff"}, "MembershipDetails": {"ExpirationDate": "2021-01-01T00:00:00"}}),
            json!({"Group": {"GroupId": "Staff"}, "IsActive": "maybe"}),
        ] {
            assert!(matches!(read_rows(json!([row])), Err(GroupsError::Period)), "{row}");
        }
    }
}
