//! What the account holds, and every write to it in order.

pub(crate) mod directory;
pub(crate) mod fields;
pub(crate) mod jobs;
pub(crate) mod organizations;
pub(crate) mod writes;

use serde_json::{Value, json};

use super::User;
use directory::Directory;
use fields::UserField;
use jobs::Jobs;
use organizations::Organizations;

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    /// Made a user.
    CreateUser,
    /// Changed a user, or wrote what was there already.
    UpdateUser,
    /// Ended a user's sessions.
    EndSessions,
    /// Made an organization.
    CreateOrganization,
    /// Made a user a member of an organization.
    CreateMembership,
    /// Ended such a membership.
    DeleteMembership,
}

/// An attribute that a write changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its name, `user_fields.KEY` for a field, `other_emails` for addresses beside the primary one.
    pub attribute: String,
    /// The value before.
    pub before: Value,
    /// The value after.
    pub after: Value,
}

/// A write that the account has carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// What it did.
    pub kind: WriteKind,
    /// The id of the user, the organization or the membership.
    pub id: u64,
    /// The user whom it concerns.
    pub user: Option<u64>,
    /// That user's external id after the write, or the organization's.
    pub external_id: Option<String>,
    /// The number of the HTTP request that asked for it, from 1.
    pub request: u64,
    /// The job that carried it out.
    pub job: Option<String>,
    /// The attributes that were sent.
    pub sent: Vec<String>,
    /// What changed; empty for a write that wrote what was there already.
    pub changes: Vec<Change>,
    /// Whether Zendesk would have sent a verification e-mail: an address was added without `skip_verify_email`.
    pub verification_email: bool,
}

/// Where a write comes from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) request: u64,
    pub(crate) job: Option<String>,
    pub(crate) now: i64,
    /// The language of descriptions.
    pub(crate) language: Option<&'static str>,
}

/// The members whose writes fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// External id or e-mail address.
    pub(crate) member: String,
    pub(crate) code: &'static str,
    pub(crate) times: u32,
}

pub(crate) struct Account {
    pub(crate) users: Directory,
    pub(crate) fields: Vec<UserField>,
    pub(crate) organizations: Organizations,
    pub(crate) jobs: Jobs,
    pub(crate) journal: Vec<Write>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) bulk_enabled: bool,
    pub(crate) requests: u64,
}

impl Account {
    pub(crate) fn new(users: Vec<User>, bulk_enabled: bool) -> Self {
        Self {
            users: Directory::new(users),
            fields: fields::sample(),
            organizations: Organizations::default(),
            jobs: Jobs::default(),
            journal: Vec::new(),
            refusals: Vec::new(),
            bulk_enabled,
            requests: 0,
        }
    }

    pub(crate) fn user_json(&self, user: &User) -> Value {
        user.json(&self.fields)
    }

    /// The users without what differs between two equal runs: ids and times. Sorted by external id, then address.
    pub(crate) fn snapshot(&self) -> Vec<Value> {
        let mut users: Vec<&User> = self.users.all().iter().collect();
        users.sort_by(|a, b| (&a.external_id, &a.email).cmp(&(&b.external_id, &b.email)));
        users.into_iter().map(|user| self.comparable(user)).collect()
    }

    fn comparable(&self, user: &User) -> Value {
        let mut shown = self.user_json(user);
        let mut others = user.other_emails.clone();
        others.sort();
        let mut names: Vec<String> =
            self.organizations.of_user(user.id).map(|(_, organization)| organization.name.clone()).collect();
        names.sort();
        let default = user.organization_id.and_then(|id| self.organizations.get(id));
        shown["other_emails"] = json!(others);
        shown["organizations"] = json!(names);
        shown["organization"] = json!(default.map(|organization| &organization.name));
        if let Some(map) = shown.as_object_mut() {
            for name in ["id", "url", "organization_id", "created_at", "updated_at"] {
                map.remove(name);
            }
        }
        shown
    }
}
