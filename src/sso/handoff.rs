//! Two ways on: the page whose form the browser posts to Zendesk, and the redirect to the iMIS sign-in page.
//!
//! The token travels in the body of that one POST, never in a URL.

use http::header::{CACHE_CONTROL, HeaderValue, LOCATION, REFERRER_POLICY};
use http::{Response, StatusCode};

use super::Visit;
use super::return_to::{Arrival, ReturnTo};
use super::token::Token;
use crate::config::App;
use crate::gateway::Site;
use crate::http::body::Body;
use crate::pages::HandOff;
use crate::query::encoded;

/// The page that signs in.
pub(super) fn page(visit: &Visit, arrival: &Arrival, token: &Token) -> Response<Body> {
    let zendesk = &visit.app.zendesk;
    // Chromium holds the whole chain of redirects after the POST against form-action: Zendesk's hosts, and ours, where
    // Zendesk sends people with an error.
    let suffix = visit.authority.port().map(|port| format!(":{port}")).unwrap_or_default();
    let own = visit.site().config.hosts.iter().map(|host| format!("https://{host}{suffix}"));
    let theirs = zendesk.authorities().map(|authority| format!("https://{authority}"));
    let form_action: Vec<String> = theirs.chain(["'self'".to_owned()]).chain(own).collect();
    visit.gateway.pages.hand_off(&HandOff {
        app: &visit.app.name,
        action: &crate::zendesk::jwt_url(zendesk),
        jwt: token.expose(),
        return_to: arrival.return_to.as_ref().map(ReturnTo::as_str),
        again: &arrival.sso_target(&visit.app),
        form_action: &form_action.join(" "),
        incident: &visit.incident,
    })
}

/// To the site's own sign-in page, which comes back to the SSO path: relative, encoded once.
pub(super) fn to_sign_in_page(site: &Site, app: &App, arrival: &Arrival) -> Response<Body> {
    let sign_in = site.config.imis.as_ref().map_or("/", |imis| imis.sign_in.as_str());
    let separator = if sign_in.contains('?') { '&' } else { '?' };
    let location = format!("{sign_in}{separator}ReturnUrl={}", encoded(&arrival.sso_target(app)));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Both parts are visible ASCII: the path by the configuration's rule, the rest by its encoding.
    if let Ok(location) = HeaderValue::try_from(location) {
        headers.insert(LOCATION, location);
    }
    response
}
