//! The methods of one site, asked one after the other.

use std::sync::Arc;

use http::{HeaderName, Method as Verb};
use reqwest::StatusCode;
use rustls::ClientConfig;
use serde_json::Value;
use tracing::{debug, warn};

use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::config::{self, How, IfBroken};
use crate::imis::api::Api;
use crate::imis::client::{self, ApiError};
use crate::imis::error::BuildError;
use crate::imis::identity::Identity;
use crate::imis::json::without_bom;
use crate::imis::recognise::client_context;
use crate::imis::recognise::counter::RecognitionCounter;
use crate::imis::recognise::error::RecogniseError;
use crate::imis::recognise::forms_ticket::TicketError;
use crate::imis::recognise::identity_cache::{CacheResult, IdentityCache};
use crate::imis::recognise::login_status;
use crate::imis::recognise::report::RecognitionReport;
use crate::imis::recognise::session_cookie::{self, NoSession, SessionCookies};
use crate::imis::recognise::visitor_client::{PageResponse, VisitorClient, VisitorRequest};
use crate::imis::recognise::whoami_query;
use crate::imis::visitor::Visitor;
use crate::upstream::servers::Servers;

const MAX_LIVENESS_BYTES: usize = 16 * 1024;
const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// What a method saw and said.
pub(crate) struct Examined {
    pub(crate) method: &'static str,
    pub(crate) report: RecognitionReport,
    pub(crate) answer: Result<Option<Identity>, RecogniseError>,
}

/// What is known about a visitor.
pub(crate) enum Answer {
    Anonymous,
    Person(Identity),
    /// The site itself has to be asked, by way of the browser: its Single Sign-On page.
    AskSite,
}

/// A visitor who has a session cookie, or may have one.
pub(crate) struct Session<'a> {
    visitor: &'a Visitor<'a>,
    cookies: SessionCookies,
}

/// The methods of one site.
pub(crate) struct Recogniser {
    session_cookies: Vec<String>,
    methods: Vec<config::Method>,
    /// Whose answer comes by way of the browser.
    application: Option<Arc<config::ClientApplication>>,
    visitor_client: VisitorClient,
    sign_in: String,
    api: Arc<Api>,
    identity_cache: IdentityCache,
    metrics: Box<dyn RecognitionCounter>,
}

impl Recogniser {
    pub(crate) fn build(
        imis: &config::Imis,
        site: &config::Site,
        (tls, servers, api): (&Arc<ClientConfig>, &Arc<Servers>, Arc<Api>),
        metrics: Box<dyn RecognitionCounter>,
    ) -> Result<Self, BuildError> {
        let application = |method: &config::Method| method.how.application().cloned();
        Ok(Self {
            session_cookies: imis.session_cookies.clone(),
            application: imis.recognise.iter().find_map(application),
            methods: imis.recognise.iter().filter(|method| application(method).is_none()).cloned().collect(),
            visitor_client: VisitorClient::build(imis, site, (tls, servers))?,
            sign_in: imis.sign_in.clone(),
            api,
            identity_cache: IdentityCache::new(imis.identity_cache)?,
            metrics,
        })
    }

    /// The visitor's session, if there is a cookie of one; only iMIS can say whether it is good.
    pub(crate) fn session<'a>(&self, visitor: &'a Visitor<'a>) -> Option<Session<'a>> {
        match SessionCookies::find(visitor.headers, &self.session_cookies) {
            Ok(cookies) => Some(Session { visitor, cookies }),
            Err(NoSession::None) => None,
            Err(NoSession::Contradictory(name)) => {
                warn!(cookie = name, "a session cookie came with two different values; taken as nobody");
                None
            }
            Err(NoSession::Odd(name)) => {
                warn!(
                    cookie = name,
                    "a session cookie came with a value that is no plain text; taken as nobody"
                );
                None
            }
        }
    }

    /// Who the session belongs to.
    pub(crate) async fn recognise(&self, session: &Session<'_>) -> Result<Answer, RecogniseError> {
        if self.methods.is_empty() {
            return Ok(Answer::AskSite);
        }
        let asked = self.identity_cache.identity(&session.cookies, || self.ask_all(session)).await;
        match asked {
            Ok((identity, result)) => {
                self.metrics.cache(result == CacheResult::Hit, self.identity_cache.entries());
                Ok(identity.map_or(Answer::Anonymous, Answer::Person))
            }
            Err(error) if self.application.is_some() && !error.is_final() => Ok(Answer::AskSite),
            Err(error) => Err(error),
        }
    }

    /// One method after the other, as long as they cannot say.
    async fn ask_all(&self, session: &Session<'_>) -> Result<Option<Identity>, RecogniseError> {
        let mut last = None;
        for method in &self.methods {
            let mut report = RecognitionReport::of(session.visitor.headers);
            let answer = self.ask(method, session, &mut report).await;
            let (name, incident) = (method.how.name(), &session.visitor.forwarded.incident);
            self.metrics.recognition(
                name,
                match &answer {
                    Ok(Some(_)) => "person",
                    Ok(None) => "nobody",
                    Err(_) => "broken",
                },
            );
            match answer {
                Ok(identity) => {
                    debug!(request_id = %incident, recognition_method = name, recognised = identity.is_some(), observed = %report, "recognition");
                    return Ok(identity);
                }
                Err(error) => {
                    warn!(request_id = %incident, recognition_method = name, error = %Chain(&error), observed = %report, "a method of recognition cannot say who it is");
                    if method.if_broken == IfBroken::Stop {
                        return Err(RecogniseError::Stop(Box::new(error)));
                    }
                    // What is wrong with iMIS is worth more than a cookie that cannot be read.
                    if last.is_none() || !error.is_visitor_error() {
                        last = Some(error);
                    }
                }
            }
        }
        match last {
            // An old ticket, or somebody's own: the sign-in page is the way on.
            Some(error) if error.is_visitor_error() && self.application.is_none() => Ok(None),
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    /// Asks by every method, also without a session cookie, for whoever looks for a fault.
    pub(crate) async fn examine(&self, visitor: &Visitor<'_>) -> Vec<Examined> {
        let cookies = SessionCookies::find(visitor.headers, &self.session_cookies);
        let session = Session { visitor, cookies: cookies.unwrap_or_default() };
        let mut found = Vec::new();
        for method in &self.methods {
            let mut report = RecognitionReport::of(visitor.headers);
            let answer = self.ask(method, &session, &mut report).await;
            found.push(Examined { method: method.how.name(), report, answer });
        }
        if let Some(application) = &self.application {
            let mut report = RecognitionReport::of(visitor.headers);
            let answer = self.single_sign_on_page(application, visitor, &mut report).await;
            found.push(Examined { method: "client_application", report, answer: answer.map(|()| None) });
        }
        found
    }

    /// Whether the page is there: for whoever is not signed in it leads to the sign-in page, for others it holds a form.
    async fn single_sign_on_page(
        &self,
        application: &config::ClientApplication,
        visitor: &Visitor<'_>,
        report: &mut RecognitionReport,
    ) -> Result<(), RecogniseError> {
        let response =
            self.visitor_client.ask(&VisitorRequest::page(&application.page), visitor, report).await?;
        match response.status() {
            StatusCode::OK => Ok(()),
            StatusCode::NOT_FOUND => Err(RecogniseError::Missing),
            status if status.is_redirection() => {
                self.visitor_client.require_sign_in_redirect(&response, visitor.authority, report)
            }
            other => Err(ApiError::Status(other).into()),
        }
    }

    async fn ask(
        &self,
        method: &config::Method,
        session: &Session<'_>,
        report: &mut RecognitionReport,
    ) -> Result<Option<Identity>, RecogniseError> {
        let Session { visitor, cookies } = session;
        match &method.how {
            How::ClientContext { page } => match self.visitor_client.page(page, visitor, report).await? {
                PageResponse::SignIn => Ok(None),
                PageResponse::Page { page, .. } => Ok(client_context::read(&page)?.map(|person| Identity {
                    on_behalf_of: person.on_behalf_of,
                    sees_on_behalf: true,
                    ..Identity::of(person.id)
                })),
            },
            How::WhoamiQuery(query) => whoami_query::ask(&self.visitor_client, query, visitor, report).await,
            How::LoginStatusRedirect { page } => {
                login_status::ask(&self.visitor_client, (page, &self.sign_in), visitor, report).await
            }
            How::FormsTicket(ticket) => self.forms_ticket(ticket, visitor, cookies, report).await,
            // Answered by way of the browser.
            How::ClientApplication(_) => Ok(None),
        }
    }

    async fn forms_ticket(
        &self,
        config: &config::FormsTicket,
        visitor: &Visitor<'_>,
        cookies: &SessionCookies,
        report: &mut RecognitionReport,
    ) -> Result<Option<Identity>, RecogniseError> {
        // Exactly one (the configuration sees to it): the ticket of one cookie and the life of another's session would be nobody's.
        let mut cookies = cookies.iter();
        let (Some((_, cookie)), None) = (cookies.next(), cookies.next()) else {
            return Err(TicketError::NotEncoded.into());
        };
        let ticket = config.keys.open(cookie)?;
        if ticket.expires <= clock::unix_now_signed() {
            return Ok(None);
        }
        if let Some(target) = &config.session_info
            && !self.is_alive(target, visitor, report).await?
        {
            return Ok(None);
        }
        let id = self.api.user_id(&ticket.name, None).await?;
        Ok(Some(Identity::of(id)))
    }

    /// Whether iMIS still knows the session: sign-out revokes no ticket.
    async fn is_alive(
        &self,
        target: &str,
        visitor: &Visitor<'_>,
        report: &mut RecognitionReport,
    ) -> Result<bool, RecogniseError> {
        let request = VisitorRequest {
            what: "session",
            method: Verb::POST,
            accept: "application/json",
            more: Some((REQUESTED_WITH, http::HeaderValue::from_static("XMLHttpRequest"))),
            ..VisitorRequest::page(target)
        };
        let response = self.visitor_client.ask(&request, visitor, report).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(RecogniseError::Missing),
            other => return Err(ApiError::Status(other).into()),
        }
        let json = client::json_body(response, MAX_LIVENESS_BYTES).await?;
        is_good_session(&json).ok_or(RecogniseError::Liveness)
    }

    /// A sign-out has passed.
    pub(crate) async fn forget(&self, cookies: &SessionCookies) {
        self.identity_cache.forget(cookies).await;
        self.metrics.sign_out();
    }

    /// The session cookies among those of a request.
    pub(crate) fn session_cookies<'a>(
        &self,
        lines: impl Iterator<Item = &'a [u8]>,
    ) -> Option<SessionCookies> {
        Some(SessionCookies::all(lines, &self.session_cookies)).filter(|cookies| !cookies.is_empty())
    }

    pub(crate) fn deletes_session(&self, set_cookie: &[u8]) -> bool {
        session_cookie::deletes_session(set_cookie, &self.session_cookies)
    }
}

/// What `GetSessionInfoFromCookie` says: `null` is a session that is over. None: something else was said.
fn is_good_session(json: &[u8]) -> Option<bool> {
    match serde_json::from_slice(without_bom(json)).ok()? {
        Value::Null => Some(false),
        Value::Object(info) => info.get("StillGoodSeconds")?.as_f64().map(|seconds| seconds > 0.0),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_alive_dead_or_not_told() {
        let good = |json: &str| is_good_session(json.as_bytes());
        assert_eq!(good(r#"{"StillGoodSeconds":1187.2,"ExpireMinutes":20,"IsDesktop":false}"#), Some(true));
        assert_eq!(good("null"), Some(false));
        assert_eq!(good("\u{feff}null"), Some(false));
        assert_eq!(good(r#"{"StillGoodSeconds":0,"ExpireMinutes":20}"#), Some(false));
        for odd in ["", "{}", "true", "[]", r#"{"StillGoodSeconds":"1"}"#, r#"{"d":null}"#, "<html>"] {
            assert_eq!(good(odd), None, "{odd}");
        }
    }
}
