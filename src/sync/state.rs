//! The state of the sync of one account: an SQLite file that can be deleted at any time.
//!
//! It remembers what was written (as hashes) and which jobs are in progress. While a run is in progress it also holds
//! what the run has read, so that an interrupted run goes on where it was; that is deleted at the end of the run.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value};

use crate::base::clock;
use crate::sync::error::SyncError;

const SCHEMA: &str = "
    PRAGMA secure_delete = ON;
    PRAGMA synchronous = NORMAL;
    PRAGMA journal_mode = WAL;
    PRAGMA cache_size = -16384;
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS written (imis_id TEXT PRIMARY KEY, extra TEXT NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS left_members (user_id INTEGER PRIMARY KEY, action TEXT NOT NULL, at INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, job TEXT, creates INTEGER NOT NULL, at INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, external_id TEXT COLLATE NOCASE, email TEXT COLLATE NOCASE,
        json TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS users_external_id ON users (external_id);
    CREATE TABLE IF NOT EXISTS addresses (email TEXT NOT NULL COLLATE NOCASE, user_id INTEGER NOT NULL,
        PRIMARY KEY (email, user_id)) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS addresses_user ON addresses (user_id);
    CREATE TABLE IF NOT EXISTS members (imis_id TEXT PRIMARY KEY COLLATE NOCASE, email TEXT COLLATE NOCASE,
        reason TEXT, detail TEXT, leaves INTEGER NOT NULL, desired TEXT) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS members_email ON members (email);
    CREATE TABLE IF NOT EXISTS changes (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, imis_id TEXT, user_id INTEGER,
        reason TEXT, fields TEXT NOT NULL, body TEXT, memberships TEXT, extra TEXT, batch INTEGER, outcome TEXT);
    CREATE INDEX IF NOT EXISTS changes_batch ON changes (batch);
    CREATE TABLE IF NOT EXISTS organizations (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE,
        external_id TEXT COLLATE NOCASE);
    CREATE TABLE IF NOT EXISTS memberships (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL,
        organization_id INTEGER NOT NULL);
    CREATE INDEX IF NOT EXISTS memberships_user ON memberships (user_id);";

/// Tables with what a run has read.
const OF_A_RUN: [&str; 6] = ["users", "addresses", "members", "changes", "organizations", "memberships"];

/// The open state. No other process has it open.
pub(crate) struct State {
    pub(crate) database: Connection,
    _lock: File,
}

impl State {
    /// Opens the state of an app, or creates it.
    pub(crate) fn open(folder: &Path, name: &str) -> Result<Self, SyncError> {
        let unusable = |error: std::io::Error| SyncError::Folder(folder.to_owned(), error);
        if !folder.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
        }
        let mut options = File::options();
        let lock = options.write(true).create(true).truncate(false).mode(0o600);
        let lock = lock.open(folder.join(format!("{name}.lock"))).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SyncError::InProgress),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let path = folder.join(format!("{name}.db"));
        // SQLite gives its own files the mode of the database.
        File::options().append(true).create(true).mode(0o600).open(&path).map_err(unusable)?;
        let database = Connection::open(&path)?;
        database.execute_batch(SCHEMA)?;
        Ok(Self { database, _lock: lock })
    }

    pub(crate) fn meta(&self, key: &str) -> Result<Option<String>, SyncError> {
        let mut statement = self.database.prepare_cached("SELECT value FROM meta WHERE key = ?")?;
        Ok(statement.query_row([key], |row| row.get(0)).optional()?)
    }

    /// A number in the state; 0 if it is not there.
    pub(crate) fn number(&self, key: &str) -> Result<u64, SyncError> {
        Ok(self.meta(key)?.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    pub(crate) fn set_meta(&self, key: &str, value: &str) -> Result<(), SyncError> {
        self.database.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?, ?)")?.execute([key, value])?;
        Ok(())
    }

    /// Deletes everything that a run has read.
    pub(crate) fn forget_run(&self) -> Result<(), SyncError> {
        for table in OF_A_RUN {
            self.database.execute(&format!("DELETE FROM {table}"), [])?;
        }
        self.database.execute("DELETE FROM meta WHERE key LIKE 'run.%'", [])?;
        // Removes the deleted data from the log of the database, too.
        self.database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    pub(crate) fn count(&self, query: &str) -> Result<u64, SyncError> {
        Ok(self.database.query_row(query, [], |row| row.get::<_, i64>(0))?.unsigned_abs())
    }

    /// The outcomes of changes with their number, by kind.
    pub(super) fn outcomes(&self) -> Result<Vec<(String, String, u64)>, SyncError> {
        let mut statement = self.database.prepare(
            "SELECT kind, outcome, count(*) FROM changes WHERE outcome IS NOT NULL GROUP BY kind, outcome",
        )?;
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?.unsigned_abs())))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Records that a member's user has been written.
    pub(crate) fn record_written(&self, written: &Written<'_>) -> Result<(), SyncError> {
        self.database
            .prepare_cached("INSERT OR REPLACE INTO written VALUES (?, ?, ?, ?)")?
            .execute(params![written.imis_id, written.extra, written.kind, written.at])?;
        Ok(())
    }

    /// Records what was done about a user whose member has left.
    pub(super) fn leave(&self, user: i64, action: &str) -> Result<(), SyncError> {
        self.database
            .prepare_cached("INSERT OR REPLACE INTO left_members VALUES (?, ?, ?)")?
            .execute(params![user, action, clock::unix_now_signed()])?;
        Ok(())
    }

    /// Records the outcome of a change.
    pub(super) fn finish(&self, change: i64, outcome: &str) -> Result<(), SyncError> {
        self.database
            .prepare_cached("UPDATE changes SET outcome = ? WHERE id = ?")?
            .execute(params![outcome, change])?;
        Ok(())
    }

    /// Hashes of values that were written for a member and that Zendesk does not show, by field.
    pub(crate) fn written_extra(&self, imis_id: &str) -> Result<Map<String, Value>, SyncError> {
        let mut statement = self.database.prepare_cached("SELECT extra FROM written WHERE imis_id = ?")?;
        let extra: Option<String> = statement.query_row([imis_id], |row| row.get(0)).optional()?;
        Ok(extra.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }
}

/// A user that has been written.
pub(crate) struct Written<'a> {
    pub(crate) imis_id: &'a str,
    /// Hashes of values that Zendesk does not return, by property, as JSON.
    pub(crate) extra: &'a str,
    pub(crate) kind: &'a str,
    /// Seconds since 1970.
    pub(crate) at: i64,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn runs_exclude_each_other_and_leave_no_personal_data() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("sync");
        let state = State::open(&folder, "app").unwrap();
        assert!(matches!(State::open(&folder, "app"), Err(SyncError::InProgress)));
        let insert = "INSERT INTO users VALUES (1, '7', 'ann@example.org', '{}')";
        state.database.execute(insert, []).unwrap();
        state.set_meta("run.cursor", "x").unwrap();
        state.forget_run().unwrap();
        assert_eq!(state.meta("run.cursor").unwrap(), None);
        drop(state);
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(3).any(|part| part == b"ann"), "{path:?}");
        }
        State::open(&folder, "app").unwrap();
    }
}
