//! The API: OAuth client credentials, users, jobs, with rate limits, search lag and the bulk switch.

use std::collections::HashMap;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};

use super::{State, User, lock};
use crate::server::{self, Received, with};

type Reply = Response<Full<Bytes>>;

/// Search finds a user this many seconds after it was made.
const SEARCH_LAG_SECONDS: i64 = 120;

#[derive(Default)]
pub(super) struct ApiState {
    /// Token -> end of its life, seconds since 1970.
    tokens: HashMap<String, i64>,
    /// (minute, requests in it).
    window: (i64, u32),
    jobs: HashMap<String, Job>,
}

struct Job {
    polls: u32,
    results: Vec<Value>,
}

pub(super) fn answer(state: &State, request: &Received) -> Reply {
    let now = server::unix_now();
    let path = request.head.uri.path();
    if path == "/oauth/tokens" {
        return oauth(state, request, now);
    }
    if !authorized(state, request, now) {
        return server::json(
            401,
            &json!({"error": "invalid_token", "error_description": "The access token provided is expired, revoked, malformed or invalid for other reasons."}),
        );
    }
    let (left, limit) = match count(state, now) {
        Ok(left) => (left, state.options.requests_per_minute),
        Err(seconds) => {
            let reply = server::json(429, &json!({"error": "APIRateLimitExceeded"}));
            return with(reply, "retry-after", &seconds.to_string());
        }
    };
    let reply = route(state, request, path.trim_start_matches("/api/v2/"), now);
    let reply = with(reply, "ratelimit-limit", &limit.to_string());
    let reply = with(reply, "ratelimit-remaining", &left.to_string());
    with(reply, "ratelimit-reset", &(60 - now % 60).to_string())
}

fn oauth(state: &State, request: &Received, now: i64) -> Reply {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let (id, secret) = &state.options.api_client;
    if body["grant_type"] != "client_credentials"
        || body["client_id"] != **id
        || body["client_secret"] != **secret
    {
        return server::json(401, &json!({"error": "invalid_client"}));
    }
    let seconds = body["expires_in"].as_i64().unwrap_or(state.options.api_token_seconds);
    let token = server::random_hex(24);
    lock(&state.api).tokens.insert(token.clone(), now + seconds);
    server::json(
        200,
        &json!({"access_token": token, "token_type": "bearer", "scope": "read write", "expires_in": seconds}),
    )
}

fn authorized(state: &State, request: &Received, now: i64) -> bool {
    let token = request.header("authorization").strip_prefix("Bearer ");
    token.is_some_and(|token| lock(&state.api).tokens.get(token).is_some_and(|end| now < *end))
}

/// Requests left in this minute, or seconds to wait.
fn count(state: &State, now: i64) -> Result<u32, i64> {
    let mut api = lock(&state.api);
    if api.window.0 != now / 60 {
        api.window = (now / 60, 0);
    }
    api.window.1 += 1;
    state.options.requests_per_minute.checked_sub(api.window.1).ok_or(60 - now % 60)
}

fn route(state: &State, request: &Received, path: &str, now: i64) -> Reply {
    let method = request.head.method.as_str();
    match (method, path.split('/').collect::<Vec<_>>().as_slice()) {
        ("GET", ["users"]) => list(state, request),
        ("GET", ["users", "search"]) => search(state, request, now),
        ("GET", ["users", "show_many"]) => show_many(state, request),
        ("GET", ["users", id, "identities"]) => identities(state, id),
        ("DELETE", ["users", id, "sessions"]) => end_sessions(state, id),
        ("POST", ["users", "logout_many"]) => {
            let ids = request.query("ids").unwrap_or_default();
            for id in ids.split(',') {
                end_sessions(state, id);
            }
            server::json(202, &json!({}))
        }
        ("POST", ["users", "create_or_update"]) => {
            let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            match create_or_update(state, &body["user"], now) {
                Ok((status, user)) => server::json(status, &json!({"user": user})),
                Err(error) => server::json(422, &error),
            }
        }
        ("POST", ["users", "create_or_update_many"]) => bulk(state, request, now),
        ("GET", ["job_statuses", id]) => job(state, id),
        ("GET", ["user_fields"]) => server::json(
            200,
            &json!({"user_fields": [
                {"key": "membership", "type": "text", "active": true},
                {"key": "paid_through", "type": "date", "active": true},
                {"key": "chapter", "type": "dropdown", "active": true,
                 "custom_field_options": [{"name": "North", "value": "chapter_north"}]}], "next_page": null}),
        ),
        _ => not_found(),
    }
}

fn not_found() -> Reply {
    server::json(404, &json!({"error": "RecordNotFound", "description": "Not found"}))
}

/// Cursor pages: the cursor is the last id of the page before.
fn list(state: &State, request: &Received) -> Reply {
    let parameters: Vec<(String, String)> =
        url::form_urlencoded::parse(request.head.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let value = |name: &str| parameters.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    let roles: Vec<&str> =
        parameters.iter().filter(|(name, _)| name == "role[]").map(|(_, value)| value.as_str()).collect();
    let size: usize = value("page[size]").and_then(|text| text.parse().ok()).unwrap_or(100).min(100);
    let after: u64 = value("page[after]").and_then(|text| text.parse().ok()).unwrap_or_default();
    let users = lock(&state.users);
    let mut matching: Vec<&User> = users
        .iter()
        .filter(|user| user.id > after && (roles.is_empty() || roles.contains(&user.role.name())))
        .collect();
    matching.sort_by_key(|user| user.id);
    let page: Vec<Value> = matching.iter().take(size).map(|user| user.json()).collect();
    let more = matching.len() > size;
    let cursor = if more { page.last().map(|user| user["id"].to_string()) } else { None };
    let mut answer = json!({"users": page, "meta": {"has_more": more, "after_cursor": cursor}});
    if state.options.includes_identities && value("include") == Some("identities") {
        answer["identities"] = matching.iter().take(size).flat_map(|user| user.identities()).collect();
    }
    server::json(200, &answer)
}

/// Loose, and behind the times.
fn search(state: &State, request: &Received, now: i64) -> Reply {
    let wanted = request.query("query").unwrap_or_default().trim_start_matches("email:").to_lowercase();
    let users = lock(&state.users);
    let found = users.iter().filter(|user| {
        now - user.created >= SEARCH_LAG_SECONDS && user.email.to_lowercase().contains(&wanted)
    });
    let found: Vec<Value> = found.map(User::json).collect();
    server::json(200, &json!({"count": found.len(), "users": found}))
}

fn show_many(state: &State, request: &Received) -> Reply {
    let wanted = request.query("external_ids").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').collect();
    let users = lock(&state.users);
    let has = |user: &&User| user.external_id.as_deref().is_some_and(|id| wanted.contains(&id));
    let found: Vec<Value> = users.iter().filter(has).map(User::json).collect();
    server::json(200, &json!({"count": found.len(), "users": found}))
}

fn identities(state: &State, id: &str) -> Reply {
    let users = lock(&state.users);
    match users.iter().find(|user| user.id.to_string() == id) {
        Some(user) => {
            server::json(200, &json!({"identities": user.identities(), "meta": {"has_more": false}}))
        }
        None => not_found(),
    }
}

fn end_sessions(state: &State, id: &str) -> Reply {
    lock(&state.sessions).retain(|_, user| user.to_string() != id);
    let mut reply = server::json(204, &Value::Null);
    *reply.body_mut() = Full::default();
    reply
}

fn create_or_update(state: &State, wanted: &Value, now: i64) -> Result<(u16, Value), Value> {
    let text = |name: &str| wanted[name].as_str().map(str::to_owned);
    let invalid = |field: &str, code: &str| {
        json!({"error": "RecordInvalid", "description": "Record validation errors",
            "details": {field: [{"description": "is not right", "error": code}]}})
    };
    let email =
        text("email").filter(|email| email.contains('@')).ok_or_else(|| invalid("email", "InvalidFormat"))?;
    let external_id = text("external_id");
    let mut users = lock(&state.users);
    let by_id = external_id
        .as_ref()
        .and_then(|id| users.iter().position(|user| user.external_id.as_ref() == Some(id)));
    let by_email = users.iter().position(|user| user.email.eq_ignore_ascii_case(&email));
    if let (Some(one), Some(other)) = (by_id, by_email)
        && one != other
    {
        return Err(invalid("email", "DuplicateValue"));
    }
    let (status, index) = match by_id.or(by_email) {
        Some(index) => (200, index),
        None => {
            let id = users.iter().map(|user| user.id).max().unwrap_or_default() + 1;
            users.push(User { email, ..User::new(id, now) });
            (201, users.len() - 1)
        }
    };
    let user = &mut users[index];
    if let Some(name) = text("name") {
        user.name = name;
    }
    if external_id.is_some() {
        user.external_id = external_id;
    }
    if let Some(phone) = text("phone") {
        user.phone = Some(phone);
    }
    Ok((status, user.json()))
}

fn bulk(state: &State, request: &Received, now: i64) -> Reply {
    if !state.options.bulk_enabled {
        return server::json(
            403,
            &json!({"error": "Forbidden", "description": "Not enabled for this account"}),
        );
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let users = body["users"].as_array().cloned().unwrap_or_default();
    if users.is_empty() || users.len() > 100 {
        return server::json(422, &json!({"error": "TooManyUsers"}));
    }
    let running = lock(&state.api).jobs.values().filter(|job| job.polls < 2).count();
    if running >= 30 {
        return server::json(429, &json!({"error": "TooManyJobs"}));
    }
    let results = users.iter().map(|user| match create_or_update(state, user, now) {
        Ok((201, user)) => json!({"id": user["id"], "status": "Created"}),
        Ok((_, user)) => json!({"id": user["id"], "status": "Updated"}),
        Err(error) => json!({"status": "Failed", "errors": error["details"].to_string()}),
    });
    let job = Job { polls: 0, results: results.collect() };
    let id = server::random_hex(16).to_lowercase();
    lock(&state.api).jobs.insert(id.clone(), job);
    server::json(200, &json!({"job_status": {"id": id, "status": "queued"}}))
}

/// Queued, then working, then completed.
fn job(state: &State, id: &str) -> Reply {
    let mut api = lock(&state.api);
    let Some(job) = api.jobs.get_mut(id) else { return not_found() };
    job.polls += 1;
    let status = match job.polls {
        1 => json!({"id": id, "status": "working", "progress": 0, "total": job.results.len()}),
        _ => {
            json!({"id": id, "status": "completed", "progress": job.results.len(), "total": job.results.len(), "results": job.results})
        }
    };
    server::json(200, &json!({"job_status": status}))
}
