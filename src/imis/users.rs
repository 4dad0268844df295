//! The iMIS ID of a user name. Forms authentication tickets and the token endpoint contain user names.

use serde_json::Value;

use crate::base::query::encoded;
use crate::imis::client::ApiError;
use crate::imis::identity::PartyId;
use crate::imis::json::Rows;

/// A user name has no iMIS ID.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    #[error("the iMIS API")]
    Api(#[from] ApiError),
    #[error("the response to the search for a user is not a page of rows")]
    NotRows,
    #[error("no user, or more than one, has exactly this name")]
    NotOne,
    #[error("the user has no iMIS ID, or two different ones")]
    NoId,
}

/// The path that searches for a user by name.
pub(super) fn path(name: &str) -> String {
    format!("api/User?UserName={}", encoded(name))
}

/// The iMIS ID of the one user with this name. User names are case-insensitive in iMIS.
pub(super) fn id_of(name: &str, json: &[u8]) -> Result<PartyId, UserError> {
    let rows = Rows::parse(json).ok_or(UserError::NotRows)?;
    let same = |user: &&Value| {
        user["UserName"].as_str().is_some_and(|own| own.to_lowercase() == name.to_lowercase())
    };
    let mut users = rows.items().iter().filter(same);
    let (Some(user), None) = (users.next(), users.next()) else { return Err(UserError::NotOne) };
    let id = |value: &Value| value.as_str().and_then(PartyId::parse);
    let own = id(&user["UserId"]).ok_or(UserError::NoId)?;
    let of_party = &user["Party"]["PartyId"];
    let agrees = of_party.is_null() || id(of_party).as_ref() == Some(&own);
    if agrees && !own.is_guest() { Ok(own) } else { Err(UserError::NoId) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn id(rows: Value) -> Option<String> {
        let answer = json!({"Items": {"$values": rows}, "Count": 1}).to_string();
        id_of("JSmith", answer.as_bytes()).ok().map(|id| id.as_str().to_owned())
    }

    #[test]
    fn exactly_one_user_has_exactly_this_name() {
        let user = |name: &str, id: &str| json!({"UserName": name, "UserId": id, "Party": {"PartyId": id}});
        assert_eq!(id(json!([user("JSMITH", "7")])).as_deref(), Some("7"));
        assert_eq!(
            id(json!([user("JSMITHERS", "8"), user("jsmith", "7")])).as_deref(),
            Some("7"),
            "a search by part"
        );
        assert_eq!(id(json!([{"UserName": "jsmith", "UserId": "7"}])).as_deref(), Some("7"));
        for nobody in [
            json!([]),
            json!([user("JSMITHERS", "8")]),
            json!([user("jsmith", "7"), user("JSMITH", "8")]),
            json!([{"UserName": "jsmith"}]),
            json!([user("jsmith", "Guest")]),
            json!([{"UserName": "jsmith", "UserId": "7/8"}]),
            json!([{"UserName": "jsmith", "UserId": "7", "Party": {"PartyId": "8"}}]),
            json!([{"UserName": "jsmith", "UserId": "7", "Party": {"PartyId": ["7"]}}]),
            json!("x"),
        ] {
            assert_eq!(id(nobody.clone()), None, "{nobody}");
        }
        for text in ["", "[]", "{}", "<html>"] {
            assert!(id_of("JSmith", text.as_bytes()).is_err());
        }
    }

    #[test]
    fn a_name_is_one_value_whatever_is_in_it() {
        let base = url::Url::parse("https://imis/Asi.Scheduler_iMIS/").unwrap();
        let url = base.join(&path("a&b=c d#ä")).unwrap();
        assert_eq!(url.as_str(), "https://imis/Asi.Scheduler_iMIS/api/User?UserName=a%26b%3Dc%20d%23%C3%A4");
    }
}
