//! Users over the API.

use serde_json::{Value, json};

use super::{Call, Reply, listing, no_content, no_endpoint, refused};
use crate::server::{self, with};
use crate::zendesk::account::jobs::JobKind;
use crate::zendesk::account::organizations::blank;
use crate::zendesk::account::writes::{Target, not_found};
use crate::zendesk::account::{Account, Write, WriteKind};
use crate::zendesk::{User, lock};

/// Search finds a user this many seconds after it was made.
const SEARCH_LAG_SECONDS: i64 = 120;

pub(super) fn answer(call: &Call<'_>, account: &mut Account, method: &str, path: &[&str]) -> Reply {
    let body = || call.body()["user"].clone();
    match (method, path) {
        ("GET", []) => list(call, account),
        ("POST", []) => write(call, account, &body(), Target::Create),
        ("GET", ["search"]) => search(call, account),
        ("GET", ["show_many"]) => show_many(call, account),
        ("POST", ["create_or_update"]) => write(call, account, &body(), Target::CreateOrUpdate),
        ("POST", ["create_or_update_many"]) => bulk(call, account, JobKind::CreateOrUpdateUsers),
        ("PUT", ["update_many"]) => bulk(call, account, JobKind::UpdateUsers),
        ("POST", ["logout_many"]) => {
            for id in call.request.query("ids").unwrap_or_default().split(',') {
                end_sessions(call, account, id);
            }
            no_content(202)
        }
        ("DELETE", [id, "sessions"]) => match end_sessions(call, account, id) {
            Some(()) => no_content(204),
            None => refused(&not_found()),
        },
        ("GET", [id, "identities"]) => match user(account, id) {
            Some(user) => server::json(
                200,
                &json!({"identities": user.identities(), "meta": {"has_more": false, "after_cursor": null}}),
            ),
            None => refused(&not_found()),
        },
        ("GET", [id]) => match user(account, id) {
            Some(user) => server::json(200, &json!({"user": account.user_json(user)})),
            None => refused(&not_found()),
        },
        ("PUT", [id]) => match user(account, id).map(|user| user.id) {
            Some(id) => write(call, account, &body(), Target::Update(id)),
            None => refused(&not_found()),
        },
        _ => no_endpoint(),
    }
}

fn user<'a>(account: &'a Account, id: &str) -> Option<&'a User> {
    account.users.by_id(id.parse().ok()?)
}

/// One user at a time, which Zendesk limits more than other requests.
fn write(call: &Call<'_>, account: &mut Account, wanted: &Value, target: Target) -> Reply {
    let found = match target {
        Target::Create => None,
        Target::Update(id) => Some(id),
        Target::CreateOrUpdate => {
            let by_id = wanted["external_id"].as_str().and_then(|id| account.users.by_external_id(id));
            let by_email = || account.users.by_email(wanted["email"].as_str()?);
            by_id.or_else(by_email).map(|user| user.id)
        }
    };
    if let Some(reply) = lock(&call.state.api).counters.update(found) {
        return reply;
    }
    match account.write_user(wanted, target, &call.origin) {
        Ok((is_new, id)) => {
            let shown = account.users.by_id(id).map(|user| account.user_json(user));
            let reply = server::json(if is_new { 201 } else { 200 }, &json!({"user": shown}));
            with(reply, "location", &format!("https://{}/api/v2/users/{id}.json", call.request.host()))
        }
        Err(refused_with) => refused(&refused_with),
    }
}

/// Up to 100 users, each with its own attributes, or the same ones for all `ids` of the query.
fn bulk(call: &Call<'_>, account: &mut Account, kind: JobKind) -> Reply {
    if !account.bulk_enabled {
        return server::json(
            403,
            &json!({"error": "Forbidden", "description": "Not enabled for this account"}),
        );
    }
    let body = call.body();
    let same_for = |name: &str, parameter: &str| {
        let ids = call.request.query(parameter)?;
        let with_id = |id: &str| {
            let mut user = body["user"].clone();
            user[name] =
                id.parse::<u64>().ok().filter(|_| name == "id").map_or_else(|| json!(id), Value::from);
            user
        };
        Some(ids.split(',').map(with_id).collect::<Vec<Value>>())
    };
    let same = same_for("id", "ids").or_else(|| same_for("external_id", "external_ids"));
    let items = same.filter(|_| kind == JobKind::UpdateUsers && body["user"].is_object());
    call.job(account, kind, items.unwrap_or_else(|| body["users"].as_array().cloned().unwrap_or_default()))
}

fn list(call: &Call<'_>, account: &Account) -> Reply {
    let parameters = listing::parameters(call.request);
    let of = |wanted: &str| {
        let wanted = wanted.to_owned();
        parameters.iter().filter(move |(name, _)| *name == wanted).map(|(_, value)| value.as_str())
    };
    let roles: Vec<&str> = of("role[]").chain(of("role")).collect();
    let users = match of("external_id").next() {
        Some(id) => account.users.by_external_id(id).map_or(&[][..], std::slice::from_ref),
        None => account.users.after(listing::after(call.request)),
    };
    let has_role = |user: &User| roles.is_empty() || roles.contains(&user.role.name());
    let matching = users.iter().filter(|user| user.active && has_role(user));
    let mut identities = Vec::new();
    let show = |user: &User| {
        identities.extend(user.identities());
        account.user_json(user)
    };
    let mut answer = listing::page(call.request, "users", matching.map(|user| (user.id, user)), show);
    if call.state.options.includes_identities && of("include").any(|name| name == "identities") {
        answer["identities"] = json!(identities);
    }
    server::json(200, &answer)
}

/// Loose, and behind the times.
fn search(call: &Call<'_>, account: &Account) -> Reply {
    let wanted = call.request.query("query").unwrap_or_default();
    let wanted = wanted.trim_start_matches("email:").to_lowercase();
    let found = account.users.all().iter().filter(|user| {
        call.origin.now - user.created >= SEARCH_LAG_SECONDS && user.email.to_lowercase().contains(&wanted)
    });
    let found: Vec<Value> = found.map(|user| account.user_json(user)).collect();
    server::json(200, &json!({"count": found.len(), "users": found}))
}

fn show_many(call: &Call<'_>, account: &Account) -> Reply {
    let (ids, external_ids) = (call.request.query("ids"), call.request.query("external_ids"));
    let wanted = external_ids.as_deref().or(ids.as_deref()).unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').filter(|id| !id.is_empty()).collect();
    if wanted.len() > 100 {
        return server::json(422, &json!({"error": "TooManyValues", "description": "At most 100 ids"}));
    }
    let find = |id: &&str| match external_ids {
        Some(_) => account.users.by_external_id(id),
        None => user(account, id),
    };
    let found: Vec<Value> = wanted.iter().filter_map(find).map(|user| account.user_json(user)).collect();
    server::json(
        200,
        &json!({"count": found.len(), "users": found, "next_page": null, "previous_page": null}),
    )
}

/// Ends the sessions of a user on all hosts.
fn end_sessions(call: &Call<'_>, account: &mut Account, id: &str) -> Option<()> {
    let (id, external_id) = user(account, id).map(|user| (user.id, user.external_id.clone()))?;
    lock(&call.state.sessions).retain(|_, user| *user != id);
    account.journal.push(Write {
        user: Some(id),
        external_id,
        ..blank(WriteKind::EndSessions, id, &Value::Null, &call.origin)
    });
    Some(())
}
