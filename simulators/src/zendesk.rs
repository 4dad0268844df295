//! The Zendesk simulator: Help Center, single sign-on by JWT, sessions per host, and the API that guards and sync use.
//!
//! `verify` verifies tokens by RFC 7515 without code of the gateway.

mod account;
mod api;
mod control;
mod pages;
#[cfg(test)]
mod tests;
mod users;
pub mod verify;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;

use crate::server::{self, Answer, Received, Running};
use account::Account;
pub use account::fields::{FieldKind, Pattern, UserField};
pub use account::jobs::{Fate, Pace};
pub use account::organizations::Organization;
pub use account::{Change, Write, WriteKind};
pub use api::limits::{Edge, Limits};
use control::Hooks;
pub use control::Moment;
pub use users::{Role, User, staff};

/// How the account is set up. Origins are `https://host[:port]`.
#[derive(Debug, Clone)]
pub struct Options {
    /// The default brand's own origin, where tokens go.
    pub origin: String,
    /// Another brand's.
    pub brand_origin: String,
    /// A host-mapped one.
    pub mapped_origin: String,
    /// The JWT shared secret.
    pub shared_secret: String,
    /// Where unauthenticated people are sent; may carry parameters of its own.
    pub remote_login_url: String,
    /// Where they are sent after signing out, and with errors.
    pub remote_logout_url: String,
    /// Match by e-mail and rewrite the external id.
    pub update_external_ids: bool,
    /// E-mail domains that may not sign up.
    pub blocked_domains: Vec<String>,
    /// API: client id and secret.
    pub api_client: (String, String),
    /// Whether bulk import of users has been enabled by Zendesk Support.
    pub bulk_enabled: bool,
    /// Whether lists of users include identities when they are asked to.
    pub includes_identities: bool,
    /// API requests a minute.
    pub requests_per_minute: u32,
    /// The lifetime of API tokens in seconds.
    pub api_token_seconds: i64,
}

impl Options {
    /// An account called `contoso` below `domain` (`zendesk.com`, or `zendesk.localhost:PORT`).
    pub fn new(domain: &str, mapped_origin: &str, gateway_path: &str) -> Self {
        Self {
            origin: format!("https://contoso.{domain}"),
            brand_origin: format!("https://contoso-events.{domain}"),
            mapped_origin: mapped_origin.to_owned(),
            shared_secret: server::random_hex(24),
            remote_login_url: gateway_path.to_owned(),
            remote_logout_url: format!("{gateway_path}/signed-out"),
            update_external_ids: false,
            blocked_domains: vec!["blocked.example".to_owned()],
            api_client: ("gateway".to_owned(), server::random_hex(16)),
            bulk_enabled: false,
            includes_identities: true,
            requests_per_minute: 700,
            api_token_seconds: 1800,
        }
    }
}

/// Faults, which can change at any time.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Added to the clock that `iat` is held against, seconds.
    pub clock_offset: i64,
    /// `/access/jwt` answers this status.
    pub jwt_status: Option<u16>,
    /// Every answer waits this long.
    pub delay: Option<Duration>,
    /// Connections are dropped.
    pub drop: bool,
    /// The language of refusals, of tokens and of the API: `es`, `de` or `pt-BR`; everything else is English.
    pub language: Option<&'static str>,
}

pub(crate) struct State {
    options: Options,
    secret: Mutex<String>,
    faults: Mutex<Faults>,
    account: Mutex<Account>,
    /// (host, cookie value) -> user id.
    sessions: Mutex<HashMap<(String, String), u64>>,
    /// One-time tokens that carry a session to another host of the account.
    transfers: Mutex<HashMap<String, u64>>,
    seen_jti: Mutex<HashSet<String>>,
    posted: Mutex<Vec<String>>,
    arrivals: Mutex<Vec<String>>,
    api: Mutex<api::ApiState>,
    hooks: Mutex<Hooks>,
}

impl State {
    fn new(options: Options) -> Self {
        let mut api = api::ApiState::default();
        api.counters.limits.requests_per_minute = options.requests_per_minute;
        Self {
            secret: Mutex::new(options.shared_secret.clone()),
            account: Mutex::new(Account::new(users::sample(), options.bulk_enabled)),
            options,
            faults: Mutex::default(),
            sessions: Mutex::default(),
            transfers: Mutex::default(),
            seen_jti: Mutex::default(),
            posted: Mutex::default(),
            arrivals: Mutex::default(),
            api: Mutex::new(api),
            hooks: Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running account.
pub struct Zendesk {
    running: Running,
    state: Arc<State>,
}

impl Zendesk {
    /// Starts it on `address`; port 0 is a free one.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(
        address: SocketAddr,
        options: Options,
        tls: Option<Arc<ServerConfig>>,
    ) -> std::io::Result<Self> {
        let state = Arc::new(State::new(options));
        let shared = state.clone();
        let handler = move |request| {
            let state = shared.clone();
            async move { answer(&state, request).await }
        };
        let running = server::serve(address, tls, handler).await?;
        Ok(Self { running, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address()
    }

    /// Changes the faults.
    pub fn set_faults(&self, faults: Faults) {
        *lock(&self.state.faults) = faults;
    }

    /// Changes the account's users.
    pub fn edit_users(&self, edit: impl FnOnce(&mut Vec<User>)) {
        lock(&self.state.account).users.edit(edit);
    }

    /// Resets the shared secret; the old one is cut off at once.
    pub fn reset_secret(&self, secret: &str) {
        secret.clone_into(&mut lock(&self.state.secret));
    }

    /// Every token that was posted to `/access/jwt`.
    pub fn posted_tokens(&self) -> Vec<String> {
        lock(&self.state.posted).clone()
    }

    /// Host, path and query of every request.
    pub fn arrivals(&self) -> Vec<String> {
        lock(&self.state.arrivals).clone()
    }

    /// The users as they are now.
    pub fn users(&self) -> Vec<User> {
        lock(&self.state.account).users.all().to_vec()
    }

    /// Adds a user.
    pub fn add_user(&self, user: User) {
        lock(&self.state.account).users.edit(|users| users.push(user));
    }
}

async fn answer(state: &State, request: Received) -> Answer {
    lock(&state.arrivals).push(format!("{}{}", request.host(), request.head.uri));
    let faults = lock(&state.faults).clone();
    if let Some(delay) = faults.delay {
        tokio::time::sleep(delay).await;
    }
    if faults.drop {
        return None;
    }
    let path = request.head.uri.path();
    if path.starts_with("/api/") || path == "/oauth/tokens" {
        let number = lock(&state.hooks).count();
        control::run_hooks(state, Moment::Before(number));
        let reply = api::answer(state, &request, faults.language);
        control::run_hooks(state, Moment::After(number));
        return Some(reply);
    }
    Some(pages::answer(state, &request, &faults))
}
