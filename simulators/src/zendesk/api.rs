//! The API: OAuth client credentials and scopes, limits, and which path does what.

pub(super) mod limits;
mod listing;
mod organizations;
mod users;

use std::collections::HashMap;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};

use super::account::jobs::JobKind;
use super::account::writes::{Refused, not_found};
use super::account::{Account, Origin};
use super::{State, lock};
use crate::server::{self, Received, with};
use limits::Counters;

type Reply = Response<Full<Bytes>>;

#[derive(Default)]
pub(super) struct ApiState {
    tokens: HashMap<String, Token>,
    /// The scopes that the OAuth client has, if they are not those of the options.
    pub(super) scope: Option<String>,
    pub(super) counters: Counters,
}

struct Token {
    /// Seconds since 1970.
    end: i64,
    scope: String,
    uses: u32,
}

impl ApiState {
    pub(super) fn expire_tokens(&mut self) {
        self.tokens.clear();
    }
}

/// Seconds since 1970 as ISO 8601.
pub(super) fn timestamp(seconds: i64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month))
}

pub(super) fn answer(state: &State, request: &Received, language: Option<&'static str>) -> Reply {
    let now = server::unix_now();
    let path = request.head.uri.path();
    if path == "/oauth/tokens" {
        return oauth(state, request, now);
    }
    if let Some(reply) = lock(&state.api).counters.edge(now) {
        return reply;
    }
    let Some(scope) = scope_of(state, request, now) else {
        return server::json(
            401,
            &json!({"error": "invalid_token", "error_description": "The access token provided is expired, revoked, malformed or invalid for other reasons."}),
        );
    };
    let (left, limit) = match lock(&state.api).counters.count(now) {
        Ok(counted) => counted,
        Err(reply) => return *reply,
    };
    let path = path.trim_start_matches("/api/v2/").trim_end_matches(".json");
    let reply = match missing_scope(request.head.method.as_str(), path, &scope) {
        Some(needed) => {
            let text = format!("You are missing the following required scopes: {needed}");
            server::json(403, &json!({"error": "Forbidden", "description": text}))
        }
        None => route(state, request, path, now, language),
    };
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
    let mut api = lock(&state.api);
    let own = api.scope.clone().unwrap_or_else(|| "read write".to_owned());
    let scope = body["scope"].as_str().map_or(own, str::to_owned);
    let token = server::random_hex(24);
    api.tokens.insert(token.clone(), Token { end: now + seconds, scope: scope.clone(), uses: 0 });
    server::json(
        200,
        &json!({"access_token": token, "token_type": "bearer", "scope": scope, "expires_in": seconds}),
    )
}

/// The scopes of the token of a request, if it is good.
fn scope_of(state: &State, request: &Received, now: i64) -> Option<String> {
    let token = request.header("authorization").strip_prefix("Bearer ")?;
    let mut api = lock(&state.api);
    let limit = api.counters.limits.requests_per_token;
    let token = api.tokens.get_mut(token)?;
    token.uses += 1;
    let good = now < token.end && limit.is_none_or(|limit| token.uses <= limit);
    good.then(|| token.scope.clone())
}

/// The scope that a token lacks. Zendesk's documents exclude identities from the scopes of single resources; that
/// memberships belong to `organizations` is likely.
fn missing_scope(method: &str, path: &str, scope: &str) -> Option<String> {
    let is_about_organizations =
        path.starts_with("organization") || path.ends_with("/organization_memberships");
    let resource = match path {
        _ if path.ends_with("/identities") => None,
        _ if is_about_organizations => Some("organizations"),
        _ if path.starts_with("users") => Some("users"),
        _ => None,
    };
    let right = if method == "GET" { "read" } else { "write" };
    let single = resource.map(|resource| format!("{resource}:{right}"));
    let has = scope.split_whitespace().any(|own| own == right || single.as_deref() == Some(own));
    (!has).then(|| single.unwrap_or_else(|| right.to_owned()))
}

fn route(state: &State, request: &Received, path: &str, now: i64, language: Option<&'static str>) -> Reply {
    let account = &mut *lock(&state.account);
    account.requests += 1;
    account.settle();
    let origin = Origin { request: account.requests, job: None, now, language };
    let call = Call { state, request, origin };
    let method = request.head.method.as_str();
    match (method, path.split('/').collect::<Vec<_>>().as_slice()) {
        ("GET", ["job_statuses"]) => {
            let jobs = account.poll_all();
            server::json(200, &json!({"job_statuses": jobs, "count": jobs.len(), "next_page": null}))
        }
        ("GET", ["job_statuses", "show_many"]) => {
            let ids = request.query("ids").unwrap_or_default();
            let jobs: Vec<Value> = ids.split(',').filter_map(|id| account.poll(id)).collect();
            server::json(200, &json!({"job_statuses": jobs}))
        }
        ("GET", ["job_statuses", id]) => match account.poll(id) {
            Some(job) => server::json(200, &json!({"job_status": job})),
            None => refused(&not_found()),
        },
        ("GET", ["user_fields"]) => {
            let fields = account.fields.iter().zip(360_001_u64..);
            let fields: Vec<Value> = fields.map(|(field, id)| field.json(id)).collect();
            server::json(
                200,
                &json!({"count": fields.len(), "user_fields": fields, "next_page": null,
                    "meta": {"has_more": false, "after_cursor": null}}),
            )
        }
        (_, ["users", id, "organization_memberships"]) => {
            organizations::memberships(&call, account, method, Some(("user_id", id)))
        }
        (_, ["organizations", id, "organization_memberships"]) => {
            organizations::memberships(&call, account, method, Some(("organization_id", id)))
        }
        (_, ["organization_memberships"]) => organizations::memberships(&call, account, method, None),
        (_, ["users", rest @ ..]) => users::answer(&call, account, method, rest),
        (_, ["organizations", rest @ ..]) => organizations::answer(&call, account, method, rest),
        (_, ["organization_memberships", rest @ ..]) => {
            organizations::membership(&call, account, method, rest)
        }
        _ => no_endpoint(),
    }
}

/// A request that has been let in.
struct Call<'a> {
    state: &'a State,
    request: &'a Received,
    origin: Origin,
}

impl Call<'_> {
    fn body(&self) -> Value {
        serde_json::from_slice(&self.request.body).unwrap_or_default()
    }

    /// Queues a job for what stands in the body under `name`.
    fn job(&self, account: &mut Account, kind: JobKind, items: Vec<Value>) -> Reply {
        if items.is_empty() || items.len() > 100 {
            let text = "Provide from 1 to 100 records";
            return server::json(422, &json!({"error": "TooManyValues", "description": text}));
        }
        match account.queue(kind, items, server::random_hex(16).to_lowercase(), &self.origin) {
            Ok(job) => server::json(200, &json!({"job_status": job})),
            Err(refused_with) => refused(&refused_with),
        }
    }
}

fn refused(refused: &Refused) -> Reply {
    server::json(refused.status, &refused.body)
}

fn no_endpoint() -> Reply {
    server::json(404, &json!({"error": "InvalidEndpoint", "description": "Not found"}))
}

fn no_content(status: u16) -> Reply {
    server::respond(status, "application/json; charset=utf-8", "")
}
