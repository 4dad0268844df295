//! Organizations and memberships over the API.

use serde_json::{Value, json};

use super::{Call, Reply, listing, no_content, no_endpoint, refused};
use crate::server;
use crate::zendesk::account::Account;
use crate::zendesk::account::jobs::JobKind;
use crate::zendesk::account::organizations::{Membership, Organization};
use crate::zendesk::account::writes::not_found;

pub(super) fn answer(call: &Call<'_>, account: &mut Account, method: &str, path: &[&str]) -> Reply {
    let query = |name: &str| call.request.query(name);
    match (method, path) {
        ("GET", []) => {
            let after = listing::after(call.request);
            let rows = account.organizations.all.range(after + 1..).map(|(id, own)| (*id, own));
            server::json(200, &listing::page(call.request, "organizations", rows, Organization::json))
        }
        ("POST", []) => match account.create_organization(&call.body()["organization"], &call.origin) {
            Ok(id) => {
                let made = account.organizations.get(id).map(Organization::json);
                server::json(201, &json!({"organization": made}))
            }
            Err(refused_with) => refused(&refused_with),
        },
        ("POST", ["create_many"]) => {
            let items = call.body()["organizations"].as_array().cloned().unwrap_or_default();
            call.job(account, JobKind::CreateOrganizations, items)
        }
        ("GET", ["show_many"]) => {
            let found: Vec<Value> = match (query("external_ids"), query("ids")) {
                (Some(ids), _) => ids
                    .split(',')
                    .filter_map(|id| account.organizations.by_external_id(id))
                    .map(Organization::json)
                    .collect(),
                (None, ids) => ids
                    .unwrap_or_default()
                    .split(',')
                    .filter_map(|id| account.organizations.get(id.parse().ok()?))
                    .map(Organization::json)
                    .collect(),
            };
            many(found)
        }
        ("GET", ["search"]) => {
            let by_id = query("external_id").and_then(|id| account.organizations.by_external_id(&id));
            let by_name = query("name").and_then(|name| account.organizations.by_name(&name));
            many(by_id.or(by_name).map(Organization::json).into_iter().collect())
        }
        ("GET", [id]) => match id.parse().ok().and_then(|id| account.organizations.get(id)) {
            Some(organization) => server::json(200, &json!({"organization": organization.json()})),
            None => refused(&not_found()),
        },
        _ => no_endpoint(),
    }
}

fn many(found: Vec<Value>) -> Reply {
    server::json(
        200,
        &json!({"count": found.len(), "organizations": found, "next_page": null, "previous_page": null}),
    )
}

/// Memberships of the account, or of the user or organization that `of` names.
pub(super) fn memberships(
    call: &Call<'_>,
    account: &mut Account,
    method: &str,
    of: Option<(&str, &str)>,
) -> Reply {
    let of = of.map(|(name, id)| (name, id.parse::<u64>().unwrap_or_default()));
    if method == "POST" {
        let mut wanted = call.body()["organization_membership"].clone();
        if let Some((name, id)) = of {
            wanted[name] = json!(id);
        }
        return match account.create_membership(&wanted, &call.origin) {
            Ok(id) => {
                let made = account.organizations.memberships.get(&id);
                let made = made.map(|membership| account.membership_json(membership));
                server::json(201, &json!({"organization_membership": made}))
            }
            Err(refused_with) => refused(&refused_with),
        };
    }
    let after = listing::after(call.request);
    let show = |membership: &Membership| account.membership_json(membership);
    let page = match of {
        Some(("user_id", user)) if account.users.by_id(user).is_none() => return refused(&not_found()),
        Some(("user_id", user)) => {
            let own = account.organizations.of_user(user).map(|(membership, _)| (membership.id, membership));
            listing::page(call.request, "organization_memberships", own.filter(|(id, _)| *id > after), show)
        }
        _ => {
            let rows = account.organizations.memberships.range(after + 1..).map(|(id, own)| (*id, own));
            let wanted = rows.filter(|(_, own)| of.is_none_or(|(_, id)| own.organization == id));
            listing::page(call.request, "organization_memberships", wanted, show)
        }
    };
    server::json(200, &page)
}

pub(super) fn membership(call: &Call<'_>, account: &mut Account, method: &str, path: &[&str]) -> Reply {
    match (method, path) {
        ("POST", ["create_many"]) => {
            let items = call.body()["organization_memberships"].as_array().cloned().unwrap_or_default();
            call.job(account, JobKind::CreateMemberships, items)
        }
        ("DELETE", [id]) => {
            match id.parse().ok().and_then(|id| account.delete_membership(id, &call.origin)) {
                Some(()) => no_content(204),
                None => refused(&not_found()),
            }
        }
        _ => no_endpoint(),
    }
}
