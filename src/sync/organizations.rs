//! The organizations of a user: which memberships to add and to end.

use rusqlite::OptionalExtension;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::sync::{Policy, Sync};
use crate::sync::compare::FieldChange;
use crate::sync::error::SyncError;
use crate::sync::state::State;

/// Changes of the memberships of a user.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct MembershipChanges {
    /// IDs of organizations to join.
    pub(crate) join: Vec<i64>,
    /// Names of organizations to create and to join.
    pub(crate) create: Vec<String>,
    /// IDs of memberships to end.
    pub(crate) end: Vec<i64>,
}

impl MembershipChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.join.is_empty() && self.create.is_empty() && self.end.is_empty()
    }
}

/// The organizations that a member should be in.
struct Wanted {
    names: Vec<String>,
    external_ids: Vec<String>,
    /// Other memberships are ended.
    replaces: bool,
}

/// Compares the memberships of `user` (`None`: to be created) with those in `desired`.
pub(crate) fn changes(
    desired: &Map<String, Value>,
    user: Option<i64>,
    sync: &Sync,
    state: &State,
) -> Result<(MembershipChanges, Vec<FieldChange>), SyncError> {
    let mut changes = MembershipChanges::default();
    let mut shown = Vec::new();
    let wanted = wanted(desired);
    let Current { ids: current, names } = current(state, user)?;
    let policy = sync.policy("organizations");
    let is_nothing_wanted = wanted.names.is_empty() && wanted.external_ids.is_empty();
    if policy == Policy::Never || is_nothing_wanted || (policy == Policy::IfEmpty && !current.is_empty()) {
        return Ok((changes, shown));
    }
    let mut kept = Vec::new();
    let mut missing = Vec::new();
    for (column, texts) in [("name", &wanted.names), ("external_id", &wanted.external_ids)] {
        for text in texts {
            let found = find(state, column, text)?;
            match found {
                Some(id) if current.iter().any(|(_, organization)| *organization == id) => kept.push(id),
                Some(id) => {
                    kept.push(id);
                    changes.join.push(id);
                }
                None if column == "name" && sync.organizations.create => changes.create.push(text.clone()),
                None => missing.push(text.as_str()),
            }
        }
    }
    // What is not known must not end memberships.
    if wanted.replaces && missing.is_empty() {
        changes.end =
            current.iter().filter(|(_, id)| !kept.contains(id)).map(|(membership, _)| *membership).collect();
    }
    let new = [wanted.names.clone(), wanted.external_ids.clone()].concat().join(", ");
    let mut show = |problem: Option<String>| {
        let (old, new) = (names.join(", ").into(), new.clone().into());
        shown.push(FieldChange { field: "organizations".to_owned(), old, new, problem });
    };
    if !changes.is_empty() {
        show(None);
    }
    if !missing.is_empty() {
        show(Some(format!("{} organizations do not exist in Zendesk", missing.len())));
    }
    Ok((changes, shown))
}

fn wanted(desired: &Map<String, Value>) -> Wanted {
    let texts = |name: &str| -> Vec<String> {
        let value = desired.get(name).unwrap_or(&Value::Null);
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        list.iter()
            .filter_map(|item| {
                item.as_str().map(str::to_owned).or_else(|| item.as_u64().map(|id| id.to_string()))
            })
            .collect()
    };
    let several: Vec<String> = texts("organizations")
        .iter()
        .flat_map(|text| text.split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    let external_ids = texts("organization_external_ids");
    let replaces = !several.is_empty();
    let names = if external_ids.is_empty() { [texts("organization"), several].concat() } else { Vec::new() };
    let not_blank = |list: Vec<String>| list.into_iter().filter(|text| !text.trim().is_empty()).collect();
    Wanted { names: not_blank(names), external_ids: not_blank(external_ids), replaces }
}

/// The memberships of a user.
#[derive(Default)]
struct Current {
    /// IDs: of the membership, and of the organization.
    ids: Vec<(i64, i64)>,
    /// The names of the organizations.
    names: Vec<String>,
}

fn current(state: &State, user: Option<i64>) -> Result<Current, SyncError> {
    let Some(user) = user else { return Ok(Current::default()) };
    let mut statement = state.database.prepare_cached(
        "SELECT m.id, m.organization_id, o.name FROM memberships m LEFT JOIN organizations o ON o.id = m.organization_id
         WHERE m.user_id = ? ORDER BY m.id",
    )?;
    let rows = statement
        .query_map([user], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<String>>(2)?)))?;
    let mut current = Current::default();
    for row in rows {
        let (membership, organization, name) = row?;
        current.ids.push((membership, organization));
        current.names.extend(name);
    }
    Ok(current)
}

/// The ID of an organization by one of its columns.
pub(crate) fn find(state: &State, column: &str, text: &str) -> Result<Option<i64>, SyncError> {
    let query = format!("SELECT id FROM organizations WHERE {column} = ?");
    let mut statement = state.database.prepare_cached(&query)?;
    Ok(statement.query_row([text], |row| row.get(0)).optional()?)
}
