//! Connections of browsers, HTTP/1 or HTTP/2 as ALPN chose. Every request gets a response: what fails outside the sign-in
//! becomes one here, what fails inside it in `sso`.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, Response};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, warn};

use crate::base::request_id::Incident;
use crate::observe::log::Chain;
use crate::pages::Failure;
use crate::proxy::headers::{Forwarded, Trace, forwarded_for};
use crate::request::access_log::{Access, Came, Seen};
pub(crate) use crate::request::decide::{Asked, Verdict, Visit, What};
use crate::request::worker::Worker;
use crate::sso;
use crate::sso::single_logout::{self, Departure, Detour};

/// What is known of a connection before its first request.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) peer: IpAddr,
    pub(crate) port: u16,
    /// The peer as text, which nearly every request needs.
    pub(crate) peer_text: String,
    pub(crate) door: Door,
}

/// Where a connection came in.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    /// With the certificate for this name, which is this site's. No site has it any more after some reloads.
    Https { name: Rc<str>, site: Option<usize> },
    /// The plain-HTTP port, which only leads to the other.
    Http,
}

impl Connection {
    pub(crate) fn new(worker: Rc<Worker>, peer: SocketAddr, door: Door) -> Self {
        Self { worker, peer: peer.ip(), port: peer.port(), peer_text: peer.ip().to_string(), door }
    }

    /// The same connection under the configuration of now, for a request that begins; none when that has not changed.
    pub(crate) fn renewed(&self) -> Option<Self> {
        let worker = self.worker.newer()?;
        let door = match &self.door {
            Door::Https { name, .. } => {
                Door::Https { name: name.clone(), site: worker.gateway.site_of(name) }
            }
            Door::Http => Door::Http,
        };
        Some(Self { worker, peer: self.peer, port: self.port, peer_text: self.peer_text.clone(), door })
    }

    /// Whether a request of this connection goes to the same servers under both configurations, on connections that are the same.
    pub(crate) fn has_upstream_of(&self, other: &Self) -> bool {
        let upstream = |connection: &Self| match connection.door {
            Door::Https { site: Some(site), .. } => Some(connection.worker.upstreams[site].clone()),
            Door::Https { site: None, .. } | Door::Http => None,
        };
        matches!((upstream(self), upstream(other)), (Some(own), Some(other)) if Rc::ptr_eq(&own, &other))
    }

    /// What becomes of the `traceparent` of a request.
    pub(crate) fn trace_of<'a>(
        &self,
        access: &Access,
        fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Trace {
        match access.span() {
            Some(context) => Trace::Within(context),
            None if self.worker.gateway.traces && traceparent(fields).is_none() => Trace::Made,
            None => Trace::Kept,
        }
    }

    /// `X-Forwarded-For` for the upstream: what trusted proxies say of a request's way to our peer, then our peer.
    pub(crate) fn chain<'a>(&self, fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Cow<'_, str> {
        let told = self.vouched_for(fields);
        if told.is_empty() {
            return Cow::Borrowed(&self.peer_text);
        }
        let chain: Vec<String> = told.iter().chain([&self.peer]).map(IpAddr::to_string).collect();
        Cow::Owned(chain.join(", "))
    }

    /// The visitor's address, as far as trusted proxies vouch for it, or our peer's.
    pub(crate) fn visitor<'a>(&self, fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> IpAddr {
        self.vouched_for(fields).first().copied().unwrap_or(self.peer)
    }

    fn vouched_for<'a>(&self, fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<IpAddr> {
        let gateway = &self.worker.gateway;
        if gateway.trusts(self.peer) {
            forwarded_for(fields, |address| gateway.trusts(address))
        } else {
            Vec::new()
        }
    }

    /// What a request for a page of iMIS is, if it signs out.
    pub(crate) fn departure<'a>(
        &self,
        site: usize,
        request: (&str, &str, &str),
        fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<Box<Departure>> {
        let sign_on = self.worker.gateway.sites[site].sign_on.as_ref()?;
        Departure::of(sign_on, request, fields).map(Box::new)
    }

    /// Whether an answer takes a session of the site away.
    pub(crate) fn ends_session<'a>(
        &self,
        site: usize,
        mut fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> bool {
        let Some(sign_on) = &self.worker.gateway.sites[site].sign_on else { return false };
        fields.any(|(name, value)| {
            name.eq_ignore_ascii_case("set-cookie") && sign_on.imis.deletes_session(value)
        })
    }

    /// What is known of the session of a request is forgotten. Whether it had one.
    pub(crate) async fn forget(&self, site: usize, head: &[u8]) -> bool {
        let Some(sign_on) = &self.worker.gateway.sites[site].sign_on else { return false };
        let Some(cookies) = single_logout::session_cookies(sign_on, head) else { return false };
        sign_on.imis.forget(&cookies).await;
        // Somebody may have asked under a configuration that has come since this request began.
        if let Some(newer) = self.renewed()
            && let Door::Https { site: Some(site), .. } = newer.door
            && let Some(sign_on) = &newer.worker.gateway.sites[site].sign_on
        {
            sign_on.imis.forget(&cookies).await;
        }
        true
    }

    /// What becomes of the answer to a sign-out.
    pub(crate) fn detour(
        &self,
        site: usize,
        departure: &Departure,
        had_session: bool,
        answer: (u16, Option<&[u8]>),
    ) -> Option<Detour> {
        let sign_on = self.worker.gateway.sites[site].sign_on.as_ref()?;
        departure.detour(sign_on, had_session, answer)
    }

    /// The record of a request.
    pub(crate) fn access(&self, seen: &Seen<'_>, client: IpAddr, incident: Incident) -> Access {
        let came = Came {
            client,
            is_https: matches!(self.door, Door::Https { .. }),
            // Asked only where it decides something.
            is_vouched_for: self.worker.gateway.spans.is_some() && self.worker.gateway.trusts(self.peer),
        };
        Access::begin(seen, &came, incident, &self.worker)
    }

    /// The page for a failure, and its line in the log.
    pub(crate) fn failed(&self, failure: &Failure, incident: Incident) -> Response<Bytes> {
        let error = Chain(failure);
        if failure.is_the_clients() {
            debug!(%incident, %error, "answered with a page of our own");
        } else {
            warn!(%incident, %error, "answered with a page of our own");
        }
        self.worker.gateway.pages.failure(failure, &incident.to_string())
    }
}

pub(crate) fn traceparent<'a>(mut fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<&'a [u8]> {
    fields.find(|(name, _)| name.eq_ignore_ascii_case("traceparent")).map(|(_, value)| value)
}

/// A visit with all it needs, independent of its connection.
pub(crate) struct Visited {
    /// Index of the site.
    pub(crate) site: usize,
    pub(crate) visit: sso::Visit,
    pub(crate) what: What,
}

impl Visited {
    /// Whether a form comes with it.
    pub(crate) fn has_form(&self) -> bool {
        self.what == What::FromImis
    }
}

/// Forms of more bytes are not for us.
pub(crate) const MOST_FORM: usize = 16 * 1024;

pub(crate) fn visited(
    connection: &Connection,
    asked: &Asked<'_>,
    (site, host): (usize, &str),
    visit: Visit,
    headers: HeaderMap,
    incident: Incident,
) -> Result<Box<Visited>, Failure> {
    let gateway = &connection.worker.gateway;
    let sign_on = gateway.sites[site].sign_on.clone().ok_or(Failure::Internal)?;
    let fields = || crate::proxy::headers::pairs(&headers);
    let forwarded = Forwarded {
        client: connection.visitor(fields()),
        chain: connection.chain(fields()).into_owned(),
        host: host.to_owned(),
        incident: incident.to_string(),
    };
    let Visit { app, what } = visit;
    let visit = sso::Visit {
        services: gateway.services.clone(),
        sign_on,
        app,
        query: asked.query().to_owned(),
        forwarded,
        is_head: asked.method == "HEAD",
        authority: Authority::try_from(host).map_err(|_| Failure::BadRequest)?,
        incident: incident.to_string(),
        headers,
        learned: sso::Learned::default(),
    };
    Ok(Box::new(Visited { site, visit, what }))
}

/// Waits for a sign-in on the control runtime: iMIS cannot hold up this worker, and a panic ends one sign-in. A browser
/// that leaves takes its sign-in with it.
pub(crate) async fn visit(
    worker: &Worker,
    visited: Visited,
    form: Bytes,
    incident: Incident,
) -> Result<Response<Bytes>, Failure> {
    let Visited { visit, what, site: _ } = visited;
    let task = match what {
        What::SignIn => worker.control.spawn(sso::sign_in(visit)),
        What::SignedOut => worker.control.spawn(sso::signed_out(visit)),
        What::FromImis => worker.control.spawn(sso::posted(visit, form)),
        What::MessagingToken => worker.control.spawn(sso::messaging_token(visit)),
    };
    AbortOnDropHandle::new(task).await.map_err(|error| {
        // Not the error itself: a panic's message could quote what it stumbled on.
        error!(%incident, panicked = error.is_panic(), "a sign-in ended abnormally");
        Failure::Internal
    })
}
