//! The iMIS simulator: sign-in page, RiSE pages with `__ClientContext`, REST API, in both generations.

mod api;
mod lists;
pub mod people;
mod population;
mod queries;
mod site;
#[cfg(test)]
mod tests;
pub mod ticket;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;

use crate::server::{self, Answer, Received, Running};
pub use lists::{ListFaults, PageFailure};
use people::Person;
pub use population::Population;
pub use queries::{Column, StoredQuery};
use ticket::MachineKey;

/// Which iMIS it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// 20.3 and later, iMIS Cloud: base `/`, REST at `/token` and `/api`.
    Ems,
    /// 2017 on premise: base `/iMIS/`, REST below `/Asi.Scheduler_iMIS/`.
    Imis2017,
}

/// The sign-in widget of the site.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SignInForm {
    /// User name and password in one form.
    #[default]
    Password,
    /// EMS: first the e-mail address (or user name), then the choice of a password, then the password.
    EmailFirst,
    /// EMS with a directory (OpenID Connect): first the e-mail address, then the directory's own host, which posts
    /// back.
    Directory,
}

/// The mark-up of the page with the content item Contact > Single Sign-On.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SsoPage {
    /// A form that the page submits when it has loaded.
    #[default]
    Onload,
    /// A form in upper case, without quotes, with other fields beside the token.
    UpperCase,
    /// The form has single quotes and entities, and a script at the end of the page submits it.
    Script,
    /// The form stands inside a whole RiSE page with a form of its own.
    InsidePage,
}

/// The configuration of the simulator.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which generation of iMIS to simulate.
    pub generation: Generation,
    /// The sign-in widget.
    pub sign_in_form: SignInForm,
    /// Name of the authentication cookie: `Login` on 2017, `login` on Cloud.
    pub cookie: String,
    /// Whether `/api/query` is there.
    pub query_api: bool,
    /// Where the Single Sign-On content item posts its refresh token; none = no such page.
    pub sso_page_target: Option<String>,
    /// The mark-up of that page.
    pub sso_page: SsoPage,
    /// The client application's id and secret.
    pub client_application: (String, String),
    /// The keys of the authentication cookie on 2017.
    pub machine_key: MachineKey,
    /// The lifetime of tickets in seconds.
    pub ticket_seconds: i64,
    /// The service account's user name and password.
    pub service_account: (String, String),
    /// Without the role that reads other contacts, the service account sees only its own record, this person's.
    pub service_account_reads_only: Option<String>,
    /// The lifetime of access tokens in seconds.
    pub token_seconds: u64,
    /// The contacts.
    pub people: Vec<Person>,
}

impl Options {
    /// The usual set-up of a generation, with the sample people.
    pub fn new(generation: Generation) -> Self {
        Self {
            generation,
            sign_in_form: SignInForm::default(),
            cookie: match generation {
                Generation::Ems => "login".to_owned(),
                Generation::Imis2017 => "Login".to_owned(),
            },
            query_api: true,
            sso_page_target: None,
            sso_page: SsoPage::default(),
            client_application: ("zendesk-gateway".to_owned(), server::random_hex(16)),
            machine_key: MachineKey::random(false),
            ticket_seconds: 50_000_000 * 60,
            service_account: ("svc-gateway".to_owned(), server::random_hex(16)),
            service_account_reads_only: None,
            token_seconds: 1199,
            people: people::sample(),
        }
    }
}

/// How the recognition page (any RiSE page) misbehaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PageFault {
    /// Not at all.
    #[default]
    None,
    /// Redirect to Error.aspx.
    ErrorPage,
    /// Redirect to 404.aspx.
    Missing,
    /// Redirect to this address.
    Redirect(String),
    /// The firewall's HTML, with this status.
    Firewall(u16),
    /// This status and body as text/html.
    Page(u16, String),
    /// This body with another media type.
    Typed(&'static str, String),
    /// A page that never ends within reason.
    Huge,
    /// The connection is dropped.
    Drop,
}

/// How the token endpoint misbehaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TokenFault {
    /// Not at all.
    #[default]
    None,
    /// 503.
    Down,
    /// `invalid_grant` for everybody.
    Refuses,
    /// The sign-in page in HTML, status 200.
    Html,
    /// The connection is dropped.
    Drop,
    /// No answer for a minute.
    Hangs,
}

/// How the REST API misbehaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ApiFault {
    /// Not at all.
    #[default]
    None,
    /// 401 this many times, on tokens that are valid.
    Unauthorized(u32),
    /// This status.
    Status(u16),
    /// HTML with status 200.
    Html,
    /// Another party's record than the one asked for.
    AnotherParty(String),
    /// This text in a record is replaced by that one, as it stands in the JSON.
    Replaced(&'static str, &'static str),
    /// The connection is dropped.
    Drop,
}

/// How the stored query misbehaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum QueryFault {
    /// Not at all.
    #[default]
    None,
    /// It has no filter and returns all contacts.
    Unfiltered,
    /// It has no filter, and returns the first of all contacts.
    FirstOfAll,
    /// It has lost this column.
    Without(&'static str),
    /// It returns no row.
    Empty,
    /// The row of the user GUEST for every visitor, with its ID spelled like this.
    AlwaysGuest(&'static str),
    /// Without a filter on the member, a visitor who is not signed in gets the row of the user GUEST.
    Guest,
}

/// Faults, which can change at any time.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// RiSE pages.
    pub pages: PageFault,
    /// `/token`.
    pub token: TokenFault,
    /// `/api`.
    pub api: ApiFault,
    /// Every answer waits this long.
    pub delay: Option<Duration>,
    /// Sign-out does not end the session on the server (2017's tickets).
    pub ticket_outlives_sign_out: bool,
    /// How the stored query misbehaves.
    pub query: QueryFault,
    /// The response of `GetSessionInfoFromCookie`.
    pub session_info: Option<(u16, &'static str)>,
    /// Where `LoginStatusRedirect.aspx` redirects instead.
    pub login_status: Option<String>,
    /// Whose refresh token the token endpoint says it is.
    pub refresh_is_of: Option<String>,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// GET, POST ...
    pub method: String,
    /// Path and query, byte for byte.
    pub target: String,
    /// Names in lower case, values as text.
    pub headers: Vec<(String, String)>,
}

impl Recorded {
    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// One signed-in session.
#[derive(Debug, Clone)]
struct Session {
    username: String,
    /// How often a request has extended it.
    renewals: u32,
}

pub(crate) struct State {
    options: Options,
    faults: Mutex<Faults>,
    sessions: Mutex<HashMap<String, Session>>,
    tokens: Mutex<HashMap<String, String>>,
    refresh_tokens: Mutex<HashMap<String, String>>,
    antiforgery: Mutex<HashMap<String, Option<String>>>,
    requests: Mutex<Vec<Recorded>>,
    lists: Mutex<lists::Lists>,
    /// The origin of the directory's host.
    directory: Mutex<String>,
}

/// Locks, whatever a panicking test has left behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running iMIS.
pub struct Imis {
    running: Running,
    state: Arc<State>,
}

impl Imis {
    /// Starts it on a free loopback port.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start(options: Options, tls: Option<Arc<ServerConfig>>) -> std::io::Result<Self> {
        let state = Arc::new(State {
            lists: Mutex::new(lists::Lists::new(options.people.clone())),
            options,
            faults: Mutex::default(),
            sessions: Mutex::default(),
            tokens: Mutex::default(),
            refresh_tokens: Mutex::default(),
            antiforgery: Mutex::default(),
            requests: Mutex::default(),
            directory: Mutex::default(),
        });
        let plain = tls.is_none();
        let shared = state.clone();
        let handler = move |request| {
            let state = shared.clone();
            async move { answer(&state, request, plain).await }
        };
        let running = server::serve(SocketAddr::from(([127, 0, 0, 1], 0)), tls, handler).await?;
        // The same server under another name plays the directory.
        *lock(&state.directory) = format!("https://directory.localhost:{}", running.address().port());
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

    /// Every request so far.
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.state.requests).clone()
    }

    /// How many access tokens have been given out.
    pub fn tokens_given(&self) -> usize {
        lock(&self.state.tokens).len()
    }

    /// Access tokens given out, as in the answers.
    pub fn tokens(&self) -> Vec<String> {
        lock(&self.state.tokens).keys().cloned().collect()
    }

    /// Signs a person in without the page; the answer is the cookie's value.
    pub fn sign_in(&self, username: &str) -> String {
        self.state.open_session(username)
    }

    /// A refresh token as the Single Sign-On page would post it.
    pub fn refresh_token(&self, username: &str) -> String {
        let token = server::random_hex(32);
        lock(&self.state.refresh_tokens).insert(token.clone(), username.to_owned());
        token
    }

    /// Signs a person in to the session of an existing cookie.
    pub fn begin_session(&self, cookie_value: &str, username: &str) {
        let session = Session { username: username.to_owned(), renewals: 0 };
        lock(&self.state.sessions).insert(cookie_value.to_owned(), session);
    }

    /// Ends a session as if its time had come.
    pub fn end_session(&self, cookie_value: &str) {
        lock(&self.state.sessions).remove(cookie_value);
    }

    /// How often requests have extended a session.
    pub fn renewals(&self, cookie_value: &str) -> u32 {
        lock(&self.state.sessions).get(cookie_value).map_or(0, |session| session.renewals)
    }

    /// How it was set up.
    pub fn options(&self) -> &Options {
        &self.state.options
    }

    /// Path of the site's root, `/` or `/iMIS/`.
    pub fn base_path(&self) -> &'static str {
        self.state.base()
    }

    /// The path below which `token` and `api` are.
    pub fn api_path(&self) -> &'static str {
        self.state.api_base()
    }
}

impl State {
    fn base(&self) -> &'static str {
        match self.options.generation {
            Generation::Ems => "/",
            Generation::Imis2017 => "/iMIS/",
        }
    }

    fn api_base(&self) -> &'static str {
        match self.options.generation {
            Generation::Ems => "/",
            Generation::Imis2017 => "/Asi.Scheduler_iMIS/",
        }
    }

    fn person(&self, username: &str) -> Option<&Person> {
        self.options.people.iter().find(|person| person.username.eq_ignore_ascii_case(username))
    }

    /// The person whose session a request has. Extends the session unless the request has `X-NoRefreshSession`.
    fn visitor(&self, request: &Received) -> Option<&Person> {
        let value = request.cookie(&self.options.cookie)?;
        let mut sessions = lock(&self.sessions);
        let session = sessions.get_mut(&value)?;
        if request.header("x-norefreshsession") != "true" {
            session.renewals += 1;
        }
        self.person(&session.username)
    }

    fn open_session(&self, username: &str) -> String {
        let value = match self.options.generation {
            Generation::Imis2017 => self.options.machine_key.ticket(username, self.options.ticket_seconds),
            Generation::Ems => format!("CfDJ8{}", server::random_hex(80)),
        };
        let session = Session { username: username.to_owned(), renewals: 0 };
        lock(&self.sessions).insert(value.clone(), session);
        value
    }
}

async fn answer(state: &State, request: Received, plain: bool) -> Answer {
    let headers = request.head.headers.iter();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    lock(&state.requests).push(Recorded {
        method: request.head.method.to_string(),
        target: request.head.uri.to_string(),
        headers: headers.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect(),
    });
    let faults = lock(&state.faults).clone();
    if let Some(delay) = faults.delay {
        tokio::time::sleep(delay).await;
    }
    if plain && state.options.generation == Generation::Imis2017 {
        // The shipped IIS rule: it looks at the connection and not at X-Forwarded-Proto.
        return Some(server::redirect(&format!("https://{}{}", request.host(), request.head.uri)));
    }
    let path = request.head.uri.path().to_ascii_lowercase();
    if let Some(rest) = path.strip_prefix(&state.api_base().to_ascii_lowercase())
        && (rest == "token" || rest.starts_with("api/"))
    {
        if rest == "token" && faults.token == TokenFault::Hangs {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let list_delay = lock(&state.lists).faults.delay.filter(|_| lists::is_list(rest));
        if let Some(delay) = list_delay {
            tokio::time::sleep(delay).await;
        }
        return api::answer(state, &request, rest, &faults);
    }
    site::answer(state, &request, &path, &faults)
}
