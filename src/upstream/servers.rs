//! The servers of one site: which one a request goes to, and which ones are avoided because they accept no connection,
//! fail their health check, or are drained.
//!
//! All workers share them. A reload that does not change the servers keeps them. A single server gets requests in any
//! condition: its condition is only reported by `status`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::base::clock;
use crate::config::{Affinity, Balance, Secret, Server, Upstream, server_of};
use crate::upstream::sessions::{Sessions, cookie_values};

/// How long a server is ejected after the first failed connection; doubled each time.
const FIRST_EJECTION: Duration = Duration::from_secs(1);
/// After an ejection one request tries the server. The others wait this long for its result.
const TRIAL_MILLISECONDS: u64 = 10_000;
const MAX_EJECTION: Duration = Duration::from_secs(30);

pub(crate) struct Servers {
    pub(super) all: Vec<State>,
    balance: Balance,
    pub(super) affinity: Option<Affinity>,
    /// The learned servers of sessions.
    pub(super) sessions: Option<Arc<Sessions>>,
    /// Counts requests, for round robin between servers with equal load.
    turn: AtomicUsize,
    /// The start of the time in `State::ejected_until`.
    since: Instant,
    /// Health checks are running.
    pub(crate) is_watched: AtomicBool,
}

pub(super) struct State {
    pub(super) server: Arc<Server>,
    /// Values of its affinity cookie: the current one first, then those of previous keys.
    pub(super) cookie_values: Vec<String>,
    /// Its health check fails.
    unhealthy: AtomicBool,
    /// An operator has taken it out of service.
    drained: AtomicBool,
    /// Failed connections in a row. Concurrent failures count once.
    failures: AtomicU32,
    /// Failed connections since the last successful one.
    failed_connections: AtomicU64,
    /// Since when it is down, in seconds since 1970; 0 if it is not.
    down_since: AtomicU64,
    /// Milliseconds since `Servers::since`.
    ejected_until: AtomicU64,
    /// One request tests whether it accepts connections again.
    on_trial: AtomicBool,
    /// Requests in flight.
    busy: AtomicUsize,
}

/// The server that a session is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub(super) index: usize,
    /// The hash of iMIS's cookie, if the server was learned from it.
    pub(super) cookie: Option<[u8; 32]>,
    /// The affinity cookie was signed with a previous key, and is set again.
    pub(super) is_outdated: bool,
}

/// The condition of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Up,
    /// The last attempt to connect to it failed.
    Ejected,
    /// Its health check fails.
    Unhealthy,
    Drained,
}

impl Condition {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Ejected => "rests",
            Self::Unhealthy => "ill",
            Self::Drained => "drained",
        }
    }
}

/// Since when a server is down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    /// In seconds since 1970.
    pub(crate) since: u64,
    pub(crate) failed_connections: u64,
}

impl Servers {
    /// `keys`: keys of the affinity cookie, shared by the gateways of a site; the first one signs. Without a key, the
    /// cookie is a hash of the server's address. `before`: the servers that these replace; their learned sessions are
    /// kept.
    pub(crate) fn new(
        upstream: &Upstream,
        keys: &[&Secret],
        before: Option<&Self>,
    ) -> Result<Arc<Self>, getrandom::Error> {
        let state = |server: &Server| State {
            cookie_values: cookie_values(server, keys),
            server: Arc::new(server.clone()),
            unhealthy: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            failed_connections: AtomicU64::new(0),
            down_since: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            on_trial: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
        };
        let sessions = match &upstream.affinity {
            Some(Affinity::Learned(_)) => {
                let same = before.filter(|before| before.affinity == upstream.affinity);
                let kept = same.and_then(|before| before.sessions.clone());
                Some(kept.map_or_else(|| Sessions::new().map(Arc::new), Ok)?)
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

    /// Whether the affinity cookies belong to `keys`. True if there are none.
    pub(crate) fn have_cookies_of(&self, keys: &[&Secret]) -> bool {
        !matches!(self.affinity, Some(Affinity::Cookie))
            || self.all.iter().all(|state| state.cookie_values == cookie_values(&state.server, keys))
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn server(&self, index: usize) -> &Server {
        &self.all[index].server
    }

    /// The servers to try for a request, in order: the one that its session is on, then those that are up, then all
    /// others.
    pub(crate) fn order(&self, session: Option<&Session>) -> Vec<usize> {
        let session = session.map(|session| session.index);
        let order = self.ranked(session);
        let first = &self.all[order[0]];
        let is_ranked_up = self.health(order[0]) == Condition::Up && !first.drained.load(Ordering::Relaxed);
        if first.failures.load(Ordering::Relaxed) == 0 || !is_ranked_up {
            return order;
        }
        // Its ejection has ended: one request tries it. For the others it stays ejected.
        let again = self.now() + TRIAL_MILLISECONDS;
        let until = first.ejected_until.load(Ordering::Relaxed);
        let claimed =
            first.ejected_until.compare_exchange(until, again, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if claimed {
            first.on_trial.store(true, Ordering::Relaxed);
            return order;
        }
        self.ranked(session)
    }

    fn ranked(&self, session: Option<usize>) -> Vec<usize> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let rank = |index: usize| {
            let state = &self.all[index];
            // A drained server still gets the requests of its sessions.
            let class = match (self.health(index), state.drained.load(Ordering::Relaxed)) {
                (_, true) if session != Some(index) => 3,
                (Condition::Unhealthy, _) => 2,
                (Condition::Ejected, _) => 1,
                (Condition::Up | Condition::Drained, _) => 0,
            };
            let (busy, place) = match self.balance {
                Balance::Failover => (0, index),
                Balance::LeastRequests => (
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
        } else if state.unhealthy.load(Ordering::Relaxed) {
            Condition::Unhealthy
        } else if state.failures.load(Ordering::Relaxed) > 0 {
            Condition::Ejected
        } else {
            Condition::Up
        }
    }

    /// Since when a server is down.
    pub(crate) fn outage(&self, index: usize) -> Option<Outage> {
        let state = &self.all[index];
        let since = state.down_since.load(Ordering::Relaxed);
        let failed_connections = state.failed_connections.load(Ordering::Relaxed);
        (since > 0).then_some(Outage { since, failed_connections })
    }

    /// The condition of a server, regardless of drained.
    fn health(&self, index: usize) -> Condition {
        let state = &self.all[index];
        if state.unhealthy.load(Ordering::Relaxed) {
            Condition::Unhealthy
        } else if self.now() < state.ejected_until.load(Ordering::Relaxed) {
            Condition::Ejected
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

    /// Records a failed connection.
    pub(crate) fn failed(&self, index: usize) {
        let state = &self.all[index];
        state.failed_connections.fetch_add(1, Ordering::Relaxed);
        state.goes_down();
        let is_ejected = self.now() < state.ejected_until.load(Ordering::Relaxed);
        if is_ejected && !state.on_trial.swap(false, Ordering::Relaxed) {
            // A concurrent failure.
            return;
        }
        let before = state.failures.fetch_add(1, Ordering::Relaxed);
        let ejection = (FIRST_EJECTION * 2_u32.saturating_pow(before.min(10))).min(MAX_EJECTION);
        let until = self.now() + u64::try_from(ejection.as_millis()).unwrap_or(u64::MAX);
        state.ejected_until.store(until, Ordering::Relaxed);
        if before == 0 {
            warn!(server = %state.server, "a server of iMIS accepts no connection");
        }
    }

    /// Records a successful connection.
    pub(crate) fn worked(&self, index: usize) {
        let state = &self.all[index];
        if state.failures.load(Ordering::Relaxed) != 0 {
            state.failures.store(0, Ordering::Relaxed);
            state.on_trial.store(false, Ordering::Relaxed);
            state.ejected_until.store(0, Ordering::Relaxed);
            state.comes_up();
            info!(server = %state.server, "a server of iMIS accepts connections again");
        }
    }

    /// Records the result of a health check. `why`: what failed.
    pub(crate) fn set_health(&self, index: usize, healthy: bool, why: &str) {
        let state = &self.all[index];
        if state.unhealthy.swap(!healthy, Ordering::Relaxed) != healthy {
            return;
        }
        if healthy {
            state.comes_up();
            info!(server = %state.server, "the health check of a server of iMIS succeeds again");
        } else {
            state.goes_down();
            warn!(server = %state.server, error = why, "the health check of a server of iMIS fails");
        }
    }

    /// Drains the server with this URL, or puts it back into service. False if there is none.
    pub(crate) fn drain(&self, url: &str, drained: bool) -> bool {
        let named = [url.to_owned(), format!("https://{url}"), format!("http://{url}")];
        let is_named =
            |state: &&State| named.iter().any(|url| server_of(url).is_ok_and(|named| named == *state.server));
        let Some(state) = self.all.iter().find(is_named) else { return false };
        if state.drained.swap(drained, Ordering::Relaxed) != drained {
            let what = if drained { "is taken out of service" } else { "is back in service" };
            info!(server = %state.server, "a server of iMIS {what}");
        }
        true
    }

    /// Takes over the state of the same servers from `before`. `same_health`: the health checks are the same.
    pub(crate) fn take_over(&self, before: &Self, same_health: bool) {
        for state in &self.all {
            let Some(other) = before.all.iter().find(|other| other.server == state.server) else { continue };
            state.drained.store(other.drained.load(Ordering::Relaxed), Ordering::Relaxed);
            // Without health checks an unhealthy server would never become healthy again.
            if same_health {
                state.unhealthy.store(other.unhealthy.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            state.failures.store(other.failures.load(Ordering::Relaxed), Ordering::Relaxed);
            let failed_connections = other.failed_connections.load(Ordering::Relaxed);
            state.failed_connections.store(failed_connections, Ordering::Relaxed);
            state.down_since.store(other.down_since.load(Ordering::Relaxed), Ordering::Relaxed);
            state.comes_up();
            let left = other.ejected_until.load(Ordering::Relaxed).saturating_sub(before.now());
            state.ejected_until.store(self.now() + left, Ordering::Relaxed);
        }
    }
}

impl State {
    fn goes_down(&self) {
        let now = clock::unix_now();
        let _ = self.down_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Ends the outage, unless another reason for it remains.
    fn comes_up(&self) {
        if self.failures.load(Ordering::Relaxed) == 0 && !self.unhealthy.load(Ordering::Relaxed) {
            self.down_since.store(0, Ordering::Relaxed);
            self.failed_connections.store(0, Ordering::Relaxed);
        }
    }
}

/// Counts a request in flight until it is dropped.
pub(crate) struct Busy {
    servers: Arc<Servers>,
    index: usize,
}

impl Busy {
    pub(crate) fn new(servers: &Arc<Servers>, index: usize) -> Option<Self> {
        // A single server is not balanced.
        (servers.len() > 1).then(|| {
            servers.all[index].busy.fetch_add(1, Ordering::Relaxed);
            Self { servers: servers.clone(), index }
        })
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
        Servers::new(&upstream, &[], None).unwrap()
    }

    #[test]
    fn the_first_server_that_is_up_is_first_and_the_others_come_last() {
        let servers = servers(Balance::Failover, None);
        assert_eq!(servers.order(None), [0, 1, 2]);
        servers.failed(0);
        assert_eq!(servers.order(None), [1, 2, 0]);
        servers.set_health(1, false, "");
        assert!(servers.drain("https://c:443", true) && !servers.drain("https://d:443", true));
        assert_eq!(servers.order(None), [0, 1, 2], "ejected, unhealthy, drained");
        let on = |index| Session { index, cookie: None, is_outdated: false };
        assert_eq!(servers.order(Some(&on(2))), [2, 0, 1], "a session stays on a drained server");
        assert_eq!(servers.order(Some(&on(1))), [0, 1, 2], "but not on an unhealthy one");
        servers.set_health(2, false, "");
        assert_eq!(servers.order(Some(&on(2))), [0, 2, 1], "nor on one that is drained and unhealthy");
        servers.set_health(2, true, "");
        servers.worked(0);
        servers.set_health(1, true, "");
        servers.drain("c:443", false);
        assert_eq!(servers.order(Some(&on(1))), [1, 0, 2]);
    }

    #[test]
    fn learned_sessions_survive_a_change_of_servers() {
        let names = Affinity::Learned(vec!["SID".to_owned()]);
        let before = servers(Balance::LeastRequests, Some(names.clone()));
        let set = [("set-cookie", &b"SID=of-ann; Path=/"[..])];
        before.set_affinity(None, 2, set.into_iter());
        let sent = || [("cookie", &b"a=b; SID=of-ann"[..])].into_iter();
        assert_eq!(before.session(sent()).unwrap().index, 2);
        // One server is removed, and the others change their index.
        let mut upstream = test_upstream(&["https://c", "https://a"]);
        upstream.affinity = Some(names);
        let next = Servers::new(&upstream, &[], Some(&before)).unwrap();
        assert_eq!(next.session(sent()).unwrap().index, 0);
        upstream.affinity = Some(Affinity::Learned(vec!["Other".to_owned()]));
        assert!(Servers::new(&upstream, &[], Some(&before)).unwrap().session(sent()).is_none());
    }

    #[test]
    fn without_a_health_check_a_server_is_not_unhealthy() {
        let before = servers(Balance::Failover, None);
        before.set_health(0, false, "");
        let next = servers(Balance::Failover, None);
        next.take_over(&before, true);
        assert_eq!(next.condition(0), Condition::Unhealthy);
        let next = servers(Balance::Failover, None);
        next.take_over(&before, false);
        assert_eq!(next.condition(0), Condition::Up);
    }

    #[test]
    fn one_request_tries_a_server_after_its_ejection_and_concurrent_failures_count_once() {
        let servers = servers(Balance::Failover, None);
        for _ in 0..30 {
            servers.failed(0);
        }
        let left = servers.all[0].ejected_until.load(Ordering::Relaxed) - servers.now();
        assert!(left <= 1000, "concurrent failures count once: {left} ms");
        servers.all[0].ejected_until.store(0, Ordering::Relaxed);
        assert_eq!(servers.order(None), [0, 1, 2], "the request that tries the server");
        assert_eq!(servers.order(None), [1, 2, 0], "other requests");
        servers.failed(0);
        let left = servers.all[0].ejected_until.load(Ordering::Relaxed) - servers.now();
        assert!((1001..=2000).contains(&left), "after a failed trial: {left} ms");
        let next = self::servers(Balance::Failover, None);
        next.take_over(&servers, true);
        assert_eq!(next.order(None), [1, 2, 0], "kept across a reload");
        servers.worked(0);
        assert_eq!(servers.order(None), [0, 1, 2]);
    }

    #[test]
    fn a_single_server_is_down_from_its_first_failure_until_it_works() {
        let one = Servers::new(&test_upstream(&["https://a"]), &[], None).unwrap();
        assert!(one.outage(0).is_none() && one.condition(0) == Condition::Up);
        for _ in 0..34 {
            one.failed(0);
        }
        let outage = one.outage(0).unwrap();
        assert_eq!((outage.failed_connections, one.condition(0)), (34, Condition::Ejected));
        assert!(clock::unix_now() - outage.since < 60);
        one.all[0].ejected_until.store(0, Ordering::Relaxed);
        assert_eq!(one.condition(0), Condition::Ejected, "until a connection succeeds");
        let next = Servers::new(&test_upstream(&["https://a"]), &[], None).unwrap();
        next.take_over(&one, true);
        assert_eq!(next.outage(0).unwrap().failed_connections, 34, "kept across a reload");
        one.set_health(0, false, "");
        one.worked(0);
        assert!(one.outage(0).is_some(), "its health check still fails");
        one.set_health(0, true, "");
        assert!(one.outage(0).is_none() && one.condition(0) == Condition::Up);
    }

    #[test]
    fn requests_go_to_the_server_with_the_fewest() {
        let servers = servers(Balance::LeastRequests, None);
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
    fn sessions_are_identified_by_the_affinity_cookie_or_learned_cookies() {
        let field = |value: &'static str| [("Cookie", value.as_bytes())].into_iter();
        let own = servers(Balance::LeastRequests, Some(Affinity::Cookie));
        let cookie = own.set_affinity(None, 2, std::iter::empty()).unwrap();
        let pair: &'static str =
            Box::leak(format!("a=b; {}", cookie.split(';').next().unwrap()).into_boxed_str());
        let session = own.session(field(pair)).unwrap();
        assert_eq!(session.index, 2);
        assert_eq!(own.set_affinity(Some(&session), 2, std::iter::empty()), None, "it has the cookie");
        assert_eq!(own.session(field("__Host-imis-gateway-server=00000000")), None);

        let learned =
            servers(Balance::LeastRequests, Some(Affinity::Learned(vec!["ARRAffinity".to_owned()])));
        assert_eq!(learned.session(field("ARRAffinity=xyz")), None);
        let set = [("Set-Cookie", &b"ARRAffinity=xyz; Path=/; HttpOnly"[..])].into_iter();
        assert_eq!(learned.set_affinity(None, 1, set), None, "nothing is added");
        let session = learned.session(field("a=b; arraffinity=xyz")).unwrap();
        assert_eq!(session.index, 1);
        learned.set_affinity(Some(&session), 2, std::iter::empty());
        assert_eq!(learned.session(field("ARRAffinity=xyz")).unwrap().index, 2, "the session has moved");
        assert_eq!(learned.session(field("ARRAffinity=other")), None);
    }

    #[test]
    fn a_session_stays_on_its_server_while_the_cookie_key_is_rotated() {
        let upstream = Upstream {
            affinity: Some(Affinity::Cookie),
            ..test_upstream(&["https://a", "https://b", "https://c"])
        };
        let (old, new) = (Secret::new("old"), Secret::new("new"));
        let by = |keys: &[&Secret]| Servers::new(&upstream, keys, None).unwrap();
        let pair = |servers: &Servers, session: Option<&Session>| {
            let cookie = servers.set_affinity(session, 1, std::iter::empty())?;
            cookie.split(';').next().map(str::to_owned)
        };
        let session =
            |servers: &Servers, pair: &str| servers.session([("cookie", pair.as_bytes())].into_iter());
        let first = pair(&by(&[&old]), None).unwrap();
        let both = by(&[&new, &old]);
        assert!(both.have_cookies_of(&[&new, &old]) && !both.have_cookies_of(&[&old]));
        let there = session(&both, &first).unwrap();
        assert_eq!(there.index, 1, "a cookie with the previous key is accepted");
        let renewed = pair(&both, Some(&there)).expect("and replaced");
        let there = session(&by(&[&new]), &renewed).unwrap();
        assert_eq!((there.index, pair(&both, Some(&there))), (1, None));
        assert_eq!(session(&by(&[&new]), &first), None, "the old key is no longer accepted");
        let none = Upstream { affinity: None, ..upstream.clone() };
        assert!(Servers::new(&none, &[&old], None).unwrap().have_cookies_of(&[&new]), "there is no cookie");
    }
}
