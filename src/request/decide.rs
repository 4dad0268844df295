//! What a request asks for: whose it is, and which of our paths, a page of iMIS, or nothing that is here.

use std::sync::Arc;

use crate::config::App;
use crate::pages::Failure;
use crate::request::connection::{Connection, Door};
use crate::request::route::{Route, route};

/// A request as it is judged, whichever protocol brought it.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a str,
    /// Path and query, or `*`.
    pub(crate) target: &'a str,
    /// Host, and host with port as written; HTTP/1.0 may have none.
    pub(crate) authority: Option<(&'a str, &'a str)>,
    /// Of an OPTIONS, how much further it may go (RFC 9110 section 7.6.2).
    pub(crate) max_forwards: Option<u64>,
}

impl<'a> Asked<'a> {
    fn path(&self) -> &'a str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    pub(crate) fn query(&self) -> &'a str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }
}

/// What a request asks for.
pub(crate) enum Verdict<'a> {
    /// A page of iMIS. `host` is the authority as the visitor wrote it.
    Forward { site: usize, host: &'a str },
    /// One of an app's own paths.
    Visit { site: usize, host: &'a str, visit: Visit },
    /// The same on https.
    Redirect(String),
    /// What a CA wants to see here.
    Challenge(String),
    /// What can be asked for here; the question may go no further.
    Options,
}

/// One of an app's paths.
pub(crate) struct Visit {
    pub(crate) app: Arc<App>,
    pub(crate) what: What,
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    SignIn,
    SignedOut,
    /// The site's Single Sign-On page posts a form.
    FromImis,
    MessagingToken,
}

/// The order of a request: whose it is, then what it asks for.
pub(crate) fn decide<'a>(asked: &Asked<'a>, connection: &'a Connection) -> Result<Verdict<'a>, Failure> {
    let gateway = &connection.worker.gateway;
    let certified = match &connection.door {
        Door::Https { site, .. } => site.ok_or(Failure::UnknownHost)?,
        Door::Http => {
            if let Some(answer) = challenge(asked, connection) {
                return Ok(Verdict::Challenge(answer));
            }
            return https_location(asked, connection).map(Verdict::Redirect);
        }
    };
    let (site, host) = match asked.authority {
        // RFC 9110 section 15.5.20: not the server for this authority, or not over this connection.
        Some((name, written)) => match gateway.site_of(name) {
            Some(site) if site == certified => (site, written),
            Some(_) | None => return Err(Failure::UnknownHost),
        },
        // HTTP/1.0 has no Host (RFC 1945): the site of the certificate, under its first name.
        None => (certified, gateway.sites[certified].config.hosts[0].as_str()),
    };
    if asked.max_forwards == Some(0) {
        return Ok(Verdict::Options);
    }
    let Some(sign_on) = &gateway.sites[site].sign_on else {
        return Ok(Verdict::Forward { site, host });
    };
    let (app, what) = match route(&sign_on.apps, asked.path()) {
        Route::SignIn(app) => (app, What::SignIn),
        Route::SignedOut(app) => (app, What::SignedOut),
        Route::FromImis(app) => (app, What::FromImis),
        Route::MessagingToken(app) => (app, What::MessagingToken),
        Route::Ambiguous(meant) => {
            let query = asked.query();
            let mark = if query.is_empty() { "" } else { "?" };
            return Err(Failure::AmbiguousPath(format!("{meant}{mark}{query}")));
        }
        Route::Proxy => return Ok(Verdict::Forward { site, host }),
    };
    match (what, asked.method) {
        (What::SignIn | What::SignedOut, "GET" | "HEAD")
        | (What::FromImis, "POST")
        | (What::MessagingToken, "GET") => {}
        (What::SignIn | What::SignedOut, _) => return Err(Failure::MethodNotAllowed("GET, HEAD")),
        (What::FromImis, _) => return Err(Failure::MethodNotAllowed("POST")),
        (What::MessagingToken, _) => return Err(Failure::MethodNotAllowed("GET")),
    }
    Ok(Verdict::Visit { site, host, visit: Visit { app: app.clone(), what } })
}

/// What a CA that was asked for a certificate wants to see (RFC 8555 section 8.3). Whatever else is asked for there is somebody else's.
fn challenge(asked: &Asked<'_>, connection: &Connection) -> Option<String> {
    let token = asked.target.strip_prefix("/.well-known/acme-challenge/")?;
    let is_read = matches!(asked.method, "GET" | "HEAD");
    if is_read { connection.worker.gateway.challenges.answer(token) } else { None }
}

/// The same target on https, if it is for one of our sites.
fn https_location(asked: &Asked<'_>, connection: &Connection) -> Result<String, Failure> {
    let gateway = &connection.worker.gateway;
    let (host, _) = asked.authority.ok_or(Failure::BadRequest)?;
    gateway.site_of(host).ok_or(Failure::UnknownHost)?;
    let port = match gateway.https_port {
        443 => String::new(),
        other => format!(":{other}"),
    };
    let target = if asked.target.starts_with('/') { asked.target } else { "/" };
    Ok(format!("https://{host}{port}{target}"))
}
