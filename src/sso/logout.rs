//! The Remote logout URL: says goodbye, shows why Zendesk refused a sign-in, or continues a sign-out of iMIS.
//!
//! It is an unauthenticated GET. It signs nobody out of iMIS unless the app is configured to, and then only the person
//! whom Zendesk names, or who clicks.

use bytes::Bytes;
use http::{Response, StatusCode};
use tracing::{info, warn};
use url::form_urlencoded;

use crate::base::cookies;
use crate::config::FromZendesk;
use crate::imis::recognise::Answer;
use crate::pages::{self, Link, Message};
use crate::sso::login_params::LoginParams;
use crate::sso::request::{SsoRequest, within_timeout};
use crate::sso::secret_rotation::{self, AfterRefusal};
use crate::sso::single_logout::LogoutRedirect;
use crate::sso::{fetch_metadata, loop_guard};
use crate::zendesk::Refusal;

/// Zendesk's own messages are shorter.
const MAX_MESSAGE_CHARACTERS: usize = 500;

/// Serves `<path>/signed-out`.
pub(crate) async fn respond(request: SsoRequest) -> Response<Bytes> {
    let parameter = |wanted: &str| {
        let mut pairs = form_urlencoded::parse(request.query.as_bytes());
        pairs.find(|(name, _)| name == wanted).map(|(_, value)| value).unwrap_or_default()
    };
    let is_navigation = !request.is_head && fetch_metadata::is_top_level_navigation(&request.headers);
    if parameter("kind") == "error" {
        return refused(&request, &parameter("message"), is_navigation);
    }
    let (app, request_id) = (&request.app.name, request.id());
    if is_navigation && let Some(next) = LogoutRedirect::after_zendesk(&request.sign_on, &request.headers) {
        info!(request_id, app, "signed out of Zendesk after iMIS");
        let mut response = pages::redirect(StatusCode::FOUND, &next.location);
        cookies::append(&mut response, &next.set_cookie);
        cookies::append(&mut response, &loop_guard::reset());
        return response;
    }
    info!(request_id, app, "signed out of Zendesk");
    let policy = request.app.logout_from_zendesk;
    let has_session = request.sign_on.imis.recognition.session(&request.as_visitor()).is_some();
    if policy == FromZendesk::SignOut
        && is_navigation
        && has_session
        && is_signed_in_as(&request, &parameter("external_id")).await
    {
        info!(request_id, app, "signing the same person out of iMIS");
        return pages::redirect(StatusCode::FOUND, &request.sign_on.imis.sign_out);
    }
    goodbye(&request, policy != FromZendesk::Off && has_session)
}

/// `offers_sign_out`: the page also links to the sign-out of iMIS.
fn goodbye(request: &SsoRequest, offers_sign_out: bool) -> Response<Bytes> {
    let app = &request.app.name;
    let login = LoginParams::parse(&request.query, &request.app.zendesk).login_path(&request.app);
    let sign_in = format!("Sign in to {app} again");
    let message = Message::new(StatusCode::OK, format!("You are signed out of {app}"));
    let message = if offers_sign_out {
        message
            .text("You may still be signed in to this site.")
            .link(Link::primary("Sign out of this site, too", request.sign_on.imis.sign_out.clone()))
            .link(Link::new(sign_in, login))
    } else {
        message
            .text("This did not change whether you are signed in to this site.")
            .link(Link::primary(sign_in, login))
    };
    let mut page = request.services.pages.message(&message.link(request.back_to_site()), request.id());
    cookies::append(&mut page, &loop_guard::reset());
    page
}

/// Zendesk refused the token.
fn refused(request: &SsoRequest, message: &str, is_navigation: bool) -> Response<Bytes> {
    let raw: String = message.chars().take(MAX_MESSAGE_CHARACTERS).collect();
    let refusal = Refusal::of(&raw);
    let app = &request.app.name;
    if !request.is_head {
        // The text may contain an e-mail address, and anybody can make one up; so only its kind is logged.
        warn!(request_id = request.id(), app, kind = refusal.name(), "Zendesk refused a sign-in");
        request.services.metrics.zendesk_refusals.inc([app, refusal.name()]);
    }
    let mut login = LoginParams::parse(&request.query, &request.app.zendesk).login_path(&request.app);
    let mut set_cookies = vec![loop_guard::reset()];
    let mut shows_text = Refusal::is_known_text(&raw);
    if is_navigation {
        match secret_rotation::after_refusal(request, refusal) {
            AfterRefusal::Retry(response) => return *response,
            AfterRefusal::GiveUp { login_path, cookie } => {
                shows_text |= login_path.is_some();
                login = login_path.unwrap_or(login);
                set_cookies.push(cookie);
            }
        }
    }
    let (for_member, for_administrator) = refusal.advice();
    let message = Message::new(StatusCode::OK, format!("{app} could not sign you in"))
        .text(for_member)
        .detail("What Zendesk said", if shows_text { raw } else { String::new() })
        .detail("For the administrator", for_administrator)
        .link(Link::primary("Try again", login))
        .link(request.back_to_site());
    let mut page = request.services.pages.message(&message, request.id());
    for cookie in &set_cookies {
        cookies::append(&mut page, cookie);
    }
    page
}

/// Whether the person whom Zendesk signed out is the one who is signed in here. Anybody can write such a URL, but it
/// works only for an author who knows whose client opens it.
async fn is_signed_in_as(request: &SsoRequest, external_id: &str) -> bool {
    let visitor = request.as_visitor();
    let Some(session) = request.sign_on.imis.recognition.session(&visitor) else { return false };
    let recognised = within_timeout(async {
        let _permit = request.concurrency_permit().await?;
        Ok(request.sign_on.imis.recognition.recognise(&session).await?)
    });
    match recognised.await {
        Ok(Answer::Person(identity)) => identity.id.as_str() == external_id,
        Ok(Answer::Anonymous | Answer::AskSite) | Err(_) => false,
    }
}
