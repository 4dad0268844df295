//! HTTP clients for iMIS: every wait has a limit, every body a maximum size.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, Response, StatusCode};
use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::base::http_client;

const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// ASP.NET answers requests of one session one after the other, so a probe may wait behind a long postback; a member
/// who waits is better told after ten seconds than left alone.
const TOTAL_DEADLINE: Duration = Duration::from_secs(10);

/// Why an API of iMIS gave no usable answer. No variant holds text that came from the other side.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("no connection")]
    Unreachable(#[source] reqwest::Error),
    #[error("the connection was closed before the response was complete")]
    Lost(#[source] reqwest::Error),
    #[error("timed out")]
    TimedOut,
    #[error("status {0}")]
    Status(StatusCode),
    #[error("the response is longer than {0} bytes")]
    TooLong(usize),
    #[error("the response is not JSON (the page of a firewall, or a sign-in page?)")]
    NotJson,
    #[error("the token endpoint rejected the service account with status {0}; check user name and password")]
    SignInRefused(StatusCode),
    #[error("the response of the token endpoint has no token")]
    NoToken,
    #[error("no service account is configured")]
    NoAccount,
    #[error("the URL of the API is invalid")]
    Url,
    /// Another caller's attempt, which this one had waited for.
    #[error(transparent)]
    Shared(Arc<ApiError>),
}

impl ApiError {
    /// Whether the request may succeed when it is repeated after a while.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Status(status) => status.is_server_error() || matches!(status.as_u16(), 401 | 408 | 429),
            Self::Shared(error) => error.is_transient(),
            Self::Unreachable(_) | Self::Lost(_) | Self::TimedOut | Self::NotJson => true,
            Self::TooLong(_) | Self::SignInRefused(_) | Self::NoToken | Self::NoAccount | Self::Url => false,
        }
    }
}

impl From<reqwest::Error> for ApiError {
    fn from(error: reqwest::Error) -> Self {
        // The URL may carry what is not for logs.
        if error.is_connect() {
            Self::Unreachable(error.without_url())
        } else if error.is_timeout() {
            Self::TimedOut
        } else {
            Self::Lost(error.without_url())
        }
    }
}

fn builder(tls: &Arc<ClientConfig>) -> ClientBuilder {
    http_client::builder(ClientConfig::clone(tls), TOTAL_DEADLINE).connect_timeout(CONNECT_DEADLINE)
}

/// For the REST API and the token endpoint.
pub(super) fn for_api(tls: &Arc<ClientConfig>) -> Result<Client, reqwest::Error> {
    builder(tls).user_agent(http_client::USER_AGENT).pool_idle_timeout(Duration::from_secs(60)).build()
}

/// For pages asked for with a visitor's cookies: whatever the name in the URL, connections go to `server_host`.
///
/// Connections are never reused, so that no answer can ever be taken for another visitor's.
pub(super) fn for_probes(tls: &Arc<ClientConfig>, server_host: &str) -> Result<Client, reqwest::Error> {
    builder(tls).pool_max_idle_per_host(0).dns_resolver(Arc::new(Pinned(server_host.to_owned()))).build()
}

/// Resolves every name to the addresses of one host.
struct Pinned(String);

impl Resolve for Pinned {
    fn resolve(&self, _name: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// GETs JSON with a bearer token.
pub(super) async fn get(client: &Client, url: Url, token: &SecretString) -> Result<Response, ApiError> {
    let request = client.get(url).bearer_auth(token.expose_secret());
    Ok(request.header(http::header::ACCEPT, "application/json").send().await?)
}

/// Reads a body of at most `most` bytes.
pub(super) async fn body(response: Response, most: usize) -> Result<Bytes, ApiError> {
    http_client::body(response, most).await?.ok_or(ApiError::TooLong(most))
}

/// Reads a JSON body; anything that is not declared as JSON is not read at all.
pub(super) async fn json_body(response: Response, most: usize) -> Result<Bytes, ApiError> {
    if !is_type(&response, &["application/json", "text/json"]) {
        return Err(ApiError::NotJson);
    }
    body(response, most).await
}

/// Whether the response declares one of the media types, parameters aside.
pub(super) fn is_type(response: &Response, types: &[&str]) -> bool {
    let declared = response.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = declared.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    types.iter().any(|media_type| essence.eq_ignore_ascii_case(media_type))
}
