//! A request's head, looked at once: what is kept of it, and what is to be done.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::request::access_log::{Access, Seen};
use crate::request::connection::traceparent;
use crate::request::connection::{Asked, Connection, Verdict, Visited, visited};
use crate::request::decide;
use std::net::SocketAddr;

use crate::base::request_id::Incident;
use crate::codec::head::{Request, Tokens};
use crate::codec::{Length, Version};
use crate::pages::Failure;
use crate::proxy::headers::{self, Forwarding, NamesEssential};
use crate::proxy::{Kind, Outgoing, upgrade, windows};

/// What is kept of a request once its head has been dealt with.
pub(crate) struct Facts {
    pub(crate) incident: Incident,
    pub(crate) version: Version,
    pub(crate) keep_alive: bool,
    pub(crate) is_head: bool,
    pub(crate) length: Length,
    pub(crate) expects_continue: bool,
    pub(crate) access: Access,
}

/// What is to be done with a request.
pub(crate) enum Step {
    Forward(usize, Outgoing),
    Visit(Box<Visited>),
    Redirect(String),
    Challenge(String),
    Options,
}

/// Looks at a request once: what is kept of it, and what is to be done.
pub(crate) fn plan(
    tokens: &Tokens<'_, '_>,
    connection: &Connection,
    incident: Incident,
) -> (Facts, Result<Step, Failure>) {
    let version = tokens.version;
    let access = |host: &str| {
        let path = tokens.target.split_once('?').map_or(tokens.target, |(path, _)| path);
        let seen = Seen {
            method: tokens.method,
            host,
            path,
            version: match version {
                Version::Http10 => "HTTP/1.0",
                Version::Http11 => "HTTP/1.1",
            },
            trace: traceparent(tokens.fields.pairs()),
        };
        connection.access(&seen, connection.visitor(tokens.fields.pairs()), incident)
    };
    let is_head = tokens.method == "HEAD";
    match Request::of(tokens) {
        Ok(request) => {
            let facts = Facts {
                incident,
                version,
                keep_alive: request.keep_alive,
                is_head,
                length: request.length,
                expects_continue: request.expects_continue,
                access: access(request.authority.map_or("", |authority| authority.host)),
            };
            let step = step(&request, connection, (incident, &facts.access));
            (facts, step)
        }
        Err(error) => {
            let hosts = tokens.fields.pairs().find(|(name, _)| name.eq_ignore_ascii_case("host"));
            let host = hosts.map_or(Cow::Borrowed(""), |(_, value)| String::from_utf8_lossy(value));
            let facts = Facts {
                incident,
                version,
                keep_alive: false,
                is_head,
                length: Length::Known(0),
                expects_continue: false,
                access: access(&host),
            };
            (facts, Err(Failure::Malformed(error)))
        }
    }
}

fn step(
    request: &Request<'_, '_>,
    connection: &Connection,
    (incident, access): (Incident, &Access),
) -> Result<Step, Failure> {
    let asked = Asked {
        method: request.method,
        target: &request.target,
        authority: request.authority.map(|authority| (authority.host, authority.text)),
        max_forwards: headers::max_forwards(request.method, request.fields.pairs()),
    };
    let (site, host, route) = match decide::decide(&asked, connection)? {
        Verdict::Redirect(location) => return Ok(Step::Redirect(location)),
        Verdict::Challenge(answer) => return Ok(Step::Challenge(answer)),
        Verdict::Options => return Ok(Step::Options),
        Verdict::Forward { site, host } => (site, host, None),
        Verdict::Visit { site, host, visit } => (site, host, Some(visit)),
    };
    if let Some(visit) = route {
        let headers = header_map(request)?;
        return visited(connection, &asked, (site, host), visit, headers, incident).map(Step::Visit);
    }
    let named = &request.named_by_connection;
    headers::removable(named).map_err(|NamesEssential| Failure::BadRequest)?;
    let tunnel = upgrade::is_wanted(request);
    let upstream = &connection.worker.gateway.sites[site].config.upstream;
    let rewritten = upstream.host.as_ref().map(ToString::to_string);
    // HTTP/1.0 may have no Host; what goes on has one.
    let own_host = rewritten.as_deref().or_else(|| (!request.has_host).then_some(host));
    let mut head = connection.worker.buffers.head();
    let chain = connection.chain(request.fields.pairs());
    let max_forwards = asked.max_forwards;
    let trace = connection.trace_of(access, request.fields.pairs());
    let forwarding = Forwarding { chain: &chain, host, incident, max_forwards, trace };
    let departure =
        connection.departure(site, (request.method, host, &request.target), request.fields.pairs());
    headers::write_request(&mut head, request, own_host, &upstream.headers, tunnel, &forwarding);
    Ok(Step::Forward(
        site,
        Outgoing {
            head,
            length: request.length,
            whole: request.length == Length::Known(0),
            method: Kind::of(request.method),
            tunnel,
            signs_in: windows::used_by(request.fields.pairs()),
            client: SocketAddr::new(connection.visitor(request.fields.pairs()), connection.port),
            session: connection.worker.upstreams[site].servers.session(request.fields.pairs()),
            departure,
        },
    ))
}

/// The fields of a request for the parts that are not in a hurry.
fn header_map(request: &Request<'_, '_>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in request.fields.pairs() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Failure::BadRequest)?;
        headers.append(name, HeaderValue::from_bytes(value).map_err(|_| Failure::BadRequest)?);
    }
    Ok(headers)
}
