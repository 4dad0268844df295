//! Reads the users, organizations and memberships of a Zendesk account into the state.

use rusqlite::params;
use serde_json::{Map, Value, json};

use crate::sync::error::SyncError;
use crate::sync::state::State;
use crate::zendesk::api::{Api, ApiError, non_blank};

/// The properties of a user that a sync compares.
const KEPT: [&str; 12] = [
    "id",
    "name",
    "email",
    "external_id",
    "phone",
    "role",
    "suspended",
    "tags",
    "locale",
    "locale_id",
    "organization_id",
    "custom_role_id",
];

/// Reads all users, from the page on at which an interrupted run stopped. `progress` gets the number of users read.
pub(crate) async fn read_users(
    api: &Api,
    state: &State,
    fields: &[&str],
    mut progress: impl FnMut(u64),
) -> Result<(), SyncError> {
    let mut read = state.count("SELECT count(*) FROM users")?;
    each_page(api, state, "users", "users?include=identities", |page, answer| {
        for user in page {
            let id = user["id"].as_u64().ok_or(SyncError::Users(ApiError::Answer))?;
            let (external_id, email) = (non_blank(&user["external_id"]), non_blank(&user["email"]));
            let kept = kept(user, fields).to_string();
            state
                .database
                .prepare_cached("INSERT OR REPLACE INTO users VALUES (?, ?, ?, ?)")?
                .execute(params![id.cast_signed(), external_id, email, kept])?;
            add_address(state, id, &user["email"])?;
        }
        for identity in answer["identities"].as_array().into_iter().flatten() {
            if let Some(user) = identity["user_id"].as_u64() {
                add_address(state, user, &identity["value"])?;
            }
        }
        read += page.len() as u64;
        progress(read);
        Ok(())
    })
    .await
}

fn add_address(state: &State, user: u64, value: &Value) -> Result<(), SyncError> {
    if let Some(address) = non_blank(value).filter(|value| value.contains('@')) {
        let mut insert = state.database.prepare_cached("INSERT OR IGNORE INTO addresses VALUES (?, ?)")?;
        insert.execute(params![address.to_lowercase(), user.cast_signed()])?;
    }
    Ok(())
}

/// The compared properties of a user.
pub(crate) fn kept(user: &Value, fields: &[&str]) -> Value {
    let mut kept: Map<String, Value> =
        KEPT.iter().map(|name| ((*name).to_owned(), user[*name].clone())).collect();
    let own: Map<String, Value> =
        fields.iter().map(|key| ((*key).to_owned(), user["user_fields"][*key].clone())).collect();
    kept.insert("user_fields".to_owned(), json!(own));
    Value::Object(kept)
}

/// Reads all organizations and memberships.
pub(crate) async fn read_organizations(api: &Api, state: &State) -> Result<(), SyncError> {
    each_page(api, state, "organizations", "organizations", |page, _| {
        for organization in page {
            let id = organization["id"].as_u64().ok_or(SyncError::Users(ApiError::Answer))?;
            let (name, external_id) =
                (non_blank(&organization["name"]), non_blank(&organization["external_id"]));
            let mut insert =
                state.database.prepare_cached("INSERT OR REPLACE INTO organizations VALUES (?, ?, ?)")?;
            insert.execute(params![id.cast_signed(), name, external_id])?;
        }
        Ok(())
    })
    .await?;
    each_page(api, state, "organization_memberships", "organization_memberships", |page, _| {
        for membership in page {
            let number = |name: &str| membership[name].as_i64().ok_or(SyncError::Users(ApiError::Answer));
            let mut insert =
                state.database.prepare_cached("INSERT OR REPLACE INTO memberships VALUES (?, ?, ?)")?;
            insert.execute(params![number("id")?, number("user_id")?, number("organization_id")?])?;
        }
        Ok(())
    })
    .await
}

/// Reads all pages of a list that have not been read. Each page is stored in one transaction with the cursor of the next.
async fn each_page(
    api: &Api,
    state: &State,
    name: &str,
    path: &str,
    mut store: impl FnMut(&[Value], &Value) -> Result<(), SyncError>,
) -> Result<(), SyncError> {
    let (cursor_key, end_key) = (format!("run.{name}"), format!("run.{name}_read"));
    let mut cursor = state.meta(&cursor_key)?;
    while state.meta(&end_key)?.is_none() {
        let page = api.page(path, name, cursor.as_deref()).await.map_err(SyncError::Users)?;
        let transaction = state.database.unchecked_transaction()?;
        store(&page.items, &page.answer)?;
        match &page.next {
            Some(next) => state.set_meta(&cursor_key, next)?,
            None => state.set_meta(&end_key, "yes")?,
        }
        transaction.commit()?;
        cursor = page.next;
    }
    Ok(())
}
