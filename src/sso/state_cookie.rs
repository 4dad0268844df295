//! What a browser carries for us between two requests, in cookies of our own: signed, short-lived, good for one use.
//!
//! There are two: of a sign-in that waits for the site's Single Sign-On page (`Purpose::SignIn`), and of a sign-out that is led
//! through Zendesk (`Purpose::SignOut`). Each holds where the browser goes afterwards, and nothing about a person.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::COOKIE;

use crate::base::clock;
use crate::config::Secret;

/// `__Host-`: set over https by this very host, for all of it, and by no other host of the domain (RFC 6265bis section 4.1.3.2).
const PREFIX: &str = "__Host-imis-gateway-";
/// How long a browser keeps the cookie of a sign-in: who comes back later than the state is good for still gets to the page asked
/// for, by beginning anew.
const KEPT: Duration = Duration::from_secs(8 * 3600);
/// How long a state is good for: the time from one request to the next, with a slow server in between.
const SIGN_IN_GOOD: Duration = Duration::from_secs(600);
const SIGN_OUT_GOOD: Duration = Duration::from_secs(300);
/// So many uses are remembered without a thought about their time.
const FEW_USED: usize = 10_000;
/// All cookies of ours together; IIS takes heads of 16 KiB.
const MOST_COOKIE_BYTES: usize = 6 * 1024;
/// A longer way is not carried.
const MOST_TARGET: usize = 1200;

/// What a state is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    SignIn,
    SignOut,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::SignIn => "sign-in",
            Self::SignOut => "sign-out",
        }
    }

    fn good(self) -> Duration {
        match self {
            Self::SignIn => SIGN_IN_GOOD,
            Self::SignOut => SIGN_OUT_GOOD,
        }
    }

    fn kept(self) -> Duration {
        match self {
            Self::SignIn => KEPT,
            Self::SignOut => SIGN_OUT_GOOD,
        }
    }
}

/// A state that we made and that came back as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) nonce: String,
    /// Seconds since 1970.
    issued: u64,
    /// Paths of the apps that it is about.
    pub(crate) apps: Vec<String>,
    /// Where the browser goes afterwards.
    pub(crate) target: String,
    /// It is within its time.
    pub(crate) is_good: bool,
    /// Its cookie's name.
    name: String,
    /// How long the cookie is, name included.
    bytes: usize,
}

/// Makes and reads states, and knows which have been used.
pub(crate) struct Signer {
    /// The first one signs.
    keys: Vec<hmac::Key>,
    /// Whose states they are: a gateway may have several sites, and gateways may share a key.
    site: String,
    used: Arc<UsedStates>,
}

/// The states that have been used, of all sites.
#[derive(Default)]
pub(crate) struct UsedStates(Mutex<Used>);

struct Used {
    /// Nonces, and when their states were issued.
    nonces: HashMap<String, u64>,
    /// With so many of them those are forgotten whose time is over.
    prune_at: usize,
}

impl Default for Used {
    fn default() -> Self {
        Self { nonces: HashMap::new(), prune_at: FEW_USED }
    }
}

impl Signer {
    /// With a key that several gateways share, or one of this process's own.
    pub(crate) fn new(keys: &[&Secret], site: &str, used: Arc<UsedStates>) -> Self {
        let key = |key: &&Secret| hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes());
        Self { keys: keys.iter().map(key).collect(), site: format!("{site}\n"), used }
    }

    /// A new state: its nonce, and the Set-Cookie header that carries it. A `target` that is too long, or could not be carried, is
    /// replaced by `instead`.
    pub(crate) fn issue(
        &self,
        purpose: Purpose,
        (apps, target, instead): (&[&str], &str, &str),
        now: u64,
    ) -> Result<(String, String), getrandom::Error> {
        let nonce = clock::random_hex()?;
        let carried = target.len() <= MOST_TARGET && !target.contains(char::is_control);
        let target = if carried { target } else { instead };
        let payload = format!("{}\n{now}\n{nonce}\n{}\n{target}", purpose.name(), apps.join(" "));
        let tag = hmac::sign(&self.keys[0], &self.signed(payload.as_bytes()));
        let value = format!("{}.{}", URL_SAFE_NO_PAD.encode(&payload), URL_SAFE_NO_PAD.encode(tag));
        let cookie = format!(
            "{}={value}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Lax",
            cookie_name(purpose, &nonce),
            purpose.kept().as_secs()
        );
        Ok((nonce, cookie))
    }

    /// The states for `purpose` among the cookies of a request, the oldest first.
    pub(crate) fn states(&self, purpose: Purpose, headers: &HeaderMap, now: u64) -> Vec<State> {
        let read = |(name, value): (String, String)| self.read(purpose, &name, &value, now);
        let mut states: Vec<State> = ours(headers).into_iter().filter_map(read).collect();
        states.sort_by_key(|state| state.issued);
        states
    }

    /// Set-Cookie headers that take away what has one of our names and is none of ours: of a key that was replaced, or planted.
    pub(crate) fn strangers(&self, headers: &HeaderMap, now: u64) -> Vec<String> {
        let is_ours = |name: &str, value: &str| {
            [Purpose::SignIn, Purpose::SignOut]
                .iter()
                .any(|purpose| self.read(*purpose, name, value, now).is_some())
        };
        // Other cookies of the gateway's, of rounds and of servers, are none of states.
        let of_a_state = |name: &str| {
            [Purpose::SignIn, Purpose::SignOut]
                .iter()
                .any(|purpose| name.starts_with(&format!("{PREFIX}{}", purpose.name())))
        };
        let strangers =
            ours(headers).into_iter().filter(|(name, value)| of_a_state(name) && !is_ours(name, value));
        let plain = |name: &str| {
            name.len() <= 64
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        strangers.filter(|(name, _)| plain(name)).map(|(name, _)| deletion(&name)).collect()
    }

    fn signed(&self, payload: &[u8]) -> Vec<u8> {
        [self.site.as_bytes(), payload].concat()
    }

    fn read(&self, purpose: Purpose, name: &str, value: &str, now: u64) -> Option<State> {
        let (payload, tag) = value.split_once('.')?;
        let [payload_bytes, tag] = [payload, tag].map(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let payload_bytes = payload_bytes?;
        let (signed, tag) = (self.signed(&payload_bytes), tag?);
        self.keys.iter().find(|key| hmac::verify(key, &signed, &tag).is_ok())?;
        let text = String::from_utf8(payload_bytes).ok()?;
        let [of, issued, nonce, apps, target] = text.splitn(5, '\n').collect::<Vec<_>>().try_into().ok()?;
        let issued: u64 = issued.parse().ok()?;
        if of != purpose.name() || name != cookie_name(purpose, nonce) {
            return None;
        }
        // A clock that was set back makes no state older than it is, and none better.
        let age = Duration::from_secs(now.checked_sub(issued)?);
        Some(State {
            nonce: nonce.to_owned(),
            issued,
            apps: apps.split(' ').filter(|app| !app.is_empty()).map(str::to_owned).collect(),
            target: target.to_owned(),
            is_good: age <= purpose.good() && !self.used().nonces.contains_key(nonce),
            name: name.to_owned(),
            bytes: name.len() + value.len() + 3,
        })
    }

    /// Uses a state up; `false` when somebody else has, or its time is over.
    pub(crate) fn consume(&self, state: &State, now: u64) -> bool {
        let mut used = self.used();
        if used.nonces.len() >= used.prune_at {
            // What is too old is not good any more, used or not.
            used.nonces.retain(|_, issued| now.saturating_sub(*issued) <= SIGN_IN_GOOD.as_secs());
            used.prune_at = FEW_USED.max(used.nonces.len() * 2);
        }
        let is_first = used.nonces.insert(state.nonce.clone(), state.issued).is_none();
        state.is_good && is_first
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cookies with names like ours, and their values. Other bytes in the same line are somebody else's.
fn ours(headers: &HeaderMap) -> Vec<(String, String)> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let pairs = pairs.filter_map(|pair| std::str::from_utf8(pair.trim_ascii()).ok()?.split_once('='));
    // No blank but these stands before a name: a browser takes others for a part of it, and lets anybody set such a cookie.
    let ours = pairs.filter(|(name, _)| name.starts_with(PREFIX));
    ours.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The Set-Cookie header that takes a cookie away.
fn deletion(name: &str) -> String {
    format!("{name}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax")
}

fn cookie_name(purpose: Purpose, nonce: &str) -> String {
    // Sign-outs follow each other, sign-ins may wait in several tabs.
    match purpose {
        Purpose::SignIn => format!("{PREFIX}{}-{}", purpose.name(), nonce.get(..8).unwrap_or_default()),
        Purpose::SignOut => format!("{PREFIX}{}", purpose.name()),
    }
}

impl State {
    /// The Set-Cookie header that takes its cookie away.
    pub(crate) fn deletion(&self) -> String {
        deletion(&self.name)
    }
}

/// The states that have to go so that there is room for another.
pub(crate) fn surplus(states: &[State], room_for: usize) -> &[State] {
    let mut total: usize = room_for + states.iter().map(|state| state.bytes).sum::<usize>();
    let gone = states.iter().take_while(|state| {
        let goes = total > MOST_COOKIE_BYTES;
        total -= state.bytes;
        goes
    });
    &states[..gone.count()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn signer() -> Signer {
        signer_of("members.example.org")
    }

    fn signer_of(site: &str) -> Signer {
        Signer::new(&[&Secret::new("a key of no account, but a long one.")], site, Arc::default())
    }

    fn cookie(set_cookie: &str) -> &str {
        set_cookie.split(';').next().unwrap()
    }

    fn sent(cookies: &[&str]) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(&cookies.join("; ")).unwrap())])
    }

    const NOW: u64 = 1_700_000_000;

    fn issued(signer: &Signer, target: &str) -> (String, String) {
        signer.issue(Purpose::SignIn, (&["/sso/zendesk"], target, "/sso/zendesk"), NOW).unwrap()
    }

    #[test]
    fn a_state_comes_back_as_it_was_and_is_good_once() {
        let signer = signer();
        let (nonce, set) = issued(&signer, "/sso/zendesk?return_to=%2Fhc");
        for attribute in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
            assert!(set.contains(attribute) && set.starts_with("__Host-"), "{set}");
        }
        assert!(!set.contains("Domain"));
        let states = signer.states(Purpose::SignIn, &sent(&["Login=x", cookie(&set)]), NOW + 5);
        let [state] = states.as_slice() else { panic!("{states:?}") };
        assert_eq!(
            (state.nonce.as_str(), state.target.as_str()),
            (nonce.as_str(), "/sso/zendesk?return_to=%2Fhc")
        );
        assert_eq!(state.apps, ["/sso/zendesk"]);
        assert!(state.is_good && signer.consume(state, NOW));
        assert!(!signer.consume(state, NOW), "a second time");
        let again = signer.states(Purpose::SignIn, &sent(&[cookie(&set)]), NOW + 5);
        assert!(!again[0].is_good && !signer.consume(&again[0], NOW));
    }

    #[test]
    fn a_state_ends_but_still_knows_the_way() {
        let signer = signer();
        let (_, set) = issued(&signer, "/sso/zendesk?return_to=%2Fhc");
        let at = |now| signer.states(Purpose::SignIn, &sent(&[cookie(&set)]), now);
        assert!(at(NOW + 600)[0].is_good);
        let late = &at(NOW + 601)[0];
        assert!(!late.is_good && !signer.consume(late, NOW));
        assert_eq!(late.target, "/sso/zendesk?return_to=%2Fhc");
        assert_eq!(at(NOW - 1), [], "from a time to come");
    }

    #[test]
    fn what_we_did_not_make_or_not_for_this_is_nothing() {
        let (one, two) = (
            signer(),
            Signer::new(&[&Secret::new("of another process")], "members.example.org", Arc::default()),
        );
        let (_, set) = issued(&one, "/sso/zendesk");
        let own = cookie(&set);
        assert_eq!(two.states(Purpose::SignIn, &sent(&[own]), NOW), [], "another's key");
        assert_eq!(
            signer_of("www.example.org").states(Purpose::SignIn, &sent(&[own]), NOW),
            [],
            "another site"
        );
        assert_eq!(signer().states(Purpose::SignIn, &sent(&[own]), NOW).len(), 1, "the same key");
        assert_eq!(one.states(Purpose::SignOut, &sent(&[own]), NOW), [], "another purpose");
        let (name, value) = own.split_once('=').unwrap();
        let renamed = format!("__Host-imis-gateway-sign-in-00000000={value}");
        let out = format!("__Host-imis-gateway-sign-out={value}");
        let (payload, tag) = value.split_once('.').unwrap();
        let other = URL_SAFE_NO_PAD.encode("sign-in\n1700000000\nx\n/sso/zendesk\n//evil.example");
        for forged in [
            renamed,
            format!("{name}={payload}"),
            format!("{name}={other}.{tag}"),
            format!("{name}={payload}.{}", &tag[1..]),
            format!("{name}=.{tag}"),
            format!("{name}="),
        ] {
            assert_eq!(one.states(Purpose::SignIn, &sent(&[&forged]), NOW), [], "{forged}");
        }
        assert_eq!(one.states(Purpose::SignOut, &sent(&[&out]), NOW), []);
    }

    #[test]
    fn what_cannot_be_carried_is_left_out() {
        let signer = signer();
        for target in [format!("/{}", "x".repeat(2000)), "/a\nb".to_owned()] {
            let (_, set) = issued(&signer, &target);
            assert_eq!(signer.states(Purpose::SignIn, &sent(&[cookie(&set)]), NOW)[0].target, "/sso/zendesk");
        }
    }

    #[test]
    fn the_oldest_make_room() {
        let signer = signer();
        let sets: Vec<String> = (0..20)
            .map(|at| signer.issue(Purpose::SignIn, (&["/a"], "/a?b=c", "/a"), NOW + at).unwrap().1)
            .collect();
        let cookies: Vec<&str> = sets.iter().map(|set| cookie(set)).collect();
        let states = signer.states(Purpose::SignIn, &sent(&cookies), NOW + 30);
        assert_eq!(states.len(), 20);
        assert_eq!(surplus(&states[..10], 200), []);
        let long = surplus(&states, 5000);
        assert!(!long.is_empty() && long.len() < 20);
        assert_eq!(long[0], states[0]);
    }
}
