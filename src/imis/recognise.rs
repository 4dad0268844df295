//! Who is it? Asked of iMIS with the visitor's own cookies; never guessed.

mod client_context;
mod session_cookie;

use std::sync::Arc;

use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, CACHE_CONTROL, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION,
    USER_AGENT,
};
use http::uri::Authority;
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

/// A visitor who has a session cookie.
pub(crate) struct Session<'a>(&'a Visitor<'a>);

/// Whom a page names, for the workbench.
#[cfg(any(test, feature = "workbench"))]
pub(crate) fn read_client_context(page: &[u8]) -> Option<PartyId> {
    client_context::read(page).ok().flatten()
}

/// Whether a session cookie is among the cookies, whatever iMIS would say of it.
#[cfg(any(test, feature = "workbench"))]
pub(crate) fn has_session(headers: &HeaderMap, names: &[String]) -> bool {
    session_cookie::find(headers, names) == SessionCookies::Present
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
    upstream: config::Upstream,
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
            probe: Probe { servers, upstream: site.upstream.clone() },
            page: imis.recognise.page.clone(),
            sign_in_path: path_only(&imis.sign_in).trim_end_matches('/').to_ascii_lowercase(),
        })
    }

    /// The visitor's session, if there is a cookie of one; only iMIS can say whether it is good.
    pub(super) fn session<'a>(&self, visitor: &'a Visitor<'a>) -> Option<Session<'a>> {
        match session_cookie::find(visitor.headers, &self.session_cookies) {
            SessionCookies::Present => Some(Session(visitor)),
            SessionCookies::None => None,
            SessionCookies::Contradictory(name) => {
                warn!(cookie = name, "a session cookie came with two different values; taken as nobody");
                None
            }
        }
    }

    /// One GET of the page with the visitor's cookies.
    pub(super) async fn recognise(&self, session: &Session<'_>) -> Result<Option<PartyId>, RecogniseError> {
        let Session(visitor) = session;
        let response = self.probe.get(&self.page, visitor).await?;
        let status = response.status();
        debug!(status = status.as_u16(), "the recognition page answered");
        if status.is_redirection() {
            return self.redirected(response.headers().get(LOCATION), visitor.authority).map(|()| None);
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

    /// `Ok` when the redirect goes to the site's sign-in page, which is iMIS's way to say: nobody.
    fn redirected(
        &self,
        location: Option<&HeaderValue>,
        authority: &Authority,
    ) -> Result<(), RecogniseError> {
        let location = location.and_then(|value| value.to_str().ok()).unwrap_or_default();
        // Only read, never followed. Absolute ones name the host that iMIS was asked for.
        let rewritten = self.probe.upstream.host.as_ref();
        let host = rewritten.map_or(authority.host(), |rewritten| rewritten.host.as_str());
        let base = Url::parse(&format!("https://{host}/")).map_err(|_| RecogniseError::Elsewhere)?;
        let target = base.join(location).map_err(|_| RecogniseError::Elsewhere)?;
        let ours = target.host_str().is_some_and(|target| target.eq_ignore_ascii_case(authority.host()));
        if target.host_str() != base.host_str() && !ours {
            return Err(RecogniseError::Elsewhere);
        }
        let path = target.path().trim_end_matches('/').to_ascii_lowercase();
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
                Err(ApiError::Unreachable(error)) => last = ApiError::Unreachable(error),
                answered => return answered,
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
        let host = self.upstream.host_for(visitor.authority);
        let url = probe_url(server, &host, page).ok_or(ApiError::Url)?;
        Ok(client.get(url).headers(probe_headers(visitor, &host)?).send().await?)
    }
}

/// The URL of a page on one server. Its name is for SNI only, since the client's resolver knows one host; addresses are not
/// resolved, so a site that is called by address is asked for under the server's own.
fn probe_url(server: &config::Server, host: &str, page: &str) -> Option<Url> {
    let mut url = Url::parse(&format!("{server}{page}")).ok()?;
    let called = host.parse::<Authority>().ok()?;
    if is_address(&server.host) && !is_address(called.host().trim_matches(['[', ']'])) {
        url.set_host(Some(called.host())).ok()?;
    }
    Some(url)
}

fn is_address(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
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
    // A copy that something between us and iMIS has kept would be somebody else's page.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Keeps the probe from extending the visitor's sliding session.
    headers.insert(NO_REFRESH_SESSION, HeaderValue::from_static("true"));
    headers.insert(HOST, HeaderValue::try_from(host).map_err(|_| ApiError::Url)?);
    visitor.forwarded.apply(&mut headers).map_err(|_| ApiError::Url)?;
    Ok(headers)
}

fn path_only(path_and_query: &str) -> &str {
    path_and_query.split('?').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_goes_to_the_server_whatever_the_site_is_called() {
        let url = |server: &str, host: &str| {
            let (host_part, port) = server.rsplit_once(':').unwrap();
            let server = config::Server {
                tls: true,
                host: host_part.trim_matches(['[', ']']).to_owned(),
                port: port.parse().unwrap(),
            };
            probe_url(&server, host, "/probe?a=b").unwrap().to_string()
        };
        assert_eq!(url("10.0.0.5:8443", "members.example.org"), "https://members.example.org:8443/probe?a=b");
        assert_eq!(url("10.0.0.5:443", "members.example.org:8443"), "https://members.example.org/probe?a=b");
        assert_eq!(url("imis.internal:443", "members.example.org"), "https://imis.internal/probe?a=b");
        assert_eq!(
            url("10.0.0.5:443", "127.0.0.7"),
            "https://10.0.0.5/probe?a=b",
            "a site called by address"
        );
        assert_eq!(url("[fd00::5]:443", "[::1]:8443"), "https://[fd00::5]/probe?a=b");
    }
}
