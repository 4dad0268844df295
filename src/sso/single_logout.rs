//! Single logout over the front channel: a sign-out of iMIS also leads through the sign-out of Zendesk, if an app is
//! configured so.
//!
//! iMIS signs out first, whatever happens to Zendesk. Its redirect is replaced by one to Zendesk, which comes back to
//! the Remote logout URL, which goes on to the original target. A signed state cookie that works once holds that
//! target, so there can be no loop.

use http::HeaderMap;
use url::Url;

use crate::base::clock;
use crate::config::App;
use crate::imis::recognise::SessionCookies;
use crate::sso::site::SignOn;
use crate::sso::state_cookie::Purpose;
use crate::zendesk;

/// The address where iMIS's own scripts end a session.
const FORCE_SIGN_OUT: &str = "/sessioninfo/forcesignout";

/// A request that signs in to iMIS or out of it, so that cached identities of its session are no longer valid.
#[derive(Debug)]
pub(crate) struct SignOutRequest {
    /// The URL of a sign-out that may lead through Zendesk.
    leads_from: Option<Url>,
}

/// The redirect that replaces iMIS's own.
pub(crate) struct LogoutRedirect {
    pub(crate) location: String,
    pub(crate) set_cookie: String,
}

impl SignOutRequest {
    /// `None` for a request that neither signs in nor out. `target`: path and query.
    pub(crate) fn detect<'a>(
        sign_on: &SignOn,
        method: &str,
        host: &str,
        target: &str,
        fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<Self> {
        let path = path_of(target);
        // The value of a session cookie may stay the same when a visitor signs in.
        if method == "POST" && path.eq_ignore_ascii_case(path_of(&sign_on.imis.sign_in)) {
            return Some(Self { leads_from: None });
        }
        let ending = path.len().checked_sub(FORCE_SIGN_OUT.len()).and_then(|at| path.get(at..));
        let is_sign_out = path.eq_ignore_ascii_case(path_of(&sign_on.imis.sign_out))
            || ending.is_some_and(|ending| ending.eq_ignore_ascii_case(FORCE_SIGN_OUT));
        if !is_sign_out {
            return None;
        }
        let (mut is_navigation, mut is_document) = (false, false);
        for (name, value) in fields {
            is_navigation |= name.eq_ignore_ascii_case("sec-fetch-mode") && value == b"navigate";
            is_document |= name.eq_ignore_ascii_case("sec-fetch-dest") && value == b"document";
        }
        // A script or a frame cannot follow a redirect to Zendesk.
        let can_lead =
            method == "GET" && is_navigation && is_document && participants(sign_on).next().is_some();
        let leads_from = can_lead.then(|| Url::parse(&format!("https://{host}{target}")).ok()).flatten();
        Some(Self { leads_from })
    }

    /// The redirect that replaces the response's own, if the request had a session.
    pub(crate) fn logout_redirect(
        &self,
        sign_on: &SignOn,
        had_session: bool,
        status: u16,
        location: Option<&[u8]>,
    ) -> Option<LogoutRedirect> {
        let base =
            self.leads_from.as_ref().filter(|_| had_session && matches!(status, 301..=303 | 307 | 308))?;
        let target = base.join(std::str::from_utf8(location?).ok()?).ok()?;
        // iMIS redirects to any address in the query. Without a query, the target is the association's own choice.
        let is_trusted = target.origin() == base.origin() || base.query().is_none();
        let target = if is_trusted && target.scheme() == "https" { target.as_str() } else { "/" };
        LogoutRedirect::to_first(sign_on, &participants(sign_on).collect::<Vec<_>>(), target)
    }
}

impl LogoutRedirect {
    /// To the sign-out of the first of `apps`, and from there to the others and to `target`.
    fn to_first(sign_on: &SignOn, apps: &[&App], target: &str) -> Option<Self> {
        let (first, rest) = apps.split_first()?;
        let rest: Vec<&str> = rest.iter().map(|app| app.path.as_str()).collect();
        let issued = sign_on.states.issue(Purpose::SignOut, &rest, target, "/", clock::unix_now());
        let (_, set_cookie) = issued.ok()?;
        Some(Self { location: zendesk::sign_out(&first.zendesk), set_cookie })
    }

    /// Where the client goes after the sign-out of Zendesk: to the next app, or to iMIS's target.
    pub(super) fn after_zendesk(sign_on: &SignOn, headers: &HeaderMap) -> Option<Self> {
        let states = sign_on.states.open(Purpose::SignOut, headers, clock::unix_now());
        let state = states.first().filter(|state| sign_on.states.consume(state))?;
        let app_at = |path: &String| sign_on.apps.iter().map(|app| &**app).find(|app| app.path == *path);
        let apps: Vec<&App> = state.apps.iter().filter_map(app_at).collect();
        let last = || Self { location: state.target.clone(), set_cookie: state.deletion() };
        Some(Self::to_first(sign_on, &apps, &state.target).unwrap_or_else(last))
    }
}

/// The apps that a sign-out of iMIS leads through.
fn participants(sign_on: &SignOn) -> impl Iterator<Item = &App> {
    sign_on.apps.iter().map(|app| &**app).filter(|app| app.logout_from_imis)
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// The session cookies in a request head as the upstream gets it.
pub(crate) fn session_cookies(sign_on: &SignOn, head: &[u8]) -> Option<SessionCookies> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    let values = lines.filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b':')?;
        line[..at].eq_ignore_ascii_case(b"cookie").then(|| line[at + 1..].trim_ascii())
    });
    sign_on.imis.recognition.session_cookies(values)
}
