//! The endpoint that iMIS's Single Sign-On page posts a refresh token to. The token endpoint of iMIS turns the token
//! into a user name.
//!
//! The page has no `state` parameter, so anybody could have a member's client post another person's token (login CSRF).
//! A post counts only when it comes from a page of this site, with a signed state cookie from a moment ago. Each cookie
//! works once.

use bytes::Bytes;
use http::header::{HeaderMap, REFERER};
use http::{Response, StatusCode};
use tracing::{info, warn};
use url::{Url, form_urlencoded};

use crate::base::{clock, cookies};
use crate::config::ClientApplication;
use crate::imis::recognise::RecognitionReport;
use crate::imis::{ApplicationError, TokenError};
use crate::pages::{self, Link, Message};
use crate::sso::error::SignInError;
use crate::sso::login_params::LoginParams;
use crate::sso::redirects::STATE_PARAMETER;
use crate::sso::request::{SsoRequest, within_timeout};
use crate::sso::state_cookie::{Purpose, State};
use crate::sso::{answer, fetch_metadata, handoff};

const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Serves the post of the Single Sign-On page.
pub(crate) async fn respond(mut request: SsoRequest, form: Bytes) -> Response<Bytes> {
    let sign_on = request.sign_on.clone();
    let Some(application) = &sign_on.imis.recognition.application else {
        let message = Message::new(StatusCode::NOT_FOUND, "Page not found")
            .text("This site does not use iMIS's Single Sign-On page.");
        return request.services.pages.message(&message, request.id());
    };
    if let Err(error) = check(&request) {
        return answer::failure(&request, &LoginParams::default(), &error);
    }
    if !fetch_metadata::is_same_origin_post(&request.headers, &request.origin()) {
        return refuse(&request, "the form came from another site");
    }
    let now = clock::unix_now();
    let states = sign_on.states.open(Purpose::SignIn, &request.headers, now);
    let state = matching_state(&request.headers, &states);
    // iMIS knows one callback URL for all apps; the state says which app it was.
    let app = state.and_then(|state| sign_on.apps.iter().find(|app| state.apps == [app.path.as_str()]));
    let (Some(state), Some(app)) = (state, app) else {
        return refuse(
            &request,
            "no matching state cookie: the sign-in did not start here, or the browser keeps no cookies",
        );
    };
    request.app = app.clone();
    let params = LoginParams::of_login_path(&state.target, app);
    let mut response = if !sign_on.states.consume(state) {
        // Too late, or a second time. The login path is still known, so start again.
        info!(request_id = request.id(), app = %app.name, "restarting a sign-in: its state cookie was used or has expired");
        pages::redirect(StatusCode::SEE_OTHER, &params.login_path(app))
    } else if let Some(token) = refresh_token(&form) {
        let signed_in = within_timeout(redeem(&request, &params, application, &token)).await;
        signed_in.unwrap_or_else(|error| answer::failure(&request, &params, &error))
    } else {
        refuse(&request, "the form does not have exactly one refresh token")
    };
    cookies::append(&mut response, &state.deletion());
    response
}

fn check(request: &SsoRequest) -> Result<(), SignInError> {
    if !fetch_metadata::is_top_level_navigation(&request.headers) {
        return Err(SignInError::NotNavigation);
    }
    Ok(request.services.rates.check_network(request.forwarded.client)?)
}

/// Signs in the person whose refresh token it is.
async fn redeem(
    request: &SsoRequest,
    params: &LoginParams,
    application: &ClientApplication,
    token: &str,
) -> Result<Response<Bytes>, SignInError> {
    let _permit = request.concurrency_permit().await?;
    let identity = match request.sign_on.imis.api.redeem(application, token).await {
        Ok(identity) => identity,
        Err(ApplicationError::Token(TokenError::Grant(status))) => {
            let text = format!("iMIS does not accept the refresh token (status {})", status.as_u16());
            return Ok(refuse(request, &text));
        }
        Err(error) => return Err(error.into()),
    };
    handoff::sign_in_to_zendesk(request, params, &identity).await
}

/// The state of the tab that posts, if the Referer names it. Otherwise the oldest valid state, or the newest invalid
/// one.
fn matching_state<'a>(headers: &HeaderMap, states: &'a [State]) -> Option<&'a State> {
    let page = headers.get(REFERER).and_then(|value| Url::parse(value.to_str().ok()?).ok());
    let nonce = page.and_then(|page| {
        page.query_pairs().find(|(name, _)| name == STATE_PARAMETER).map(|(_, nonce)| nonce.into_owned())
    });
    match nonce {
        // The state of another tab would lead to that tab's return_to.
        Some(nonce) => states.iter().find(|state| state.nonce == nonce),
        None => states.iter().find(|state| state.is_valid).or(states.last()),
    }
}

/// The one refresh token in the form.
fn refresh_token(form: &[u8]) -> Option<String> {
    let mut tokens = form_urlencoded::parse(form).filter(|(name, _)| name == "refresh_token");
    let (_, token) = tokens.next()?;
    let plain = !token.is_empty() && token.len() <= MAX_TOKEN_BYTES && !token.contains(char::is_control);
    (plain && tokens.next().is_none()).then(|| token.into_owned())
}

fn refuse(request: &SsoRequest, reason: &str) -> Response<Bytes> {
    let seen = RecognitionReport::of(&request.headers);
    warn!(request_id = request.id(), app = %request.app.name, reason, observed = %seen, "refused a post of the Single Sign-On page");
    let message = Message::new(StatusCode::FORBIDDEN, "This sign-in could not be completed")
        .text("It did not start in this browser, or was left open for too long. Please start again.")
        .text("If this happens again, check that your browser accepts cookies of this site.")
        .link(Link::primary("Start again", request.app.path.clone()))
        .link(request.back_to_site());
    request.services.pages.message(&message, request.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_has_exactly_one_refresh_token() {
        assert_eq!(refresh_token(b"refresh_token=abc%2B1&x=y").as_deref(), Some("abc+1"));
        for wrong in
            ["", "refresh_token=", "refresh_token=a&refresh_token=b", "Refresh_Token=a", "refresh_token=a%00"]
        {
            assert_eq!(refresh_token(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(refresh_token(format!("refresh_token={}", "x".repeat(9000)).as_bytes()), None);
    }
}
