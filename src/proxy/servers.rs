//! The servers of one site: which one a request goes to, and which are left alone because they do not answer, are said to be ill, or are
//! being taken out of service.
//!
//! Shared by all workers and kept across reloads that leave the servers as they are. A site with one server pays nothing for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use moka::sync::Cache;
use tracing::{info, warn};

use crate::ambient;
use crate::config::{Affinity, Balance, Server, Upstream, fingerprint, server_of};

/// How long a server is left alone after it could not be connected to once; doubled each time.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// Sessions whose server is remembered; those of iMIS last twenty minutes.
const MOST_SESSIONS: u64 = 100_000;
const SESSION_LASTS: Duration = Duration::from_secs(20 * 60);
/// By which a browser comes back to its server.
pub(crate) const COOKIE: &str = "__Host-imis-gateway-server";

/// See the module.
pub(crate) struct Servers {
    all: Vec<State>,
    balance: Balance,
    affinity: Option<Affinity>,
    /// Whose session is on which server, by a keyed hash of the cookie.
    sessions: Option<Sessions>,
    turn: AtomicUsize,
    since: Instant,
    /// Somebody asks after their health.
    pub(super) is_watched: AtomicBool,
}

struct Sessions {
    key: hmac::Key,
    servers: Cache<[u8; 32], usize>,
}

struct State {
    server: Server,
    /// What its cookie holds.
    mark: String,
    /// Its health check says that it is ill.
    ill: AtomicBool,
    /// Somebody takes it out of service.
    drained: AtomicBool,
    /// Times in a row that it could not be connected to.
    failures: AtomicU32,
    /// Milliseconds since `Servers::since`.
    rests_until: AtomicU64,
    /// Requests that it has.
    busy: AtomicUsize,
}

/// How a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Up,
    /// It could not be connected to a moment ago.
    Rests,
    /// Its health check fails.
    Ill,
    Drained,
}

impl Condition {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Rests => "rests",
            Self::Ill => "ill",
            Self::Drained => "drained",
        }
    }
}

impl Servers {
    pub(crate) fn new(upstream: &Upstream) -> Result<Arc<Self>, getrandom::Error> {
        let state = |server: &Server| State {
            mark: fingerprint(&server.to_string()),
            server: server.clone(),
            ill: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            rests_until: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
        };
        let sessions = match &upstream.affinity {
            Some(Affinity::Learned(_)) => {
                let own = ambient::random_hex()? + &ambient::random_hex()?;
                Some(Sessions {
                    key: hmac::Key::new(hmac::HMAC_SHA256, own.as_bytes()),
                    servers: Cache::builder().max_capacity(MOST_SESSIONS).time_to_idle(SESSION_LASTS).build(),
                })
            }
            Some(Affinity::Cookie) | None => None,
        };
        Ok(Arc::new(Self {
            all: upstream.servers.iter().map(state).collect(),
            balance: upstream.balance,
            affinity: upstream.affinity.clone().filter(|_| upstream.servers.len() > 1),
            sessions,
            turn: AtomicUsize::new(0),
            since: Instant::now(),
            is_watched: AtomicBool::new(false),
        }))
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn server(&self, index: usize) -> &Server {
        &self.all[index].server
    }

    /// Which servers are tried for a request, in order: the one its session is on, then those that are well. The others come last, since
    /// one of them may be better than none.
    pub(crate) fn order(&self, session: Option<usize>) -> Vec<usize> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let rank = |index: usize| {
            let state = &self.all[index];
            // A session that is on a server stays there while the server is taken out of service.
            let class = match self.condition(index) {
                Condition::Up => 0,
                Condition::Drained if session == Some(index) => 0,
                Condition::Rests => 1,
                Condition::Ill => 2,
                Condition::Drained => 3,
            };
            let (busy, place) = match self.balance {
                Balance::First => (0, index),
                Balance::Spread => (
                    state.busy.load(Ordering::Relaxed),
                    (index + self.all.len() - turn % self.all.len()) % self.all.len(),
                ),
            };
            (class, session != Some(index), busy, place)
        };
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        order.sort_by_cached_key(|index| rank(*index));
        order
    }

    pub(crate) fn condition(&self, index: usize) -> Condition {
        let state = &self.all[index];
        if state.drained.load(Ordering::Relaxed) {
            Condition::Drained
        } else if state.ill.load(Ordering::Relaxed) {
            Condition::Ill
        } else if self.now() < state.rests_until.load(Ordering::Relaxed) {
            Condition::Rests
        } else {
            Condition::Up
        }
    }

    pub(crate) fn busy(&self, index: usize) -> usize {
        self.all[index].busy.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// It could not be connected to.
    pub(crate) fn failed(&self, index: usize) {
        if self.all.len() == 1 {
            return;
        }
        let state = &self.all[index];
        let before = state.failures.fetch_add(1, Ordering::Relaxed);
        let rest = (FIRST_REST * 2_u32.saturating_pow(before.min(10))).min(LONGEST_REST);
        let until = self.now() + u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
        state.rests_until.store(until, Ordering::Relaxed);
        if before == 0 {
            warn!(server = %state.server, "a server of iMIS accepts no connection; others are asked first");
        }
    }

    /// It has accepted one.
    pub(crate) fn worked(&self, index: usize) {
        let state = &self.all[index];
        if state.failures.load(Ordering::Relaxed) != 0 {
            state.failures.store(0, Ordering::Relaxed);
            state.rests_until.store(0, Ordering::Relaxed);
            info!(server = %state.server, "a server of iMIS accepts connections again");
        }
    }

    /// What its health check says.
    pub(super) fn is_ill(&self, index: usize, ill: bool, why: &str) {
        let state = &self.all[index];
        if state.ill.swap(ill, Ordering::Relaxed) != ill {
            if ill {
                warn!(server = %state.server, why, "the health check of a server of iMIS fails");
            } else {
                info!(server = %state.server, "the health check of a server of iMIS succeeds again");
            }
        }
    }

    /// Takes the server with this URL out of service, or back; `false`: there is none.
    pub(crate) fn drain(&self, url: &str, drained: bool) -> bool {
        let named = [url.to_owned(), format!("https://{url}"), format!("http://{url}")];
        let is_named =
            |state: &&State| named.iter().any(|url| server_of(url).is_ok_and(|named| named == state.server));
        let Some(state) = self.all.iter().find(is_named) else { return false };
        if state.drained.swap(drained, Ordering::Relaxed) != drained {
            let what = if drained { "is taken out of service" } else { "is back in service" };
            info!(server = %state.server, "a server of iMIS {what}");
        }
        true
    }

    /// What was drained in another of the same servers stays so.
    pub(crate) fn as_drained_as(&self, before: &Self) {
        for state in &self.all {
            let same = before.all.iter().find(|other| other.server == state.server);
            let drained = same.is_some_and(|other| other.drained.load(Ordering::Relaxed));
            state.drained.store(drained, Ordering::Relaxed);
        }
    }

    /// The server that a request's session is on.
    pub(crate) fn session<'a>(&self, mut fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<usize> {
        let affinity = self.affinity.as_ref()?;
        fields.find_map(|(name, value)| {
            if !name.eq_ignore_ascii_case("cookie") {
                return None;
            }
            value.split(|byte| *byte == b';').find_map(|pair| self.session_of(affinity, pair.trim_ascii()))
        })
    }

    fn session_of(&self, affinity: &Affinity, pair: &[u8]) -> Option<usize> {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        match affinity {
            Affinity::Cookie if name == COOKIE.as_bytes() => {
                self.all.iter().position(|state| state.mark.as_bytes() == value)
            }
            Affinity::Cookie => None,
            Affinity::Learned(names) => {
                names.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(name)).then_some(())?;
                let sessions = self.sessions.as_ref()?;
                sessions.servers.get(&sessions.hash(name, value)).filter(|index| *index < self.all.len())
            }
        }
    }

    /// Remembers by which cookies of an answer a session is on a server, and returns the cookie that says so, if there is to be one.
    pub(crate) fn answered<'a>(
        &self,
        (session, index): (Option<usize>, usize),
        fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<String> {
        match self.affinity.as_ref()? {
            Affinity::Cookie => (session != Some(index)).then(|| {
                format!("{COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Lax", self.all[index].mark)
            }),
            Affinity::Learned(names) => {
                let sessions = self.sessions.as_ref()?;
                for (_, value) in fields.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")) {
                    let pair = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                    let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
                    let (name, value) = (&pair[..equals], &pair[equals + 1..]);
                    if names.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(name)) {
                        sessions.servers.insert(sessions.hash(name, value), index);
                    }
                }
                None
            }
        }
    }
}

impl Sessions {
    fn hash(&self, name: &[u8], value: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&name.to_ascii_lowercase());
        context.update(b"=");
        context.update(value);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        hash
    }
}

/// A request that a server has, until this is dropped.
pub(crate) struct Busy {
    servers: Arc<Servers>,
    index: usize,
}

impl Busy {
    pub(super) fn new(servers: &Arc<Servers>, index: usize) -> Option<Self> {
        // With one server there is nothing to spread.
        (servers.len() > 1).then(|| {
            servers.all[index].busy.fetch_add(1, Ordering::Relaxed);
            Self { servers: servers.clone(), index }
        })
    }
}

impl std::fmt::Debug for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Busy({})", self.index)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.servers.all[self.index].busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_upstream;

    fn servers(balance: Balance, affinity: Option<Affinity>) -> Arc<Servers> {
        let upstream =
            Upstream { balance, affinity, ..test_upstream(&["https://a", "https://b", "https://c"]) };
        Servers::new(&upstream).unwrap()
    }

    #[test]
    fn the_first_that_is_well_is_first_and_the_others_come_last() {
        let servers = servers(Balance::First, None);
        assert_eq!(servers.order(None), [0, 1, 2]);
        servers.failed(0);
        assert_eq!(servers.order(None), [1, 2, 0]);
        servers.is_ill(1, true, "");
        assert!(servers.drain("https://c:443", true) && !servers.drain("https://d:443", true));
        assert_eq!(servers.order(None), [0, 1, 2], "resting, ill, drained");
        assert_eq!(servers.order(Some(2)), [2, 0, 1], "who is there stays there");
        assert_eq!(servers.order(Some(1)), [0, 1, 2], "but not with an ill one");
        servers.worked(0);
        servers.is_ill(1, false, "");
        servers.drain("c:443", false);
        assert_eq!(servers.order(Some(1)), [1, 0, 2]);
    }

    #[test]
    fn requests_are_spread_by_how_many_each_has() {
        let servers = servers(Balance::Spread, None);
        let mut held = Vec::new();
        let mut counts = [0; 3];
        for _ in 0..30 {
            let first = servers.order(None)[0];
            counts[first] += 1;
            held.push(Busy::new(&servers, first));
        }
        assert_eq!(counts, [10, 10, 10]);
        drop(held);
        assert_eq!(servers.busy(0) + servers.busy(1) + servers.busy(2), 0);
    }

    #[test]
    fn sessions_are_known_by_our_cookie_or_by_those_of_imis() {
        let field = |value: &'static str| [("Cookie", value.as_bytes())].into_iter();
        let own = servers(Balance::Spread, Some(Affinity::Cookie));
        let cookie = own.answered((None, 2), std::iter::empty()).unwrap();
        let pair: &'static str =
            Box::leak(format!("a=b; {}", cookie.split(';').next().unwrap()).into_boxed_str());
        assert_eq!(own.session(field(pair)), Some(2));
        assert_eq!(own.answered((Some(2), 2), std::iter::empty()), None, "it has the cookie");
        assert_eq!(own.session(field("__Host-imis-gateway-server=00000000")), None);

        let learned = servers(Balance::Spread, Some(Affinity::Learned(vec!["ARRAffinity".to_owned()])));
        assert_eq!(learned.session(field("ARRAffinity=xyz")), None);
        let set = [("Set-Cookie", &b"ARRAffinity=xyz; Path=/; HttpOnly"[..])].into_iter();
        assert_eq!(learned.answered((None, 1), set), None, "nothing is added");
        assert_eq!(learned.session(field("a=b; arraffinity=xyz")), Some(1));
        assert_eq!(learned.session(field("ARRAffinity=other")), None);
    }
}
