//! From one shared secret to the next without a lost sign-in.
//!
//! Zendesk ends the old secret the moment it has a new one, and nobody can do that and change the gateway's at the same moment. While an
//! app has two, a token that Zendesk refuses for its signature is minted once more with the other. Which secret a token was signed with,
//! and where its sign-in was to go, a short-lived cookie tells; it holds fingerprints, and nothing that has to be believed: whoever makes
//! one up chooses between secrets that are both the operator's.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::COOKIE;
use http::{HeaderMap, Response, StatusCode};
use tracing::info;

use super::return_to::Arrival;
use super::{Visit, add_cookie};
use crate::config::{App, Secret, fingerprint};
use crate::pages;

const NAME: &str = "__Host-imis-gateway-signed-";
/// From the hand-off to Zendesk's answer.
const SECONDS: u32 = 120;
/// A longer way is not remembered.
const MOST_TARGET: usize = 1200;

/// How far a sign-in has come.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Trial {
    /// Fingerprint of the secret that Zendesk did not take.
    refused: Option<String>,
    /// Of the one that the last token was signed with.
    used: Option<String>,
    target: String,
}

/// A secret, and what it is called.
pub(super) struct Chosen<'a> {
    pub(super) secret: &'a Secret,
    pub(super) name: &'static str,
    /// For the hand-off.
    pub(super) cookie: Option<String>,
}

/// The secret for the next token: the current one, unless Zendesk has just refused it.
pub(super) fn choose<'a>(visit: &'a Visit, arrival: &Arrival) -> Chosen<'a> {
    let app = &visit.app;
    let before = Trial::of(&visit.headers, app).unwrap_or_default();
    let refused = before.refused;
    let other = secrets(app)
        .find(|(_, secret)| refused.as_ref().is_none_or(|refused| secret.fingerprint() != *refused));
    let (name, secret) = other.unwrap_or(("current", &app.zendesk.shared_secret.current));
    let matters = refused.is_some() || app.zendesk.shared_secret.next.is_some();
    let cookie = matters.then(|| {
        let target = arrival.sso_target(app);
        let target = if target.len() <= MOST_TARGET { target } else { app.path.clone() };
        Trial { refused, used: Some(secret.fingerprint()), target }.cookie(app)
    });
    Chosen { secret, name, cookie }
}

/// What becomes of a token that Zendesk refused for its signature: once more with the other secret, if there is one.
pub(super) fn once_more(visit: &Visit) -> Option<Response<Bytes>> {
    let app = &visit.app;
    let Trial { refused: None, used: Some(used), target } = Trial::of(&visit.headers, app)? else {
        return None;
    };
    let (name, _) = secrets(app).find(|(_, secret)| secret.fingerprint() != used)?;
    info!(incident = %visit.incident, app = %app.name, secret = name, "Zendesk refused one secret; once more with the other");
    let target = Arrival::of_target(&target, app).sso_target(app);
    let mut response = pages::redirect(StatusCode::FOUND, &target);
    add_cookie(&mut response, &Trial { refused: Some(used), used: None, target }.cookie(app));
    Some(response)
}

/// Where the sign-in that Zendesk refused was to go.
pub(super) fn target(visit: &Visit) -> Option<String> {
    let Trial { target, .. } = Trial::of(&visit.headers, &visit.app)?;
    Some(Arrival::of_target(&target, &visit.app).sso_target(&visit.app))
}

/// The Set-Cookie header of whoever begins anew.
pub(super) fn deletion(app: &App) -> String {
    format!("{}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax", name(app))
}

fn secrets(app: &App) -> impl Iterator<Item = (&'static str, &Secret)> {
    let both = &app.zendesk.shared_secret;
    std::iter::once(("current", &both.current)).chain(both.next.iter().map(|next| ("next", next)))
}

/// Each app has its own, for tabs that sign in to two.
fn name(app: &App) -> String {
    format!("{NAME}{}", fingerprint(&app.path))
}

impl Trial {
    fn of(headers: &HeaderMap, app: &App) -> Option<Self> {
        let name = name(app);
        let lines = headers.get_all(COOKIE).iter();
        let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        let mut values = pairs.filter_map(|pair| {
            std::str::from_utf8(pair.trim_ascii()).ok()?.strip_prefix(name.as_str())?.strip_prefix('=')
        });
        let value = values.next()?;
        let mut parts = value.splitn(3, '.');
        let mut print = || parts.next().map(|part| (part != "-").then(|| part.to_owned()));
        let (refused, used) = (print()?, print()?);
        let target = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
        Some(Self { refused, used, target: String::from_utf8(target).ok()? })
    }

    fn cookie(&self, app: &App) -> String {
        let print = |print: &Option<String>| print.clone().unwrap_or_else(|| "-".to_owned());
        let value = format!(
            "{}.{}.{}",
            print(&self.refused),
            print(&self.used),
            URL_SAFE_NO_PAD.encode(&self.target)
        );
        format!("{}={value}; Path=/; Max-Age={SECONDS}; Secure; HttpOnly; SameSite=Lax", name(app))
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

    #[test]
    fn a_trial_comes_back_as_it_was_and_to_its_own_app_alone() {
        let app = test_app();
        let trial = Trial {
            refused: Some("01234567".to_owned()),
            used: None,
            target: "/sso/zendesk?return_to=%2Fhc".to_owned(),
        };
        let cookie = trial.cookie(&app);
        assert_eq!(Trial::of(&sent(&cookie), &app), Some(trial));
        let other = App { path: "/sso/staff".to_owned(), ..test_app() };
        assert_eq!(Trial::of(&sent(&cookie), &other), None);
        for odd in ["", "-.-", "-.-.%", "-.-.____", "x"] {
            let cookie = format!("{}={odd}", name(&app));
            assert_eq!(Trial::of(&sent(&cookie), &app), None, "{odd}");
        }
    }
}
