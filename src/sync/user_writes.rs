//! Writes users: in jobs of 100, or one by one if the account has no bulk import.

use std::time::Duration;

use rusqlite::params;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::base::clock;
use crate::config::sync::Writes;
use crate::sync::accounts::kept;
use crate::sync::change::{Kind, parsed};
use crate::sync::compare::{self, Known};
use crate::sync::error::SyncError;
use crate::sync::state::{State, Written};
use crate::zendesk::api::{Api, ApiError};
use crate::zendesk::writes::{JobState, MAX_IN_JOB, WriteError, Writer};

/// Zendesk allows 30 for the account, which others use, too.
const MAX_IN_FLIGHT: usize = 10;
/// How long to wait for a job to end.
const JOB_TIMEOUT: Duration = Duration::from_secs(1800);
/// How often a job is polled.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(1);
const TOO_MANY_JOBS_WAIT: Duration = Duration::from_secs(5);

/// Writes the selected users of a plan.
pub(super) struct UserWrites<'a> {
    state: &'a State,
    api: &'a Api,
    writer: &'a Writer<'a>,
    mode: Writes,
    uses_jobs: bool,
}

/// One change that is sent.
#[derive(Debug, Clone)]
struct Pending {
    id: i64,
    kind: Kind,
    imis_id: String,
    user_id: Option<u64>,
    body: Map<String, Value>,
    extra: String,
    /// It was sent before, without effect.
    is_second: bool,
}

struct InFlight {
    batch: i64,
    job: String,
    since: Instant,
    changes: Vec<Pending>,
}

impl<'a> UserWrites<'a> {
    pub(super) fn new(state: &'a State, api: &'a Api, writer: &'a Writer<'a>, mode: Writes) -> Self {
        Self { state, api, writer, mode, uses_jobs: mode != Writes::Single }
    }

    /// The next changes to send: all create users, or all change some.
    fn next(&self, most: usize) -> Result<Vec<Pending>, SyncError> {
        let query = |creates: &str| {
            format!(
                "SELECT id, kind, imis_id, user_id, body, extra FROM changes WHERE outcome = 'selected' AND batch IS NULL
                 AND body IS NOT NULL AND kind {creates} ORDER BY id LIMIT {most}"
            )
        };
        for creates in ["<> 'create'", "= 'create'"] {
            let mut statement = self.state.database.prepare_cached(&query(creates))?;
            let rows = statement.query_map([], |row| {
                Ok((
                    (row.get(0)?, row.get::<_, String>(1)?, row.get::<_, Option<String>>(2)?),
                    (row.get::<_, Option<i64>>(3)?, row.get(4)?, row.get::<_, Option<String>>(5)?),
                ))
            })?;
            let mut pending = Vec::new();
            for row in rows {
                let ((id, kind, imis_id), (user_id, body, extra)) = row?;
                let Some(kind) = Kind::of(&kind) else { continue };
                pending.push(Pending {
                    id,
                    kind,
                    imis_id: imis_id.unwrap_or_default(),
                    user_id: user_id.map(i64::cast_unsigned),
                    body: parsed(body),
                    extra: extra.unwrap_or_else(|| "{}".to_owned()),
                    is_second: false,
                });
            }
            if !pending.is_empty() {
                return Ok(pending);
            }
        }
        Ok(Vec::new())
    }

    pub(super) async fn write_all(
        &mut self,
        report: &mut impl FnMut(&State) -> Result<(), SyncError>,
    ) -> Result<(), SyncError> {
        let mut in_flight: Vec<InFlight> = Vec::new();
        let mut again: Vec<Pending> = Vec::new();
        loop {
            while self.uses_jobs && in_flight.len() < MAX_IN_FLIGHT {
                let changes = if again.is_empty() { self.next(MAX_IN_JOB)? } else { one_kind(&mut again) };
                if changes.is_empty() {
                    break;
                }
                match self.send(changes.clone()).await {
                    Ok(sent) => in_flight.push(sent),
                    Err(SyncError::Write(WriteError::TooManyJobs)) => {
                        self.release(&changes)?;
                        again.extend(changes.into_iter().filter(|change| change.is_second));
                        tokio::time::sleep(TOO_MANY_JOBS_WAIT).await;
                        break;
                    }
                    Err(SyncError::Write(WriteError::NoBulkImport)) if self.mode == Writes::Auto => {
                        self.release(&changes)?;
                        self.uses_jobs = false;
                    }
                    Err(SyncError::Write(error @ WriteError::Refused(..))) => self.fail(&changes, &error)?,
                    Err(error) => return Err(error),
                }
            }
            if in_flight.is_empty() {
                break;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
            let mut index = 0;
            while index < in_flight.len() {
                let current = &in_flight[index];
                let state = self.writer.job_state(&current.job).await.map_err(SyncError::Write)?;
                let is_over = state != JobState::Running || current.since.elapsed() > JOB_TIMEOUT;
                if is_over {
                    let over = in_flight.swap_remove(index);
                    again.extend(self.end_job(over, state).await?);
                    report(self.state)?;
                } else {
                    index += 1;
                }
            }
        }
        if !self.uses_jobs {
            self.write_singly(again, report).await?;
        }
        Ok(())
    }

    /// Records a batch and starts its job.
    async fn send(&self, changes: Vec<Pending>) -> Result<InFlight, SyncError> {
        let creates = changes.iter().any(|change| change.kind == Kind::Create);
        let transaction = self.state.database.unchecked_transaction()?;
        self.state.database.execute(
            "INSERT INTO batches (creates, at) VALUES (?, ?)",
            params![creates, clock::unix_now_signed()],
        )?;
        let batch = self.state.database.last_insert_rowid();
        for change in &changes {
            self.state
                .database
                .prepare_cached("UPDATE changes SET batch = ? WHERE id = ?")?
                .execute([batch, change.id])?;
        }
        transaction.commit()?;
        let users: Vec<Value> = changes.iter().map(Pending::json).collect();
        match self.writer.start_job(&users, creates).await {
            Ok(job) => {
                self.state
                    .database
                    .execute("UPDATE batches SET job = ? WHERE id = ?", params![job, batch])?;
                Ok(InFlight { batch, job, since: Instant::now(), changes })
            }
            Err(error) => {
                // Zendesk has answered, so there is no job.
                if !matches!(&error, WriteError::Api(ApiError::Unreachable(_))) {
                    self.state.database.execute("DELETE FROM batches WHERE id = ?", [batch])?;
                }
                Err(SyncError::Write(error))
            }
        }
    }

    /// The changes of a batch that was not sent can be sent again.
    fn release(&self, changes: &[Pending]) -> Result<(), SyncError> {
        for change in changes {
            self.state.database.execute("UPDATE changes SET batch = NULL WHERE id = ?", [change.id])?;
        }
        Ok(())
    }

    fn fail(&self, changes: &[Pending], error: &WriteError) -> Result<(), SyncError> {
        changes.iter().try_for_each(|change| self.state.finish(change.id, &error.outcome()))
    }

    /// Records the results of a job. Returns the changes to send again.
    async fn end_job(&self, over: InFlight, state: JobState) -> Result<Vec<Pending>, SyncError> {
        let results = match state {
            JobState::Done(results) if results.len() == over.changes.len() => Some(results),
            JobState::Done(_) | JobState::Failed | JobState::Vanished | JobState::Running => None,
        };
        let results = match results {
            Some(results) => results.into_iter().map(Some).collect(),
            // What has become of it is read from the account.
            None => self.verify(&over.changes).await?,
        };
        let mut again = Vec::new();
        let transaction = self.state.database.unchecked_transaction()?;
        for (change, result) in over.changes.into_iter().zip(results) {
            match result {
                Some(Ok(user)) => self.done(&change, user)?,
                Some(Err(code)) => self.state.finish(change.id, &format!("failed: {code}"))?,
                None if change.is_second => self.state.finish(change.id, "failed: no effect")?,
                None => again.push(Pending { is_second: true, ..change }),
            }
        }
        self.state.database.execute("DELETE FROM batches WHERE id = ?", [over.batch])?;
        transaction.commit()?;
        Ok(again)
    }

    /// Which of the changes the account shows. `None` for those it does not.
    async fn verify(
        &self,
        changes: &[Pending],
    ) -> Result<Vec<Option<Result<Option<u64>, String>>>, SyncError> {
        let ids = |name: &str, texts: Vec<String>| format!("users/show_many?{name}={}", texts.join(","));
        let creates = changes.iter().any(|change| change.kind == Kind::Create);
        let path = if creates {
            ids("external_ids", changes.iter().map(|change| change.imis_id.clone()).collect())
        } else {
            ids("ids", changes.iter().filter_map(|change| Some(change.user_id?.to_string())).collect())
        };
        let body = self.api.get(&path).await.map_err(SyncError::Users)?;
        let users = body["users"].as_array().ok_or(SyncError::Users(ApiError::Answer))?;
        let mut results = Vec::new();
        for change in changes {
            let user = users.iter().find(|user| match change.user_id {
                Some(id) => user["id"].as_u64() == Some(id),
                None => {
                    user["external_id"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(&change.imis_id))
                }
            });
            let is_applied = match user {
                Some(user) => self.is_applied(user, &change.body).await?,
                None => false,
            };
            results.push(is_applied.then(|| Ok(user.and_then(|user| user["id"].as_u64()))));
        }
        Ok(results)
    }

    async fn is_applied(&self, user: &Value, body: &Map<String, Value>) -> Result<bool, SyncError> {
        let fields: Vec<&str> = body
            .get("user_fields")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, _)| key.as_str())
            .collect();
        let user = kept(user, &fields);
        let mut addresses = Vec::new();
        if let (Some(email), Some(id)) = (body.get("email"), user["id"].as_u64())
            && user["email"] != *email
        {
            let identities = self.api.list(&format!("users/{id}/identities"), "identities").await;
            let identities = identities.map_err(SyncError::Users)?;
            addresses = identities
                .iter()
                .filter_map(|identity| identity["value"].as_str().map(str::to_lowercase))
                .collect();
        }
        let has_address = |email: &str| {
            user["email"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(email))
                || addresses.contains(&email.to_lowercase())
        };
        let known = Known { has_address: &has_address, was_written: &|_, _| true, fields: &[] };
        Ok(!compare::differences(body, &user, &known))
    }

    /// Records that a change was made.
    fn done(&self, change: &Pending, user: Option<u64>) -> Result<(), SyncError> {
        self.state.record_written(&Written {
            imis_id: &change.imis_id,
            extra: &change.extra,
            kind: change.kind.name(),
            at: clock::unix_now_signed(),
        })?;
        if let (Some(user), None) = (user, change.user_id) {
            let set = "UPDATE changes SET user_id = ? WHERE id = ?";
            self.state.database.prepare_cached(set)?.execute([user.cast_signed(), change.id])?;
        }
        if let (Kind::Suspend, Some(user)) = (change.kind, change.user_id) {
            self.state.leave(user.cast_signed(), "suspend")?;
        }
        self.state.finish(change.id, "done")
    }

    async fn write_singly(
        &self,
        mut first: Vec<Pending>,
        report: &mut impl FnMut(&State) -> Result<(), SyncError>,
    ) -> Result<(), SyncError> {
        loop {
            let change = match first.pop() {
                Some(change) => change,
                None => match self.next(1)?.pop() {
                    Some(change) => change,
                    None => return Ok(()),
                },
            };
            match self.writer.write_user(change.user_id, &change.json()).await {
                Ok(user) => {
                    let transaction = self.state.database.unchecked_transaction()?;
                    self.done(&change, Some(user))?;
                    transaction.commit()?;
                }
                Err(error @ WriteError::Refused(..)) => self.fail(&[change], &error)?,
                Err(error) => return Err(SyncError::Write(error)),
            }
            report(self.state)?;
        }
    }
}

impl Pending {
    /// The user as Zendesk takes it. It never sends a verification e-mail.
    fn json(&self) -> Value {
        let mut user = self.body.clone();
        if let Some(id) = self.user_id {
            user.insert("id".to_owned(), id.into());
        }
        user.insert("skip_verify_email".to_owned(), true.into());
        Value::Object(user)
    }
}

/// Takes changes off the list that go into one job.
fn one_kind(changes: &mut Vec<Pending>) -> Vec<Pending> {
    let creates = changes.last().is_some_and(|change| change.kind == Kind::Create);
    let (mut taken, rest): (Vec<_>, Vec<_>) =
        changes.drain(..).partition(|change| (change.kind == Kind::Create) == creates);
    *changes = rest;
    if taken.len() > MAX_IN_JOB {
        changes.extend(taken.split_off(MAX_IN_JOB));
    }
    taken
}
