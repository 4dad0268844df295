//! Reads the members from iMIS, and decides about each one with the guards, rules and claims of the sign-in.

use futures_util::{StreamExt, stream};
use rusqlite::params;
use serde_json::{Map, Value, json};

use crate::base::error_chain::Chain;
use crate::config::App;
use crate::config::expression::Language;
use crate::config::sync::{Source, Sync};
use crate::imis::listing::{Listed, MemberPage, is_transient};
use crate::imis::profile::Profile;
use crate::imis::recognise::Identity;
use crate::imis::{PartyId, ProfileError};
use crate::sso::decision::{DecisionContext, check_duplicate_email, facts_of, permit_for};
use crate::sso::denied::Denied;
use crate::sso::error::SignInError;
use crate::sso::login_params::LoginParams;
use crate::sso::request::AuditSubject;
use crate::sso::site::SignOn;
use crate::sso::trace::Trace;
use crate::sync::error::SyncError;
use crate::sync::state::State;

/// Records that are read from iMIS at the same time.
const CONCURRENT_READS: usize = 4;
/// How often a request is sent that fails for a while.
const MAX_ATTEMPTS: u32 = 5;

/// The app that is synced.
#[derive(Clone, Copy)]
pub(crate) struct SyncedApp<'a> {
    pub(crate) sign_on: &'a SignOn,
    pub(crate) app: &'a App,
    pub(crate) sync: &'a Sync,
    pub(crate) language: &'a Language,
}

/// What Zendesk should know about a member, or why the member has no user.
pub(crate) enum Decision {
    /// The properties of the user.
    Permit(Map<String, Value>),
    Refused(Refusal),
}

/// Why a member has no user.
pub(crate) struct Refusal {
    /// A short name.
    pub(crate) reason: String,
    pub(crate) detail: String,
    /// The person may not sign in any more, as opposed to a record that has to be mended.
    pub(crate) leaves: bool,
}

fn mend(reason: &str, error: &dyn std::error::Error) -> Decision {
    Decision::Refused(Refusal { reason: reason.to_owned(), detail: Chain(error).to_string(), leaves: false })
}

/// A list that returned fewer members than it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incomplete {
    pub(crate) read: u64,
    pub(crate) total: u64,
}

/// Reads all members into the state, from the page on at which an interrupted run stopped. `since`: only those that have
/// changed since a time. `progress` gets the number of members read, and of all if known.
pub(crate) async fn read(
    synced: SyncedApp<'_>,
    state: &State,
    since: Option<&str>,
    mut progress: impl FnMut(u64, Option<u64>),
) -> Result<Option<Incomplete>, SyncError> {
    let since = synced.sync.changed_since.as_deref().zip(since);
    let mut offset = state.meta("run.members")?.and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut total = None;
    if state.meta("run.members_read")?.is_none() {
        loop {
            let page = page(synced, since, offset).await?;
            total = page.total.or(total);
            store(synced, state, page.members).await?;
            progress(state.count("SELECT count(*) FROM members")?, total);
            match page.next {
                Some(next) => offset = next,
                None => break,
            }
            state.set_meta("run.members", &offset.to_string())?;
        }
        state.set_meta("run.members_read", &total.map(|total| total.to_string()).unwrap_or_default())?;
    }
    let total = state.meta("run.members_read")?.and_then(|text| text.parse::<u64>().ok());
    let read = state.count("SELECT count(*) FROM members")?;
    let number = |key: &str| -> Result<u64, SyncError> {
        Ok(state.meta(key)?.and_then(|text| text.parse().ok()).unwrap_or(0))
    };
    // A query may list a member several times, but not a whole page of them.
    let expected = match (&synced.sync.source, number("run.repeated_pages")?) {
        (Source::Query { .. }, 0) => {
            total.map(|total| total.saturating_sub(number("run.repeated").unwrap_or(0)))
        }
        _ => total,
    };
    Ok(expected.filter(|total| read < *total).map(|total| Incomplete { read, total }))
}

async fn page(
    synced: SyncedApp<'_>,
    since: Option<(&str, &str)>,
    offset: u64,
) -> Result<MemberPage, SyncError> {
    let read = || synced.sign_on.imis.members(&synced.sync.source, since, offset);
    repeated(read).await.map_err(SyncError::Members)
}

/// Sends a request again while it fails for reasons that pass.
async fn repeated<T, F: Future<Output = Result<T, ProfileError>>>(
    mut send: impl FnMut() -> F,
) -> Result<T, ProfileError> {
    let mut attempt = 1;
    loop {
        match send().await {
            Err(error) if is_transient(&error) && attempt < MAX_ATTEMPTS => {
                tokio::time::sleep(std::time::Duration::from_secs(1 << attempt)).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// Decides about the members of one page and stores the decisions.
async fn store(synced: SyncedApp<'_>, state: &State, members: Vec<Listed>) -> Result<(), SyncError> {
    let decisions =
        stream::iter(members).map(|listed| decide_listed(synced, listed)).buffered(CONCURRENT_READS);
    let decisions: Vec<_> = decisions.collect().await;
    let transaction = state.database.unchecked_transaction()?;
    let (mut repeated, mut count) = (0, 0);
    for decided in decisions {
        let (id, decision) = decided?;
        let mut insert = state.database.prepare_cached(
            "INSERT INTO members VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (imis_id) DO UPDATE SET email = excluded.email,
             reason = excluded.reason, detail = excluded.detail, leaves = excluded.leaves, desired = excluded.desired",
        )?;
        let is_known = state.count_members(&id)? > 0;
        repeated += u64::from(is_known);
        count += 1;
        match decision {
            Decision::Permit(desired) => {
                let email = desired["email"].as_str().unwrap_or_default();
                let (none, desired) = (None::<&str>, Value::Object(desired.clone()).to_string());
                insert.execute(params![id, email, none, none, false, desired])?
            }
            Decision::Refused(Refusal { reason, detail, leaves }) => {
                insert.execute(params![id, None::<&str>, reason, detail, leaves, None::<&str>])?
            }
        };
    }
    for (key, more) in
        [("run.repeated", repeated), ("run.repeated_pages", u64::from(repeated > 0 && repeated == count))]
    {
        let before: u64 = state.meta(key)?.and_then(|text| text.parse().ok()).unwrap_or(0);
        state.set_meta(key, &(before + more).to_string())?;
    }
    Ok(transaction.commit()?)
}

impl State {
    fn count_members(&self, id: &str) -> Result<u64, SyncError> {
        let mut statement = self.database.prepare_cached("SELECT count(*) FROM members WHERE imis_id = ?")?;
        Ok(statement.query_row([id], |row| row.get::<_, i64>(0))?.unsigned_abs())
    }
}

async fn decide_listed(synced: SyncedApp<'_>, listed: Listed) -> Result<(String, Decision), SyncError> {
    match listed {
        Listed::Profile(profile) => {
            let id = profile.id.as_str().to_owned();
            Ok((id, decide(synced, *profile, false).await?))
        }
        Listed::Id(id) => Ok((id.as_str().to_owned(), read_and_decide(synced, &id, false).await?)),
        Listed::Invalid(id, error) => {
            let id = id.map_or_else(|| "?".to_owned(), |id| id.as_str().to_owned());
            Ok((id, mend("invalid-record", &error)))
        }
    }
}

/// Reads the record of a member and decides. `checks_duplicates`: asks iMIS who else has the address.
pub(crate) async fn read_and_decide(
    synced: SyncedApp<'_>,
    id: &PartyId,
    checks_duplicates: bool,
) -> Result<Decision, SyncError> {
    match repeated(|| synced.sign_on.imis.member(id)).await {
        Ok(Some(profile)) => decide(synced, profile, checks_duplicates).await,
        Ok(None) => Ok(Decision::Refused(Refusal {
            reason: "gone".to_owned(),
            detail: "iMIS has no contact with this ID any more".to_owned(),
            leaves: true,
        })),
        Err(ProfileError::Party(error)) => Ok(mend("invalid-record", &error)),
        Err(error) => Err(SyncError::Members(error)),
    }
}

async fn decide(
    synced: SyncedApp<'_>,
    profile: Profile,
    checks_duplicates: bool,
) -> Result<Decision, SyncError> {
    let SyncedApp { sign_on, app, sync, language } = synced;
    let identity = Identity::of(profile.id.clone());
    let (params, audit_subject) = (LoginParams::default(), AuditSubject::default());
    let (identity, params, audit_subject) = (&identity, &params, &audit_subject);
    let context =
        DecisionContext { sign_on, app, language, identity, params, request_id: "sync", audit_subject };
    let mut trace = Trace::disabled();
    let decided = async {
        let facts = facts_of(&context, &profile, &mut trace).await?;
        let permit = permit_for(&context, profile, &facts, false, &mut trace).await?;
        if checks_duplicates {
            check_duplicate_email(&context, &permit, &mut trace).await?;
        }
        Ok((permit, facts))
    };
    let (permit, facts) = match decided.await {
        Ok(decided) => decided,
        Err(SignInError::Denied(denied)) => {
            let leaves = matches!(
                denied,
                Denied::Rule { .. } | Denied::NoRule | Denied::Inactive | Denied::CompanyRecord
            );
            let (reason, detail) = (denied.name().to_owned(), Chain(&denied).to_string());
            return Ok(Decision::Refused(Refusal { reason, detail, leaves }));
        }
        Err(error @ (SignInError::Claims(_) | SignInError::Mint(_))) => {
            return Ok(mend("claims", &error));
        }
        Err(error) => return Err(SyncError::Decision(Box::new(error))),
    };
    let mut desired = Map::from_iter([
        ("name".to_owned(), json!(permit.name())),
        ("email".to_owned(), json!(permit.email())),
        ("external_id".to_owned(), json!(permit.id().as_str())),
    ]);
    desired.extend(permit.phone().map(|phone| ("phone".to_owned(), json!(phone))));
    desired.extend(permit.claims().clone());
    if let Some(expression) = &sync.organizations.external_ids {
        let value = crate::config::claims::evaluated(expression, language, &facts);
        match value {
            Ok(ids) => _ = desired.insert("organization_external_ids".to_owned(), ids),
            Err(error) => return Ok(mend("claims", &error)),
        }
    }
    Ok(Decision::Permit(desired))
}
