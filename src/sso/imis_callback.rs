//! The official way of iMIS: its Single Sign-On page has the browser post a refresh token to us, which iMIS's token endpoint turns
//! into a user name.
//!
//! The page carries nothing of ours along, so anybody could have a member's browser post a token of his own and sign that member in
//! as himself (login CSRF). So a post counts only from a browser that was sent to the page a moment ago, which it shows by a signed
//! cookie that is good once, and from a page of this very site.

use bytes::Bytes;
use http::header::{HeaderMap, ORIGIN, REFERER};
use http::{Response, StatusCode};
use tracing::{debug, info, warn};
use url::{Url, form_urlencoded};

use crate::base::clock;
use crate::config::ClientApplication;
use crate::imis::recognise::Seen;
use crate::imis::{ApplicationError, TokenError};
use crate::pages::{self, Link, Message};
use crate::sso::return_to::Arrival;
use crate::sso::state_cookie::{Purpose, State, surplus};
use crate::sso::{SignInError, Visit, add_cookie, admit, answer, fetch_metadata};

/// The parameter by which a post can be told from those of other tabs: browsers name the page that posts.
const TAB: &str = "imis-gateway";
const MOST_TOKEN_BYTES: usize = 8 * 1024;

/// To the Single Sign-On page, which posts back to us, by way of the sign-in page if need be.
pub(super) fn to_page(
    visit: &Visit,
    arrival: &Arrival,
    application: &ClientApplication,
) -> Result<Response<Bytes>, SignInError> {
    let now = clock::unix_now();
    let signer = &visit.sign_on.states;
    let own = (&[visit.app.path.as_str()][..], &*arrival.sso_target(&visit.app), &*visit.app.path);
    let (nonce, cookie) = signer.issue(Purpose::SignIn, own, now).map_err(SignInError::Random)?;
    let separator = if application.page.contains('?') { '&' } else { '?' };
    let location = format!("{}{separator}{TAB}={nonce}", application.page);
    let mut response = pages::redirect(StatusCode::FOUND, &location);
    for old in surplus(&signer.states(Purpose::SignIn, &visit.headers, now), cookie.len()) {
        add_cookie(&mut response, &old.deletion());
    }
    for dead in signer.strangers(&visit.headers, now) {
        add_cookie(&mut response, &dead);
    }
    add_cookie(&mut response, &cookie);
    debug!(request_id = %visit.incident, app = %visit.app.name, "to the Single Sign-On page of iMIS");
    Ok(response)
}

/// The Single Sign-On page has posted.
pub(crate) async fn posted(mut visit: Visit, body: Bytes) -> Response<Bytes> {
    let sign_on = visit.sign_on.clone();
    let Some(application) = sign_on.imis.application() else {
        let message = Message::new(StatusCode::NOT_FOUND, "There is nothing here")
            .text("This site does not use iMIS's Single Sign-On page.");
        return visit.services.pages.message(&message, &visit.incident);
    };
    let own = Arrival::default();
    if let Err(error) = fetch_metadata::require_top_level(&visit.headers) {
        return answer(&visit, &own, &error);
    }
    if let Err(enough) = visit.services.rates.network(visit.forwarded.client) {
        return answer(&visit, &own, &SignInError::Enough(enough));
    }
    if !is_from_this_site(&visit) {
        return refused(&visit, "it came from another site");
    }
    let now = clock::unix_now();
    let states = visit.sign_on.states.states(Purpose::SignIn, &visit.headers, now);
    let state = state_of(&visit.headers, &states);
    // iMIS knows one address to post to, whichever app it was that sent the browser to its page.
    let app = state.and_then(|state| sign_on.apps.iter().find(|app| state.apps == [app.path.as_str()]));
    let (Some(state), Some(app)) = (state, app) else {
        return refused(
            &visit,
            "the browser was not sent to the Single Sign-On page by us, or keeps no cookies",
        );
    };
    visit.app = app.clone();
    let arrival = Arrival::of_target(&state.target, &visit.app);
    if !visit.sign_on.states.consume(state, now) {
        // Too late, or a second time: the way is still known.
        info!(request_id = %visit.incident, app = %visit.app.name, "a sign-in by the Single Sign-On page begins anew: its state was used or too old");
        let mut response = pages::redirect(StatusCode::SEE_OTHER, &arrival.sso_target(&visit.app));
        add_cookie(&mut response, &state.deletion());
        return response;
    }
    let mut response = match token(&body) {
        Some(token) => {
            let admitted =
                crate::sso::within_deadline(admit_holder(&visit, &arrival, application, &token)).await;
            admitted.unwrap_or_else(|error| answer(&visit, &arrival, &error))
        }
        None => refused(&visit, "the form holds no refresh token, or several"),
    };
    add_cookie(&mut response, &state.deletion());
    response
}

async fn admit_holder(
    visit: &Visit,
    arrival: &Arrival,
    application: &ClientApplication,
    token: &str,
) -> Result<Response<Bytes>, SignInError> {
    let _place = visit.place().await?;
    let identity = match visit.sign_on.imis.redeem(application, token).await {
        Ok(identity) => identity,
        Err(ApplicationError::Token(TokenError::Grant(status))) => {
            let text = format!("iMIS does not accept the refresh token (status {})", status.as_u16());
            return Ok(refused(visit, &text));
        }
        Err(error) => return Err(error.into()),
    };
    admit(visit, arrival, &identity).await
}

/// Whether a page of this site has posted, as far as browsers say. One that says nothing is let pass: it has to show its cookie.
fn is_from_this_site(visit: &Visit) -> bool {
    let only = |name: &str, allowed: &[&str]| {
        visit
            .headers
            .get_all(name)
            .iter()
            .all(|value| value.to_str().is_ok_and(|text| allowed.contains(&text)))
    };
    let own = format!("https://{}", visit.authority);
    // A page that tells nobody where it is (Referrer-Policy) has the origin `null`, and so has a frame of another site.
    let said = visit.headers.contains_key("sec-fetch-site");
    let origins: &[&str] = if said { &[&own, "null"] } else { &[&own] };
    only("sec-fetch-site", &["same-origin"]) && only(ORIGIN.as_str(), origins)
}

/// The state of the tab that posts, when its page is named; else the oldest that is good, else the newest that was.
fn state_of<'a>(headers: &HeaderMap, states: &'a [State]) -> Option<&'a State> {
    let page = headers.get(REFERER).and_then(|value| Url::parse(value.to_str().ok()?).ok());
    let nonce = page.and_then(|page| {
        page.query_pairs().find(|(name, _)| name == TAB).map(|(_, nonce)| nonce.into_owned())
    });
    match nonce {
        // Another tab's would lead to another tab's place.
        Some(nonce) => states.iter().find(|state| state.nonce == nonce),
        None => states.iter().find(|state| state.is_good).or(states.last()),
    }
}

fn token(body: &[u8]) -> Option<String> {
    let mut tokens = form_urlencoded::parse(body).filter(|(name, _)| name == "refresh_token");
    let (_, token) = tokens.next()?;
    let plain = !token.is_empty() && token.len() <= MOST_TOKEN_BYTES && !token.contains(char::is_control);
    (plain && tokens.next().is_none()).then(|| token.into_owned())
}

fn refused(visit: &Visit, why: &str) -> Response<Bytes> {
    let seen = Seen::of(&visit.headers);
    warn!(request_id = %visit.incident, app = %visit.app.name, reason = why, observed = %seen, "a post of the Single Sign-On page was refused");
    let message = Message::new(StatusCode::FORBIDDEN, "This sign-in could not be completed")
        .text("It did not begin in this browser, or was left open for too long. Please start again.")
        .text("If this happens again, check that your browser accepts cookies of this site.")
        .link(Link::primary("Start again", visit.app.path.clone()))
        .link(Link::new("Back to the site", "/"));
    visit.services.pages.message(&message, &visit.incident)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_refresh_token_or_none() {
        assert_eq!(token(b"refresh_token=abc%2B1&x=y").as_deref(), Some("abc+1"));
        for wrong in
            ["", "refresh_token=", "refresh_token=a&refresh_token=b", "Refresh_Token=a", "refresh_token=a%00"]
        {
            assert_eq!(token(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(token(format!("refresh_token={}", "x".repeat(9000)).as_bytes()), None);
    }
}
