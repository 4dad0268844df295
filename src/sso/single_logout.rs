//! Sign-outs that pass through us: what was known of the session is forgotten at once, and where an app says so, the browser is led
//! through Zendesk's own sign-out and back (front channel).
//!
//! iMIS signs out first, whatever becomes of Zendesk: its redirect is replaced by one to Zendesk, which comes back to the Remote
//! logout URL, which goes on to where iMIS had wanted to go. A cookie that is signed and good once carries that way, so nothing can
//! go round in circles.

use http::HeaderMap;
use url::Url;

use crate::base::clock;
use crate::config::App;
use crate::imis::recognise::SessionCookies;
use crate::sso::site::SignOn;
use crate::sso::state_cookie::{Purpose, State};
use crate::zendesk;

/// Where iMIS's own scripts end a session.
const FORCE_SIGN_OUT: &str = "/sessioninfo/forcesignout";

/// A request that signs out of iMIS, or in: what was known of its session is no longer so.
#[derive(Debug)]
pub(crate) struct SignOutRequest {
    /// The page that was asked for, when the browser may be led on from there.
    leads_from: Option<Url>,
}

/// How an answer of iMIS to a sign-out is changed.
pub(crate) struct LogoutRedirect {
    pub(crate) location: String,
    pub(crate) set_cookie: String,
}

/// Whether a path signs out of iMIS.
fn is_sign_out(sign_on: &SignOn, path: &str) -> bool {
    let ends = path.len().checked_sub(FORCE_SIGN_OUT.len()).and_then(|at| path.get(at..));
    path.eq_ignore_ascii_case(path_of(&sign_on.imis.sign_out))
        || ends.is_some_and(|end| end.eq_ignore_ascii_case(FORCE_SIGN_OUT))
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

impl SignOutRequest {
    /// What a request that goes on to iMIS is, if it signs out.
    pub(crate) fn of<'a>(
        sign_on: &SignOn,
        (method, host, target): (&str, &str, &str),
        mut fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<Self> {
        let path = path_of(target);
        // A cookie may stay the same when its session becomes somebody's.
        if method == "POST" && path.eq_ignore_ascii_case(path_of(&sign_on.imis.sign_in)) {
            return Some(Self { leads_from: None });
        }
        if !is_sign_out(sign_on, path) {
            return None;
        }
        let (mut navigates, mut shows) = (false, false);
        fields.by_ref().for_each(|(name, value)| {
            navigates |= name.eq_ignore_ascii_case("sec-fetch-mode") && value == b"navigate";
            shows |= name.eq_ignore_ascii_case("sec-fetch-dest") && value == b"document";
        });
        // A script or a frame could not follow.
        let leads = method == "GET"
            && navigates
            && shows
            && sign_on.apps.iter().any(|app| app.single_logout.from_imis);
        let leads_from = leads.then(|| Url::parse(&format!("https://{host}{target}")).ok()).flatten();
        Some(Self { leads_from })
    }

    /// How the answer is changed: a redirect of somebody who had a session.
    pub(crate) fn logout_redirect(
        &self,
        sign_on: &SignOn,
        had_session: bool,
        (status, location): (u16, Option<&[u8]>),
    ) -> Option<LogoutRedirect> {
        let base =
            self.leads_from.as_ref().filter(|_| had_session && matches!(status, 301..=303 | 307 | 308))?;
        let target = base.join(std::str::from_utf8(location?).ok()?).ok()?;
        // iMIS follows whatever address a link asks for. Where none was asked for, it is the association's own choice.
        let own = target.origin() == base.origin() || base.query().is_none();
        let target = if own && target.scheme() == "https" { target.as_str() } else { "/" };
        let apps: Vec<&App> =
            sign_on.apps.iter().map(|app| &**app).filter(|app| app.single_logout.from_imis).collect();
        next(sign_on, &apps, target)
    }
}

/// To the sign-out of the first of `apps`, and from there to the others and to `target`.
fn next(sign_on: &SignOn, apps: &[&App], target: &str) -> Option<LogoutRedirect> {
    let (first, rest) = apps.split_first()?;
    let rest: Vec<&str> = rest.iter().map(|app| app.path.as_str()).collect();
    let issued = sign_on.states.issue(Purpose::SignOut, (&rest, target, "/"), clock::unix_now());
    let (_, set_cookie) = issued.ok()?;
    Some(LogoutRedirect { location: zendesk::sign_out(&first.zendesk), set_cookie })
}

/// Where a browser goes on to that Zendesk has signed out on our behalf: the next app, or where iMIS wanted it to go.
pub(super) enum NextHop {
    Next(LogoutRedirect),
    Home { location: String, deletion: String },
}

pub(super) fn next_hop(sign_on: &SignOn, headers: &HeaderMap) -> Option<NextHop> {
    let now = clock::unix_now();
    let states = sign_on.states.states(Purpose::SignOut, headers, now);
    let state: &State = states.first().filter(|state| sign_on.states.consume(state, now))?;
    let of_path = |path: &String| sign_on.apps.iter().map(|app| &**app).find(|app| app.path == *path);
    let apps: Vec<&App> = state.apps.iter().filter_map(of_path).collect();
    Some(match next(sign_on, &apps, &state.target) {
        Some(logout_redirect) => NextHop::Next(logout_redirect),
        None => NextHop::Home { location: state.target.clone(), deletion: state.deletion() },
    })
}

/// The session cookies of a request as it was written for iMIS.
pub(crate) fn session_cookies(sign_on: &SignOn, head: &[u8]) -> Option<SessionCookies> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    let values = lines.filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b':')?;
        line[..at].eq_ignore_ascii_case(b"cookie").then(|| line[at + 1..].trim_ascii())
    });
    sign_on.imis.session_cookies(values)
}
