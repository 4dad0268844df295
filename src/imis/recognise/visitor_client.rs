//! A way to ask the site for something as the visitor would: with the visitor's own cookies, following nothing.

use std::sync::Arc;

use http::Method;
use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue,
    LOCATION, USER_AGENT,
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
use crate::imis::visitor::Visitor;
use crate::upstream::servers::Servers;

const NO_REFRESH_SESSION: HeaderName = HeaderName::from_static("x-norefreshsession");
/// Pages with a large view state stay below this.
const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// See the module.
pub(super) struct VisitorClient {
    /// One per upstream server, tried in order when there is no connection.
    servers: Arc<Servers>,
    /// One for each of them.
    clients: Vec<Client>,
    upstream: config::Upstream,
    sign_in_path: String,
}

/// What to ask for.
pub(super) struct VisitorRequest<'a> {
    /// For the log: `page`, `query` ...
    pub(super) what: &'static str,
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: &'a str,
    pub(super) accept: &'static str,
    /// Instead of the visitor's own.
    pub(super) cookie: Option<HeaderValue>,
    pub(super) more: Option<(HeaderName, HeaderValue)>,
}

impl<'a> VisitorRequest<'a> {
    /// A page, as a browser asks for one.
    pub(super) fn page(target: &'a str) -> Self {
        Self { what: "page", method: Method::GET, target, accept: "text/html", cookie: None, more: None }
    }
}

/// What a RiSE page turned out to be.
pub(super) enum PageResponse {
    Page {
        page: Page,
        /// Cookies that came with it.
        set_cookies: Vec<HeaderValue>,
    },
    /// The sign-in page is iMIS's way to say: nobody.
    SignIn,
}

impl VisitorClient {
    pub(super) fn build(
        imis: &config::Imis,
        site: &config::Site,
        (tls, servers): (&Arc<ClientConfig>, &Arc<Servers>),
    ) -> Result<Self, reqwest::Error> {
        let mut clients = Vec::new();
        for server in &site.upstream.servers {
            clients.push(client::for_probes(tls, &server.host)?);
        }
        Ok(Self {
            servers: servers.clone(),
            clients,
            upstream: site.upstream.clone(),
            sign_in_path: path_only(&imis.sign_in).trim_end_matches('/').to_ascii_lowercase(),
        })
    }

    /// A RiSE page, taken apart.
    pub(super) async fn page(
        &self,
        target: &str,
        visitor: &Visitor<'_>,
        report: &mut RecognitionReport,
    ) -> Result<PageResponse, RecogniseError> {
        let response = self.ask(&VisitorRequest::page(target), visitor, report).await?;
        if response.status().is_redirection() {
            self.require_sign_in_redirect(&response, visitor.authority, report)?;
            return Ok(PageResponse::SignIn);
        }
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(RecogniseError::Missing),
            other => return Err(ApiError::Status(other).into()),
        }
        if !client::is_type(&response, &["text/html"]) {
            return Err(RecogniseError::NotHtml);
        }
        let set_cookies = response.headers().get_all(http::header::SET_COOKIE).iter().cloned().collect();
        let page = Page::parse(&client::body(response, MAX_PAGE_BYTES).await?);
        report.markup.clone_from(&page.markup);
        report.generation = page.client_contexts.iter().flatten().find_map(|context| Generation::of(context));
        Ok(PageResponse::Page { page, set_cookies })
    }

    /// `Ok` when the redirect goes to the site's sign-in page.
    pub(super) fn require_sign_in_redirect(
        &self,
        response: &Response,
        authority: &Authority,
        report: &mut RecognitionReport,
    ) -> Result<(), RecogniseError> {
        let target = self.location(response, authority).ok_or(RecogniseError::UnexpectedRedirect)?;
        let path = target.path().trim_end_matches('/').to_ascii_lowercase();
        let page = path.rsplit('/').next().unwrap_or_default();
        if path == self.sign_in_path || matches!(page, "login.aspx" | "signin" | "signin.aspx") {
            report.redirects_to("the sign-in page");
            return Ok(());
        }
        match page {
            "error.aspx" => {
                report.redirects_to("the error page");
                Err(RecogniseError::ErrorPage)
            }
            "404.aspx" => {
                report.redirects_to("the page for what is missing");
                Err(RecogniseError::Missing)
            }
            _ => Err(RecogniseError::UnexpectedRedirect),
        }
    }

    /// Where a redirect leads, if that is on the site. It is only read, never followed.
    pub(super) fn location(&self, response: &Response, authority: &Authority) -> Option<Url> {
        let location = response.headers().get(LOCATION)?.to_str().ok()?;
        // Absolute ones name the host that iMIS was asked for.
        let rewritten = self.upstream.host.as_ref();
        let host = rewritten.map_or(authority.host(), |rewritten| rewritten.host.as_str());
        let base = Url::parse(&format!("https://{host}/")).ok()?;
        let target = base.join(location).ok()?;
        let ours = target.host_str().is_some_and(|target| target.eq_ignore_ascii_case(authority.host()));
        (target.host_str() == base.host_str() || ours).then_some(target)
    }

    pub(super) async fn ask(
        &self,
        request: &VisitorRequest<'_>,
        visitor: &Visitor<'_>,
        report: &mut RecognitionReport,
    ) -> Result<Response, ApiError> {
        let mut last = ApiError::Url;
        let fields = visitor.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        // Where the visitor's pages come from, and where the session may live.
        let session = self.servers.session(fields);
        for index in self.servers.order(session.as_ref()) {
            let server = self.servers.server(index);
            match self.ask_server(server, &self.clients[index], request, visitor).await {
                Err(ApiError::Unreachable(error)) => {
                    self.servers.failed(index);
                    last = ApiError::Unreachable(error);
                }
                answered => {
                    self.servers.worked(index);
                    return answered.inspect(|response| report.answered(request.what, response));
                }
            }
        }
        Err(last)
    }

    async fn ask_server(
        &self,
        server: &config::Server,
        client: &Client,
        request: &VisitorRequest<'_>,
        visitor: &Visitor<'_>,
    ) -> Result<Response, ApiError> {
        let host = self.upstream.host_for(visitor.authority);
        let url = url(server, &host, request.target).ok_or(ApiError::Url)?;
        let headers = headers(request, visitor, &host)?;
        Ok(client.request(request.method.clone(), url).headers(headers).send().await?)
    }
}

/// The URL of a page on one server. Its name is for SNI only, since the client's resolver knows one host; addresses are not
/// resolved, so a site that is called by address is asked for under the server's own.
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
    // A copy that something between us and iMIS has kept would be somebody else's page.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Keeps the probe from extending the visitor's sliding session.
    headers.insert(NO_REFRESH_SESSION, HeaderValue::from_static("true"));
    if request.method == Method::POST {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if let Some((name, value)) = &request.more {
        headers.insert(name, value.clone());
    }
    headers.insert(HOST, HeaderValue::try_from(host).map_err(|_| ApiError::Url)?);
    visitor.forwarded.apply(&mut headers).map_err(|_| ApiError::Url)?;
    Ok(headers)
}

fn path_only(path_and_query: &str) -> &str {
    path_and_query.split('?').next().unwrap_or_default()
}

/// The visitor's cookies as a browser would send them once `set` has been obeyed; everything else of them stays as it is.
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
    // Of several lines for one name the last one counts.
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
