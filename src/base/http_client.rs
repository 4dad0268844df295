//! HTTP clients for the gateway's own requests: to iMIS, to Zendesk, to CAs and to the collector of traces.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response};
use rustls::ClientConfig;

/// The `User-Agent` of requests to APIs.
pub(crate) const USER_AGENT: &str = concat!("imis-gateway/", env!("CARGO_PKG_VERSION"));

/// A client that follows no redirects, uses no proxy from the environment and sends no Referer. `timeout` bounds a
/// request from the connection to the last byte of the response.
#[expect(clippy::disallowed_methods, reason = "the one place that builds clients")]
pub(crate) fn builder(tls: ClientConfig, timeout: Duration) -> ClientBuilder {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(Policy::none())
        .no_proxy()
        .http1_only()
        .referer(false)
        .timeout(timeout)
}

/// The body of a response, or `None` if it is longer than `max` bytes.
pub(crate) async fn body(mut response: Response, max: usize) -> Result<Option<Bytes>, reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}
