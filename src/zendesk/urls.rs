//! Addresses of a Zendesk account.

use crate::base::query::encoded;
use crate::config::Zendesk;

/// The URL to which the form with the token is posted. It is on the account's own subdomain for every brand.
pub(crate) fn jwt_url(zendesk: &Zendesk) -> String {
    format!("https://{}/access/jwt", zendesk.origin)
}

/// The URL that signs a browser out of the account and then redirects to the Remote logout URL.
pub(crate) fn sign_out(zendesk: &Zendesk) -> String {
    format!("https://{}/access/logout", zendesk.origin)
}

/// The password form of Zendesk, which works without single sign-on.
pub(crate) fn password_sign_in(zendesk: &Zendesk, return_to: Option<&str>) -> String {
    let url = format!("https://{}/access/normal", zendesk.origin);
    match return_to {
        Some(return_to) => format!("{url}?return_to={}", encoded(return_to)),
        None => url,
    }
}
