//! Writing one user: how it is found, which values are refused, and what the journal says about it.

use serde_json::{Map, Value, json};

use super::organizations::blank;
use super::{Account, Change, Origin, User, Write, WriteKind};
use crate::zendesk::Role;

/// A write that Zendesk refuses.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// Which user a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The one with the external id, else the one with the address, else a new one.
    CreateOrUpdate,
    /// A new one.
    Create,
    /// This one.
    Update(u64),
}

/// 422 for one attribute.
pub(crate) fn invalid(field: &str, code: &str, language: Option<&str>) -> Refused {
    let mut details = Map::new();
    add(&mut details, field, code, language);
    record_invalid(details)
}

fn add(details: &mut Map<String, Value>, field: &str, code: &str, language: Option<&str>) {
    let detail = json!([{"description": description(field, code, language), "error": code}]);
    details.insert(field.to_owned(), detail);
}

fn record_invalid(details: Map<String, Value>) -> Refused {
    let body =
        json!({"error": "RecordInvalid", "description": "Record validation errors", "details": details});
    Refused { status: 422, body }
}

pub(crate) fn not_found() -> Refused {
    Refused { status: 404, body: json!({"error": "RecordNotFound", "description": "Not found"}) }
}

/// What Zendesk tells people, in the language of the account. The wording is the simulator's own.
fn description(field: &str, code: &str, language: Option<&str>) -> String {
    let text = match (language, code) {
        (Some("de"), "DuplicateValue") => "wird bereits verwendet",
        (Some("de"), _) => "ist ungültig",
        (Some("es"), "DuplicateValue") => "ya se está usando",
        (Some("es"), _) => "no es válido",
        (Some("pt-BR"), "DuplicateValue") => "já está em uso",
        (Some("pt-BR"), _) => "não é válido",
        (_, "DuplicateValue") => "is already being used by another user",
        (_, "BlankValue") => "is too short (minimum one character)",
        _ => "is invalid",
    };
    format!("{field}: {text}")
}

/// Text as Zendesk takes it: numbers become text, and null and blank text become nothing.
fn text(value: &Value) -> Option<String> {
    let text = value.as_str().map(str::to_owned).or_else(|| value.as_number().map(ToString::to_string));
    text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn is_address(text: &str) -> bool {
    let [local, domain] = text.split('@').collect::<Vec<_>>()[..] else { return false };
    let plain = !text.chars().any(|c| c.is_whitespace() || c.is_control() || "<>(),;".contains(c));
    plain && !local.is_empty() && domain.contains('.') && !domain.starts_with('.') && !domain.ends_with('.')
}

impl Account {
    /// Writes a user; the answer is whether it is new, and its id.
    pub(crate) fn write_user(
        &mut self,
        wanted: &Value,
        target: Target,
        origin: &Origin,
    ) -> Result<(bool, u64), Refused> {
        let by_external_id = text(&wanted["external_id"]).and_then(|id| self.users.by_external_id(&id));
        let by_email = text(&wanted["email"]).and_then(|email| self.users.by_email(&email));
        let found = match target {
            Target::CreateOrUpdate => by_external_id.or(by_email).cloned(),
            Target::Create => None,
            Target::Update(id) => Some(self.users.by_id(id).ok_or_else(not_found)?.clone()),
        };
        self.refusal(wanted, found.as_ref(), origin)?;
        let is_new = found.is_none();
        let blank = || User { verified: false, ..User::new(self.users.next_id(), origin.now) };
        let before = found.unwrap_or_else(blank);
        let mut after = before.clone();
        let mut details = Map::new();
        let mut wrong = |field: &str, code: &str| add(&mut details, field, code, origin.language);
        self.apply(&mut after, wanted, is_new, &mut wrong);
        if is_new && after.name.is_empty() && wanted["name"].is_null() {
            wrong("name", "BlankValue");
        }
        if !details.is_empty() {
            return Err(record_invalid(details));
        }
        Ok((is_new, self.commit(wanted, is_new, &before, after, origin)))
    }

    /// Applies the attributes one by one; what Zendesk does not know is ignored.
    fn apply(&self, user: &mut User, wanted: &Value, is_new: bool, wrong: &mut impl FnMut(&str, &str)) {
        let id = user.id;
        let is_another = |found: Option<&User>| found.is_some_and(|other| other.id != id);
        for (name, value) in wanted.as_object().into_iter().flatten() {
            match (name.as_str(), text(value)) {
                ("name", None) => wrong(name, "BlankValue"),
                ("name" | "email" | "external_id" | "phone", Some(text)) if text.chars().count() > 255 => {
                    wrong(name, "InvalidValue");
                }
                ("name", Some(text)) => user.name = text,
                ("email", Some(email)) if !is_address(&email) => wrong(name, "InvalidValue"),
                ("email", Some(email)) if is_another(self.users.by_email(&email)) => {
                    wrong(name, "DuplicateValue");
                }
                // Afterwards an address becomes a second one, and the primary one stays.
                ("email", Some(email)) => {
                    let is_own = |own: &String| own.eq_ignore_ascii_case(&email);
                    if is_new || user.email.is_empty() {
                        user.email = email.to_lowercase();
                    } else if !is_own(&user.email) && !user.other_emails.iter().any(is_own) {
                        user.other_emails.push(email.to_lowercase());
                    }
                }
                ("external_id", Some(text)) if is_another(self.users.by_external_id(&text)) => {
                    wrong(name, "DuplicateValue");
                }
                ("external_id", text) => user.external_id = text,
                ("phone", text) => user.phone = text,
                ("locale", text) => user.locale = text,
                ("role", text) => match text.as_deref().and_then(Role::named) {
                    Some(role) => user.role = role,
                    None => wrong(name, "InvalidValue"),
                },
                ("suspended", _) => user.suspended = value == true,
                ("verified", _) => user.verified = value == true,
                ("tags", text) => user.tags = tags(value, text),
                ("organization_id", _) => match value.as_u64() {
                    Some(id) if self.organizations.get(id).is_none() => wrong("organization", "InvalidValue"),
                    id => user.organization_id = id,
                },
                ("user_fields", _) => self.apply_fields(user, value, wrong),
                _ => {}
            }
        }
    }

    fn apply_fields(&self, user: &mut User, values: &Value, wrong: &mut impl FnMut(&str, &str)) {
        for (key, value) in values.as_object().into_iter().flatten() {
            let Some(field) = self.fields.iter().find(|field| field.active && field.key == *key) else {
                continue;
            };
            match field.accepted(value) {
                Some(value) if value == field.empty() => drop(user.user_fields.remove(key)),
                Some(value) => drop(user.user_fields.insert(key.clone(), value)),
                None => wrong(key, "InvalidValue"),
            }
        }
    }

    /// The failure that a test has chosen for this member.
    fn refusal(&mut self, wanted: &Value, found: Option<&User>, origin: &Origin) -> Result<(), Refused> {
        let names = [text(&wanted["external_id"]), text(&wanted["email"])];
        let own = found.map(|user| [user.external_id.clone(), Some(user.email.clone())]);
        let names: Vec<String> = names.into_iter().chain(own.into_iter().flatten()).flatten().collect();
        let is_meant = |member: &str| names.iter().any(|name| name.eq_ignore_ascii_case(member));
        let chosen = self.refusals.iter_mut().find(|refusal| refusal.times > 0 && is_meant(&refusal.member));
        let Some(refusal) = chosen else { return Ok(()) };
        refusal.times -= 1;
        Err(match refusal.code {
            "DatabaseConflict" => Refused {
                status: 409,
                body: json!({"error": "DatabaseConflict", "description": "Database collision"}),
            },
            code => invalid(if code == "DuplicateValue" { "email" } else { "base" }, code, origin.language),
        })
    }

    fn commit(
        &mut self,
        wanted: &Value,
        is_new: bool,
        before: &User,
        mut after: User,
        origin: &Origin,
    ) -> u64 {
        let id = after.id;
        let compared = |account: &Self, user: &User| {
            let mut shown = account.user_json(user);
            shown["other_emails"] = json!(user.other_emails);
            shown
        };
        let changes = changes(&compared(self, before), &compared(self, &after));
        let adds_address =
            changes.iter().any(|change| ["email", "other_emails"].contains(&&*change.attribute));
        if !changes.is_empty() {
            after.updated = origin.now;
        }
        self.follow_organization(before, &after, origin);
        let kind = if is_new { WriteKind::CreateUser } else { WriteKind::UpdateUser };
        self.journal.push(Write {
            user: Some(id),
            external_id: after.external_id.clone(),
            changes,
            verification_email: adds_address && wanted["skip_verify_email"] != true,
            ..blank(kind, id, wanted, origin)
        });
        self.users.put(after);
        id
    }

    /// The default organization of a user is always one of the memberships.
    fn follow_organization(&mut self, before: &User, after: &User, origin: &Origin) {
        let old = before.organization_id;
        let Some(new) = after.organization_id.filter(|new| old != Some(*new)) else { return };
        if !self.organizations.of_user(after.id).any(|(membership, _)| membership.organization == new) {
            self.organizations.join(after.id, new, origin.now);
        }
    }
}

/// In lower case, with underscores for spaces, sorted, each once.
fn tags(value: &Value, text: Option<String>) -> Vec<String> {
    let all: Vec<String> = match value.as_array() {
        Some(all) => {
            all.iter().filter_map(|tag| tag.as_str().map(|tag| tag.trim().replace(' ', "_"))).collect()
        }
        None => text.unwrap_or_default().split([',', ' ']).map(str::to_owned).collect(),
    };
    let lower = all.iter().map(|tag| tag.to_lowercase()).filter(|tag| !tag.is_empty());
    lower.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

/// The attributes that differ, without what every write changes.
fn changes(old: &Value, new: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut compare = |attribute: String, before: &Value, after: &Value| {
        if before != after {
            changes.push(Change { attribute, before: before.clone(), after: after.clone() });
        }
    };
    for (name, after) in new.as_object().into_iter().flatten() {
        match name.as_str() {
            "id" | "url" | "created_at" | "updated_at" => {}
            "user_fields" => {
                for (key, after) in after.as_object().into_iter().flatten() {
                    compare(format!("user_fields.{key}"), &old[name][key], after);
                }
            }
            _ => compare(name.clone(), &old[name], after),
        }
    }
    changes
}
