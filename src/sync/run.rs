//! One run: reads both systems, makes the plan and, if asked to, applies it.

use crate::base::clock;
use crate::sync::accounts;
use crate::sync::apply::{Applier, Selection};
use crate::sync::change::{Kind, TooManyChanges, Totals, each};
use crate::sync::error::SyncError;
use crate::sync::members::{self, Incomplete, SyncedApp};
use crate::sync::plan;
use crate::sync::state::State;
use crate::zendesk::api::Api;
use crate::zendesk::fields;

/// An interrupted run is continued within this time, in seconds.
const RESUME_WITHIN: u64 = 3600;

/// What a run is asked to do.
#[derive(Debug, Default, Clone)]
pub(crate) struct Options {
    /// Reads all members although `changed_since` is configured.
    pub(crate) reads_all: bool,
    /// Replaces `max_change_percent`.
    pub(crate) max_change_percent: Option<u64>,
    /// `None`: only the plan is made.
    pub(crate) apply: Option<Selection>,
    /// The configuration, to find out whether an interrupted run can be continued.
    pub(crate) config_hash: String,
}

/// A step of a run, with the number of records done and the total, if known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Users(u64),
    Members(u64, Option<u64>),
    Planning,
    Writing(u64, u64),
}

/// How a run ended. The lines of the plan are in the state until `State::forget_run`.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) totals: Totals,
    /// The source returned fewer members than it has.
    pub(crate) incomplete: Option<Incomplete>,
    /// The safety threshold stopped the run before its first write.
    pub(crate) stopped: Option<TooManyChanges>,
    /// User fields of the claims that the account does not have or has deactivated, with the reason.
    pub(crate) field_problems: Vec<(String, String)>,
    /// The number of changes that failed.
    pub(crate) failed: u64,
    pub(crate) written: u64,
}

pub(crate) async fn run(
    synced: SyncedApp<'_>,
    state: &State,
    options: &Options,
    progress: &dyn Fn(Step),
) -> Result<Finished, SyncError> {
    let api = match &synced.app.zendesk.api {
        Some(api) => Api::new(api)?,
        None => return Err(SyncError::NoApi),
    };
    // The guard of the sign-in needs the staff list.
    if let Some(staff) = synced.sign_on.staff.get(&synced.app.path) {
        staff.refresh_if_old().await.map_err(SyncError::Staff)?;
    }
    let mut applier = Applier::new(synced, state, &api);
    let was_applying = applier.reconcile().await? || state.meta("run.applying")?.is_some();
    let started = begin(state, options, was_applying)?;

    let user_fields = fields::user_fields(&api).await.map_err(SyncError::Users)?;
    let keys: Vec<&str> = synced.app.claims.user_fields.iter().map(|(key, _)| key.as_str()).collect();
    accounts::read_users(&api, state, &keys, |read| progress(Step::Users(read))).await?;
    if uses_organizations(synced) {
        accounts::read_organizations(&api, state).await?;
    }
    let since = if options.reads_all { None } else { state.meta("last_success")? };
    let since = since.filter(|_| synced.sync.changed_since.is_some());
    let report = |read, total| progress(Step::Members(read, total));
    let incomplete = members::read(synced, state, since.as_deref(), report).await?;
    progress(Step::Planning);
    let percent = options.max_change_percent.unwrap_or(synced.sync.max_change_percent);
    let is_complete = since.is_none() && incomplete.is_none();
    let totals = plan::make(synced, state, &user_fields, is_complete, percent).await?;
    let field_problems = synced.app.claims.user_fields.iter().filter_map(|(key, source)| {
        fields::problem(&user_fields, key, source).map(|problem| (key.clone(), problem))
    });
    let mut finished = Finished {
        stopped: None,
        incomplete,
        field_problems: field_problems.collect(),
        failed: 0,
        written: 0,
        totals,
    };
    if let Some(selection) = &options.apply {
        finished.stopped = selected_totals(state, selection, &finished.totals)?.check(percent).err();
        if finished.stopped.is_none() {
            applier.apply(selection, |done, total| progress(Step::Writing(done, total))).await?;
            finished.written = state.count("SELECT count(*) FROM changes WHERE outcome = 'done'")?;
            finished.failed = state.count("SELECT count(*) FROM changes WHERE outcome LIKE 'failed%'")?;
            let is_whole = selection.limit.is_none() && selection.only.is_empty();
            if is_whole && incomplete.is_none() && finished.failed == 0 {
                state.set_meta("last_success", &started)?;
            }
        }
    } else {
        finished.stopped = finished.totals.check(percent).err();
    }
    Ok(finished)
}

/// Begins a run, or continues an interrupted one that had not begun to write. Returns the time of its beginning.
fn begin(state: &State, options: &Options, was_applying: bool) -> Result<String, SyncError> {
    let now = clock::unix_now();
    let started = state.meta("run.started_at")?.and_then(|text| text.parse::<u64>().ok());
    let is_same = state.meta("run.config")?.as_deref() == Some(&*options.config_hash)
        && state.meta("run.reads_all")? == Some(options.reads_all.to_string());
    let continues =
        !was_applying && is_same && started.is_some_and(|at| now.saturating_sub(at) < RESUME_WITHIN);
    if !continues {
        state.forget_run()?;
        state.set_meta("run.started_at", &now.to_string())?;
        state.set_meta("run.started", &clock::rfc_3339())?;
        state.set_meta("run.config", &options.config_hash)?;
        state.set_meta("run.reads_all", &options.reads_all.to_string())?;
    }
    Ok(state.meta("run.started")?.unwrap_or_default())
}

fn uses_organizations(synced: SyncedApp<'_>) -> bool {
    let named = |claim: &str| synced.app.claims.named.iter().any(|(own, _)| own.name == claim);
    synced.sync.organizations.external_ids.is_some() || named("organization") || named("organizations")
}

/// The totals of the part of a plan that is applied.
fn selected_totals(state: &State, selection: &Selection, all: &Totals) -> Result<Totals, SyncError> {
    if selection.limit.is_none() && selection.only.is_empty() {
        return Ok(all.clone());
    }
    let mut totals = Totals { members: all.members, known_users: all.known_users, ..Totals::default() };
    let mut left = selection.limit.unwrap_or(u64::MAX);
    each(state, |change| {
        let is_named = selection.only.is_empty()
            || change.imis_id.as_ref().is_some_and(|id| selection.only.contains(id));
        if change.kind.is_written() && is_named && left > 0 {
            left -= 1;
            totals.add(&change);
        }
        Ok(())
    })?;
    Ok(totals)
}

/// The lines of a plan by kind.
pub(crate) fn counts(state: &State) -> Result<Vec<(Kind, u64)>, SyncError> {
    let mut counts = Vec::new();
    for kind in Kind::ALL {
        let query = format!("SELECT count(*) FROM changes WHERE kind = '{}'", kind.name());
        counts.push((kind, state.count(&query)?));
    }
    Ok(counts)
}
