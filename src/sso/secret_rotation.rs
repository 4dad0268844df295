//! Remembers the tokens that a client has just posted to Zendesk, for the case that Zendesk refuses one.
//!
//! A short-lived cookie holds the login path of each pending token, so that "Try again" leads to the page asked for,
//! and the fingerprint of the secret that it was signed with. Zendesk ends the old secret the moment it creates a new
//! one, and the gateway's configuration cannot change at that same moment. So while an app has two secrets, a token
//! that Zendesk refuses for its signature, or for an unknown reason (its messages may be in any language), is minted
//! again with the other one.
//!
//! The cookie needs no signature: a forged one only chooses between two secrets that are both the operator's, and
//! between pages of the account.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::base::cookies;
use crate::config::{App, Secret, fingerprint};
use crate::pages;
use crate::sso::login_params::LoginParams;
use crate::sso::loop_guard;
use crate::sso::request::SsoRequest;
use crate::zendesk::Refusal;

const COOKIE_PREFIX: &str = "__Host-imis-gateway-signed-";
/// From the hand-off to Zendesk's response.
const COOKIE_MAX_AGE_SECONDS: u64 = 120;
/// A longer login path is not remembered.
const MAX_PATH_BYTES: usize = 800;
/// Tokens that tabs may have pending at the same time.
const MAX_PENDING: usize = 4;
/// How often one client retries: four tabs, and some forged errors.
const MAX_RETRIES: u32 = 6;

/// What happened to the tokens of one client. The cookie is this as JSON in base64.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TokenAttempts {
    /// Fingerprints of the secrets that Zendesk refused.
    refused: Vec<String>,
    retries: u32,
    /// The newest is last.
    pending: Vec<PendingToken>,
}

/// The fingerprint of the secret that a token was signed with, and the login path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PendingToken(String, String);

/// The secret for the next token.
pub(super) struct ChosenSecret<'a> {
    pub(super) secret: &'a Secret,
    /// `current` or `next`.
    pub(super) name: &'static str,
    /// The `Set-Cookie` value for the response.
    pub(super) cookie: String,
}

/// Chooses the current secret, unless Zendesk has just refused it.
pub(super) fn choose<'a>(request: &'a SsoRequest, params: &LoginParams) -> ChosenSecret<'a> {
    let app = &request.app;
    let mut attempts = TokenAttempts::of(&request.headers, app);
    let (name, secret) = attempts.untried(app).unwrap_or(("current", &app.zendesk.shared_secret.current));
    let path = params.login_path(app);
    let path = if path.len() <= MAX_PATH_BYTES { path } else { app.path.clone() };
    attempts.pending.push(PendingToken(secret.fingerprint(), path));
    ChosenSecret { secret, name, cookie: attempts.cookie(app) }
}

/// What follows after Zendesk refused a token.
pub(super) enum AfterRefusal {
    /// Mint again, with the other secret.
    Retry(Box<Response<Bytes>>),
    /// Tell the member. `login_path`: of the sign-in that failed; none if this client has no token pending. `cookie`:
    /// keeps what other tabs have pending.
    GiveUp { login_path: Option<String>, cookie: String },
}

/// Zendesk refused a token for this reason.
pub(super) fn after_refusal(request: &SsoRequest, refusal: Refusal) -> AfterRefusal {
    let app = &request.app;
    let mut attempts = TokenAttempts::of(&request.headers, app);
    // A message in another language may be about the signature.
    let may_be_secret = matches!(refusal, Refusal::Signature | Refusal::Unknown);
    let token = if may_be_secret { attempts.take_refused() } else { attempts.pending.pop() };
    let Some(PendingToken(_, path)) = token else {
        return AfterRefusal::GiveUp { login_path: None, cookie: attempts.cookie(app) };
    };
    let path = LoginParams::of_login_path(&path, app).login_path(app);
    if !may_be_secret {
        return AfterRefusal::GiveUp { login_path: Some(path), cookie: attempts.cookie(app) };
    }
    attempts.retries += 1;
    match attempts.untried(app) {
        Some((name, _)) if attempts.retries <= MAX_RETRIES => {
            info!(request_id = request.id(), app = %app.name, secret = name, "Zendesk refused one secret; retrying with the other");
            let mut response = pages::redirect(StatusCode::FOUND, &path);
            cookies::append(&mut response, &attempts.cookie(app));
            // Retries are counted here, so they must not count as a loop.
            cookies::append(&mut response, &loop_guard::reset());
            AfterRefusal::Retry(Box::new(response))
        }
        Some(_) | None => {
            // The next sign-in starts with the current secret again.
            attempts.refused.clear();
            AfterRefusal::GiveUp { login_path: Some(path), cookie: attempts.cookie(app) }
        }
    }
}

/// Each app has its own cookie, for tabs that sign in to two apps.
fn cookie_name(app: &App) -> String {
    format!("{COOKIE_PREFIX}{}", fingerprint(&app.path))
}

impl TokenAttempts {
    /// The first secret that Zendesk has not refused, with its name.
    fn untried<'a>(&self, app: &'a App) -> Option<(&'static str, &'a Secret)> {
        let secrets = &app.zendesk.shared_secret;
        let next = secrets.next.iter().map(|next| ("next", next));
        let mut all = std::iter::once(("current", &secrets.current)).chain(next);
        all.find(|(_, secret)| !self.refused.contains(&secret.fingerprint()))
    }

    /// Removes the token that Zendesk most likely refused: one with a secret that it is known to refuse, else the
    /// newest. Its secret counts as refused from now on.
    fn take_refused(&mut self) -> Option<PendingToken> {
        let known = self.pending.iter().rposition(|token| self.refused.contains(&token.0));
        let index = known.or(self.pending.len().checked_sub(1))?;
        let token = self.pending.remove(index);
        if !self.refused.contains(&token.0) {
            self.refused.push(token.0.clone());
        }
        Some(token)
    }

    /// The attempts in the request's cookie. An unreadable cookie counts as none.
    fn of(headers: &HeaderMap, app: &App) -> Self {
        let value = cookies::value(headers, &cookie_name(app));
        let json = value.and_then(|value| URL_SAFE_NO_PAD.decode(value).ok());
        json.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    fn cookie(&self, app: &App) -> String {
        let name = cookie_name(app);
        if self.pending.is_empty() && self.refused.is_empty() {
            return cookies::delete(&name);
        }
        let first = self.pending.len().saturating_sub(MAX_PENDING);
        let kept = Self { pending: self.pending[first..].to_vec(), ..self.clone() };
        let value = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&kept).unwrap_or_default());
        cookies::set(&name, &value, COOKIE_MAX_AGE_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_app;
    use http::header::COOKIE;

    fn sent(cookie: &str) -> HeaderMap {
        let pair = cookie.split(';').next().unwrap();
        HeaderMap::from_iter([(COOKIE, format!("Login=x; {pair}").parse().unwrap())])
    }

    fn token(signed_with: &str, target: &str) -> PendingToken {
        PendingToken(signed_with.to_owned(), target.to_owned())
    }

    #[test]
    fn attempts_return_unchanged_and_only_to_their_own_app() {
        let app = test_app();
        let tokens =
            vec![token("01234567", "/sso/zendesk?return_to=%2Fhc"), token("89abcdef", "/sso/zendesk")];
        let attempts = TokenAttempts { refused: vec!["01234567".to_owned()], retries: 2, pending: tokens };
        let cookie = attempts.cookie(&app);
        assert_eq!(TokenAttempts::of(&sent(&cookie), &app), attempts);
        let other = App { path: "/sso/staff".to_owned(), ..test_app() };
        assert_eq!(TokenAttempts::of(&sent(&cookie), &other), TokenAttempts::default());
        for odd in ["", "x", "1", "e30", "%", "____", "bnVsbA", "99999999999."] {
            let cookie = format!("{}={odd}", cookie_name(&app));
            assert_eq!(TokenAttempts::of(&sent(&cookie), &app), TokenAttempts::default(), "{odd}");
        }
    }

    #[test]
    fn a_refusal_is_about_the_secret_that_is_known_to_be_refused() {
        let mut attempts =
            TokenAttempts { pending: vec![token("old", "a"), token("old", "b")], ..TokenAttempts::default() };
        assert_eq!(attempts.take_refused(), Some(token("old", "b")));
        attempts.pending.push(token("new", "b"));
        assert_eq!(
            attempts.take_refused(),
            Some(token("old", "a")),
            "the other tab's answer, not the new token's"
        );
        assert_eq!(attempts.refused, ["old"]);
        assert_eq!(attempts.take_refused(), Some(token("new", "b")));
        assert_eq!(attempts.take_refused(), None);
    }

    #[test]
    fn the_cookie_keeps_the_newest_four_tokens() {
        let app = test_app();
        let tokens =
            (0..9).map(|number| token("01234567", &format!("/{number}{}", "x".repeat(780)))).collect();
        let cookie = TokenAttempts { pending: tokens, ..TokenAttempts::default() }.cookie(&app);
        assert!(cookie.len() < 4600, "{}", cookie.len());
        let back = TokenAttempts::of(&sent(&cookie), &app).pending;
        assert!(back.len() == MAX_PENDING && back[3].1.starts_with("/8"));
    }
}
