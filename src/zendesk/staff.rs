//! The agents and admins of a Zendesk account, with all their e-mail addresses. A member who has one of these
//! addresses would sign in as that agent.
//!
//! The list is fetched every few minutes and kept if Zendesk does not respond. Until there is a list, members
//! with an address in the configured staff domains are refused, or all members if no domains are configured.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::base::error_chain::Chain;
use crate::base::query::encoded;
use crate::zendesk::api::{Api, ApiError, non_blank};

const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// After this time, all addresses are fetched again, even of users that have not changed.
const ADDRESS_MAX_AGE: Duration = Duration::from_secs(3600);
/// An older list may lack new agents.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// The first wait after a failure. It doubles up to `REFRESH_INTERVAL`.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);

/// The staff of one account.
pub(crate) struct Staff {
    api: Api,
    app: String,
    known: ArcSwapOption<Roster>,
    /// Cancelled when no app uses the list any more.
    stopped: CancellationToken,
    /// Why the list could not be fetched the last time.
    last_error: ArcSwapOption<String>,
    /// Whether the refresh task has started.
    is_started: AtomicBool,
    addresses: Mutex<Addresses>,
}

/// Addresses of users by ID and time of the last change. The time does not always change when an address is added.
struct Addresses {
    known: HashMap<(u64, String), Vec<String>>,
    since: Instant,
}

impl Addresses {
    fn none() -> Self {
        Self { known: HashMap::new(), since: Instant::now() }
    }
}

/// The staff at one point in time.
struct Roster {
    /// Addresses in lower case, with the iMIS IDs (`external_id`) of the users who have them.
    by_email: HashMap<String, Vec<Option<String>>>,
    /// iMIS IDs of all staff, in lower case.
    imis_ids: HashSet<String>,
    fetched: Instant,
    people: usize,
    without_imis_id: usize,
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
    /// `before`: the staff of the same account, whose list is reused.
    pub(crate) fn new(api: Api, app: &str, before: Option<&Self>) -> Arc<Self> {
        Arc::new(Self {
            api,
            app: app.to_owned(),
            known: ArcSwapOption::new(before.and_then(|before| before.known.load_full())),
            stopped: CancellationToken::new(),
            last_error: ArcSwapOption::empty(),
            is_started: AtomicBool::new(false),
            addresses: Mutex::new(Addresses::none()),
        })
    }

    pub(crate) fn standing(&self, email: &str, imis_id: &str) -> Standing {
        let known = self.known.load();
        let Some(roster) = known.as_deref() else { return Standing::Unknown };
        // External IDs are case-insensitive in Zendesk.
        let is_same = |id: &Option<String>| id.as_ref().is_some_and(|id| id.eq_ignore_ascii_case(imis_id));
        match roster.by_email.get(&email.to_lowercase()) {
            None if roster.imis_ids.contains(&imis_id.to_lowercase()) => Standing::StaffImisId,
            None if roster.fetched.elapsed() > MAX_AGE => Standing::NotStaffStale,
            None => Standing::NotStaff,
            Some(people) if people.iter().all(is_same) => Standing::SamePerson,
            Some(_) => Standing::OtherStaffMember,
        }
    }

    /// The number of staff members without an iMIS ID.
    pub(crate) fn without_imis_id(&self) -> usize {
        self.known.load().as_deref().map_or(0, |roster| roster.without_imis_id)
    }

    /// Why the list could not be fetched the last time, if it could not.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.load_full().map(|error| error.to_string())
    }

    /// The number of staff members, and the age of the list.
    pub(crate) fn state(&self) -> Option<(usize, Duration)> {
        self.known.load().as_deref().map(|roster| (roster.people, roster.fetched.elapsed()))
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

    /// Fetches the list.
    pub(crate) async fn refresh(&self) -> Result<usize, ApiError> {
        let mut by_email: HashMap<String, Vec<Option<String>>> = HashMap::new();
        let mut addresses = HashMap::new();
        if self.addresses.lock().await.since.elapsed() > ADDRESS_MAX_AGE {
            *self.addresses.lock().await = Addresses::none();
        }
        let users = self.api.list("users?role[]=agent&role[]=admin", "users").await?;
        for user in &users {
            let id = user["id"].as_u64().ok_or(ApiError::Answer)?;
            let external_id = non_blank(&user["external_id"]);
            let key = (id, non_blank(&user["updated_at"]).unwrap_or_default());
            let own = self.addresses_of(user, &key).await?;
            for email in &own {
                by_email.entry(email.clone()).or_default().push(external_id.clone());
            }
            addresses.insert(key, own);
        }
        // The owner of an account is an admin, so a list without one is not complete.
        if !users.iter().any(|user| user["role"] == "admin") {
            return Err(ApiError::NoAdmin);
        }
        let people = users.len();
        let imis_ids = users
            .iter()
            .filter_map(|user| non_blank(&user["external_id"]))
            .map(|id| id.to_lowercase())
            .collect();
        let without_imis_id = users.iter().filter(|user| non_blank(&user["external_id"]).is_none()).count();
        self.addresses.lock().await.known = addresses;
        self.known.store(Some(Arc::new(Roster {
            by_email,
            imis_ids,
            fetched: Instant::now(),
            people,
            without_imis_id,
        })));
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

    /// All addresses of a user in lower case. Fetched if the user has changed, or if Zendesk does not report
    /// the time of a change.
    async fn addresses_of(&self, user: &Value, key: &(u64, String)) -> Result<Vec<String>, ApiError> {
        if !key.1.is_empty()
            && let Some(known) = self.addresses.lock().await.known.get(key)
        {
            return Ok(known.clone());
        }
        let identities = self.api.list(&format!("users/{}/identities", key.0), "identities").await?;
        // Of any type: a Google identity is an address, too.
        let emails = identities
            .iter()
            .filter_map(|identity| non_blank(&identity["value"]))
            .filter(|value| value.contains('@'));
        let mut all: Vec<String> =
            emails.chain(non_blank(&user["email"])).map(|email| email.to_lowercase()).collect();
        all.sort();
        all.dedup();
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::{Secret, ZendeskApi, ZendeskCredentials};

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
        };
        let certificate = rcgen::generate_simple_self_signed(["zendesk.example".to_owned()]).unwrap();
        Arc::make_mut(&mut api.roots.0).add(certificate.cert.der().clone()).unwrap();
        let staff = Staff::new(Api::new(&api).unwrap(), "app", None);
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
