//! What a request is for: a page of iMIS, an SSO endpoint, or an answer of the gateway's own.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::codec::request_head::{HeaderFields, RequestHead};
use crate::config::App;
use crate::pages;
use crate::proxy::headers;
use crate::request::app_path::{self, Endpoint, PathMatch};
use crate::request::connection::{Connection, Entry};
use crate::request::error_page::Failure;

/// Where a request goes.
pub(crate) enum Route<'a> {
    /// To the upstream of a site.
    Forward(Destination<'a>),
    /// To an SSO endpoint of an app.
    Endpoint(Destination<'a>, Arc<App>, Endpoint),
    /// The gateway answers by itself.
    Respond(Response<Bytes>),
}

/// The site of a request, and its client.
pub(crate) struct Destination<'a> {
    pub(crate) site: usize,
    /// The authority as the client wrote it.
    pub(crate) host: &'a str,
    /// The client's address.
    pub(crate) client: IpAddr,
    /// The value of `Max-Forwards` in an OPTIONS request (RFC 9110 section 7.6.2).
    pub(crate) max_forwards: Option<u64>,
}

/// Decides which site and which part of it a request is for.
pub(crate) fn route<'a, F: HeaderFields>(
    head: &RequestHead<'a, F>,
    client: IpAddr,
    connection: &'a Connection,
) -> Result<Route<'a>, Failure> {
    let gateway = &connection.worker.gateway;
    let certified = match &connection.entry {
        Entry::Https { site, .. } => site.ok_or(Failure::MisdirectedRequest)?,
        Entry::Http => return plain_http(head, connection).map(Route::Respond),
    };
    let (site, host) = match head.authority {
        // RFC 9110 section 15.5.20: a site of another certificate is not served on this connection.
        Some(authority) => match gateway.site_of(authority.host) {
            Some(site) if site == certified => (site, authority.text),
            Some(_) | None => return Err(Failure::MisdirectedRequest),
        },
        // HTTP/1.0 has no Host (RFC 1945): the site of the certificate, under its first name.
        None => (certified, gateway.sites[certified].name()),
    };
    let max_forwards = headers::max_forwards(head.method, head.fields.pairs());
    if max_forwards == Some(0) {
        return Ok(Route::Respond(pages::options()));
    }
    let to = Destination { site, host, client, max_forwards };
    // A backslash is invalid in a URI, and IIS reads it as a slash.
    let forward = |to| match head.path().contains('\\') {
        true => Err(Failure::BadRequest),
        false => Ok(Route::Forward(to)),
    };
    let Some(sign_on) = &gateway.sites[site].sign_on else { return forward(to) };
    let (app, endpoint) = match app_path::match_path(&sign_on.apps, head.path()) {
        PathMatch::Endpoint(app, endpoint) => (app, endpoint),
        PathMatch::Ambiguous(intended) => {
            let query = head.query();
            let mark = if query.is_empty() { "" } else { "?" };
            return Err(Failure::AmbiguousPath(format!("{intended}{mark}{query}")));
        }
        PathMatch::Proxy => return forward(to),
    };
    let allowed: &[&str] = match endpoint {
        Endpoint::Login | Endpoint::Logout => &["GET", "HEAD"],
        Endpoint::ImisCallback => &["POST"],
        Endpoint::MessagingToken => &["GET"],
    };
    if !allowed.contains(&head.method) {
        return Err(Failure::MethodNotAllowed(allowed));
    }
    Ok(Route::Endpoint(to, app.clone(), endpoint))
}

/// Plain HTTP answers the challenges of a CA (RFC 8555 section 8.3) and redirects everything else to HTTPS.
fn plain_http<F>(head: &RequestHead<'_, F>, connection: &Connection) -> Result<Response<Bytes>, Failure> {
    let gateway = &connection.worker.gateway;
    if let Some(token) = head.target.strip_prefix("/.well-known/acme-challenge/")
        && matches!(head.method, "GET" | "HEAD")
        && let Some(answer) = gateway.challenge_answers.get(token)
    {
        return Ok(pages::challenge(String::clone(&answer)));
    }
    let authority = head.authority.ok_or(Failure::BadRequest)?;
    let site = gateway.site_of(authority.host).ok_or(Failure::MisdirectedRequest)?;
    // Without a port in the authority, the client used port 80. If that is mapped to another port of this machine, 443
    // is mapped as well.
    let has_port = authority.text.len() > authority.host.len() + 1;
    let host = authority.host.strip_suffix('.').unwrap_or(authority.host);
    let port = match gateway.sites[site].config.public_port {
        Some(port) => port,
        None if has_port => gateway.https_port,
        None => 443,
    };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let target = if head.target.starts_with('/') { head.target } else { "/" };
    Ok(pages::redirect(StatusCode::PERMANENT_REDIRECT, &format!("https://{host}{port}{target}")))
}
