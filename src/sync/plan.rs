//! Compares all members with the users of the account, and stores what would change.

use rusqlite::{OptionalExtension, params};
use serde_json::{Map, Value, json};

use crate::base::hex::hex;
use crate::config::sync::Leavers;
use crate::imis::PartyId;
use crate::sync::compare::{self, FieldChange, Known};
use crate::sync::error::SyncError;
use crate::sync::members::{Decision, Refusal, SyncedApp, read_and_decide};
use crate::sync::organizations::{self, MembershipChanges};
use crate::sync::state::State;
use crate::zendesk::fields::UserField;

/// What happens to a member or user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Create,
    /// A user with the same e-mail address and without external ID gets the iMIS ID.
    Link,
    Update,
    /// The user was suspended by an earlier run, and may sign in again.
    Restore,
    EndSessions,
    Suspend,
    /// The member may not sign in any more; nothing is written.
    Leaver,
    /// The member's record or the rules of the app give no user.
    Refused,
    /// It is not clear which user belongs to the member.
    Conflict,
    /// The user is an agent or admin.
    Staff,
    /// The member has no user, and none is created.
    NoUser,
    Unchanged,
}

impl Kind {
    pub(crate) const ALL: [Self; 12] = [
        Self::Create,
        Self::Link,
        Self::Update,
        Self::Restore,
        Self::EndSessions,
        Self::Suspend,
        Self::Leaver,
        Self::Refused,
        Self::Conflict,
        Self::Staff,
        Self::NoUser,
        Self::Unchanged,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Link => "link",
            Self::Update => "update",
            Self::Restore => "restore",
            Self::EndSessions => "end_sessions",
            Self::Suspend => "suspend",
            Self::Leaver => "leaver",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
            Self::Staff => "staff",
            Self::NoUser => "no_user",
            Self::Unchanged => "unchanged",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether a run that applies the plan writes something.
    pub(crate) fn is_written(self) -> bool {
        matches!(
            self,
            Self::Create | Self::Link | Self::Update | Self::Restore | Self::EndSessions | Self::Suspend
        )
    }

    /// Whether an existing user changes.
    fn changes_user(self) -> bool {
        matches!(self, Self::Link | Self::Update | Self::Restore)
    }

    /// Whether the member of an existing user may not sign in any more.
    fn is_leaver(self) -> bool {
        matches!(self, Self::EndSessions | Self::Suspend | Self::Leaver)
    }
}

/// One line of the plan.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) imis_id: Option<String>,
    pub(crate) user_id: Option<i64>,
    pub(crate) reason: Option<String>,
    pub(crate) fields: Vec<FieldChange>,
    pub(crate) body: Option<Map<String, Value>>,
    pub(crate) memberships: MembershipChanges,
    /// Hashes of values that Zendesk does not return, by property.
    pub(crate) extra: Map<String, Value>,
}

impl Change {
    fn new(kind: Kind, imis_id: &str, user_id: Option<i64>, reason: Option<&str>) -> Self {
        Self {
            kind,
            imis_id: Some(imis_id.to_owned()),
            user_id,
            reason: reason.map(str::to_owned),
            fields: Vec::new(),
            body: None,
            memberships: MembershipChanges::default(),
            extra: Map::new(),
        }
    }
}

/// Counts of a plan, for the report and the safety threshold.
#[derive(Debug, Default, Clone)]
pub(crate) struct Totals {
    /// Members whom iMIS lists.
    pub(crate) members: u64,
    /// End users with an external ID.
    pub(crate) known_users: u64,
    pub(crate) changed: u64,
    pub(crate) disappeared: u64,
    pub(crate) lost_a_field: u64,
}

/// Why a run stops before it writes.
#[derive(Debug, thiserror::Error)]
#[error(
    "{count} of {of} {what}, which is more than {percent} % (sync.max_change_percent; --max-change for this run)"
)]
pub(crate) struct TooManyChanges {
    count: u64,
    of: u64,
    what: &'static str,
    percent: u64,
}

impl Totals {
    /// Counts a line of a plan.
    pub(crate) fn add(&mut self, change: &Change) {
        self.changed += u64::from(change.kind.changes_user());
        self.disappeared += u64::from(change.kind.is_leaver());
        self.lost_a_field += u64::from(change.fields.iter().any(FieldChange::loses_value));
    }

    /// Checks the safety threshold.
    pub(crate) fn check(&self, percent: u64) -> Result<(), TooManyChanges> {
        let checks = [
            (self.changed, self.members, "members would change"),
            (self.disappeared, self.known_users, "users would be leavers"),
            (self.lost_a_field, self.members, "members would lose the value of a field"),
        ];
        for (count, of, what) in checks {
            if count * 100 > of.max(1) * percent {
                return Err(TooManyChanges { count, of, what, percent });
            }
        }
        Ok(())
    }
}

/// Makes the plan. `is_complete`: all members were read, so users without one are leavers.
pub(crate) async fn make(
    synced: SyncedApp<'_>,
    state: &State,
    fields: &[UserField],
    is_complete: bool,
    percent: u64,
) -> Result<Totals, SyncError> {
    state.database.execute("DELETE FROM changes", [])?;
    let mut after = String::new();
    // Page by page: a plan of a hundred thousand members must not need memory for all of them.
    loop {
        let page = member_page(state, &after)?;
        let Some(last) = page.last() else { break };
        after = last.imis_id.clone();
        let mut changes = Vec::new();
        for member in page {
            changes.push(of_member(synced, state, fields, member).await?);
        }
        store(state, changes)?;
    }
    leavers(synced, state, is_complete, percent).await?;
    totals(state)
}

struct MemberRow {
    imis_id: String,
    email: Option<String>,
    reason: Option<String>,
    detail: Option<String>,
    leaves: bool,
    desired: Option<String>,
}

fn member_page(state: &State, after: &str) -> Result<Vec<MemberRow>, SyncError> {
    let mut statement = state.database.prepare_cached(
        "SELECT imis_id, email, reason, detail, leaves, desired FROM members WHERE imis_id > ? ORDER BY imis_id LIMIT 500",
    )?;
    let rows = statement.query_map([after], |row| {
        Ok(MemberRow {
            imis_id: row.get(0)?,
            email: row.get(1)?,
            reason: row.get(2)?,
            detail: row.get(3)?,
            leaves: row.get(4)?,
            desired: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The user with an external ID.
fn by_external_id(state: &State, external_id: &str) -> Result<Option<(i64, Value)>, SyncError> {
    let mut statement = state.database.prepare_cached("SELECT id, json FROM users WHERE external_id = ?")?;
    let found =
        statement.query_row([external_id], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).optional()?;
    Ok(found.map(|(id, text)| (id, serde_json::from_str(&text).unwrap_or_default())))
}

/// The users with an e-mail address, primary or not.
fn by_address(state: &State, email: &str) -> Result<Vec<(i64, Value)>, SyncError> {
    let mut statement = state.database.prepare_cached(
        "SELECT u.id, u.json FROM addresses a JOIN users u ON u.id = a.user_id WHERE a.email = ? ORDER BY u.id",
    )?;
    let rows = statement.query_map([email], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    let all: Vec<(i64, String)> = rows.collect::<Result<_, _>>()?;
    Ok(all.into_iter().map(|(id, text)| (id, serde_json::from_str(&text).unwrap_or_default())).collect())
}

/// Which user belongs to a member.
enum Match {
    Found(Kind, i64, Value),
    None,
    Conflict(&'static str, Option<i64>),
}

fn matching(state: &State, member: &MemberRow, email: &str) -> Result<Match, SyncError> {
    let query = "SELECT count(*) FROM members WHERE email = ? AND imis_id <> ?";
    let others: i64 =
        state.database.prepare_cached(query)?.query_row([email, &member.imis_id], |row| row.get(0))?;
    if others > 0 {
        return Ok(Match::Conflict("another member of the source has the same e-mail address", None));
    }
    let with_address = by_address(state, email)?;
    Ok(match (by_external_id(state, &member.imis_id)?, with_address.as_slice()) {
        (Some((id, _)), [.., (other, _)]) if with_address.iter().any(|(own, _)| *own != id) => {
            Match::Conflict("another user has the e-mail address", Some(*other))
        }
        (Some((id, user)), _) => Match::Found(Kind::Update, id, user),
        (None, []) => Match::None,
        (None, [(id, user)]) if compare::is_empty(&user["external_id"]) => {
            Match::Found(Kind::Link, *id, user.clone())
        }
        (None, [(id, _), ..]) => {
            Match::Conflict("the user with the e-mail address has another external ID", Some(*id))
        }
    })
}

async fn of_member(
    synced: SyncedApp<'_>,
    state: &State,
    fields: &[UserField],
    member: MemberRow,
) -> Result<Change, SyncError> {
    let id = member.imis_id.clone();
    let (Some(email), Some(desired)) = (&member.email, &member.desired) else {
        let user = by_external_id(state, &id)?;
        let reason = format!("{}: {}", member.reason.unwrap_or_default(), member.detail.unwrap_or_default());
        let leaves = user.as_ref().filter(|_| member.leaves);
        return Ok(match leaves {
            Some((user_id, user)) => leaver(synced, state, &id, *user_id, user, &reason)?,
            None => Change::new(Kind::Refused, &id, user.map(|(id, _)| id), Some(&reason)),
        });
    };
    let desired: Map<String, Value> = serde_json::from_str(desired).unwrap_or_default();
    let (kind, user) = match matching(state, &member, email)? {
        Match::Conflict(reason, user) => return Ok(Change::new(Kind::Conflict, &id, user, Some(reason))),
        Match::Found(kind, user_id, user) => (kind, Some((user_id, user))),
        Match::None if !synced.sync.create => {
            return Ok(Change::new(Kind::NoUser, &id, None, Some("sync.create is false")));
        }
        Match::None => (Kind::Create, None),
    };
    let is_staff = user.as_ref().is_some_and(|(_, user)| is_staff(user));
    if is_staff && !synced.sync.staff.contains(&id) {
        let user_id = user.map(|(id, _)| id);
        return Ok(Change::new(
            Kind::Staff,
            &id,
            user_id,
            Some("the user is an agent or admin (sync.staff lists those to write)"),
        ));
    }
    let change = compared(synced, state, fields, (&id, kind, user), &desired)?;
    // The address decides to whom the user belongs, so the guard of the sign-in is asked where it is new.
    let has_new_address = change.kind != Kind::Unchanged
        && (kind != Kind::Update || change.fields.iter().any(|field| field.field == "email"));
    if has_new_address
        && let Some(party) = PartyId::parse(&id)
        && let Decision::Refused(Refusal { reason, detail, .. }) =
            read_and_decide(synced, &party, true).await?
    {
        return Ok(Change::new(Kind::Refused, &id, change.user_id, Some(&format!("{reason}: {detail}"))));
    }
    Ok(change)
}

fn compared(
    synced: SyncedApp<'_>,
    state: &State,
    fields: &[UserField],
    (id, kind, user): (&str, Kind, Option<(i64, Value)>),
    desired: &Map<String, Value>,
) -> Result<Change, SyncError> {
    let (user_id, user) = user.map_or((None, None), |(id, user)| (Some(id), Some(user)));
    let mut extra = state.written_extra(id)?;
    let salt = salt(state)?;
    let addresses = match user_id {
        Some(user_id) => addresses(state, user_id)?,
        None => Vec::new(),
    };
    let was_written = |name: &str, value: &Value| extra.get(name) == Some(&hash(&salt, value).into());
    let has_address = |email: &str| {
        addresses.iter().any(|own| own.eq_ignore_ascii_case(email)) || was_written("email", &email.into())
    };
    let known = Known { has_address: &has_address, was_written: &was_written, fields };
    let mut shown = compare::changes(desired, user.as_ref(), synced.sync, &known);
    let mut body = compare::body(&shown);
    let (memberships, organizations) = organizations::changes(desired, user_id, synced.sync, state)?;
    shown.extend(organizations);
    let was_suspended = match user_id {
        Some(user_id) => left_action(state, user_id)?.as_deref() == Some("suspend"),
        None => false,
    };
    let is_restored = was_suspended && user.as_ref().is_some_and(|user| user["suspended"] == true);
    if is_restored {
        body.insert("suspended".to_owned(), false.into());
    }
    let is_unchanged = body.is_empty() && memberships.is_empty();
    let kind = match (kind, is_restored, is_unchanged) {
        (Kind::Update, true, _) => Kind::Restore,
        (Kind::Update, false, true) => Kind::Unchanged,
        (kind, ..) => kind,
    };
    for name in ["email", "remote_photo_url"] {
        if let Some(value) = body.get(name) {
            extra.insert(name.to_owned(), hash(&salt, value).into());
        }
    }
    let problems = shown.iter().any(|field| field.problem.is_some());
    let reason = problems.then_some("some fields cannot be written");
    let body = (!body.is_empty()).then_some(body);
    Ok(Change { fields: shown, body, memberships, extra, ..Change::new(kind, id, user_id, reason) })
}

fn is_staff(user: &Value) -> bool {
    user["role"].as_str().is_some_and(|role| role != "end-user")
}

fn addresses(state: &State, user: i64) -> Result<Vec<String>, SyncError> {
    let mut statement = state.database.prepare_cached(
        "SELECT email FROM addresses WHERE user_id = ?1 UNION SELECT email FROM users WHERE id = ?1 AND email IS NOT NULL",
    )?;
    let rows = statement.query_map([user], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The key of the hashes in the state.
fn salt(state: &State) -> Result<String, SyncError> {
    if let Some(salt) = state.meta("salt")? {
        return Ok(salt);
    }
    let salt = crate::base::clock::random_hex().map_err(SyncError::Random)?;
    state.set_meta("salt", &salt)?;
    Ok(salt)
}

fn hash(salt: &str, value: &Value) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, salt.as_bytes());
    hex(&aws_lc_rs::hmac::sign(&key, value.to_string().to_lowercase().as_bytes()).as_ref()[..16])
}

/// What an earlier run did about a user whose member had left.
fn left_action(state: &State, user: i64) -> Result<Option<String>, SyncError> {
    let mut statement = state.database.prepare_cached("SELECT action FROM left_members WHERE user_id = ?")?;
    Ok(statement.query_row([user], |row| row.get(0)).optional()?)
}

fn leaver(
    synced: SyncedApp<'_>,
    state: &State,
    imis_id: &str,
    user_id: i64,
    user: &Value,
    reason: &str,
) -> Result<Change, SyncError> {
    if is_staff(user) && !synced.sync.staff.iter().any(|own| own == imis_id) {
        return Ok(Change::new(Kind::Staff, imis_id, Some(user_id), Some(reason)));
    }
    let done = left_action(state, user_id)?;
    let kind = match synced.sync.leavers {
        Leavers::Suspend if user["suspended"] != true => Kind::Suspend,
        Leavers::EndSessions if done.is_none() && user["suspended"] != true => Kind::EndSessions,
        Leavers::Suspend | Leavers::EndSessions | Leavers::Report => Kind::Leaver,
    };
    let body = (kind == Kind::Suspend).then(|| Map::from_iter([("suspended".to_owned(), true.into())]));
    Ok(Change { body, ..Change::new(kind, imis_id, Some(user_id), Some(reason)) })
}

/// Users whose member is not in the source: each record is read, since it may only be outside the source.
async fn leavers(
    synced: SyncedApp<'_>,
    state: &State,
    is_complete: bool,
    percent: u64,
) -> Result<(), SyncError> {
    if !is_complete {
        return Ok(());
    }
    const ABSENT: &str = "FROM users u LEFT JOIN members m ON m.imis_id = u.external_id
        WHERE u.external_id IS NOT NULL AND m.imis_id IS NULL";
    let absent = state.count(&format!("SELECT count(*) {ABSENT}"))?;
    let known = state.count("SELECT count(*) FROM users WHERE external_id IS NOT NULL")?;
    // Their records cost a request each, and such a run would be stopped anyway.
    let too_many = absent * 100 > known.max(1) * percent && absent > MAX_ABSENT_READ;
    let mut after = i64::MIN;
    loop {
        let query =
            format!("SELECT u.id, u.external_id, u.json {ABSENT} AND u.id > ? ORDER BY u.id LIMIT 100");
        let rows: Vec<(i64, String, String)> = state
            .database
            .prepare_cached(&query)?
            .query_map([after], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        let Some((last, ..)) = rows.last() else { return Ok(()) };
        after = *last;
        let mut changes = Vec::new();
        for (user_id, external_id, json) in rows {
            let user: Value = serde_json::from_str(&json).unwrap_or_default();
            let decision = match PartyId::parse(&external_id) {
                Some(_) if too_many => {
                    let kind = Kind::Leaver;
                    changes.push(Change::new(
                        kind,
                        &external_id,
                        Some(user_id),
                        Some("absent: the source does not list the member"),
                    ));
                    continue;
                }
                Some(id) => read_and_decide(synced, &id, false).await?,
                // Not an ID of iMIS: the user came from somewhere else.
                None => continue,
            };
            if let Decision::Refused(Refusal { reason, detail, leaves: true }) = decision {
                let reason = format!("{reason}: {detail}");
                changes.push(leaver(synced, state, &external_id, user_id, &user, &reason)?);
            }
        }
        store(state, changes)?;
    }
}

/// Absent members whose records are read whatever share of the users they are.
const MAX_ABSENT_READ: u64 = 200;

fn store(state: &State, changes: Vec<Change>) -> Result<(), SyncError> {
    let transaction = state.database.unchecked_transaction()?;
    for change in changes {
        let json = |value: Value| value.to_string();
        let mut insert = state.database.prepare_cached(
            "INSERT INTO changes (kind, imis_id, user_id, reason, fields, body, memberships, extra)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        insert.execute(params![
            change.kind.name(),
            change.imis_id,
            change.user_id,
            change.reason,
            json(json!(change.fields)),
            change.body.map(|body| json(Value::Object(body))),
            (!change.memberships.is_empty()).then(|| json(json!(change.memberships))),
            json(Value::Object(change.extra)),
        ])?;
    }
    Ok(transaction.commit()?)
}

fn totals(state: &State) -> Result<Totals, SyncError> {
    let mut totals = Totals {
        members: state.count("SELECT count(*) FROM members")?,
        known_users: state.count("SELECT count(*) FROM users WHERE external_id IS NOT NULL")?,
        ..Totals::default()
    };
    each(state, |change| {
        totals.add(&change);
        Ok(())
    })?;
    Ok(totals)
}

/// Calls `take` with each line of the plan, in order.
pub(crate) fn each(
    state: &State,
    mut take: impl FnMut(Change) -> Result<(), SyncError>,
) -> Result<(), SyncError> {
    let mut statement = state.database.prepare(
        "SELECT kind, imis_id, user_id, reason, fields, body, memberships, extra FROM changes ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text = |index: usize| row.get::<_, Option<String>>(index);
        let Some(kind) = text(0)?.as_deref().and_then(Kind::of) else { continue };
        take(Change {
            kind,
            imis_id: text(1)?,
            user_id: row.get(2)?,
            reason: text(3)?,
            fields: parsed(text(4)?),
            body: text(5)?.and_then(|text| serde_json::from_str(&text).ok()),
            memberships: parsed(text(6)?),
            extra: parsed(text(7)?),
        })?;
    }
    Ok(())
}

pub(crate) fn parsed<T: Default + serde::de::DeserializeOwned>(text: Option<String>) -> T {
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}
