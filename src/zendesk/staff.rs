//! The agents and admins of a Zendesk account, with all their e-mail addresses. A member who has one of these
//! addresses would sign in as that agent.
//!
//! The list is fetched every few minutes and kept if Zendesk does not respond, also across a restart. Until there is a
//! list, members with an address in the configured staff domains are refused, or all members if no domains are
//! configured.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::base::query::encoded;
use crate::config::ZendeskApi;
use crate::zendesk::api::{Api, ApiBuildError, ApiError, non_blank};
use crate::zendesk::roster::{Hasher, Person, Roster};

const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// Addresses that were fetched one by one are fetched again from this age on, those of a few users at each refresh.
const ADDRESS_REFRESH_SECONDS: u64 = 1800;
/// Older addresses are fetched again before the list counts as new.
const ADDRESS_MAX_AGE_SECONDS: u64 = 3900;
/// The part of the users whose addresses are fetched again at each refresh.
const REFRESHES_PER_ROUND: usize = 6;
/// An older list may lack new agents.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// The first wait after a failure. It doubles up to `REFRESH_INTERVAL`.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);

/// The staff of one account.
pub(crate) struct Staff {
    api: Api,
    app: String,
    /// Base URL of the API.
    account: String,
    file: Option<PathBuf>,
    hasher: Hasher,
    known: ArcSwapOption<Roster>,
    /// People whose addresses were fetched one by one, so that an interrupted refresh goes on where it was.
    fetched: Mutex<HashMap<u64, Person>>,
    /// Cancelled when no app uses the list any more.
    stopped: CancellationToken,
    /// Why the list could not be fetched the last time.
    last_error: ArcSwapOption<String>,
    /// Whether the refresh task has started.
    is_started: AtomicBool,
}

/// How a member relates to the staff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No staff member has the address.
    NotStaff,
    /// The staff member with the address has the member's iMIS ID.
    SamePerson,
    /// A staff member has the address, without the member's iMIS ID.
    OtherStaffMember,
    /// No staff member has the address, but one has the member's iMIS ID.
    StaffImisId,
    /// No staff member has the address in a list that is out of date.
    NotStaffStale,
    /// There is no list.
    Unknown,
}

impl Staff {
    /// `before`: the staff of the same account, whose list is reused. Otherwise the list of the last process is, if it
    /// was saved.
    pub(crate) fn new(
        api: &ZendeskApi,
        app: &str,
        before: Option<&Self>,
    ) -> Result<Arc<Self>, ApiBuildError> {
        let account = api.url.to_string();
        let known = before.and_then(|before| before.known.load_full()).or_else(|| {
            let file = api.staff_file.as_ref()?;
            let saved = Roster::load(file, &account).unwrap_or_else(|error| {
                warn!(app, file = %file.display(), %error, "cannot read the saved list of the Zendesk staff");
                None
            });
            saved.map(Arc::new)
        });
        let hasher = match &known {
            Some(known) => known.hasher(),
            None => Hasher::new(&clock::random_hex()?),
        };
        Ok(Arc::new(Self {
            hasher,
            api: Api::new(api)?,
            app: app.to_owned(),
            account,
            file: api.staff_file.clone(),
            known: ArcSwapOption::new(known),
            fetched: Mutex::default(),
            stopped: CancellationToken::new(),
            last_error: ArcSwapOption::empty(),
            is_started: AtomicBool::new(false),
        }))
    }

    pub(crate) fn standing(&self, email: &str, imis_id: &str) -> Standing {
        let known = self.known.load();
        let Some(roster) = known.as_deref() else { return Standing::Unknown };
        // External IDs are case-insensitive in Zendesk.
        match roster.have_imis_id(email, imis_id) {
            None if roster.has_imis_id(imis_id) => Standing::StaffImisId,
            None if roster.age() > MAX_AGE => Standing::NotStaffStale,
            None => Standing::NotStaff,
            Some(true) => Standing::SamePerson,
            Some(false) => Standing::OtherStaffMember,
        }
    }

    /// The number of staff members without an iMIS ID.
    pub(crate) fn without_imis_id(&self) -> usize {
        self.known.load().as_deref().map_or(0, Roster::without_imis_id)
    }

    /// Why the list could not be fetched the last time, if it could not.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.load_full().map(|error| error.to_string())
    }

    /// The number of staff members, and the age of the list.
    pub(crate) fn state(&self) -> Option<(usize, Duration)> {
        self.known.load().as_deref().map(|roster| (roster.people().len(), roster.age()))
    }

    /// Starts a task that refreshes the list. Further calls do nothing.
    pub(crate) fn keep_fresh(self: &Arc<Self>, control: &Handle) {
        if self.is_started.swap(true, Ordering::Relaxed) {
            return;
        }
        let (staff, stopped) = (self.clone(), self.stopped.clone());
        control.spawn(async move {
            tokio::select! {
                () = staff.refresh_repeatedly() => {}
                () = stopped.cancelled() => {}
            }
        });
    }

    /// Stops the refresh task.
    pub(crate) fn stop_refresh(&self) {
        self.stopped.cancel();
    }

    async fn refresh_repeatedly(&self) {
        let mut wait = RETRY_INTERVAL;
        loop {
            let pause = match self.refresh().await {
                Ok(people) => {
                    info!(app = %self.app, staff_count = people, "fetched the Zendesk staff list");
                    self.last_error.store(None);
                    self.save().await;
                    wait = RETRY_INTERVAL;
                    REFRESH_INTERVAL
                }
                Err(error) => {
                    let known = self.state().map(|(_, age)| age.as_secs());
                    warn!(app = %self.app, error = %Chain(&error), list_age_seconds = known, "cannot fetch the Zendesk staff list");
                    self.last_error.store(Some(Arc::new(Chain(&error).to_string())));
                    let asked_for =
                        if let ApiError::RateLimited(time) = error { time } else { Duration::ZERO };
                    let pause = wait.max(asked_for);
                    wait = (wait * 2).min(REFRESH_INTERVAL);
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Fetches the list, unless the running gateway has saved one a short time ago.
    pub(crate) async fn refresh_if_old(&self) -> Result<usize, ApiError> {
        match self.state() {
            Some((people, age)) if age < REFRESH_INTERVAL * 2 => Ok(people),
            Some(_) | None => self.refresh().await,
        }
    }

    /// Fetches the list: a request for a hundred people with all their addresses. Where Zendesk does not include the
    /// addresses of a person, they take another request when the person is new or has changed, and within each hour.
    pub(crate) async fn refresh(&self) -> Result<usize, ApiError> {
        let path = "users?role[]=agent&role[]=admin&include=identities";
        let (users, identities) = self.api.list_with(path, "users", "identities").await?;
        // The owner of an account is an admin, so a list without one is not complete.
        if !users.iter().any(|user| user["role"] == "admin") {
            return Err(ApiError::NoAdmin);
        }
        let people = self.people(&users, &by_user(identities.unwrap_or_default())?).await?;
        self.known.store(Some(Arc::new(Roster::new(&self.account, &self.hasher, people))));
        Ok(users.len())
    }

    /// Keeps the list for the next process, which can do without.
    async fn save(&self) {
        let (Some(file), Some(roster)) = (self.file.clone(), self.known.load_full()) else { return };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || roster.save(&file)).await {
            info!(app = %self.app, %error, "cannot save the list of the Zendesk staff (zendesk.api.staff_folder)");
        }
    }

    async fn people(
        &self,
        users: &[Value],
        identities: &HashMap<u64, Vec<Value>>,
    ) -> Result<Vec<Person>, ApiError> {
        let (mut fetched, before) = (self.fetched.lock().await, self.known.load_full());
        for person in before.iter().flat_map(|before| before.people()) {
            fetched.entry(person.id).or_insert_with(|| person.clone());
        }
        let now = clock::unix_now();
        let mut may_repeat = users.len().div_ceil(REFRESHES_PER_ROUND);
        let mut people = Vec::new();
        for user in users {
            let key = key(user)?;
            let external_id = non_blank(&user["external_id"]);
            let is_unchanged = |known: &&Person| !key.1.is_empty() && known.updated_at == key.1;
            let known = fetched.get(&key.0).filter(is_unchanged);
            let age = known.map_or(u64::MAX, |known| now.abs_diff(known.checked));
            let person = match (complete_addresses(user, identities.get(&key.0)), known) {
                (Some(addresses), _) => self.hasher.person(key, external_id.as_deref(), &addresses),
                (None, Some(known))
                    if age < ADDRESS_REFRESH_SECONDS
                        || (may_repeat == 0 && age < ADDRESS_MAX_AGE_SECONDS) =>
                {
                    let primary = non_blank(&user["email"]);
                    self.hasher.renewed(known, external_id.as_deref(), primary.as_deref())
                }
                (None, known) => {
                    may_repeat = may_repeat.saturating_sub(usize::from(known.is_some()));
                    let path = format!("users/{}/identities", key.0);
                    let identities = self.api.list(&path, "identities").await?;
                    self.hasher.person(key, external_id.as_deref(), &addresses(user, &identities))
                }
            };
            fetched.insert(person.id, person.clone());
            people.push(person);
        }
        fetched.clear();
        Ok(people)
    }

    /// Describes the account that a person would sign in to: found by iMIS ID, else by address, else a new one.
    pub(crate) async fn account_of(&self, imis_id: &str, email: &str) -> Result<String, ApiError> {
        let described = |user: &Value, by: &str| {
            let role = non_blank(&user["role"]).unwrap_or_else(|| "?".to_owned());
            format!("user {}, {role}, found by {by}", user["id"])
        };
        let by_id = self.api.get(&format!("users/show_many?external_ids={}", encoded(imis_id))).await?;
        if let Some(user) = by_id["users"].as_array().ok_or(ApiError::Answer)?.first() {
            return Ok(described(user, "external_id; its e-mail address is updated"));
        }
        let query = encoded(&format!("email:{email}"));
        let found = self.api.get(&format!("users/search?query={query}")).await?;
        let mut users = found["users"].as_array().ok_or(ApiError::Answer)?.iter();
        // The search also finds similar addresses.
        let same =
            users.find(|user| non_blank(&user["email"]).is_some_and(|own| own.eq_ignore_ascii_case(email)));
        let new = "a new account (or one created in the last minutes, which the search does not find yet)";
        Ok(same.map_or_else(|| new.to_owned(), |user| described(user, "e-mail address")))
    }
}

fn by_user(identities: Vec<Value>) -> Result<HashMap<u64, Vec<Value>>, ApiError> {
    let mut by_user: HashMap<u64, Vec<Value>> = HashMap::new();
    for identity in identities {
        by_user.entry(identity["user_id"].as_u64().ok_or(ApiError::Answer)?).or_default().push(identity);
    }
    Ok(by_user)
}

/// The addresses of a user whose identities Zendesk has included. The primary address is an identity, too: `None` where
/// it is missing, as others may be.
fn complete_addresses(user: &Value, identities: Option<&Vec<Value>>) -> Option<Vec<String>> {
    let (identities, primary) = (identities?, non_blank(&user["email"])?);
    let is_primary = |identity: &Value| {
        non_blank(&identity["value"]).is_some_and(|value| value.eq_ignore_ascii_case(&primary))
    };
    identities.iter().any(is_primary).then(|| addresses(user, identities))
}

/// The ID and the time of the last change, which is empty if Zendesk does not report it.
fn key(user: &Value) -> Result<(u64, String), ApiError> {
    Ok((user["id"].as_u64().ok_or(ApiError::Answer)?, non_blank(&user["updated_at"]).unwrap_or_default()))
}

/// All addresses of a user. Identities of any type count: that of a Google account is an address, too.
fn addresses(user: &Value, identities: &[Value]) -> Vec<String> {
    let values = identities.iter().filter_map(|identity| non_blank(&identity["value"]));
    values.filter(|value| value.contains('@')).chain(non_blank(&user["email"])).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::{Secret, ZendeskApi, ZendeskCredentials};

    #[test]
    fn identities_without_the_primary_address_are_not_complete() {
        let user = |email: Value| serde_json::json!({"id": 1, "email": email});
        let identity = |value: &str| serde_json::json!({"user_id": 1, "type": "email", "value": value});
        let (own, other) = (identity("Sam@example.org"), identity("sam.home@example.org"));
        let both = Some(vec!["Sam@example.org".to_owned(), "sam.home@example.org".to_owned()]);
        let sam = user("sam@example.org".into());
        let found = complete_addresses(&sam, Some(&vec![own.clone(), other.clone()]));
        assert_eq!(found.map(|all| all[..2].to_vec()), both);
        assert_eq!(complete_addresses(&sam, Some(&vec![other])), None);
        assert_eq!(complete_addresses(&sam, Some(&vec![])), None);
        assert_eq!(complete_addresses(&sam, None), None);
        assert_eq!(complete_addresses(&user(Value::Null), Some(&vec![own])), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_fetched_again_and_again_until_it_is_not_needed_any_more() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // Accepts connections and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let attempts = || std::iter::from_fn(|| listener.accept().ok()).count();
        let token = Arc::new(Secret::new("a token"));
        let mut api = ZendeskApi {
            url: format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap(),
            roots: Default::default(),
            credentials: ZendeskCredentials::Token { email: "a@example.org".to_owned(), token },
            staff_file: None,
        };
        let certificate = rcgen::generate_simple_self_signed(["zendesk.example".to_owned()]).unwrap();
        Arc::make_mut(&mut api.roots.0).add(certificate.cert.der().clone()).unwrap();
        let staff = Staff::new(&api, "app", None).unwrap();
        staff.keep_fresh(&Handle::current());
        tokio::time::sleep(REFRESH_INTERVAL * 4).await;
        assert!(attempts() > 3);
        staff.stop_refresh();
        tokio::time::sleep(Duration::from_millis(1)).await;
        attempts();
        tokio::time::sleep(REFRESH_INTERVAL * 4).await;
        assert_eq!(attempts(), 0);
    }
}
