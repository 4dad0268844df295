//! Who works in a Zendesk account: its agents and admins, by every e-mail address they have there. A member of the association who carries
//! one of these addresses would become that person.
//!
//! The list is fetched every few minutes, and kept when Zendesk does not answer. As long as there is none, nobody of the staff's domains
//! enters, and nobody at all where no such domains are named: it never opens for want of an answer.

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
use crate::zendesk::api::{Api, ApiError, non_blank};

const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// All addresses of everybody, whether Zendesk says that they have changed or not.
const ADDRESS_MAX_AGE: Duration = Duration::from_secs(3600);
/// A list that is older does not know who has come since.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// After a failure, doubled up to `REFRESH_INTERVAL`.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);

/// See the module.
pub(crate) struct Staff {
    api: Api,
    app: String,
    known: ArcSwapOption<Roster>,
    /// Nobody needs the list any more.
    stopped: CancellationToken,
    /// It is being kept fresh.
    is_started: AtomicBool,
    addresses: Mutex<Addresses>,
}

/// Addresses of users, by id and the time of their last change, which need not tell of an address that was added.
struct Addresses {
    known: HashMap<(u64, String), Vec<String>>,
    since: Instant,
}

impl Addresses {
    fn none() -> Self {
        Self { known: HashMap::new(), since: Instant::now() }
    }
}

/// The staff as of some moment.
struct Roster {
    /// By address in lower case: the iMIS IDs that Zendesk holds for those who have it.
    by_email: HashMap<String, Vec<Option<String>>>,
    /// Of all of them.
    imis_ids: HashSet<String>,
    fetched: Instant,
    people: usize,
    without_imis_id: usize,
}

/// What is known about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody of the staff has it.
    NotStaff,
    /// It is the staff member's whom Zendesk knows by this very iMIS ID.
    SamePerson,
    /// It is a staff member's, and nothing says that this is the same person.
    OtherStaffMember,
    /// Nobody of the staff has it, but Zendesk holds this iMIS ID for one of them.
    StaffImisId,
    /// Nobody of the staff had it a while ago; the list is old.
    NotStaffStale,
    /// There is no list yet.
    Unknown,
}

impl Staff {
    /// `before`: what is known of the same account already.
    pub(crate) fn new(api: Api, app: &str, before: Option<&Self>) -> Arc<Self> {
        Arc::new(Self {
            api,
            app: app.to_owned(),
            known: ArcSwapOption::new(before.and_then(|before| before.known.load_full())),
            stopped: CancellationToken::new(),
            is_started: AtomicBool::new(false),
            addresses: Mutex::new(Addresses::none()),
        })
    }

    pub(crate) fn standing(&self, email: &str, imis_id: &str) -> Standing {
        match self.known.load().as_deref() {
            None => Standing::Unknown,
            Some(roster) => match roster.by_email.get(&email.to_lowercase()) {
                // Zendesk tells no external IDs apart by case.
                None if roster.imis_ids.contains(&imis_id.to_lowercase()) => Standing::StaffImisId,
                None if roster.fetched.elapsed() > MAX_AGE => Standing::NotStaffStale,
                None => Standing::NotStaff,
                Some(people)
                    if people
                        .iter()
                        .all(|id| id.as_ref().is_some_and(|id| id.eq_ignore_ascii_case(imis_id))) =>
                {
                    Standing::SamePerson
                }
                Some(_) => Standing::OtherStaffMember,
            },
        }
    }

    /// How many people on the list Zendesk holds no iMIS ID for.
    pub(crate) fn without_imis_id(&self) -> usize {
        self.known.load().as_deref().map_or(0, |roster| roster.without_imis_id)
    }

    /// People on the list, and how old it is.
    pub(crate) fn state(&self) -> Option<(usize, Duration)> {
        self.known.load().as_deref().map(|roster| (roster.people, roster.fetched.elapsed()))
    }

    /// Fetches the list again and again, as long as anybody needs it. Once is enough for all who share it.
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

    /// Nobody needs the list any more: whatever is being fetched is given up.
    pub(crate) fn stop_refresh(&self) {
        self.stopped.cancel();
    }

    async fn refresh_repeatedly(&self) {
        let mut wait = RETRY_INTERVAL;
        loop {
            let pause = match self.refresh().await {
                Ok(people) => {
                    info!(app = %self.app, staff_count = people, "the staff of Zendesk is known");
                    wait = RETRY_INTERVAL;
                    REFRESH_INTERVAL
                }
                Err(error) => {
                    let known = self.state().map(|(_, age)| age.as_secs());
                    warn!(app = %self.app, error = %Chain(&error), list_age_seconds = known, "the staff of Zendesk cannot be fetched");
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

    /// Fetches the list once.
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
        // Every account has an owner, who is an admin: whoever is not shown one is not shown the staff.
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

    /// Which account a person would come into, in words: by the iMIS ID, else by the address, else a new one.
    pub(crate) async fn account_of(&self, imis_id: &str, email: &str) -> Result<String, ApiError> {
        let described = |user: &Value, by: &str| {
            let role = non_blank(&user["role"]).unwrap_or_else(|| "?".to_owned());
            format!("user {}, {role}, found by {by}", user["id"])
        };
        let by_id = self
            .api
            .get(&format!("users/show_many?external_ids={}", crate::base::query::encoded(imis_id)))
            .await?;
        if let Some(user) = by_id["users"].as_array().ok_or(ApiError::Answer)?.first() {
            return Ok(described(user, "external_id; its e-mail address is brought up to date"));
        }
        let found = self
            .api
            .get(&format!("users/search?query={}", crate::base::query::encoded(&format!("email:{email}"))))
            .await?;
        let mut users = found["users"].as_array().ok_or(ApiError::Answer)?.iter();
        // The search is a loose one.
        let same =
            users.find(|user| non_blank(&user["email"]).is_some_and(|own| own.eq_ignore_ascii_case(email)));
        Ok(same.map_or_else(
            || "a new one (or one of the last minutes, which the search does not find yet)".to_owned(),
            |user| described(user, "e-mail address"),
        ))
    }

    /// Every address of a user, in lower case; asked for again when the user has changed, or when Zendesk does not say whether.
    async fn addresses_of(&self, user: &Value, key: &(u64, String)) -> Result<Vec<String>, ApiError> {
        if !key.1.is_empty()
            && let Some(known) = self.addresses.lock().await.known.get(key)
        {
            return Ok(known.clone());
        }
        let identities = self.api.list(&format!("users/{}/identities", key.0), "identities").await?;
        // Whatever kind they are of: a Google identity is an address, too.
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
