//! The account's users, and how a token finds one.

use serde_json::{Value, json};

use super::State;
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
}

/// A user.
#[derive(Debug, Clone)]
pub struct User {
    /// Zendesk's own id.
    pub id: u64,
    /// Full name.
    pub name: String,
    /// Primary e-mail address.
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
    /// When it was made, seconds since 1970: search finds it later.
    pub created: i64,
}

impl User {
    /// An end user without a name and an address.
    pub(super) fn new(id: u64, created: i64) -> Self {
        let (name, email) = (String::new(), String::new());
        let role = Role::EndUser;
        let other_emails = Vec::new();
        Self {
            id,
            name,
            email,
            other_emails,
            external_id: None,
            phone: None,
            role,
            suspended: false,
            created,
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

    pub(super) fn json(&self) -> Value {
        json!({"id": self.id, "name": self.name, "email": self.email, "external_id": self.external_id, "phone": self.phone,
            "role": self.role.name(), "suspended": self.suspended, "active": true, "verified": true, "tags": [],
            "user_fields": {}, "organization_id": null, "updated_at": "2026-01-01T00:00:00Z"})
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
        id,
        name: name.to_owned(),
        email: email.to_owned(),
        other_emails: Vec::new(),
        external_id: None,
        phone: None,
        role,
        suspended,
        created: 0,
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
    let mut users = lock(&state.users);
    let by_id = claims
        .external_id
        .as_ref()
        .and_then(|id| users.iter().position(|u| u.external_id.as_ref() == Some(id)));
    let by_email = users.iter().position(|user| user.email.eq_ignore_ascii_case(&claims.email));
    let chosen = if state.options.update_external_ids { by_email.or(by_id) } else { by_id.or(by_email) };
    let index = match chosen {
        Some(index) => {
            let another_has_email = by_email.is_some_and(|other| other != index);
            let blank = users[index].external_id.is_none();
            let same = users[index].external_id == claims.external_id;
            if another_has_email {
                return Err("User is invalid: Email has already been taken".to_owned());
            }
            if !same && !blank && !state.options.update_external_ids && by_id.is_none() {
                return Err("User is invalid: External has already been taken".to_owned());
            }
            index
        }
        None => {
            let id = users.iter().map(|user| user.id).max().unwrap_or_default() + 1;
            users.push(User::new(id, now));
            users.len() - 1
        }
    };
    let user = &mut users[index];
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
    Ok(user.id)
}
