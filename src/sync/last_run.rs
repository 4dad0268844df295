//! The result of the last run of an app, which a sync leaves in a file for the metrics of the running gateway.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::clock;
use crate::config::{App, fingerprint};
use crate::sso::site::SignOn;
use crate::sync::error::SyncError;
use crate::sync::members::SyncedApp;
use crate::sync::run::Finished;
use crate::sync::state::State;

/// How a run ended, without personal data.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct LastRun {
    /// `success`, `partial`, `stopped` or `failed`.
    pub(crate) outcome: String,
    /// Seconds since 1970.
    pub(crate) finished: u64,
    /// Seconds since 1970; 0 if no run has succeeded.
    pub(crate) last_success: u64,
    pub(crate) members: u64,
    /// Changes by kind.
    pub(crate) writes: BTreeMap<String, u64>,
    /// Failed changes by code.
    pub(crate) failures: BTreeMap<String, u64>,
}

/// The name of the state files of an app.
pub(crate) fn state_name(sign_on: &SignOn, app: &App) -> String {
    fingerprint(&format!("{}{}", sign_on.hosts[0], app.path)).replace(':', "")
}

fn file(sign_on: &SignOn, app: &App) -> Option<PathBuf> {
    Some(app.sync.as_ref()?.folder.join(format!("{}.json", state_name(sign_on, app))))
}

impl LastRun {
    /// `None` if the app has no sync, or none has run.
    pub(crate) fn read(sign_on: &SignOn, app: &App) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(file(sign_on, app)?).ok()?).ok()
    }

    /// Writes the result of a run.
    pub(crate) fn write(
        synced: SyncedApp<'_>,
        state: &State,
        result: Result<&Finished, &SyncError>,
    ) -> Result<(), SyncError> {
        let SyncedApp { sign_on, app, sync, .. } = synced;
        let before = Self::read(sign_on, app).unwrap_or_default();
        let outcome = match result {
            Ok(Finished { stopped: Some(_), .. }) => "stopped",
            Ok(finished) if finished.failed > 0 || finished.incomplete.is_some() => "partial",
            Ok(_) => "success",
            Err(_) => "failed",
        };
        let finished = clock::unix_now();
        let mut run = Self {
            outcome: outcome.to_owned(),
            finished,
            last_success: if outcome == "success" { finished } else { before.last_success },
            members: result.map_or(before.members, |finished| finished.totals.members),
            ..Self::default()
        };
        for (kind, outcome, count) in state.outcomes()? {
            match outcome.strip_prefix("failed: ") {
                Some(code) => *run.failures.entry(code.to_owned()).or_default() += count,
                None if outcome == "done" => *run.writes.entry(kind).or_default() += count,
                None => {}
            }
        }
        let unusable = |error| SyncError::Folder(sync.folder.clone(), error);
        let Some(file) = file(sign_on, app) else { return Ok(()) };
        let temporary = file.with_added_extension("new");
        let json = serde_json::to_vec(&run).map_err(|error| unusable(error.into()))?;
        std::fs::write(&temporary, json).map_err(unusable)?;
        std::fs::rename(&temporary, &file).map_err(unusable)
    }
}
