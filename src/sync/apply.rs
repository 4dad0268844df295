//! Carries out a plan: users in jobs of 100 or one by one, then sessions and memberships.
//!
//! A batch is recorded before it is sent. After a crash the next run waits until the jobs of the batches have ended, and
//! then reads the account again, so nothing is lost and nothing is written twice.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::sync::change::parsed;
use crate::sync::error::SyncError;
use crate::sync::members::SyncedApp;
use crate::sync::organizations::MembershipChanges;
use crate::sync::state::State;
use crate::sync::user_writes::{POLL_INTERVAL, UserWrites};
use crate::zendesk::api::Api;
use crate::zendesk::writes::{JobState, WriteError, Writer};

/// How long to wait for jobs of an earlier run.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(600);

/// Which part of a plan is applied.
#[derive(Debug, Default, Clone)]
pub(crate) struct Selection {
    /// At most this many members and users.
    pub(crate) limit: Option<u64>,
    /// Only these iMIS IDs. Empty: all.
    pub(crate) only: Vec<String>,
}

pub(crate) struct Applier<'a> {
    synced: SyncedApp<'a>,
    state: &'a State,
    api: &'a Api,
    writer: Writer<'a>,
}

impl<'a> Applier<'a> {
    pub(crate) fn new(synced: SyncedApp<'a>, state: &'a State, api: &'a Api) -> Self {
        Self { synced, state, api, writer: Writer::new(api) }
    }

    /// Waits until the jobs of an interrupted run have ended. True if there were any.
    pub(crate) async fn reconcile(&self) -> Result<bool, SyncError> {
        let mut statement = self.state.database.prepare("SELECT id, job FROM batches ORDER BY id")?;
        let batches: Vec<(i64, Option<String>)> =
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        for (batch, job) in &batches {
            let begun = Instant::now();
            loop {
                let is_running = match job {
                    Some(job) => self.writer.job_state(job).await.map(|state| state == JobState::Running),
                    // It is not known whether Zendesk has accepted the batch.
                    None => self.writer.has_running_job().await,
                };
                if !is_running.map_err(SyncError::Write)? {
                    break;
                }
                if begun.elapsed() > RECONCILE_TIMEOUT {
                    return Err(SyncError::JobInProgress);
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            self.state.database.execute("DELETE FROM batches WHERE id = ?", [batch])?;
        }
        Ok(!batches.is_empty())
    }

    /// Applies the selected part of the plan. `progress` gets the number of changes that are done.
    pub(crate) async fn apply(
        &mut self,
        selection: &Selection,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), SyncError> {
        self.state.set_meta("run.applying", "yes")?;
        let total = self.select(selection)?;
        self.end_sessions().await?;
        let mut report = |state: &State| -> Result<(), SyncError> {
            progress(
                state.count(
                    "SELECT count(*) FROM changes WHERE outcome IS NOT NULL AND outcome <> 'selected'",
                )?,
                total,
            );
            Ok(())
        };
        let mode = self.synced.sync.writes;
        UserWrites::new(self.state, self.api, &self.writer, mode).write_all(&mut report).await?;
        self.write_memberships(&mut report).await?;
        // Members who may sign in again are no leavers any more.
        self.state.database.execute(
            "DELETE FROM left_members WHERE user_id IN
             (SELECT user_id FROM changes WHERE kind IN ('link', 'update', 'unchanged') OR (kind = 'restore' AND outcome = 'done'))",
            [],
        )?;
        Ok(())
    }

    /// Marks the changes to make. Returns their number.
    fn select(&self, selection: &Selection) -> Result<u64, SyncError> {
        let database = &self.state.database;
        let transaction = database.unchecked_transaction()?;
        database.execute(
            "UPDATE changes SET outcome = 'selected' WHERE kind IN
             ('create', 'link', 'update', 'restore', 'end_sessions', 'suspend')",
            [],
        )?;
        if !selection.only.is_empty() {
            let only = json!(selection.only).to_string();
            database.execute(
                "UPDATE changes SET outcome = NULL WHERE outcome = 'selected' AND imis_id NOT IN
                 (SELECT value FROM json_each(?))",
                [only],
            )?;
        }
        if let Some(limit) = selection.limit {
            database.execute(
                "UPDATE changes SET outcome = NULL WHERE outcome = 'selected' AND id NOT IN
                 (SELECT id FROM changes WHERE outcome = 'selected' ORDER BY id LIMIT ?)",
                [limit.cast_signed()],
            )?;
        }
        transaction.commit()?;
        self.state.count("SELECT count(*) FROM changes WHERE outcome = 'selected'")
    }

    /// Ends the sessions of leavers.
    async fn end_sessions(&self) -> Result<(), SyncError> {
        loop {
            let users: Vec<(i64, i64)> = self
                .state
                .database
                .prepare(
                    "SELECT id, user_id FROM changes WHERE outcome = 'selected' AND kind = 'end_sessions' AND user_id IS NOT NULL
                     ORDER BY id LIMIT 100",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            if users.is_empty() {
                return Ok(());
            }
            let ids: Vec<u64> = users.iter().map(|(_, user)| user.cast_unsigned()).collect();
            let ended = self.writer.end_sessions(&ids).await;
            let transaction = self.state.database.unchecked_transaction()?;
            for (change, user) in users {
                match &ended {
                    Ok(()) => {
                        self.state.leave(user, "end_sessions")?;
                        self.state.finish(change, "done")?;
                    }
                    Err(error) => self.state.finish(change, &error.outcome())?,
                }
            }
            transaction.commit()?;
            if let Err(error @ WriteError::Api(_)) = ended {
                return Err(SyncError::Write(error));
            }
        }
    }

    async fn write_memberships(
        &self,
        report: &mut impl FnMut(&State) -> Result<(), SyncError>,
    ) -> Result<(), SyncError> {
        let mut created: HashMap<String, u64> = HashMap::new();
        let mut after = 0;
        loop {
            // Changes of users that failed keep their memberships.
            let mut statement = self.state.database.prepare_cached(
                "SELECT id, user_id, memberships FROM changes WHERE memberships IS NOT NULL AND user_id IS NOT NULL AND id > ?
                 AND (outcome = 'done' OR (outcome = 'selected' AND body IS NULL)) ORDER BY id LIMIT 1",
            )?;
            let row = statement.query_map([after], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<String>>(2)?))
            })?;
            let Some((id, user, memberships)) = row.last().transpose()? else { return Ok(()) };
            after = id;
            let outcome =
                self.change_memberships(user.cast_unsigned(), parsed(memberships), &mut created).await;
            match outcome {
                Ok(()) => self.state.finish(id, "done")?,
                Err(error @ WriteError::Refused(..)) => self.state.finish(id, &error.outcome())?,
                Err(error) => return Err(SyncError::Write(error)),
            }
            report(self.state)?;
        }
    }

    async fn change_memberships(
        &self,
        user: u64,
        changes: MembershipChanges,
        created: &mut HashMap<String, u64>,
    ) -> Result<(), WriteError> {
        let mut join: Vec<u64> = changes.join.iter().map(|id| id.cast_unsigned()).collect();
        for name in changes.create {
            let key = name.to_lowercase();
            let id = match created.get(&key) {
                Some(id) => *id,
                None => self.writer.create_organization(&name).await?,
            };
            created.insert(key, id);
            join.push(id);
        }
        for organization in join {
            self.writer.add_to_organization(user, organization).await?;
        }
        for membership in changes.end {
            self.writer.end_membership(membership.cast_unsigned()).await?;
        }
        Ok(())
    }
}
