//! The Remote logout URL: a good-bye, what Zendesk says went wrong, or a stop on the way of a sign-out of iMIS.
//!
//! It is an unauthenticated GET. It signs nobody out of iMIS unless the app says so, and then only the person whom Zendesk names, or
//! whoever clicks.

use bytes::Bytes;
use http::{Response, StatusCode};
use tracing::{info, warn};
use url::form_urlencoded;

use crate::config::FromZendesk;
use crate::imis::recognise::Answer;
use crate::pages::{self, Link, Message};
use crate::sso::return_to::LoginParams;
use crate::sso::single_logout::{NextHop, next_hop};
use crate::sso::{SsoRequest, add_cookie, fetch_metadata, loop_guard, secret_rotation};
use crate::zendesk::Refusal;

/// A message that is longer was not written by Zendesk.
const MOST_MESSAGE_CHARACTERS: usize = 500;

pub(crate) async fn signed_out(request: SsoRequest) -> Response<Bytes> {
    let parameter = |wanted: &str| {
        form_urlencoded::parse(request.query.as_bytes())
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value)
    };
    if parameter("kind").as_deref() == Some("error") {
        return refused(&request, &parameter("message").unwrap_or_default());
    }
    let navigates = navigates(&request);
    if navigates && let Some(next_hop) = next_hop(&request.sign_on, &request.headers) {
        return continue_logout(&request, next_hop);
    }
    let (app, incident) = (&request.app.name, &request.incident);
    info!(request_id = incident, app, "signed out of Zendesk");
    let policy = request.app.single_logout.from_zendesk;
    let has_session = request.sign_on.imis.session(&request.as_visitor()).is_some();
    if policy == FromZendesk::SignOut && navigates && has_session {
        let named = parameter("external_id").unwrap_or_default();
        if is_signed_in_as(&request, &named).await {
            info!(request_id = incident, app, "the person whom Zendesk names is signed out of iMIS, too");
            return pages::redirect(StatusCode::FOUND, &request.sign_on.imis.sign_out);
        }
    }
    let again = LoginParams::parse(&request.query, &request.app.zendesk).sso_target(&request.app);
    let mut message = Message::new(StatusCode::OK, format!("You are signed out of {app}"));
    if policy != FromZendesk::Off && has_session {
        message = message
            .text("You may still be signed in to this site.")
            .link(Link::primary("Sign out of this site, too", request.sign_on.imis.sign_out.clone()))
            .link(Link::new(format!("Sign in to {app} again"), again));
    } else {
        message = message
            .text("Whether you are signed in to this site has not changed.")
            .link(Link::primary(format!("Sign in to {app} again"), again));
    }
    let mut page =
        request.services.pages.message(&message.link(Link::new("Back to the site", "/")), incident);
    // Whoever signs out and in again is in no circle.
    add_cookie(&mut page, loop_guard::DELETION);
    page
}

fn navigates(request: &SsoRequest) -> bool {
    !request.is_head && fetch_metadata::require_top_level(&request.headers).is_ok()
}

fn refused(request: &SsoRequest, message: &str) -> Response<Bytes> {
    let raw: String = message.chars().take(MOST_MESSAGE_CHARACTERS).collect();
    let refusal = Refusal::of(&raw);
    let (app, incident) = (&request.app.name, &request.incident);
    // The text itself may name an e-mail address and may come from anybody; its kind says enough.
    warn!(request_id = incident, app, kind = refusal.name(), "Zendesk refused a sign-in");
    request.services.metrics.refusal(app, refusal.name());
    let mut again = LoginParams::parse(&request.query, &request.app.zendesk).sso_target(&request.app);
    let mut cookies = vec![loop_guard::DELETION.to_owned()];
    if refusal == Refusal::Signature && navigates(request) {
        match secret_rotation::refused(request) {
            secret_rotation::Refused::OnceMore(response) => return *response,
            secret_rotation::Refused::ByAll { target, cookie } => {
                again = target.unwrap_or(again);
                cookies.push(cookie);
            }
        }
    }
    let message = Message::new(StatusCode::OK, format!("{app} could not sign you in"))
        .text(refusal.for_member())
        .detail("What Zendesk said", raw)
        .detail("For the administrator", refusal.for_administrator())
        .link(Link::primary("Try again", again))
        .link(Link::new("Back to the site", "/"));
    let mut page = request.services.pages.message(&message, incident);
    // Whoever tries again, by a click, is in no circle.
    for cookie in &cookies {
        add_cookie(&mut page, cookie);
    }
    page
}

/// A sign-out of iMIS has been through one Zendesk account.
fn continue_logout(request: &SsoRequest, next_hop: NextHop) -> Response<Bytes> {
    info!(request_id = %request.incident, app = %request.app.name, "signed out of Zendesk after iMIS");
    let (location, cookie) = match next_hop {
        NextHop::Next(logout_redirect) => (logout_redirect.location, logout_redirect.set_cookie),
        NextHop::Home { location, deletion } => (location, deletion),
    };
    let mut response = pages::redirect(StatusCode::FOUND, &location);
    add_cookie(&mut response, &cookie);
    add_cookie(&mut response, loop_guard::DELETION);
    response
}

/// Whether the person whom Zendesk has signed out is the one who is signed in here. Anybody can write such an address, but nobody
/// who does not know whose browser it is gets anything done with it.
async fn is_signed_in_as(request: &SsoRequest, external_id: &str) -> bool {
    let visitor = request.as_visitor();
    let Some(session) = request.sign_on.imis.session(&visitor) else { return false };
    let recognised = async {
        let _place = request.place().await.ok()?;
        request.sign_on.imis.recognise(&session).await.ok()
    };
    match tokio::time::timeout(crate::sso::DEADLINE, recognised).await {
        Ok(Some(Answer::Person(identity))) => identity.id.as_str() == external_id,
        Ok(Some(Answer::Nobody | Answer::AskSite) | None) | Err(_) => false,
    }
}
