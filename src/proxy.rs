//! Forwarding: the request goes to iMIS as it came, the response comes back as it was made.
//!
//! Only hop-by-hop headers, framing and the documented forwarding headers differ (`headers`).

pub(crate) mod bound;
pub(crate) mod headers;
mod pool;
mod upgrade;
mod upload;
pub(crate) mod upstream;

use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

use crate::gateway::Site;
use crate::http::body::Body;
use bound::Bound;
use headers::Forwarded;
use upstream::{Upstream, UpstreamError};

/// What a client connection lends to its requests.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    /// Where WebSockets go on.
    pub(crate) tunnels: &'a TaskTracker,
    /// Its own upstream connection, if it comes to have one. HTTP/2 has none: its requests are not one after the other.
    pub(crate) bound: Option<&'a Bound>,
}

/// Forwards a request and returns the response with its body still to be streamed.
pub(crate) async fn forward(
    mut request: Request<Incoming>,
    site: &Site,
    upstream: &Upstream,
    client: Client<'_>,
    authority: &Authority,
    forwarded: &Forwarded,
) -> Result<Response<Body>, UpstreamError> {
    let tunnel = upgrade::wanted(&request);
    let host = site.config.upstream.host_for(authority);
    headers::for_upstream(request.headers_mut(), &host, forwarded, tunnel)?;
    headers::frame_empty_body(&mut request);
    let target = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(target);
    *request.version_mut() = Version::HTTP_11;
    let browser_side = tunnel.then(|| hyper::upgrade::on(&mut request));

    let mut response = upstream.send(request, client.bound).await?;
    *response.version_mut() = Version::HTTP_11;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return upgrade::splice(response, browser_side, client.tunnels);
    }
    if headers::frames_twice(response.headers()) {
        return Err(UpstreamError::AmbiguousLength);
    }
    headers::for_browser(response.headers_mut());
    Ok(response.map(Body::Upstream))
}
