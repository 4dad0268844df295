//! The account's users, and how a token finds one.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::State;
use super::account::fields::UserField;
use super::api::timestamp;
use super::lock;
use super::verify::Claims;

/// The role of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A customer.
    EndUser,
    /// Works on tickets.
    Agent,
    /// Runs the account.
    Admin,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::EndUser => "end-user",
            Self::Agent => "agent",
            Self::Admin => "admin",
        }
    }

    /// `end_user` is the spelling of tokens.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "end-user" | "end_user" => Some(Self::EndUser),
            "agent" => Some(Self::Agent),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }
}

/// A user.
#[derive(Debug, Clone)]
pub struct User {
    /// Zendesk's own id.
    pub id: u64,
    /// Full name.
    pub name: String,
    /// Primary e-mail address; blank for a user without one.
    pub email: String,
    /// Other e-mail addresses.
    pub other_emails: Vec<String>,
    /// The id in the other system.
    pub external_id: Option<String>,
    /// E.164.
    pub phone: Option<String>,
    /// What the user may do.
    pub role: Role,
    /// May not sign in.
    pub suspended: bool,
    /// False for a user who has been deleted.
    pub active: bool,
    /// Whether an address has been confirmed.
    pub verified: bool,
    /// The default organization.
    pub organization_id: Option<u64>,
    /// In lower case, sorted.
    pub tags: Vec<String>,
    /// Values by key, as Zendesk shows them; keys without a value are absent.
    pub user_fields: BTreeMap<String, Value>,
    /// Language.
    pub locale: Option<String>,
    /// When it was made, seconds since 1970: search finds it later.
    pub created: i64,
    /// When it last changed, seconds since 1970.
    pub updated: i64,
}

impl User {
    /// An end user without a name and an address.
    pub(super) fn new(id: u64, created: i64) -> Self {
        Self {
            id,
            name: String::new(),
            email: String::new(),
            other_emails: Vec::new(),
            external_id: None,
            phone: None,
            role: Role::EndUser,
            suspended: false,
            active: true,
            verified: true,
            organization_id: None,
            tags: Vec::new(),
            user_fields: BTreeMap::new(),
            locale: None,
            created,
            updated: created,
        }
    }

    /// One identity for each address; the primary one is first.
    pub(super) fn identities(&self) -> Vec<Value> {
        let emails = [&self.email].into_iter().chain(&self.other_emails).enumerate();
        let identity = |(index, email): (usize, &String)| {
            json!({"id": self.id * 10 + index as u64, "user_id": self.id, "type": "email", "value": email,
                "primary": index == 0, "verified": true})
        };
        emails.map(identity).collect()
    }

    /// With a value for every field that is active.
    pub(super) fn json(&self, fields: &[UserField]) -> Value {
        let value = |field: &UserField| {
            let value = self.user_fields.get(&field.key).cloned().unwrap_or_else(|| field.empty());
            (field.key.clone(), value)
        };
        let values: Map<String, Value> = fields.iter().filter(|field| field.active).map(value).collect();
        let email = Some(&self.email).filter(|email| !email.is_empty());
        json!({"id": self.id, "name": self.name, "email": email, "external_id": self.external_id, "phone": self.phone,
            "role": self.role.name(), "suspended": self.suspended, "active": self.active, "verified": self.verified,
            "tags": self.tags, "user_fields": values, "organization_id": self.organization_id, "locale": self.locale,
            "created_at": timestamp(self.created), "updated_at": timestamp(self.updated)})
    }
}

/// This many agents with an external id, for accounts with more staff than one minute's requests can read.
pub fn staff(count: u64) -> Vec<User> {
    let agent = |number| User {
        name: format!("Agent {number}"),
        email: format!("agent{number}@association.example"),
        external_id: Some(format!("6{number:05}")),
        role: Role::Agent,
        ..User::new(10_000 + number, 0)
    };
    (0..count).map(agent).collect()
}

pub(super) fn sample() -> Vec<User> {
    let user = |id, name: &str, email: &str, role, suspended| User {
        name: name.to_owned(),
        email: email.to_owned(),
        role,
        suspended,
        ..User::new(id, 0)
    };
    vec![
        user(1, "Olga Owner", "olga@association.example", Role::Admin, false),
        user(2, "Sam Staff", "sam@association.example", Role::Agent, false),
        user(3, "Sue Suspended", "sue@example.org", Role::EndUser, true),
    ]
}

/// The user that a token signs in, made or brought up to date.
pub(super) fn sign_in(state: &State, claims: &Claims, now: i64) -> Result<u64, String> {
    let domain = claims.email.rsplit('@').next().unwrap_or_default().to_lowercase();
    if state.options.blocked_domains.contains(&domain) {
        let email = &claims.email;
        return Err(format!(
            "Users with the email address {email} are not allowed to sign up for this help desk"
        ));
    }
    let users = &mut lock(&state.account).users;
    let by_id = claims.external_id.as_ref().and_then(|id| users.by_external_id(id));
    let by_id = by_id.filter(|user| user.external_id == claims.external_id);
    let by_email = users.by_email(&claims.email);
    let by_email = by_email.filter(|user| user.email.eq_ignore_ascii_case(&claims.email));
    let chosen = if state.options.update_external_ids { by_email.or(by_id) } else { by_id.or(by_email) };
    let mut user = match chosen {
        Some(user) => {
            let another_has_email = by_email.is_some_and(|other| other.id != user.id);
            let blank = user.external_id.is_none();
            let same = user.external_id == claims.external_id;
            if another_has_email {
                return Err("User is invalid: Email has already been taken".to_owned());
            }
            if !same && !blank && !state.options.update_external_ids && by_id.is_none() {
                return Err("User is invalid: External has already been taken".to_owned());
            }
            user.clone()
        }
        None => User::new(users.next_id(), now),
    };
    if user.suspended {
        return Err("User is suspended".to_owned());
    }
    user.name.clone_from(&claims.name);
    user.email.clone_from(&claims.email);
    if claims.external_id.is_some() {
        user.external_id.clone_from(&claims.external_id);
    }
    if claims.phone.is_some() {
        user.phone.clone_from(&claims.phone);
    }
    let id = user.id;
    users.put(user);
    Ok(id)
}
