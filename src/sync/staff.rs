//! The agents and admins of a Zendesk account: which contact of iMIS each one is. The staff guard refuses a member with
//! the address of an agent who has no external ID, so operators set these IDs first.

use serde_json::{Value, json};

use crate::base::error_chain::Chain;
use crate::imis::{Imis, PartyId, ProfileError};
use crate::sync::error::SyncError;
use crate::sync::members::retried;
use crate::zendesk::api::{Api, ApiError, non_blank};
use crate::zendesk::writes::{WriteError, Writer};

/// An agent or admin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StaffUser {
    pub(crate) user_id: u64,
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) role: String,
    pub(crate) external_id: Option<String>,
    pub(crate) is_suspended: bool,
}

/// The contact of a staff member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Contact {
    /// The user has an external ID.
    Known(String),
    /// The only active person in iMIS with the address.
    Matched(PartyId),
    /// Several contacts have the address.
    Ambiguous(Vec<PartyId>),
    /// No contact has the address.
    Missing,
}

impl Contact {
    pub(crate) fn result(&self) -> &'static str {
        match self {
            Self::Known(_) => "known",
            Self::Matched(_) => "matched",
            Self::Ambiguous(_) => "ambiguous",
            Self::Missing => "missing",
        }
    }
}

/// Reads the agents and admins.
pub(crate) async fn read(api: &Api) -> Result<Vec<StaffUser>, SyncError> {
    let users = api.list("users?role[]=agent&role[]=admin", "users").await.map_err(SyncError::Users)?;
    let staff_user = |user: &Value| {
        Some(StaffUser {
            user_id: user["id"].as_u64()?,
            name: non_blank(&user["name"]).unwrap_or_default(),
            email: non_blank(&user["email"]).unwrap_or_default(),
            role: non_blank(&user["role"])?,
            external_id: non_blank(&user["external_id"]),
            is_suspended: user["suspended"] == true,
        })
    };
    users.iter().map(staff_user).collect::<Option<_>>().ok_or(SyncError::Users(ApiError::Answer))
}

/// Finds the contact of a staff member by the e-mail address.
pub(crate) async fn find_contact(imis: &Imis, user: &StaffUser) -> Result<Contact, SyncError> {
    if let Some(id) = &user.external_id {
        return Ok(Contact::Known(id.clone()));
    }
    if !user.email.contains('@') {
        return Ok(Contact::Missing);
    }
    let ids = retried(|| imis.api.persons_with_email(&user.email), ProfileError::is_transient).await;
    let ids = ids.map_err(SyncError::Members)?;
    Ok(match <[PartyId; 1]>::try_from(ids) {
        Ok([id]) => Contact::Matched(id),
        Err(ids) if ids.is_empty() => Contact::Missing,
        Err(ids) => Contact::Ambiguous(ids),
    })
}

/// An iMIS ID to write to a staff member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) user_id: u64,
    pub(crate) imis_id: PartyId,
}

/// Why an ID cannot be assigned. `None`: it can. True in the second place: the user has it already.
pub(crate) fn objection(
    assignment: &Assignment,
    staff: &[StaffUser],
    all: &[Assignment],
) -> Result<bool, String> {
    let id = assignment.imis_id.as_str();
    let Some(user) = staff.iter().find(|user| user.user_id == assignment.user_id) else {
        return Err("no agent or admin of the account has this user ID".to_owned());
    };
    match &user.external_id {
        Some(own) if own.eq_ignore_ascii_case(id) => return Ok(true),
        Some(own) => return Err(format!("the user has the external ID {own}; remove it in Zendesk first")),
        None => {}
    }
    let is_same = |other: &str| other.eq_ignore_ascii_case(id);
    if let Some(other) = staff.iter().find(|user| user.external_id.as_deref().is_some_and(is_same)) {
        return Err(format!("user {} has this external ID", other.user_id));
    }
    let twice = all
        .iter()
        .filter(|other| is_same(other.imis_id.as_str()) || other.user_id == assignment.user_id)
        .count();
    if twice > 1 { Err("the user or the iMIS ID is listed twice".to_owned()) } else { Ok(false) }
}

/// Writes the ID, if iMIS has such a contact and no end user of Zendesk has the ID.
pub(crate) async fn assign(
    imis: &Imis,
    api: &Api,
    writer: &Writer<'_>,
    assignment: &Assignment,
) -> Result<(), String> {
    let id = &assignment.imis_id;
    match imis.member(id).await {
        Ok(Some(_)) => {}
        Ok(None) => return Err("iMIS has no contact with this ID".to_owned()),
        Err(error) => return Err(format!("cannot read the contact from iMIS: {}", Chain(&error))),
    }
    let path = format!("users/show_many?external_ids={}", id.as_str());
    let found = api.get(&path).await.map_err(|error| Chain(&error).to_string())?;
    if let Some(other) = found["users"].as_array().and_then(|users| users.first()) {
        return Err(format!("user {} has this external ID", other["id"]));
    }
    let written = writer.write_user(Some(assignment.user_id), &json!({"external_id": id.as_str()})).await;
    written.map(drop).map_err(|error: WriteError| Chain(&error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_assigned_once_and_replaces_none() {
        let user = |user_id, external_id: Option<&str>| StaffUser {
            user_id,
            name: String::new(),
            email: String::new(),
            role: "agent".to_owned(),
            external_id: external_id.map(str::to_owned),
            is_suspended: false,
        };
        let staff = [user(1, None), user(2, Some("7")), user(3, None)];
        let assignment = |user_id, id: &str| Assignment { user_id, imis_id: PartyId::parse(id).unwrap() };
        let check =
            |user_id, id: &str| objection(&assignment(user_id, id), &staff, &[assignment(user_id, id)]);
        assert_eq!(check(1, "8"), Ok(false));
        assert_eq!(check(2, "7"), Ok(true));
        for (user_id, id) in [(2, "8"), (1, "7"), (9, "8")] {
            assert!(check(user_id, id).is_err(), "{user_id} {id}");
        }
        let both = [assignment(1, "8"), assignment(3, "8")];
        assert!(objection(&both[0], &staff, &both).is_err());
    }
}
