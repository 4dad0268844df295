//! Observes sign-ins and sign-outs that are forwarded to iMIS. They invalidate the cached identity of the session.

use crate::codec::head::{Response, header_slots};
use crate::codec::request_head::{HeaderFields, RequestHead};
use crate::proxy::exchange::Exchange;
use crate::request::connection::Connection;
use crate::sso::single_logout::{self, LogoutRedirect, SignOutRequest};

/// A request that signs in to iMIS or out of it, if this is one.
pub(crate) fn sign_out<F: HeaderFields>(
    head: &RequestHead<'_, F>,
    connection: &Connection,
    (site, host): (usize, &str),
) -> Option<Box<SignOutRequest>> {
    let sign_on = connection.worker.gateway.sites[site].sign_on.as_ref()?;
    SignOutRequest::detect(sign_on, head.method, host, head.target, head.fields.pairs()).map(Box::new)
}

/// Whether a response deletes a session cookie of the site.
pub(crate) fn ends_session(connection: &Connection, site: usize, response: &Response<'_, '_>) -> bool {
    let Some(sign_on) = &connection.worker.gateway.sites[site].sign_on else { return false };
    response.fields.pairs().any(|(name, value)| {
        name.eq_ignore_ascii_case("set-cookie") && sign_on.imis.recognition.deletes_session(value)
    })
}

/// Removes the cached identity of a request's session. `head`: the request head for the upstream. Returns whether the
/// request has a session.
pub(crate) async fn forget(connection: &Connection, site: usize, head: &[u8]) -> bool {
    let Some(sign_on) = &connection.worker.gateway.sites[site].sign_on else { return false };
    let Some(cookies) = single_logout::session_cookies(sign_on, head) else { return false };
    sign_on.imis.recognition.forget(&cookies).await;
    // After a reload, the new configuration may have cached it as well.
    if let Some(newer) = connection.renewed()
        && let Some(site) = newer.site()
        && let Some(sign_on) = &newer.worker.gateway.sites[site].sign_on
    {
        sign_on.imis.recognition.forget(&cookies).await;
    }
    true
}

/// The redirect that leads a sign-out through the sign-out of Zendesk. None for interim responses.
pub(crate) async fn logout_redirect(
    sign_out: &SignOutRequest,
    exchange: &Exchange,
    request: &[u8],
    connection: &Connection,
    site: usize,
) -> Option<LogoutRedirect> {
    let (status, location) = {
        let mut slots = header_slots();
        let response = Response::parse(exchange.response_head_bytes(), &mut slots, false).ok()?;
        let location = HeaderFields::first(&response.fields, "location").map(<[u8]>::to_vec);
        (response.status, location)
    };
    if status < 200 {
        return None;
    }
    let had_session = forget(connection, site, request).await;
    let sign_on = connection.worker.gateway.sites[site].sign_on.as_ref()?;
    sign_out.logout_redirect(sign_on, had_session, status, location.as_deref())
}
