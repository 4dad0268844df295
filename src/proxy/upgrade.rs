//! WebSocket: once the upstream has agreed with 101, bytes flow both ways until either side is done.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::upstream::UpstreamError;
use crate::http::body::Body;

/// Whether a request asks for a WebSocket (RFC 6455 section 4.1): GET, HTTP/1.1, both headers, no body.
pub(super) fn wanted(request: &Request<Incoming>) -> bool {
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && http_body::Body::is_end_stream(request.body())
        && request
            .headers()
            .get(UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && lists_upgrade(request.headers())
}

fn names_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn lists_upgrade(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CONNECTION).iter();
    let mut names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// Passes the 101 on and joins the two connections. A 101 that nobody asked for is an upstream's fault.
pub(super) fn splice(
    mut response: Response<Incoming>,
    browser_side: Option<OnUpgrade>,
    tunnels: &TaskTracker,
) -> Result<Response<Body>, UpstreamError> {
    let Some(browser_side) = browser_side.filter(|_| names_websocket(response.headers())) else {
        return Err(UpstreamError::UnexpectedUpgrade);
    };
    let imis_side = hyper::upgrade::on(&mut response);
    tunnels.spawn_local(async move {
        let (Ok(browser), Ok(imis)) = tokio::join!(browser_side, imis_side) else {
            debug!("a WebSocket was agreed on but not taken up");
            return;
        };
        let (mut browser, mut imis) = (TokioIo::new(browser), TokioIo::new(imis));
        if let Err(error) = tokio::io::copy_bidirectional(&mut browser, &mut imis).await {
            debug!(%error, "a WebSocket ended");
        }
    });
    super::headers::for_browser(response.headers_mut());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    Ok(response.map(|_| Body::empty()))
}
