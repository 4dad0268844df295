//! The methods of one site, asked one after the other.

use std::sync::Arc;

use rustls::ClientConfig;
use tracing::{debug, warn};

use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::config::{self, MethodKind};
use crate::imis::api::Api;
use crate::imis::identity::Identity;
use crate::imis::recognise::client_context;
use crate::imis::recognise::error::RecogniseError;
use crate::imis::recognise::forms_ticket::{self, TicketError};
use crate::imis::recognise::identity_cache::{CacheResult, IdentityCache};
use crate::imis::recognise::login_status;
use crate::imis::recognise::report::RecognitionReport;
use crate::imis::recognise::session_cookie::{self, NoSession, SessionCookies};
use crate::imis::recognise::session_info;
use crate::imis::recognise::visitor_client::{
    PageResponse, Visitor, VisitorClient, VisitorRequest, VisitorSession, require_ok,
};
use crate::imis::recognise::whoami_query;
use crate::observe::metrics::Metrics;
use crate::upstream::servers::Servers;

/// Setting up the client for a site's iMIS failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("cannot set up the HTTP client")]
    Client(#[from] reqwest::Error),
    #[error("the system cannot provide random bytes")]
    Random(#[from] getrandom::Error),
}

/// What a method found out about a visitor, for diagnosis.
pub(crate) enum Seen {
    Nobody,
    Person(Identity),
    /// The Single Sign-On page. It has forms for a refresh token that post to these URLs.
    Forms(Vec<String>),
}

/// The result of one method, for diagnosis.
pub(crate) struct Examined {
    pub(crate) method: &'static str,
    pub(crate) report: RecognitionReport,
    pub(crate) answer: Result<Seen, RecogniseError>,
}

/// Who a visitor is.
pub(crate) enum Answer {
    Anonymous,
    Person(Identity),
    /// Only the site's Single Sign-On page can tell, so the visitor has to be redirected there.
    AskSite,
}

/// A visitor with a session cookie, or with any cookie if no names are configured.
pub(crate) struct Session<'a> {
    visitor: &'a Visitor<'a>,
    cookies: SessionCookies,
}

/// The recognition methods of one site, in order.
pub(crate) struct Recognition {
    session_cookies: Vec<String>,
    methods: Vec<config::Method>,
    /// The client application of the site's Single Sign-On page, if that is a configured method.
    pub(crate) application: Option<Arc<config::ClientApplication>>,
    visitor_client: VisitorClient,
    sign_in: String,
    api: Arc<Api>,
    identity_cache: IdentityCache,
    metrics: Metrics,
    /// The name of the site in metrics.
    site: String,
}

impl Recognition {
    pub(crate) fn build(
        imis: &config::Imis,
        site: &config::Site,
        tls: &Arc<ClientConfig>,
        servers: &Arc<Servers>,
        api: Arc<Api>,
        metrics: Metrics,
    ) -> Result<Self, BuildError> {
        let application = |method: &config::Method| method.kind.application().cloned();
        Ok(Self {
            session_cookies: imis.session_cookies.clone(),
            application: imis.recognise.iter().find_map(application),
            methods: imis.recognise.iter().filter(|method| application(method).is_none()).cloned().collect(),
            visitor_client: VisitorClient::build(imis, site, tls, servers)?,
            sign_in: imis.sign_in.clone(),
            api,
            identity_cache: IdentityCache::new(imis.identity_cache)?,
            metrics,
            site: site.hosts[0].clone(),
        })
    }

    /// The visitor's session if there is a session cookie. Only iMIS can tell whether it is valid.
    pub(crate) fn session<'a>(&self, visitor: &'a Visitor<'a>) -> Option<Session<'a>> {
        match SessionCookies::find(visitor.headers, &self.session_cookies) {
            Ok(cookies) => Some(Session { visitor, cookies }),
            Err(NoSession::None) => None,
            Err(NoSession::Contradictory(cookie)) => {
                warn!(
                    cookie,
                    "a session cookie has two different values; treating the visitor as not signed in"
                );
                None
            }
            Err(NoSession::Odd(cookie)) => {
                warn!(cookie, "a session cookie has an invalid value; treating the visitor as not signed in");
                None
            }
        }
    }

    /// The person whose session it is.
    pub(crate) async fn recognise(&self, session: &Session<'_>) -> Result<Answer, RecogniseError> {
        if self.methods.is_empty() {
            return Ok(Answer::AskSite);
        }
        let asked = self.identity_cache.identity(&session.cookies, || self.ask_all(session)).await;
        match asked {
            Ok((identity, result)) => {
                let result = if result == CacheResult::Hit { "hit" } else { "miss" };
                self.metrics.identity_cache.inc([&self.site, result]);
                self.metrics.identity_cache_entries.set([&self.site], self.identity_cache.entries());
                Ok(identity.map_or(Answer::Anonymous, Answer::Person))
            }
            Err(error) if self.application.is_some() && !error.is_final() => Ok(Answer::AskSite),
            Err(error) => Err(error),
        }
    }

    /// Tries one method after the other until one succeeds.
    async fn ask_all(&self, session: &Session<'_>) -> Result<Option<Identity>, RecogniseError> {
        let mut last = None;
        for method in &self.methods {
            let name = method.kind.name();
            let (report, answer) = self.ask(method, session).await;
            let request_id = &session.visitor.forwarded.incident;
            let result = match &answer {
                Ok(Some(_)) => "person",
                Ok(None) => "nobody",
                Err(_) => "broken",
            };
            self.metrics.recognitions.inc([&self.site, name, result]);
            let error = match answer {
                Ok(identity) => {
                    debug!(%request_id, recognition_method = name, recognised = identity.is_some(), observed = %report, "recognition");
                    return Ok(identity);
                }
                Err(error) => error,
            };
            warn!(%request_id, recognition_method = name, error = %Chain(&error), observed = %report, "a recognition method failed");
            if method.stops_on_error {
                return Err(RecogniseError::Stop(Box::new(error)));
            }
            // An error of iMIS is more important than a cookie that cannot be read.
            if last.is_none() || !error.is_visitor_error() {
                last = Some(error);
            }
        }
        match last {
            // An expired or forged ticket: the visitor has to sign in again.
            Some(error) if error.is_visitor_error() && self.application.is_none() => Ok(None),
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    /// Tries every method, even without a session cookie, for diagnosis.
    pub(crate) async fn examine(&self, visitor: &Visitor<'_>) -> Vec<Examined> {
        let cookies = SessionCookies::find(visitor.headers, &self.session_cookies);
        let session = Session { visitor, cookies: cookies.unwrap_or_default() };
        let mut all = Vec::new();
        for method in &self.methods {
            let (report, answer) = self.ask(method, &session).await;
            let answer = answer.map(|identity| identity.map_or(Seen::Nobody, Seen::Person));
            all.push(Examined { method: method.kind.name(), report, answer });
        }
        if let Some(application) = &self.application {
            let mut session = self.visitor_client.session(visitor);
            // Reading the form does not redeem its token.
            let answer = session.page(&application.page).await.map(|response| match response {
                PageResponse::SignIn => Seen::Nobody,
                PageResponse::Page { page, .. } => Seen::Forms(page.token_forms),
            });
            all.push(Examined { method: "client_application", report: session.report, answer });
        }
        all
    }

    /// Whether the site has a page, for diagnosis. A redirect to the page for what is missing is an error.
    pub(crate) async fn examine_page(
        &self,
        visitor: &Visitor<'_>,
        target: &str,
    ) -> (RecognitionReport, Result<(), RecogniseError>) {
        let mut session = self.visitor_client.session(visitor);
        let answer = match session.send(&VisitorRequest::page(target)).await {
            Ok(response) if response.status().is_redirection() => session.require_sign_in_redirect(&response),
            Ok(response) => require_ok(&response),
            Err(error) => Err(error.into()),
        };
        (session.report, answer)
    }

    async fn ask(
        &self,
        method: &config::Method,
        session: &Session<'_>,
    ) -> (RecognitionReport, Result<Option<Identity>, RecogniseError>) {
        let mut visitor_session = self.visitor_client.session(session.visitor);
        let answer = self.identify(method, &session.cookies, &mut visitor_session).await;
        (visitor_session.report, answer)
    }

    async fn identify(
        &self,
        method: &config::Method,
        cookies: &SessionCookies,
        session: &mut VisitorSession<'_>,
    ) -> Result<Option<Identity>, RecogniseError> {
        match &method.kind {
            MethodKind::ClientContext { page } => match session.page(page).await? {
                PageResponse::SignIn => Ok(None),
                PageResponse::Page { page, .. } => Ok(client_context::read(&page)?.map(|person| Identity {
                    on_behalf_of: person.on_behalf_of,
                    sees_on_behalf: true,
                    ..Identity::of(person.id)
                })),
            },
            MethodKind::WhoamiQuery(query) => whoami_query::identify(session, query).await,
            MethodKind::LoginStatusRedirect { page } => {
                login_status::identify(session, page, &self.sign_in).await
            }
            MethodKind::FormsTicket(ticket) => self.identify_by_ticket(ticket, cookies, session).await,
            // Answered through the visitor's browser.
            MethodKind::ClientApplication(_) => Ok(None),
        }
    }

    async fn identify_by_ticket(
        &self,
        config: &config::FormsTicket,
        cookies: &SessionCookies,
        session: &mut VisitorSession<'_>,
    ) -> Result<Option<Identity>, RecogniseError> {
        // The configuration allows one name only: a ticket and a session of two cookies could belong to two people.
        let mut cookies = cookies.iter();
        let (Some((_, cookie)), None) = (cookies.next(), cookies.next()) else {
            return Err(TicketError::NotEncoded.into());
        };
        let ticket = forms_ticket::open(&config.keys, cookie)?;
        if ticket.expires <= clock::unix_now_signed() {
            return Ok(None);
        }
        if let Some(target) = &config.session_info
            && !session_info::is_alive(session, target).await?
        {
            return Ok(None);
        }
        let id = self.api.user_id(&ticket.name, None).await?;
        Ok(Some(Identity::of(id)))
    }

    /// Removes sessions that have been signed out.
    pub(crate) async fn forget(&self, cookies: &SessionCookies) {
        self.identity_cache.forget(cookies).await;
        self.metrics.sign_outs.inc([&self.site]);
    }

    /// The session cookies in the values of Cookie headers.
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
