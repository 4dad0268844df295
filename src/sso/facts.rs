//! The variables of rules and claims: the profile, the identity, the app and the request.

use std::collections::BTreeMap;

use minijinja::Value;
use serde_json::Value as Json;

use crate::config::App;
use crate::config::expression::Facts;
use crate::imis::groups::Membership;
use crate::imis::profile::{Kind, Profile};
use crate::imis::recognise::Identity;
use crate::sso::email_address::EmailAddress;
use crate::sso::login_params::LoginParams;

/// Everything that is known at the moment of context. `date`: today, `YYYY-MM-DD` in UTC.
pub(crate) fn collect(
    profile: &Profile,
    identity: &Identity,
    app: &App,
    params: &LoginParams,
    memberships: &[Membership],
    date: &str,
) -> Facts {
    let email = profile.email.as_deref().and_then(EmailAddress::parse);
    let domain = email
        .as_ref()
        .and_then(|email| email.as_str().rsplit_once('@'))
        .map(|(_, domain)| domain.to_lowercase());
    let current = memberships.iter().filter(|membership| membership.is_current);
    let mut groups: Vec<String> = current.map(|membership| membership.group.clone()).collect();
    groups.dedup();
    let kind = match profile.kind {
        Kind::Person => "person",
        Kind::Company => "company",
    };
    let values = BTreeMap::from([
        ("profile.id", Value::from(profile.id.as_str())),
        ("profile.kind", Value::from(kind)),
        ("profile.name", Value::from(profile.name.as_deref())),
        ("profile.email", Value::from(email.as_ref().map(EmailAddress::as_str))),
        ("profile.email_domain", Value::from(domain)),
        ("profile.phone", Value::from(profile.phone.as_deref())),
        ("profile.status", Value::from(profile.status.as_deref())),
        ("profile.is_member", Value::from(profile.is_member())),
        ("profile.customer_type", Value::from(profile.customer_type())),
        ("profile.paid_through", Value::from(profile.paid_through())),
        ("profile.organization", Value::from(profile.organization.as_deref())),
        ("profile.groups", Value::from(groups)),
        ("identity.id", Value::from(identity.id.as_str())),
        ("identity.on_behalf_of", Value::from(identity.on_behalf_of.as_ref().map(|id| id.as_str()))),
        ("app.name", Value::from(app.name.as_str())),
        ("app.path", Value::from(app.path.as_str())),
        ("request.brand_id", Value::from(params.brand_id())),
        ("request.locale_id", Value::from(params.locale_id())),
        ("request.date", Value::from(date)),
    ]);
    let attributes = profile.attributes.iter().map(|(name, value)| (name.clone(), json(value)));
    Facts::new(&values, attributes, memberships.iter().map(membership))
}

fn membership(membership: &Membership) -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("group", Value::from(membership.group.as_str())),
        ("role", Value::from(membership.role.as_deref())),
        ("joined", Value::from(membership.joined.as_deref())),
        ("effective", Value::from(membership.effective.as_deref())),
        ("expires", Value::from(membership.expires.as_deref())),
        ("is_current", Value::from(membership.is_current)),
    ])
}

/// A scalar attribute, with texts trimmed. `None` for lists and objects.
fn json(value: &Json) -> Option<Value> {
    match value {
        Json::Bool(truth) => Some(Value::from(*truth)),
        Json::Number(number) => number.as_i64().map(Value::from).or_else(|| number.as_f64().map(Value::from)),
        Json::String(text) => Some(Value::from(text.trim())),
        Json::Null => Some(Value::from(())),
        Json::Array(_) | Json::Object(_) => None,
    }
}
