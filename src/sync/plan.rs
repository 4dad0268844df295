//! Compares all members with the users of the account, and stores what would change.

use futures_util::{StreamExt, TryStreamExt, stream};
use rusqlite::OptionalExtension;
use serde_json::{Map, Value};

use crate::base::clock;
use crate::config::OnDuplicate;
use crate::config::sync::Leavers;
use crate::imis::PartyId;
use crate::sync::change::{Change, Kind, Totals, store, totals};
use crate::sync::compare::{self, Known};
use crate::sync::error::SyncError;
use crate::sync::members::{
    CONCURRENT_READS, Decision, Refusal, SyncedApp, duplicate_address, read_and_decide,
};
use crate::sync::organizations;
use crate::sync::state::State;
use crate::zendesk::Hasher;
use crate::zendesk::fields::UserField;

/// Makes the plan. `is_complete`: all members were read, so users without one are leavers.
pub(crate) async fn make(
    synced: SyncedApp<'_>,
    state: &State,
    fields: &[UserField],
    is_complete: bool,
    percent: u64,
) -> Result<Totals, SyncError> {
    state.database.execute("DELETE FROM changes", [])?;
    let planner = Planner { synced, state, fields, hasher: hasher(state)? };
    let mut after = String::new();
    // Page by page: a plan of a hundred thousand members must not need memory for all of them.
    loop {
        let page = member_page(state, &after)?;
        let Some(last) = page.last() else { break };
        after = last.imis_id.clone();
        // Some of them need a request to iMIS.
        let changes = stream::iter(page).map(|member| planner.of_member(member)).buffered(CONCURRENT_READS);
        store(state, changes.try_collect().await?)?;
    }
    if is_complete {
        planner.leavers(percent).await?;
    }
    totals(state)
}

/// What a plan is made from.
struct Planner<'a> {
    synced: SyncedApp<'a>,
    state: &'a State,
    fields: &'a [UserField],
    hasher: Hasher,
}

impl Planner<'_> {
    async fn of_member(&self, member: MemberRow) -> Result<Change, SyncError> {
        let Self { synced, state, .. } = *self;
        let id = member.imis_id.clone();
        let (Some(email), Some(desired)) = (&member.email, &member.desired) else {
            let user = by_external_id(state, &id)?;
            let reason =
                format!("{}: {}", member.reason.unwrap_or_default(), member.detail.unwrap_or_default());
            let leaves = user.as_ref().filter(|_| member.leaves);
            return Ok(match leaves {
                Some((user_id, user)) => self.leaver(&id, *user_id, user, &reason)?,
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
        let change = self.compared((&id, kind, user), &desired)?;
        // The address decides to whom the user belongs, so the guard of the sign-in is asked where it is new.
        let has_new_address = synced.app.guards.duplicate_email != OnDuplicate::Off
            && change.kind != Kind::Unchanged
            && (kind != Kind::Update || change.fields.iter().any(|field| field.field == "email"));
        if has_new_address
            && let Some(party) = PartyId::parse(&id)
            && let Some(Refusal { reason, detail, .. }) = duplicate_address(synced, &party, email).await?
        {
            return Ok(Change::new(Kind::Refused, &id, change.user_id, Some(&format!("{reason}: {detail}"))));
        }
        Ok(change)
    }

    fn compared(
        &self,
        (id, kind, user): (&str, Kind, Option<(i64, Value)>),
        desired: &Map<String, Value>,
    ) -> Result<Change, SyncError> {
        let Self { synced, state, fields, .. } = *self;
        let (user_id, user) = user.map_or((None, None), |(id, user)| (Some(id), Some(user)));
        let mut extra = state.written_extra(id)?;
        let addresses = match user_id {
            Some(user_id) => addresses(state, user_id)?,
            None => Vec::new(),
        };
        let was_written =
            |name: &str, value: &Value| extra.get(name) == Some(&self.hasher.hash(&value.to_string()).into());
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
                extra.insert(name.to_owned(), self.hasher.hash(&value.to_string()).into());
            }
        }
        let problems = shown.iter().any(|field| field.problem.is_some());
        let reason = problems.then_some("some fields cannot be written");
        let body = (!body.is_empty()).then_some(body);
        Ok(Change { fields: shown, body, memberships, extra, ..Change::new(kind, id, user_id, reason) })
    }

    fn leaver(&self, imis_id: &str, user_id: i64, user: &Value, reason: &str) -> Result<Change, SyncError> {
        let Self { synced, state, .. } = *self;
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
    async fn leavers(&self, percent: u64) -> Result<(), SyncError> {
        let Self { synced, state, .. } = *self;
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
                    Some(id) => read_and_decide(synced, &id).await?,
                    // Not an ID of iMIS: the user came from somewhere else.
                    None => continue,
                };
                if let Decision::Refused(Refusal { reason, detail, leaves: true }) = decision {
                    let reason = format!("{reason}: {detail}");
                    changes.push(self.leaver(&external_id, user_id, &user, &reason)?);
                }
            }
            store(state, changes)?;
        }
    }
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

/// Hashes values for the state, with a key of its own.
fn hasher(state: &State) -> Result<Hasher, SyncError> {
    if let Some(salt) = state.meta("salt")? {
        return Ok(Hasher::new(&salt));
    }
    let salt = clock::random_hex().map_err(SyncError::Random)?;
    state.set_meta("salt", &salt)?;
    Ok(Hasher::new(&salt))
}

/// What an earlier run did about a user whose member had left.
fn left_action(state: &State, user: i64) -> Result<Option<String>, SyncError> {
    let mut statement = state.database.prepare_cached("SELECT action FROM left_members WHERE user_id = ?")?;
    Ok(statement.query_row([user], |row| row.get(0)).optional()?)
}

/// Absent members whose records are read whatever share of the users they are.
const MAX_ABSENT_READ: u64 = 200;
