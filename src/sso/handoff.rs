//! Two ways on: the page whose form the browser posts to Zendesk, and the redirect to the iMIS sign-in page.
//!
//! The token travels in the body of that one POST, never in a URL.

use bytes::Bytes;
use http::{Response, StatusCode};
use tracing::warn;

use crate::base::query::encoded;
use crate::pages::{self, HandOff};
use crate::sso::SsoRequest;
use crate::sso::return_to::{LoginParams, ReturnTo};
use crate::sso::token::Token;

/// IIS takes queries of up to 2,048 bytes (maxQueryString); `ReturnUrl=` and the page's own parameters need some.
const MOST_RETURN_URL: usize = 1950;

/// The page that signs in.
pub(super) fn page(request: &SsoRequest, params: &LoginParams, token: &Token) -> Response<Bytes> {
    let zendesk = &request.app.zendesk;
    // Chromium holds the whole chain of redirects after the POST against form-action: Zendesk's hosts, and ours, where
    // Zendesk sends people with an error.
    let suffix = request.authority.port().map(|port| format!(":{port}")).unwrap_or_default();
    let own = request.sign_on.hosts.iter().map(|host| format!("https://{host}{suffix}"));
    let theirs = zendesk.authorities().map(|authority| format!("https://{authority}"));
    let form_action: Vec<String> = theirs.chain(["'self'".to_owned()]).chain(own).collect();
    request.services.pages.hand_off(&HandOff {
        app: &request.app.name,
        action: &crate::zendesk::jwt_url(zendesk),
        jwt: token.expose(),
        return_to: params.return_to.as_ref().map(ReturnTo::as_str),
        again: &params.sso_target(&request.app),
        form_action: &form_action.join(" "),
        incident: &request.incident,
    })
}

/// To the site's own sign-in page, which comes back to the SSO path: relative, encoded once.
pub(super) fn to_sign_in_page(request: &SsoRequest, params: &LoginParams) -> Response<Bytes> {
    let sign_in = &request.sign_on.imis.sign_in;
    let separator = if sign_in.contains('?') { '&' } else { '?' };
    let full = encoded(&params.sso_target(&request.app));
    // IIS answers a longer query with a bare 404.15: rather arrive at the front page than not at all.
    let return_url = if full.len() > MOST_RETURN_URL {
        warn!(request_id = %request.incident, app = %request.app.name, "a return_to too long for iMIS's sign-in page was dropped");
        encoded(&request.app.path)
    } else {
        full
    };
    pages::redirect(StatusCode::FOUND, &format!("{sign_in}{separator}ReturnUrl={return_url}"))
}
