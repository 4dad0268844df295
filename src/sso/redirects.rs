//! Redirects to iMIS: to the site's sign-in page, and to its Single Sign-On page.

use bytes::Bytes;
use http::{Response, StatusCode};
use tracing::{debug, info, warn};

use crate::base::query::encoded;
use crate::base::{clock, cookies};
use crate::config::ClientApplication;
use crate::pages;
use crate::sso::error::SignInError;
use crate::sso::login_params::LoginParams;
use crate::sso::loop_guard::{self, Destination};
use crate::sso::request::SsoRequest;
use crate::sso::state_cookie::{self, Purpose};

/// IIS accepts queries of up to 2,048 bytes (maxQueryString); `ReturnUrl=` and the page's own parameters need some of
/// them.
const MAX_RETURN_URL_BYTES: usize = 1950;
/// The query parameter with the nonce of the state cookie. The form post names it in its Referer, which tells tabs
/// apart.
pub(super) const STATE_PARAMETER: &str = "imis-gateway";

/// Sends a visitor who is not signed in to the sign-in page, unless that happens in a loop.
pub(super) fn sign_in(request: &SsoRequest, params: &LoginParams) -> Result<Response<Bytes>, SignInError> {
    loop_guard::unless_looping(request, params, Destination::SignInPage, || {
        info!(request_id = request.id(), app = %request.app.name, "not signed in to iMIS; redirecting to its sign-in page");
        Ok(to_sign_in_page(request, params))
    })
}

/// The redirect to the sign-in page. Its `ReturnUrl` is our own path.
pub(super) fn to_sign_in_page(request: &SsoRequest, params: &LoginParams) -> Response<Bytes> {
    let location = with_parameter(&request.sign_on.imis.sign_in, "ReturnUrl", &return_url(request, params));
    pages::redirect(StatusCode::FOUND, &location)
}

/// The path of the sign-out page, from which the visitor comes back to our own path, and so to the sign-in page.
pub(super) fn sign_out_path(request: &SsoRequest, params: &LoginParams) -> String {
    with_parameter(&request.sign_on.imis.sign_out, "returnurl", &return_url(request, params))
}

/// Our own path, relative and encoded once.
fn return_url(request: &SsoRequest, params: &LoginParams) -> String {
    let full = encoded(&params.login_path(&request.app));
    // IIS answers a longer query with a bare 404.15 page, so a long return_to is dropped.
    if full.len() > MAX_RETURN_URL_BYTES {
        warn!(request_id = request.id(), app = %request.app.name, "dropped a return_to that is too long for iMIS's sign-in page");
        encoded(&request.app.path)
    } else {
        full
    }
}

/// Sends a visitor to the Single Sign-On page, which posts a refresh token to `imis_callback`. A visitor who is not
/// signed in gets there by way of the sign-in page.
pub(super) fn single_sign_on(
    request: &SsoRequest,
    params: &LoginParams,
    application: &ClientApplication,
) -> Result<Response<Bytes>, SignInError> {
    loop_guard::unless_looping(request, params, Destination::SingleSignOnPage, || {
        let (now, app, states) = (clock::unix_now(), &request.app, &request.sign_on.states);
        let (nonce, cookie) = states
            .issue(Purpose::SignIn, &[&app.path], &params.login_path(app), &app.path, now)
            .map_err(SignInError::Random)?;
        let location = with_parameter(&application.page, STATE_PARAMETER, &nonce);
        let mut response = pages::redirect(StatusCode::FOUND, &location);
        let open = states.open(Purpose::SignIn, &request.headers, now);
        for state in state_cookie::surplus(&open, cookie.len()) {
            cookies::append(&mut response, &state.deletion());
        }
        for deletion in states.delete_invalid(&request.headers, now) {
            cookies::append(&mut response, &deletion);
        }
        cookies::append(&mut response, &cookie);
        debug!(request_id = request.id(), app = %app.name, "redirecting to iMIS's Single Sign-On page");
        Ok(response)
    })
}

fn with_parameter(page: &str, parameter: &str, value: &str) -> String {
    let separator = if page.contains('?') { '&' } else { '?' };
    format!("{page}{separator}{parameter}={value}")
}
