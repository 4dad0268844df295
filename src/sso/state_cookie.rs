//! Signed state cookies: short-lived, and each valid for one use. They hold where the client goes next, and nothing
//! about a person.
//!
//! One kind is for a sign-in that waits for the Single Sign-On page, the other for a sign-out that leads through
//! Zendesk.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;

use crate::base::{clock, cookies};
use crate::config::Secret;

const SIGN_IN_COOKIE: &str = "__Host-imis-gateway-sign-in";
const SIGN_OUT_COOKIE: &str = "__Host-imis-gateway-sign-out";
/// How long the client keeps a sign-in cookie. After its state has expired, it still leads back to the login path.
const SIGN_IN_COOKIE_MAX_AGE: Duration = Duration::from_secs(8 * 3600);
/// How long a state is valid: from one request to the next, with a slow server in between.
const SIGN_IN_LIFETIME: Duration = Duration::from_secs(600);
const SIGN_OUT_LIFETIME: Duration = Duration::from_secs(300);
/// How long a used nonce is remembered: longer than any state is valid, also when the clock is set back a little.
const NONCE_RETENTION: Duration = Duration::from_secs(3600);
/// For all state cookies together. IIS accepts request heads of 16 KiB.
const MAX_COOKIE_BYTES: usize = 6 * 1024;
/// A longer target is replaced by the fallback.
const MAX_TARGET_BYTES: usize = 1200;

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

    fn lifetime(self) -> Duration {
        match self {
            Self::SignIn => SIGN_IN_LIFETIME,
            Self::SignOut => SIGN_OUT_LIFETIME,
        }
    }

    fn cookie_max_age(self) -> Duration {
        match self {
            Self::SignIn => SIGN_IN_COOKIE_MAX_AGE,
            Self::SignOut => SIGN_OUT_LIFETIME,
        }
    }

    /// Sign-ins may wait in several tabs, so each has its own cookie. There is one sign-out at a time.
    fn cookie_name(self, nonce: &str) -> String {
        match self {
            Self::SignIn => format!("{SIGN_IN_COOKIE}-{}", nonce.get(..8).unwrap_or_default()),
            Self::SignOut => SIGN_OUT_COOKIE.to_owned(),
        }
    }
}

/// A state with a valid signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) nonce: String,
    /// Seconds since 1970.
    issued: u64,
    /// Paths of the apps that it is about.
    pub(crate) apps: Vec<String>,
    /// Where the client goes next.
    pub(crate) target: String,
    /// It has not expired, and was not used.
    pub(crate) is_valid: bool,
    cookie_name: String,
    /// Length of the cookie, with its name.
    bytes: usize,
}

impl State {
    /// The `Set-Cookie` value that deletes its cookie.
    pub(crate) fn deletion(&self) -> String {
        cookies::delete(&self.cookie_name)
    }
}

/// The nonces of used states, of all sites.
pub(crate) struct UsedNonces(moka::sync::Cache<String, ()>);

impl Default for UsedNonces {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().time_to_live(NONCE_RETENTION).build())
    }
}

/// Issues and verifies the state cookies of one site.
pub(crate) struct StateCookies {
    /// The first one signs.
    keys: Vec<hmac::Key>,
    /// Part of each signature: several sites and gateways may share a key.
    site: String,
    used: Arc<UsedNonces>,
}

impl StateCookies {
    /// `keys`: shared by several gateways, or random ones of this process.
    pub(crate) fn new(keys: &[&Secret], site: &str, used: Arc<UsedNonces>) -> Self {
        let key = |key: &&Secret| hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes());
        Self { keys: keys.iter().map(key).collect(), site: format!("{site}\n"), used }
    }

    /// A new state: its nonce, and the `Set-Cookie` value. The fallback replaces a target that does not fit.
    pub(crate) fn issue(
        &self,
        purpose: Purpose,
        apps: &[&str],
        target: &str,
        fallback: &str,
        now: u64,
    ) -> Result<(String, String), getrandom::Error> {
        let nonce = clock::random_hex()?;
        let fits = target.len() <= MAX_TARGET_BYTES && !target.contains(char::is_control);
        let target = if fits { target } else { fallback };
        let payload = format!("{}\n{now}\n{nonce}\n{}\n{target}", purpose.name(), apps.join(" "));
        let tag = hmac::sign(&self.keys[0], &self.signed(payload.as_bytes()));
        let value = format!("{}.{}", URL_SAFE_NO_PAD.encode(&payload), URL_SAFE_NO_PAD.encode(tag));
        let cookie = cookies::set(&purpose.cookie_name(&nonce), &value, purpose.cookie_max_age().as_secs());
        Ok((nonce, cookie))
    }

    /// The states for `purpose` in a request's cookies, also expired and used ones. The oldest is first.
    pub(crate) fn open(&self, purpose: Purpose, headers: &HeaderMap, now: u64) -> Vec<State> {
        let cookies = cookies::pairs(headers);
        let mut states: Vec<State> =
            cookies.filter_map(|(name, value)| self.verify(purpose, name, value, now)).collect();
        states.sort_by_key(|state| state.issued);
        states
    }

    /// The `Set-Cookie` values that delete cookies with our names that we did not sign: with a replaced key, or planted
    /// by others.
    pub(crate) fn delete_invalid(&self, headers: &HeaderMap, now: u64) -> Vec<String> {
        let is_state = |name: &str| name.starts_with(SIGN_IN_COOKIE) || name.starts_with(SIGN_OUT_COOKIE);
        let is_signed = |name: &str, value: &str| {
            [Purpose::SignIn, Purpose::SignOut]
                .iter()
                .any(|purpose| self.verify(*purpose, name, value, now).is_some())
        };
        // Other names could not be set in a response.
        let is_plain = |name: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            name.len() <= 64 && name.bytes().all(plain)
        };
        cookies::pairs(headers)
            .filter(|(name, value)| is_state(name) && is_plain(name) && !is_signed(name, value))
            .map(|(name, _)| cookies::delete(name))
            .collect()
    }

    /// Uses a state. Returns whether it was valid, and this was the first use.
    pub(crate) fn consume(&self, state: &State) -> bool {
        // `or_insert` looks and inserts in two steps, so two requests could both be first.
        let is_first = self.used.0.entry(state.nonce.clone()).or_insert_with(|| ()).is_fresh();
        state.is_valid && is_first
    }

    fn signed(&self, payload: &[u8]) -> Vec<u8> {
        [self.site.as_bytes(), payload].concat()
    }

    fn verify(&self, purpose: Purpose, name: &str, value: &str, now: u64) -> Option<State> {
        let (payload, tag) = value.split_once('.')?;
        let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let (signed, tag) = (self.signed(&payload), URL_SAFE_NO_PAD.decode(tag).ok()?);
        self.keys.iter().find(|key| hmac::verify(key, &signed, &tag).is_ok())?;
        let text = String::from_utf8(payload).ok()?;
        let [kind, issued, nonce, apps, target] = text.splitn(5, '\n').collect::<Vec<_>>().try_into().ok()?;
        let issued: u64 = issued.parse().ok()?;
        if kind != purpose.name() || name != purpose.cookie_name(nonce) {
            return None;
        }
        // A state from the future is refused: the clock was set back.
        let age = Duration::from_secs(now.checked_sub(issued)?);
        Some(State {
            nonce: nonce.to_owned(),
            issued,
            apps: apps.split(' ').filter(|app| !app.is_empty()).map(str::to_owned).collect(),
            target: target.to_owned(),
            is_valid: age <= purpose.lifetime() && !self.used.0.contains_key(nonce),
            cookie_name: name.to_owned(),
            bytes: name.len() + value.len() + 3,
        })
    }
}

/// The oldest states, which have to be deleted to make room for a cookie of `new_bytes`.
pub(crate) fn surplus(states: &[State], new_bytes: usize) -> &[State] {
    let mut total: usize = new_bytes + states.iter().map(|state| state.bytes).sum::<usize>();
    let deleted = states.iter().take_while(|state| {
        let is_over = total > MAX_COOKIE_BYTES;
        total -= state.bytes;
        is_over
    });
    &states[..deleted.count()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::COOKIE;

    fn signer() -> StateCookies {
        cookies_of("members.example.org")
    }

    fn cookies_of(site: &str) -> StateCookies {
        StateCookies::new(&[&Secret::new("a key of no account, but a long one.")], site, Arc::default())
    }

    fn cookie(set_cookie: &str) -> &str {
        set_cookie.split(';').next().unwrap()
    }

    fn sent(cookies: &[&str]) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(&cookies.join("; ")).unwrap())])
    }

    const NOW: u64 = 1_700_000_000;

    fn issued(signer: &StateCookies, target: &str) -> (String, String) {
        signer.issue(Purpose::SignIn, &["/sso/zendesk"], target, "/sso/zendesk", NOW).unwrap()
    }

    #[test]
    fn a_state_comes_back_unchanged_and_is_valid_once() {
        let signer = signer();
        let (nonce, set) = issued(&signer, "/sso/zendesk?return_to=%2Fhc");
        for attribute in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
            assert!(set.contains(attribute) && set.starts_with("__Host-"), "{set}");
        }
        assert!(!set.contains("Domain"));
        let states = signer.open(Purpose::SignIn, &sent(&["Login=x", cookie(&set)]), NOW + 5);
        let [state] = states.as_slice() else { panic!("{states:?}") };
        assert_eq!(
            (state.nonce.as_str(), state.target.as_str()),
            (nonce.as_str(), "/sso/zendesk?return_to=%2Fhc")
        );
        assert_eq!(state.apps, ["/sso/zendesk"]);
        assert!(state.is_valid && signer.consume(state));
        assert!(!signer.consume(state), "a second time");
        let again = signer.open(Purpose::SignIn, &sent(&[cookie(&set)]), NOW + 5);
        assert!(!again[0].is_valid && !signer.consume(&again[0]));
    }

    #[test]
    fn an_expired_state_still_holds_its_target() {
        let signer = signer();
        let (_, set) = issued(&signer, "/sso/zendesk?return_to=%2Fhc");
        let at = |now| signer.open(Purpose::SignIn, &sent(&[cookie(&set)]), now);
        assert!(at(NOW + 600)[0].is_valid);
        let late = &at(NOW + 601)[0];
        assert!(!late.is_valid && !signer.consume(late));
        assert_eq!(late.target, "/sso/zendesk?return_to=%2Fhc");
        assert_eq!(at(NOW - 1), [], "from a time to come");
    }

    #[test]
    fn states_of_other_keys_sites_and_purposes_are_refused() {
        let (one, two) = (
            signer(),
            StateCookies::new(&[&Secret::new("of another process")], "members.example.org", Arc::default()),
        );
        let (_, set) = issued(&one, "/sso/zendesk");
        let own = cookie(&set);
        assert_eq!(two.open(Purpose::SignIn, &sent(&[own]), NOW), [], "another's key");
        assert_eq!(
            cookies_of("www.example.org").open(Purpose::SignIn, &sent(&[own]), NOW),
            [],
            "another site"
        );
        assert_eq!(signer().open(Purpose::SignIn, &sent(&[own]), NOW).len(), 1, "the same key");
        assert_eq!(one.open(Purpose::SignOut, &sent(&[own]), NOW), [], "another purpose");
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
            assert_eq!(one.open(Purpose::SignIn, &sent(&[&forged]), NOW), [], "{forged}");
        }
        assert_eq!(one.open(Purpose::SignOut, &sent(&[&out]), NOW), []);
    }

    #[test]
    fn a_target_that_does_not_fit_is_replaced() {
        let signer = signer();
        for target in [format!("/{}", "x".repeat(2000)), "/a\nb".to_owned()] {
            let (_, set) = issued(&signer, &target);
            assert_eq!(signer.open(Purpose::SignIn, &sent(&[cookie(&set)]), NOW)[0].target, "/sso/zendesk");
        }
    }

    #[test]
    fn the_oldest_states_make_room() {
        let signer = signer();
        let sets: Vec<String> = (0..20)
            .map(|at| signer.issue(Purpose::SignIn, &["/a"], "/a?b=c", "/a", NOW + at).unwrap().1)
            .collect();
        let cookies: Vec<&str> = sets.iter().map(|set| cookie(set)).collect();
        let states = signer.open(Purpose::SignIn, &sent(&cookies), NOW + 30);
        assert_eq!(states.len(), 20);
        assert_eq!(surplus(&states[..10], 200), []);
        let long = surplus(&states, 5000);
        assert!(!long.is_empty() && long.len() < 20);
        assert_eq!(long[0], states[0]);
    }
}
