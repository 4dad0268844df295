//! REST: the token endpoint, parties, users, group members, queries.

use serde_json::{Value, json};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;

use super::people::Person;
use super::{ApiFault, Faults, QueryFault, State, TokenFault, lists, lock};
use crate::server::{self, Answer, Received, html};

pub(super) type Reply = Response<Full<Bytes>>;

const SIGN_IN_HTML: &str = "<html><head><title>Sign In</title></head><body>Please sign in</body></html>";

/// `path` is in lower case and below the API's base.
pub(super) fn answer(state: &State, request: &Received, path: &str, faults: &Faults) -> Answer {
    if path == "token" {
        return token(state, request, faults);
    }
    match fault(state, &faults.api) {
        Some(Some(answer)) => return Some(answer),
        Some(None) => return None,
        None => {}
    }
    // Resource names ignore case; ids do not.
    let spelled = request.head.uri.path().rsplit('/').next().unwrap_or_default();
    let is_query = path == "api/query" || path == "api/iqa";
    let by_cookie = request.header("authorization").is_empty();
    if is_query && by_cookie {
        return Some(query(state, request, &faults.query, path == "api/iqa"));
    }
    let Some(caller) = caller(state, request) else {
        return Some(server::json(
            401,
            &json!({"Message": "Authorization has been denied for this request."}),
        ));
    };
    // Users who are not administrators see only their own record.
    let is_service = caller == state.options.service_account.0;
    let reads_only = state.options.service_account_reads_only.as_deref().filter(|_| is_service);
    let own = reads_only.or(state.person(&caller).map(|person| person.id.as_str()));
    let is_admin = is_service && reads_only.is_none();
    if !is_admin && path.starts_with("api/party/") && own != Some(spelled) {
        return Some(server::json(403, &json!({"Message": "Access is denied."})));
    }
    match path.split('/').skip(1).collect::<Vec<_>>().as_slice() {
        ["party", _] => Some(party(state, spelled, &faults.api)),
        ["party"] => lists::parties(state, request, own.filter(|_| !is_admin)),
        ["user"] => Some(users(state, request)),
        ["groupmember"] => lists::group_members(state, request),
        ["query" | "iqa"] if is_admin && state.options.query_api => {
            lists::stored_query(state, request, path == "api/iqa").unwrap_or_else(|| Some(lists::no_query()))
        }
        _ => Some(server::json(404, &json!({"Message": "No HTTP resource was found."}))),
    }
}

/// The response of a fault; `Some(None)` closes the connection.
fn fault(state: &State, fault: &ApiFault) -> Option<Answer> {
    match fault {
        ApiFault::None | ApiFault::AnotherParty(_) | ApiFault::Replaced(..) | ApiFault::Unauthorized(0) => {
            None
        }
        ApiFault::Unauthorized(times) => {
            lock(&state.faults).api = ApiFault::Unauthorized(times - 1);
            Some(Some(server::json(
                401,
                &json!({"Message": "Authorization has been denied for this request."}),
            )))
        }
        ApiFault::Status(status) => Some(Some(server::json(
            *status,
            &json!({"Errors": {"$values": [{"Message": "Something failed"}]}}),
        ))),
        ApiFault::Html => Some(Some(html(200, SIGN_IN_HTML))),
        ApiFault::Drop => Some(None),
    }
}

/// Whose access token comes with a request.
fn caller(state: &State, request: &Received) -> Option<String> {
    let token = request.header("authorization").strip_prefix("Bearer ")?;
    lock(&state.tokens).get(token).cloned()
}

fn token(state: &State, request: &Received, faults: &Faults) -> Answer {
    let field = |name: &str| request.field(name).unwrap_or_default();
    match faults.token {
        TokenFault::None | TokenFault::Hangs => {}
        TokenFault::Down => return Some(html(503, "<html><body>Service Unavailable</body></html>")),
        TokenFault::Refuses => return Some(invalid_grant()),
        TokenFault::Html => return Some(html(200, SIGN_IN_HTML)),
        TokenFault::Drop => return None,
    }
    let username = match field("grant_type").as_str() {
        "password" => {
            let (name, password) = &state.options.service_account;
            let known = field("username") == *name && field("password") == *password;
            known.then(|| name.clone())
        }
        "refresh_token" => {
            let (id, secret) = &state.options.client_application;
            if field("client_id") != *id || field("client_secret") != *secret {
                return Some(server::json(400, &json!({"error": "invalid_client"})));
            }
            let of = lock(&state.refresh_tokens).remove(&field("refresh_token"));
            of.map(|username| faults.refresh_is_of.clone().unwrap_or(username))
        }
        _ => None,
    };
    let Some(username) = username else { return Some(invalid_grant()) };
    let token = format!("AQAAANCMnd8{}", server::random_hex(60));
    lock(&state.tokens).insert(token.clone(), username.clone());
    Some(server::json(
        200,
        &json!({"access_token": token, "token_type": "bearer", "expires_in": state.options.token_seconds, "userName": username,
            ".issued": "Sun, 22 Nov 2026 10:00:00 GMT", ".expires": "Sun, 22 Nov 2026 10:20:00 GMT"}),
    ))
}

fn invalid_grant() -> Reply {
    let text = "The user name or password is incorrect.";
    server::json(400, &json!({"error": "invalid_grant", "error_description": text}))
}

fn party(state: &State, id: &str, fault: &ApiFault) -> Reply {
    let id = match fault {
        ApiFault::AnotherParty(other) => other,
        ApiFault::None
        | ApiFault::Replaced(..)
        | ApiFault::Unauthorized(_)
        | ApiFault::Status(_)
        | ApiFault::Html
        | ApiFault::Drop => id,
    };
    match lock(&state.lists).population.party_by_id(id) {
        Some(party) => {
            let mut record = party.to_string();
            if let ApiFault::Replaced(from, to) = fault {
                record = record.replace(from, to);
            }
            server::respond(200, "application/json; charset=utf-8", record)
        }
        None => server::json(404, &json!({"Message": "Not found"})),
    }
}

fn users(state: &State, request: &Received) -> Reply {
    let wanted = request.query("username").or_else(|| request.query("UserName"));
    let row = |person: &Person| {
        json!({"$type": "Asi.Soa.Membership.DataContracts.UserData, Asi.Contracts", "UserName": person.username,
            "UserId": person.id, "Party": {"PartyId": person.id, "Name": person.party["Name"]}})
    };
    match wanted {
        Some(name) => page(state.person(name.trim_start_matches("eq:")).into_iter().map(row).collect()),
        None => paged(request, state.options.people.iter().map(row).collect()),
    }
}

/// The part of a list that `limit` and `offset` ask for; no page has more than three rows, so that there are several.
fn paged(request: &Received, items: Vec<Value>) -> Reply {
    let number = |name: &str| request.query(name).and_then(|text| text.parse::<usize>().ok());
    let (limit, offset) = (number("limit").unwrap_or(100).min(3), number("offset").unwrap_or_default());
    let total = items.len();
    let some: Vec<Value> = items.into_iter().skip(offset).take(limit).collect();
    let more = offset + some.len() < total;
    server::json(
        200,
        &json!({"Items": {"$values": some}, "Offset": offset, "Limit": limit, "Count": some.len(), "TotalCount": total,
            "HasNext": more, "NextOffset": if more { offset + limit } else { 0 }}),
    )
}

/// A query filtered on "LoggedIn User Key": runs as the visitor, with the anti-forgery token of that visitor.
fn query(state: &State, request: &Received, fault: &QueryFault, properties: bool) -> Reply {
    if !state.options.query_api {
        return server::json(404, &json!({"Message": "No HTTP resource was found."}));
    }
    let visitor = state.visitor(request);
    let token = request.header("requestverificationtoken").to_owned();
    let bound_to = lock(&state.antiforgery).get(&token).cloned();
    let same_cookie = request.cookie("__RequestVerificationToken").as_deref() == Some(token.as_str());
    if !same_cookie || bound_to != Some(visitor.map(|person| person.username.clone())) {
        let text = "The provided anti-forgery token was meant for a different claims-based user than the current user.";
        return server::json(400, &json!({"Errors": {"$values": [{"Message": text}]}}));
    }
    if request.query("QueryName").as_deref() != Some("$/Gateway/WhoAmI") {
        return lists::no_query();
    }
    let row = |person: &Person| row(person, fault, properties);
    let everybody = state.options.people.iter().map(row);
    page(match fault {
        QueryFault::Unfiltered => everybody.collect(),
        QueryFault::FirstOfAll => everybody.take(1).collect(),
        QueryFault::Empty => Vec::new(),
        QueryFault::AlwaysGuest(id) => vec![guest_row(id)],
        QueryFault::Guest if visitor.is_none() => vec![guest_row("GUEST")],
        QueryFault::Guest => visitor.into_iter().map(row).collect(),
        QueryFault::None | QueryFault::Without(_) => visitor.into_iter().map(row).collect(),
    })
}

/// Anonymous visitors run as the user GUEST.
fn guest_row(id: &str) -> Value {
    json!({"$type": "System.Dynamic.ExpandoObject, System.Core", "ID": id, "Full Name": "Guest User",
        "Email": "guest@association.example", "Member Status": "A", "Is Company": false})
}

/// As `api/query` gives it, or with named properties as `api/iqa` does.
fn row(person: &Person, fault: &QueryFault, properties: bool) -> Value {
    let party = &person.party;
    let company = party["$type"].as_str().is_some_and(|name| name.contains("OrganizationData"));
    let mobile = party["Phones"]["$values"][0]["Number"].clone();
    let columns = [
        ("ID", json!(person.id)),
        ("Full Name", party["Name"].clone()),
        ("Email", party["Emails"]["$values"][0]["Address"].clone()),
        ("Mobile Phone", mobile),
        ("Member Status", party["Status"]["PartyStatusId"].clone()),
        ("Is Company", json!({"$type": "System.Boolean", "$value": company})),
        ("Chapter", json!("North")),
    ];
    let left = columns.into_iter().filter(|(name, _)| *fault != QueryFault::Without(name));
    if properties {
        let named = left.map(|(name, value)| json!({"$type": "Asi.Soa.Core.DataContracts.GenericPropertyData, Asi.Contracts", "Name": name, "Value": value}));
        json!({"$type": "Asi.Soa.Core.DataContracts.GenericEntityData, Asi.Contracts", "EntityTypeName": "ANY",
            "Properties": {"$type": "x", "$values": named.collect::<Vec<_>>()}})
    } else {
        let mut row = json!({"$type": "System.Dynamic.ExpandoObject, System.Core"});
        left.for_each(|(name, value)| row[name] = value);
        row
    }
}

pub(super) fn page(items: Vec<Value>) -> Reply {
    let count = items.len();
    server::json(
        200,
        &json!({"$type": "Asi.Soa.Core.DataContracts.PagedResult, Asi.Contracts",
            "Items": {"$type": "System.Collections.Generic.List, mscorlib", "$values": items},
            "Offset": 0, "Limit": 100, "Count": count, "TotalCount": count, "HasNext": false, "NextOffset": 0}),
    )
}
