//! From one shared secret to the next without a lost sign-in.
//!
//! Zendesk ends the old secret the moment it has a new one, and nobody can do that and change the gateway's at the same moment. While an
//! app has two, a token that Zendesk refuses for its signature is minted once more with the other. Which secrets tokens on their way were
//! signed with, and where their sign-ins were to go, a short-lived cookie tells; it holds fingerprints, and nothing that has to be
//! believed: whoever makes one up chooses between secrets that are both the operator's.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::COOKIE;
use http::{HeaderMap, Response, StatusCode};
use tracing::info;

use crate::config::{App, Secret, fingerprint};
use crate::pages;
use crate::sso::return_to::LoginParams;
use crate::sso::{SsoRequest, add_cookie, loop_guard};

const NAME: &str = "__Host-imis-gateway-signed-";
/// From the hand-off to Zendesk's answer.
const SECONDS: u32 = 120;
/// A longer way is not remembered.
const MOST_TARGET: usize = 800;
/// Tokens on their way at a time, for tabs that sign in together.
const MOST_ON_THEIR_WAY: usize = 4;
/// So many times one browser is sent through once more: four tabs, and an error that somebody made up.
const MOST_TRIES: u32 = 6;

/// What became of the tokens of one browser.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct TokenAttempts {
    /// Fingerprints of the secrets that Zendesk did not take.
    refused: Vec<String>,
    /// How often the browser was sent through once more.
    tries: u32,
    /// The last one comes last.
    pending: Vec<PendingToken>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PendingToken {
    /// Fingerprint of the secret it was signed with.
    signed_with: String,
    target: String,
}

/// A secret, and what it is called.
pub(super) struct ChosenSecret<'a> {
    pub(super) secret: &'a Secret,
    pub(super) name: &'static str,
    /// For the hand-off.
    pub(super) cookie: Option<String>,
}

/// The secret for the next token: the current one, unless Zendesk has just refused it.
pub(super) fn choose<'a>(request: &'a SsoRequest, params: &LoginParams) -> ChosenSecret<'a> {
    let app = &request.app;
    let mut attempts = TokenAttempts::of(&request.headers, app);
    let matters = attempts.tries > 0 || app.zendesk.shared_secret.next.is_some();
    let (name, secret) = attempts.untried(app).unwrap_or(("current", &app.zendesk.shared_secret.current));
    let target = params.sso_target(app);
    let target = if target.len() <= MOST_TARGET { target } else { app.path.clone() };
    attempts.pending.push(PendingToken { signed_with: secret.fingerprint(), target });
    let cookie = matters.then(|| attempts.cookie(app));
    ChosenSecret { secret, name, cookie }
}

/// What becomes of a token that Zendesk refused for its signature.
pub(super) enum Refused {
    /// Once more, with the other secret.
    OnceMore(Box<Response<Bytes>>),
    /// Zendesk takes none. Where the sign-in was to go, and the cookie for what other tabs have on its way.
    ByAll { target: Option<String>, cookie: String },
}

/// A token was refused for its signature.
pub(super) fn refused(request: &SsoRequest) -> Refused {
    let app = &request.app;
    let mut attempts = TokenAttempts::of(&request.headers, app);
    let Some(token) = attempts.returned() else {
        return Refused::ByAll { target: None, cookie: attempts.cookie(app) };
    };
    let target = LoginParams::of_target(&token.target, app).sso_target(app);
    attempts.tries += 1;
    match attempts.untried(app).map(|(name, _)| name) {
        Some(name) if attempts.tries <= MOST_TRIES => {
            info!(request_id = %request.incident, app = %app.name, secret = name, "Zendesk refused one secret; once more with the other");
            let mut response = pages::redirect(StatusCode::FOUND, &target);
            add_cookie(&mut response, &attempts.cookie(app));
            // How often this goes on is counted here.
            add_cookie(&mut response, loop_guard::DELETION);
            Refused::OnceMore(Box::new(response))
        }
        Some(_) | None => {
            // Whoever tries again begins anew.
            attempts.refused.clear();
            Refused::ByAll { target: Some(target), cookie: attempts.cookie(app) }
        }
    }
}

fn secrets(app: &App) -> impl Iterator<Item = (&'static str, &Secret)> {
    let both = &app.zendesk.shared_secret;
    std::iter::once(("current", &both.current)).chain(both.next.iter().map(|next| ("next", next)))
}

/// Each app has its own, for tabs that sign in to two.
fn name(app: &App) -> String {
    format!("{NAME}{}", fingerprint(&app.path))
}

impl TokenAttempts {
    /// The first secret that Zendesk has not refused.
    fn untried<'a>(&self, app: &'a App) -> Option<(&'static str, &'a Secret)> {
        secrets(app).find(|(_, secret)| !self.refused.contains(&secret.fingerprint()))
    }

    /// The token that Zendesk has most likely answered about: one with a secret that it is known not to take, else the last one. Its secret is
    /// known to be refused from now on.
    fn returned(&mut self) -> Option<PendingToken> {
        let known = self.pending.iter().rposition(|token| self.refused.contains(&token.signed_with));
        let place = known.or(self.pending.len().checked_sub(1))?;
        let token = self.pending.remove(place);
        if !self.refused.contains(&token.signed_with) {
            self.refused.push(token.signed_with.clone());
        }
        Some(token)
    }

    /// What the browser brings; nothing, where that makes no sense.
    fn of(headers: &HeaderMap, app: &App) -> Self {
        let name = name(app);
        let lines = headers.get_all(COOKIE).iter();
        let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        let mut values = pairs.filter_map(|pair| {
            std::str::from_utf8(pair.trim_ascii()).ok()?.strip_prefix(name.as_str())?.strip_prefix('=')
        });
        values.next().and_then(Self::parse).unwrap_or_default()
    }

    /// `TRIES.REFUSED-REFUSED.SIGNED~TARGET.SIGNED~TARGET`
    fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split('.');
        let tries = parts.next()?.parse().ok()?;
        let refused = parts.next()?.split('-').filter(|print| !print.is_empty()).map(str::to_owned).collect();
        let pending_token = |part: &str| {
            let (signed_with, target) = part.split_once('~')?;
            let target = String::from_utf8(URL_SAFE_NO_PAD.decode(target).ok()?).ok()?;
            Some(PendingToken { signed_with: signed_with.to_owned(), target })
        };
        let pending = parts.map(pending_token).collect::<Option<Vec<_>>>()?;
        Some(Self { refused, tries, pending })
    }

    fn cookie(&self, app: &App) -> String {
        let name = name(app);
        if self.pending.is_empty() && self.refused.is_empty() {
            return format!("{name}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax");
        }
        let mut value = format!("{}.{}", self.tries, self.refused.join("-"));
        let first = self.pending.len().saturating_sub(MOST_ON_THEIR_WAY);
        for token in &self.pending[first..] {
            value += &format!(".{}~{}", token.signed_with, URL_SAFE_NO_PAD.encode(&token.target));
        }
        format!("{name}={value}; Path=/; Max-Age={SECONDS}; Secure; HttpOnly; SameSite=Lax")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_app;

    fn sent(cookie: &str) -> HeaderMap {
        let pair = cookie.split(';').next().unwrap();
        HeaderMap::from_iter([(COOKIE, format!("Login=x; {pair}").parse().unwrap())])
    }

    fn token(signed_with: &str, target: &str) -> PendingToken {
        PendingToken { signed_with: signed_with.to_owned(), target: target.to_owned() }
    }

    #[test]
    fn trials_come_back_as_they_were_and_to_their_own_app_alone() {
        let app = test_app();
        let tokens =
            vec![token("01234567", "/sso/zendesk?return_to=%2Fhc"), token("89abcdef", "/sso/zendesk")];
        let attempts = TokenAttempts { refused: vec!["01234567".to_owned()], tries: 2, pending: tokens };
        let cookie = attempts.cookie(&app);
        assert_eq!(TokenAttempts::of(&sent(&cookie), &app), attempts);
        let other = App { path: "/sso/staff".to_owned(), ..test_app() };
        assert_eq!(TokenAttempts::of(&sent(&cookie), &other), TokenAttempts::default());
        for odd in ["", "x", "1", "1.a.b", "1.a.b~%", "1.a.b~____", "-1..", "99999999999."] {
            let cookie = format!("{}={odd}", name(&app));
            assert_eq!(TokenAttempts::of(&sent(&cookie), &app), TokenAttempts::default(), "{odd}");
        }
    }

    #[test]
    fn answers_are_about_the_secret_that_is_known_to_be_refused_first() {
        let mut attempts =
            TokenAttempts { pending: vec![token("old", "a"), token("old", "b")], ..TokenAttempts::default() };
        assert_eq!(attempts.returned(), Some(token("old", "b")));
        attempts.pending.push(token("new", "b"));
        assert_eq!(
            attempts.returned(),
            Some(token("old", "a")),
            "the other tab's answer, not the new token's"
        );
        assert_eq!(attempts.refused, ["old"]);
        assert_eq!(attempts.returned(), Some(token("new", "b")));
        assert_eq!(attempts.returned(), None);
    }

    #[test]
    fn no_more_is_carried_than_a_few_tabs_need() {
        let app = test_app();
        let tokens =
            (0..9).map(|number| token("01234567", &format!("/{number}{}", "x".repeat(780)))).collect();
        let cookie = TokenAttempts { pending: tokens, ..TokenAttempts::default() }.cookie(&app);
        assert!(cookie.len() < 4600, "{}", cookie.len());
        let back = TokenAttempts::of(&sent(&cookie), &app).pending;
        assert!(back.len() == MOST_ON_THEIR_WAY && back[3].target.starts_with("/8"));
    }
}
