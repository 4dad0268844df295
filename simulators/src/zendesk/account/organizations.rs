//! Organizations and who belongs to them.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::writes::{Refused, invalid};
use super::{Account, Origin, Write, WriteKind};
use crate::zendesk::api::timestamp;

/// An organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    /// Zendesk's id.
    pub id: u64,
    /// Its name, unique in the account.
    pub name: String,
    /// The id in the other system.
    pub external_id: Option<String>,
    /// When it was made, seconds since 1970.
    pub created: i64,
}

impl Organization {
    pub(crate) fn json(&self) -> Value {
        json!({"id": self.id, "name": self.name, "external_id": self.external_id, "domain_names": [], "tags": [],
            "organization_fields": {}, "shared_tickets": false, "created_at": timestamp(self.created),
            "updated_at": timestamp(self.created)})
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) id: u64,
    pub(crate) user: u64,
    pub(crate) organization: u64,
    pub(crate) created: i64,
}

#[derive(Default)]
pub(crate) struct Organizations {
    pub(crate) all: BTreeMap<u64, Organization>,
    pub(crate) memberships: BTreeMap<u64, Membership>,
    by_name: HashMap<String, u64>,
    by_external_id: HashMap<String, u64>,
    /// User -> memberships, the oldest first.
    by_user: HashMap<u64, Vec<u64>>,
}

impl Organizations {
    pub(crate) fn get(&self, id: u64) -> Option<&Organization> {
        self.all.get(&id)
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Organization> {
        self.by_name.get(&name.to_lowercase()).and_then(|id| self.all.get(id))
    }

    pub(crate) fn by_external_id(&self, id: &str) -> Option<&Organization> {
        self.by_external_id.get(&id.to_lowercase()).and_then(|id| self.all.get(id))
    }

    pub(crate) fn of_user(&self, user: u64) -> impl Iterator<Item = (&Membership, &Organization)> {
        let ids = self.by_user.get(&user).into_iter().flatten();
        ids.filter_map(|id| {
            let membership = self.memberships.get(id)?;
            Some((membership, self.all.get(&membership.organization)?))
        })
    }

    /// Adds an organization; the caller has checked the name and the external id.
    pub(crate) fn add(&mut self, name: &str, external_id: Option<String>, now: i64) -> u64 {
        let id = self.all.last_key_value().map_or(7_000_000, |(id, _)| *id) + 1;
        self.by_name.insert(name.to_lowercase(), id);
        if let Some(external_id) = &external_id {
            self.by_external_id.insert(external_id.to_lowercase(), id);
        }
        self.all.insert(id, Organization { id, name: name.to_owned(), external_id, created: now });
        id
    }

    pub(crate) fn join(&mut self, user: u64, organization: u64, now: i64) -> u64 {
        let id = self.memberships.last_key_value().map_or(8_000_000, |(id, _)| *id) + 1;
        self.memberships.insert(id, Membership { id, user, organization, created: now });
        self.by_user.entry(user).or_default().push(id);
        id
    }

    fn leave(&mut self, id: u64) -> Option<Membership> {
        let membership = self.memberships.remove(&id)?;
        self.by_user.entry(membership.user).or_default().retain(|own| *own != id);
        Some(membership)
    }
}

impl Account {
    pub(crate) fn membership_json(&self, membership: &Membership) -> Value {
        let default = self.users.by_id(membership.user).and_then(|user| user.organization_id);
        let name = self.organizations.get(membership.organization).map(|organization| &organization.name);
        json!({"id": membership.id, "user_id": membership.user, "organization_id": membership.organization,
            "organization_name": name, "default": default == Some(membership.organization),
            "view_tickets": true, "created_at": timestamp(membership.created),
            "updated_at": timestamp(membership.created)})
    }

    pub(crate) fn create_organization(&mut self, wanted: &Value, origin: &Origin) -> Result<u64, Refused> {
        let name = wanted["name"].as_str().unwrap_or_default().trim();
        let external_id = wanted["external_id"].as_str().map(str::to_owned);
        let language = origin.language;
        if name.is_empty() || name.chars().count() > 255 {
            let code = if name.is_empty() { "BlankValue" } else { "InvalidValue" };
            return Err(invalid("name", code, language));
        }
        if self.organizations.by_name(name).is_some() {
            return Err(invalid("name", "DuplicateValue", language));
        }
        if external_id.as_deref().is_some_and(|id| self.organizations.by_external_id(id).is_some()) {
            return Err(invalid("external_id", "DuplicateValue", language));
        }
        let id = self.organizations.add(name, external_id.clone(), origin.now);
        let write = Write { external_id, ..blank(WriteKind::CreateOrganization, id, wanted, origin) };
        self.journal.push(write);
        Ok(id)
    }

    /// The first organization of a user becomes the default one.
    pub(crate) fn create_membership(&mut self, wanted: &Value, origin: &Origin) -> Result<u64, Refused> {
        let (user, organization) = (wanted["user_id"].as_u64(), wanted["organization_id"].as_u64());
        let user = user.and_then(|id| self.users.by_id(id)).cloned();
        let user = user.ok_or_else(|| invalid("user", "InvalidValue", origin.language))?;
        let organization = organization.filter(|id| self.organizations.get(*id).is_some());
        let organization =
            organization.ok_or_else(|| invalid("organization", "InvalidValue", origin.language))?;
        if self.organizations.of_user(user.id).any(|(membership, _)| membership.organization == organization)
        {
            return Err(invalid("user_id", "DuplicateValue", origin.language));
        }
        let id = self.organizations.join(user.id, organization, origin.now);
        let (owner, external_id) = (user.id, user.external_id.clone());
        if user.organization_id.is_none() || wanted["default"] == true {
            self.users.put(super::User { organization_id: Some(organization), ..user });
        }
        self.journal.push(Write {
            user: Some(owner),
            external_id,
            ..blank(WriteKind::CreateMembership, id, wanted, origin)
        });
        Ok(id)
    }

    /// The oldest membership that is left becomes the default one.
    pub(crate) fn delete_membership(&mut self, id: u64, origin: &Origin) -> Option<()> {
        let membership = self.organizations.leave(id)?;
        let mut external_id = None;
        if let Some(user) = self.users.by_id(membership.user).cloned() {
            external_id = user.external_id.clone();
            if user.organization_id == Some(membership.organization) {
                let next =
                    self.organizations.of_user(user.id).next().map(|(_, organization)| organization.id);
                self.users.put(super::User { organization_id: next, ..user });
            }
        }
        self.journal.push(Write {
            user: Some(membership.user),
            external_id,
            ..blank(WriteKind::DeleteMembership, id, &Value::Null, origin)
        });
        Some(())
    }
}

/// An entry of the journal for what is neither a user nor has changes of single attributes.
pub(crate) fn blank(kind: WriteKind, id: u64, wanted: &Value, origin: &Origin) -> Write {
    let sent = wanted.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
    Write {
        kind,
        id,
        user: None,
        external_id: None,
        request: origin.request,
        job: origin.job.clone(),
        sent,
        changes: Vec::new(),
        verification_email: false,
    }
}
