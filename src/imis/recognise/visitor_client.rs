//! Requests to the site as the visitor would send them: with the visitor's cookies. Redirects are never followed.

use std::sync::Arc;

use http::Method;
use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap,
    HeaderName, HeaderValue, LOCATION, SET_COOKIE, USER_AGENT,
};
use http::uri::Authority;
use reqwest::{Client, Response, StatusCode};
use rustls::ClientConfig;
use url::Url;

use crate::config;
use crate::imis::client::{self, ApiError};
use crate::imis::recognise::error::RecogniseError;
use crate::imis::recognise::page::Page;
use crate::imis::recognise::report::{Generation, RecognitionReport};
use crate::upstream::forwarded::Forwarded;
use crate::upstream::servers::Servers;

const NO_REFRESH_SESSION: HeaderName = HeaderName::from_static("x-norefreshsession");
/// Pages with a large view state are smaller.
const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// What recognition needs of a visitor's request.
pub(crate) struct Visitor<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) forwarded: &'a Forwarded,
    pub(crate) authority: &'a Authority,
}

/// The User-Agent of requests that commands send.
pub(crate) const DOCTOR_AGENT: &str =
    concat!("Mozilla/5.0 (compatible; imis-gateway doctor ", env!("CARGO_PKG_VERSION"), ")");

/// Headers of a request that a command sends without a visitor.
pub(crate) fn visitor_headers() -> HeaderMap {
    HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(DOCTOR_AGENT))])
}

/// Sends requests to the iMIS of one site as a visitor would.
pub(super) struct VisitorClient {
    /// Tried in order when there is no connection.
    servers: Arc<Servers>,
    /// One for each server.
    clients: Vec<Client>,
    upstream: config::Upstream,
    sign_in_path: String,
}

/// Requests for one visitor, with a report of what iMIS answered.
pub(super) struct VisitorSession<'a> {
    client: &'a VisitorClient,
    pub(super) visitor: &'a Visitor<'a>,
    pub(super) report: RecognitionReport,
}

/// A request that is sent on behalf of a visitor.
pub(super) struct VisitorRequest<'a> {
    /// Its name in the report: `page`, `query` ...
    pub(super) name: &'static str,
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: &'a str,
    pub(super) accept: &'static str,
    /// Replaces the visitor's own Cookie header.
    pub(super) cookie: Option<HeaderValue>,
    pub(super) extra_header: Option<(HeaderName, HeaderValue)>,
}

impl<'a> VisitorRequest<'a> {
    /// A GET for a page.
    pub(super) fn page(target: &'a str) -> Self {
        let (method, accept) = (Method::GET, "text/html");
        Self { name: "page", method, target, accept, cookie: None, extra_header: None }
    }
}

/// A RiSE page, or the sign-in page.
pub(super) enum PageResponse {
    Page {
        page: Page,
        /// `Set-Cookie` headers of the response.
        set_cookies: Vec<HeaderValue>,
    },
    /// A redirect to the sign-in page, which is how iMIS answers anonymous visitors.
    SignIn,
}

impl VisitorClient {
    pub(super) fn build(
        imis: &config::Imis,
        site: &config::Site,
        tls: &Arc<ClientConfig>,
        servers: &Arc<Servers>,
    ) -> Result<Self, reqwest::Error> {
        let clients = site.upstream.servers.iter().map(|server| client::for_probes(tls, &server.host));
        let sign_in_path = imis.sign_in.split('?').next().unwrap_or_default();
        Ok(Self {
            servers: servers.clone(),
            clients: clients.collect::<Result<_, _>>()?,
            upstream: site.upstream.clone(),
            sign_in_path: sign_in_path.trim_end_matches('/').to_ascii_lowercase(),
        })
    }

    pub(super) fn session<'a>(&'a self, visitor: &'a Visitor<'a>) -> VisitorSession<'a> {
        VisitorSession { client: self, visitor, report: RecognitionReport::of(visitor.headers) }
    }
}

impl VisitorSession<'_> {
    /// Fetches and parses a RiSE page.
    pub(super) async fn page(&mut self, target: &str) -> Result<PageResponse, RecogniseError> {
        let response = self.send(&VisitorRequest::page(target)).await?;
        if response.status().is_redirection() {
            self.require_sign_in_redirect(&response)?;
            return Ok(PageResponse::SignIn);
        }
        require_ok(&response)?;
        if !client::is_type(&response, &["text/html"]) {
            return Err(RecogniseError::NotHtml);
        }
        let set_cookies = response.headers().get_all(SET_COOKIE).iter().cloned().collect();
        let page = Page::parse(&client::body(response, MAX_PAGE_BYTES).await?);
        self.report.markup.clone_from(&page.markup);
        self.report.generation =
            page.client_contexts.iter().flatten().find_map(|context| Generation::of(context));
        Ok(PageResponse::Page { page, set_cookies })
    }

    /// `Ok` when the redirect goes to the site's sign-in page.
    pub(super) fn require_sign_in_redirect(&mut self, response: &Response) -> Result<(), RecogniseError> {
        let target = self.location(response).ok_or(RecogniseError::UnexpectedRedirect)?;
        let path = target.path().trim_end_matches('/').to_ascii_lowercase();
        let page = path.rsplit('/').next().unwrap_or_default();
        let (place, result) = match page {
            _ if path == self.client.sign_in_path => ("the sign-in page", Ok(())),
            "login.aspx" | "signin" | "signin.aspx" => ("the sign-in page", Ok(())),
            "error.aspx" => ("the error page", Err(RecogniseError::ErrorPage)),
            _ if page == "404.aspx"
                || target.query().is_some_and(|query| query.contains("aspxerrorpath=")) =>
            {
                ("the page for what is missing", Err(RecogniseError::Missing))
            }
            _ => return Err(RecogniseError::UnexpectedRedirect),
        };
        self.report.redirects_to(place);
        result
    }

    /// The target of a redirect if it is on the site. It is never followed.
    pub(super) fn location(&self, response: &Response) -> Option<Url> {
        let location = response.headers().get(LOCATION)?.to_str().ok()?;
        let own_host = self.visitor.authority.host();
        // Absolute ones name the host that iMIS was asked for.
        let host = self.client.upstream.host.as_ref().map_or(own_host, |rewritten| rewritten.host.as_str());
        let base = Url::parse(&format!("https://{host}/")).ok()?;
        let target = base.join(location).ok()?;
        let is_own = target.host_str().is_some_and(|target| target.eq_ignore_ascii_case(own_host));
        (target.host_str() == base.host_str() || is_own).then_some(target)
    }

    /// Sends a request to the first server that accepts a connection.
    pub(super) async fn send(&mut self, request: &VisitorRequest<'_>) -> Result<Response, ApiError> {
        let VisitorClient { servers, clients, upstream, .. } = self.client;
        let mut last = ApiError::Url;
        let fields = self.visitor.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        // The server that has the visitor's session comes first.
        let session = servers.session(fields);
        for index in servers.order(session.as_ref()) {
            let host = upstream.host_for(self.visitor.authority);
            let url = url(servers.server(index), &host, request.target).ok_or(ApiError::Url)?;
            let headers = headers(request, self.visitor, &host)?;
            let sent = clients[index].request(request.method.clone(), url).headers(headers).send().await;
            match sent.map_err(ApiError::from) {
                Err(ApiError::Unreachable(error)) => {
                    servers.failed(index);
                    last = ApiError::Unreachable(error);
                }
                result => {
                    servers.worked(index);
                    return result.inspect(|response| self.report.add_response(request.name, response));
                }
            }
        }
        Err(last)
    }
}

/// `Ok` for status 200.
pub(super) fn require_ok(response: &Response) -> Result<(), RecogniseError> {
    match response.status() {
        StatusCode::OK => Ok(()),
        StatusCode::NOT_FOUND => Err(RecogniseError::Missing),
        other => Err(ApiError::Status(other).into()),
    }
}

/// The URL of a page on one server. Its host is used for SNI only because the resolver of the HTTP client
/// always returns the server. IP addresses are not resolved, so the server's own is used for a site with an
/// IP address.
fn url(server: &config::Server, host: &str, target: &str) -> Option<Url> {
    let mut url = Url::parse(&format!("{server}{target}")).ok()?;
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
fn headers(request: &VisitorRequest<'_>, visitor: &Visitor<'_>, host: &str) -> Result<HeaderMap, ApiError> {
    let mut headers = HeaderMap::new();
    for name in [COOKIE, USER_AGENT, ACCEPT_LANGUAGE] {
        for value in visitor.headers.get_all(&name) {
            headers.append(&name, value.clone());
        }
    }
    if let Some(cookie) = &request.cookie {
        headers.insert(COOKIE, cookie.clone());
    }
    headers.insert(ACCEPT, HeaderValue::from_static(request.accept));
    // A cached copy could be another visitor's page.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // The request must not extend the visitor's sliding session.
    headers.insert(NO_REFRESH_SESSION, HeaderValue::from_static("true"));
    if request.method == Method::POST {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if let Some((name, value)) = &request.extra_header {
        headers.insert(name, value.clone());
    }
    headers.insert(HOST, HeaderValue::try_from(host).map_err(|_| ApiError::Url)?);
    visitor.forwarded.apply(&mut headers).map_err(|_| ApiError::Url)?;
    Ok(headers)
}

/// The visitor's cookies after the `Set-Cookie` headers in `set` have been applied.
pub(super) fn with_cookies(own: &HeaderMap, set: &[HeaderValue]) -> Option<HeaderValue> {
    let new: Vec<(&[u8], &[u8])> = set
        .iter()
        .filter_map(|line| {
            let pair = line.as_bytes().split(|byte| *byte == b';').next()?;
            let at = pair.iter().position(|byte| *byte == b'=')?;
            Some((pair[..at].trim_ascii(), pair.trim_ascii()))
        })
        .collect();
    let name =
        |pair: &[u8]| pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii().to_vec();
    let lines = own.get_all(COOKIE).iter();
    let kept = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty() && new.iter().all(|(set, _)| *set != name(pair)));
    // The last header for a name wins.
    let set =
        new.iter().enumerate().filter(|(at, (name, _))| new[at + 1..].iter().all(|(later, _)| later != name));
    let pairs: Vec<&[u8]> = kept.chain(set.map(|(_, (_, pair))| *pair)).collect();
    let mut value = HeaderValue::from_bytes(&pairs.join(&b"; "[..])).ok()?;
    value.set_sensitive(true);
    Some(value)
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
            url(&server, host, "/probe?a=b").unwrap().to_string()
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

    #[test]
    fn cookies_that_a_page_sets_take_the_place_of_the_visitors() {
        let with = |own: &'static str, set: &[&'static str]| {
            let own = HeaderMap::from_iter([(COOKIE, HeaderValue::from_static(own))]);
            let set: Vec<_> = set.iter().map(|line| HeaderValue::from_static(line)).collect();
            with_cookies(&own, &set).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(with("Login=A; t=1", &["t=2; path=/", "n=3; HttpOnly"]), "Login=A; t=2; n=3");
        assert_eq!(with("t=1; a=b=c; t=2", &["t=3", "t=4; Secure"]), "a=b=c; t=4");
        assert_eq!(with("Login=A", &[]), "Login=A");
        assert_eq!(with("Login=A; T=1", &["t=; Max-Age=0", "nonsense"]), "Login=A; T=1; t=");
    }
}
