//! Who is it? Asked of iMIS with the visitor's own cookies; never guessed.

mod client_context;
mod session_cookie;

use std::sync::Arc;

use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use reqwest::{Client, StatusCode};
use rustls::ClientConfig;
use tracing::{debug, warn};
use url::Url;

use super::client::{self, ApiError};
use super::{PartyId, Visitor};
use crate::config;
use client_context::ContextError;
use session_cookie::SessionCookies;

const NO_REFRESH_SESSION: HeaderName = HeaderName::from_static("x-norefreshsession");
/// Pages with a large view state stay below this.
const MOST_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Why iMIS did not say who the visitor is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecogniseError {
    #[error("the recognition page cannot be had")]
    Page(#[from] ApiError),
    #[error("the recognition page answers with a redirect to iMIS's error page")]
    ErrorPage,
    #[error("the recognition page does not exist (404)")]
    Missing,
    #[error("the recognition page redirects elsewhere")]
    Elsewhere,
    #[error("the recognition page is not HTML")]
    NotHtml,
    #[error("the recognition page")]
    Context(#[from] ContextError),
}

/// Recognition by `__ClientContext`, for one site.
pub(super) struct Recogniser {
    session_cookies: Vec<String>,
    probe: Probe,
    page: String,
    sign_in_path: String,
}

/// A way to ask the site for a page as the visitor would.
struct Probe {
    /// One per upstream server, tried in order when there is no connection.
    servers: Vec<(config::Server, Client)>,
    host: Option<config::Authority>,
}

impl Recogniser {
    pub(super) fn build(
        imis: &config::Imis,
        site: &config::Site,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self, reqwest::Error> {
        let mut servers = Vec::new();
        for server in &site.upstream.servers {
            servers.push((server.clone(), client::for_probes(tls, &server.host)?));
        }
        Ok(Self {
            session_cookies: imis.session_cookies.clone(),
            probe: Probe { servers, host: site.upstream.host.clone() },
            page: imis.recognise.page.clone(),
            sign_in_path: path_only(&imis.sign_in).to_ascii_lowercase(),
        })
    }

    /// One GET of the page with the visitor's cookies; none without a session cookie.
    pub(super) async fn recognise(&self, visitor: &Visitor<'_>) -> Result<Option<PartyId>, RecogniseError> {
        match session_cookie::find(visitor.headers, &self.session_cookies) {
            SessionCookies::None => return Ok(None),
            SessionCookies::Contradictory(name) => {
                warn!(cookie = name, "a session cookie came with two different values; taken as nobody");
                return Ok(None);
            }
            SessionCookies::Present => {}
        }
        let response = self.probe.get(&self.page, visitor).await?;
        let status = response.status();
        debug!(status = status.as_u16(), "the recognition page answered");
        if status.is_redirection() {
            return self.redirected(response.headers().get(LOCATION)).map(|()| None);
        }
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(RecogniseError::Missing),
            other => return Err(ApiError::Status(other).into()),
        }
        if !client::is_type(&response, &["text/html"]) {
            return Err(RecogniseError::NotHtml);
        }
        let page = client::body(response, MOST_PAGE_BYTES).await?;
        Ok(client_context::read(&page)?)
    }

    /// `Ok` when the redirect goes to the sign-in page, which is iMIS's way to say: nobody.
    fn redirected(&self, location: Option<&HeaderValue>) -> Result<(), RecogniseError> {
        let location = location.and_then(|value| value.to_str().ok()).unwrap_or_default();
        // Only the path matters, and only here: nothing is ever followed.
        let base = Url::parse("https://site.invalid/").map_err(|_| RecogniseError::Elsewhere)?;
        let target = base.join(location).map_err(|_| RecogniseError::Elsewhere)?;
        let path = target.path().to_ascii_lowercase();
        let page = path.rsplit('/').next().unwrap_or_default();
        if path == self.sign_in_path || matches!(page, "login.aspx" | "signin" | "signin.aspx") {
            return Ok(());
        }
        match page {
            "error.aspx" => Err(RecogniseError::ErrorPage),
            "404.aspx" => Err(RecogniseError::Missing),
            _ => Err(RecogniseError::Elsewhere),
        }
    }
}

impl Probe {
    async fn get(&self, page: &str, visitor: &Visitor<'_>) -> Result<reqwest::Response, ApiError> {
        let mut last = ApiError::Url;
        for (server, client) in &self.servers {
            match self.get_from(server, client, page, visitor).await {
                Ok(response) => return Ok(response),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn get_from(
        &self,
        server: &config::Server,
        client: &Client,
        page: &str,
        visitor: &Visitor<'_>,
    ) -> Result<reqwest::Response, ApiError> {
        let host = match &self.host {
            Some(name) => name.to_string(),
            None => visitor.authority.as_str().to_owned(),
        };
        // The name in the URL is for SNI; where the connection goes is the client's resolver's business.
        let name = if server.host.parse::<std::net::IpAddr>().is_ok() {
            host.parse::<http::uri::Authority>().map_err(|_| ApiError::Url)?.host().to_owned()
        } else {
            server.host.clone()
        };
        let scheme = if server.tls { "https" } else { "http" };
        let url =
            Url::parse(&format!("{scheme}://{name}:{}{page}", server.port)).map_err(|_| ApiError::Url)?;
        Ok(client.get(url).headers(probe_headers(visitor, &host)?).send().await?)
    }
}

/// The visitor's own Cookie (byte for byte), User-Agent and Accept-Language, and the forwarding headers.
fn probe_headers(visitor: &Visitor<'_>, host: &str) -> Result<HeaderMap, ApiError> {
    let mut headers = HeaderMap::new();
    for name in [COOKIE, USER_AGENT, ACCEPT_LANGUAGE] {
        for value in visitor.headers.get_all(&name) {
            headers.append(&name, value.clone());
        }
    }
    headers.insert(ACCEPT, HeaderValue::from_static("text/html"));
    // Keeps the probe from extending the visitor's sliding session.
    headers.insert(NO_REFRESH_SESSION, HeaderValue::from_static("true"));
    headers.insert(HOST, HeaderValue::try_from(host).map_err(|_| ApiError::Url)?);
    visitor.forwarded.apply(&mut headers).map_err(|_| ApiError::Url)?;
    Ok(headers)
}

fn path_only(path_and_query: &str) -> &str {
    path_and_query.split('?').next().unwrap_or_default()
}
