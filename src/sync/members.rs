//! Reads the members from iMIS, and decides about each one with the guards, rules and claims of the sign-in.

use std::error::Error;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rusqlite::params;
use serde_json::{Map, Value, json};

use crate::base::error_chain::Chain;
use crate::config::App;
use crate::config::expression::Language;
use crate::config::sync::{Source, Sync};
use crate::imis::listing::{Listed, MemberPage};
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
pub(super) const CONCURRENT_READS: usize = 4;
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

/// A record that has to be mended.
fn to_mend(reason: &str, error: &dyn Error) -> Refusal {
    Refusal { reason: reason.to_owned(), detail: Chain(error).to_string(), leaves: false }
}

impl Refusal {
    /// Why the sign-in would fail, if that concerns only this member. Other errors stop the run.
    #[expect(clippy::wildcard_enum_match_arm, reason = "an error that is not listed stops the run")]
    fn of(error: SignInError) -> Result<Self, SyncError> {
        match error {
            SignInError::Denied(denied) => {
                let leaves = matches!(
                    denied,
                    Denied::Rule { .. } | Denied::NoRule | Denied::Inactive | Denied::CompanyRecord
                );
                Ok(Self { reason: denied.name().to_owned(), detail: Chain(&denied).to_string(), leaves })
            }
            SignInError::Claims(_) | SignInError::Mint(_) => Ok(to_mend("claims", &error)),
            SignInError::Duplicates(ProfileError::Party(_)) => Ok(to_mend("duplicate-email-unknown", &error)),
            SignInError::Groups(_) if !error.is_transient() => Ok(to_mend("groups", &error)),
            error => Err(SyncError::Decision(Box::new(error))),
        }
    }
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
    let mut offset = state.number("run.members")?;
    let mut read = state.count("SELECT count(*) FROM members")?;
    let mut total = None;
    while state.meta("run.members_read")?.is_none() {
        let page = page(synced, since, offset).await?;
        total = page.total.or(total);
        read += store(synced, state, page.members, offset).await?;
        progress(read, total);
        match page.next {
            Some(next) => {
                offset = next;
                state.set_meta("run.members", &offset.to_string())?;
            }
            None => state
                .set_meta("run.members_read", &total.map(|total| total.to_string()).unwrap_or_default())?,
        }
    }
    let total = state.meta("run.members_read")?.and_then(|text| text.parse::<u64>().ok());
    // A query may list a member several times, but not a whole page of them.
    let repeated = match (&synced.sync.source, state.number("run.repeated_pages")?) {
        (Source::Query { .. }, 0) => state.number("run.repeated")?,
        _ => 0,
    };
    let expected = total.map(|total| total.saturating_sub(repeated));
    Ok(expected.filter(|total| read < *total).map(|total| Incomplete { read, total }))
}

async fn page(
    synced: SyncedApp<'_>,
    since: Option<(&str, &str)>,
    offset: u64,
) -> Result<MemberPage, SyncError> {
    let read = || synced.sign_on.imis.members(&synced.sync.source, since, offset);
    retried(read, ProfileError::is_transient).await.map_err(SyncError::Members)
}

/// Repeats a request while it fails for reasons that pass.
pub(super) async fn retried<T, E, F: Future<Output = Result<T, E>>>(
    mut send: impl FnMut() -> F,
    is_transient: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut attempt = 1;
    loop {
        match send().await {
            Err(error) if is_transient(&error) && attempt < MAX_ATTEMPTS => {
                tokio::time::sleep(Duration::from_secs(1 << attempt)).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// Decides about the members of the page at `offset`, and stores the decisions. Returns how many members are new.
async fn store(
    synced: SyncedApp<'_>,
    state: &State,
    members: Vec<Listed>,
    offset: u64,
) -> Result<u64, SyncError> {
    let count = members.len() as u64;
    let rows = stream::iter((offset..).zip(members));
    let decisions = rows.map(|(row, listed)| decide_listed(synced, listed, row)).buffered(CONCURRENT_READS);
    let decisions: Vec<_> = decisions.collect().await;
    let transaction = state.database.unchecked_transaction()?;
    let before = state.database.total_changes();
    for decided in decisions {
        let (id, decision) = decided?;
        let (email, refusal, desired) = match decision {
            Decision::Permit(desired) => {
                (desired["email"].as_str().map(str::to_owned), None, Some(Value::Object(desired).to_string()))
            }
            Decision::Refused(refusal) => (None, Some(refusal), None),
        };
        let leaves = refusal.as_ref().is_some_and(|refusal| refusal.leaves);
        let (reason, detail) = refusal.map(|refusal| (refusal.reason, refusal.detail)).unzip();
        let mut insert =
            state.database.prepare_cached("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?, ?, ?)")?;
        insert.execute(params![id, email, reason, detail, leaves, desired])?;
    }
    let new = state.database.total_changes() - before;
    let repeated = count - new;
    for (key, more) in
        [("run.repeated", repeated), ("run.repeated_pages", u64::from(repeated > 0 && repeated == count))]
    {
        state.set_meta(key, &(state.number(key)? + more).to_string())?;
    }
    transaction.commit()?;
    Ok(new)
}

/// `row`: the position in the source, by which a record without a valid iMIS ID is named.
async fn decide_listed(
    synced: SyncedApp<'_>,
    listed: Listed,
    row: u64,
) -> Result<(String, Decision), SyncError> {
    match listed {
        Listed::Profile(profile) => {
            let id = profile.id.as_str().to_owned();
            Ok((id, decide(synced, *profile).await?))
        }
        Listed::Id(id) => Ok((id.as_str().to_owned(), read_and_decide(synced, &id).await?)),
        Listed::Invalid(id, error) => {
            let id = id.map_or_else(|| format!("row {}", row + 1), |id| id.as_str().to_owned());
            Ok((id, Decision::Refused(to_mend("invalid-record", &error))))
        }
    }
}

/// Reads the record of a member and decides.
pub(super) async fn read_and_decide(synced: SyncedApp<'_>, id: &PartyId) -> Result<Decision, SyncError> {
    match retried(|| synced.sign_on.imis.member(id), ProfileError::is_transient).await {
        Ok(Some(profile)) => decide(synced, profile).await,
        Ok(None) => Ok(Decision::Refused(Refusal {
            reason: "gone".to_owned(),
            detail: "iMIS has no contact with this ID any more".to_owned(),
            leaves: true,
        })),
        Err(ProfileError::Party(error)) => Ok(Decision::Refused(to_mend("invalid-record", &error))),
        Err(error) => Err(SyncError::Members(error)),
    }
}

/// Why the guard against duplicate addresses refuses a member with this address. It asks iMIS who else has it.
pub(super) async fn duplicate_address(
    synced: SyncedApp<'_>,
    id: &PartyId,
    email: &str,
) -> Result<Option<Refusal>, SyncError> {
    let person = Person::new(id);
    let context = &person.context(synced);
    let check = || async { check_duplicate_email(context, id, email, &mut Trace::disabled()).await };
    match retried(check, SignInError::is_transient).await {
        Ok(()) => Ok(None),
        Err(error) => Refusal::of(error).map(Some),
    }
}

/// A member as the decision of a sign-in sees one.
struct Person {
    identity: Identity,
    params: LoginParams,
    audit_subject: AuditSubject,
}

impl Person {
    fn new(id: &PartyId) -> Self {
        let (params, audit_subject) = (LoginParams::default(), AuditSubject::default());
        Self { identity: Identity::of(id.clone()), params, audit_subject }
    }

    fn context<'a>(&'a self, synced: SyncedApp<'a>) -> DecisionContext<'a> {
        let SyncedApp { sign_on, app, language, .. } = synced;
        let Self { identity, params, audit_subject } = self;
        DecisionContext { sign_on, app, language, identity, params, request_id: "sync", audit_subject }
    }
}

async fn decide(synced: SyncedApp<'_>, profile: Profile) -> Result<Decision, SyncError> {
    let SyncedApp { sync, language, .. } = synced;
    let person = Person::new(&profile.id);
    let context = &person.context(synced);
    let decide = || async {
        let trace = &mut Trace::disabled();
        let facts = facts_of(context, &profile, trace).await?;
        let permit = permit_for(context, profile.clone(), &facts, false, trace).await?;
        Ok((permit, facts))
    };
    let (permit, facts) = match retried(decide, SignInError::is_transient).await {
        Ok(decided) => decided,
        Err(error) => return Refusal::of(error).map(Decision::Refused),
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
            Err(error) => return Ok(Decision::Refused(to_mend("claims", &error))),
        }
    }
    Ok(Decision::Permit(desired))
}
