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
use crate::sso::return_to::LoginParams;
use crate::sso::state_cookie::{Purpose, State, surplus};
use crate::sso::{SignInError, SsoRequest, add_cookie, admit, answer, fetch_metadata};

/// The parameter by which a post can be told from those of other tabs: browsers name the page that posts.
const TAB: &str = "imis-gateway";
const MOST_TOKEN_BYTES: usize = 8 * 1024;

/// To the Single Sign-On page, which posts back to us, by way of the sign-in page if need be.
pub(super) fn to_page(
    request: &SsoRequest,
    params: &LoginParams,
    application: &ClientApplication,
) -> Result<Response<Bytes>, SignInError> {
    let now = clock::unix_now();
    let signer = &request.sign_on.states;
    let own = (&[request.app.path.as_str()][..], &*params.sso_target(&request.app), &*request.app.path);
    let (nonce, cookie) = signer.issue(Purpose::SignIn, own, now).map_err(SignInError::Random)?;
    let separator = if application.page.contains('?') { '&' } else { '?' };
    let location = format!("{}{separator}{TAB}={nonce}", application.page);
    let mut response = pages::redirect(StatusCode::FOUND, &location);
    for old in surplus(&signer.states(Purpose::SignIn, &request.headers, now), cookie.len()) {
        add_cookie(&mut response, &old.deletion());
    }
    for dead in signer.strangers(&request.headers, now) {
        add_cookie(&mut response, &dead);
    }
    add_cookie(&mut response, &cookie);
    debug!(request_id = %request.incident, app = %request.app.name, "to the Single Sign-On page of iMIS");
    Ok(response)
}

/// The Single Sign-On page has posted.
pub(crate) async fn posted(mut request: SsoRequest, body: Bytes) -> Response<Bytes> {
    let sign_on = request.sign_on.clone();
    let Some(application) = sign_on.imis.application() else {
        let message = Message::new(StatusCode::NOT_FOUND, "There is nothing here")
            .text("This site does not use iMIS's Single Sign-On page.");
        return request.services.pages.message(&message, &request.incident);
    };
    let own = LoginParams::default();
    if let Err(error) = fetch_metadata::require_top_level(&request.headers) {
        return answer(&request, &own, &error);
    }
    if let Err(enough) = request.services.rates.check_network(request.forwarded.client) {
        return answer(&request, &own, &SignInError::RateLimited(enough));
    }
    if !is_from_this_site(&request) {
        return refused(&request, "it came from another site");
    }
    let now = clock::unix_now();
    let states = request.sign_on.states.states(Purpose::SignIn, &request.headers, now);
    let state = state_of(&request.headers, &states);
    // iMIS knows one address to post to, whichever app it was that sent the browser to its page.
    let app = state.and_then(|state| sign_on.apps.iter().find(|app| state.apps == [app.path.as_str()]));
    let (Some(state), Some(app)) = (state, app) else {
        return refused(
            &request,
            "the browser was not sent to the Single Sign-On page by us, or keeps no cookies",
        );
    };
    request.app = app.clone();
    let params = LoginParams::of_target(&state.target, &request.app);
    if !request.sign_on.states.consume(state, now) {
        // Too late, or a second time: the way is still known.
        info!(request_id = %request.incident, app = %request.app.name, "a sign-in by the Single Sign-On page begins anew: its state was used or too old");
        let mut response = pages::redirect(StatusCode::SEE_OTHER, &params.sso_target(&request.app));
        add_cookie(&mut response, &state.deletion());
        return response;
    }
    let mut response = match token(&body) {
        Some(token) => {
            let admitted =
                crate::sso::within_deadline(admit_holder(&request, &params, application, &token)).await;
            admitted.unwrap_or_else(|error| answer(&request, &params, &error))
        }
        None => refused(&request, "the form holds no refresh token, or several"),
    };
    add_cookie(&mut response, &state.deletion());
    response
}

async fn admit_holder(
    request: &SsoRequest,
    params: &LoginParams,
    application: &ClientApplication,
    token: &str,
) -> Result<Response<Bytes>, SignInError> {
    let _place = request.place().await?;
    let identity = match request.sign_on.imis.redeem(application, token).await {
        Ok(identity) => identity,
        Err(ApplicationError::Token(TokenError::Grant(status))) => {
            let text = format!("iMIS does not accept the refresh token (status {})", status.as_u16());
            return Ok(refused(request, &text));
        }
        Err(error) => return Err(error.into()),
    };
    admit(request, params, &identity).await
}

/// Whether a page of this site has posted, as far as browsers say. One that says nothing is let pass: it has to show its cookie.
fn is_from_this_site(request: &SsoRequest) -> bool {
    let only = |name: &str, allowed: &[&str]| {
        request
            .headers
            .get_all(name)
            .iter()
            .all(|value| value.to_str().is_ok_and(|text| allowed.contains(&text)))
    };
    let own = format!("https://{}", request.authority);
    // A page that tells nobody where it is (Referrer-Policy) has the origin `null`, and so has a frame of another site.
    let said = request.headers.contains_key("sec-fetch-site");
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

fn refused(request: &SsoRequest, why: &str) -> Response<Bytes> {
    let seen = Seen::of(&request.headers);
    warn!(request_id = %request.incident, app = %request.app.name, reason = why, observed = %seen, "a post of the Single Sign-On page was refused");
    let message = Message::new(StatusCode::FORBIDDEN, "This sign-in could not be completed")
        .text("It did not begin in this browser, or was left open for too long. Please start again.")
        .text("If this happens again, check that your browser accepts cookies of this site.")
        .link(Link::primary("Start again", request.app.path.clone()))
        .link(Link::new("Back to the site", "/"));
    request.services.pages.message(&message, &request.incident)
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
