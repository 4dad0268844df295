//! Why nobody can say who a visitor is, and what an operator can do about it.

use std::sync::Arc;

use crate::imis::client::ApiError;
use crate::imis::recognise::client_context::ContextError;
use crate::imis::recognise::forms_ticket::TicketError;
use crate::imis::recognise::query_row::QueryError;
use crate::imis::users::UserError;

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
    UnexpectedRedirect,
    #[error("the recognition page is not HTML")]
    NotHtml,
    #[error("the recognition page")]
    Context(#[from] ContextError),
    #[error("the query")]
    Query(#[from] QueryError),
    #[error("the page does not redirect: it is not LoginStatusRedirect.aspx of iMIS 2017")]
    NoRedirect,
    #[error("the page redirects without the key that was sent along")]
    WrongKey,
    #[error("the session cookie")]
    Ticket(#[from] TicketError),
    #[error("the answer about the session's life is not what iMIS says")]
    Liveness,
    #[error("the user name")]
    User(#[from] UserError),
    #[error("the system has no randomness to give")]
    Random(#[source] getrandom::Error),
    /// Another asker's attempt, which this one had waited for.
    #[error(transparent)]
    Shared(Arc<RecogniseError>),
    /// No other method may be asked.
    #[error(transparent)]
    Stop(Box<RecogniseError>),
}

impl RecogniseError {
    /// Whether it is about what the visitor sent, and not about iMIS.
    pub(super) fn is_visitor_error(&self) -> bool {
        matches!(self, Self::Ticket(_))
    }

    /// How to mend it, for the operator.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Page(ApiError::Status(status)) if status.as_u16() == 403 => {
                "403 is mostly a firewall's: let the gateway's address through it"
            }
            Self::Page(_) => "check upstream.servers, ca_file and the endpoint's path; is iMIS up?",
            Self::ErrorPage => "open the page in a browser: iMIS itself fails on it",
            Self::Missing => {
                "the path is wrong: it is the whole path as on the site, with /iMIS in front on 2017"
            }
            Self::UnexpectedRedirect => {
                "open the page in a browser: it has to be public, and sign_in has to be the site's own sign-in page"
            }
            Self::NotHtml => "name a RiSE page, not a file or a service",
            Self::Context(ContextError::NoField) => {
                "with nothing of iMIS in the page it is a firewall's, or another server's; otherwise name a page that RiSE makes"
            }
            Self::Context(_) => {
                "the page is not as iMIS makes it: name an empty page with nothing of your own in it"
            }
            Self::Query(QueryError::NoToken) => {
                "name a RiSE page: that is where the anti-forgery token comes from"
            }
            Self::Query(QueryError::Column(_)) => {
                "check the columns' names: they are the aliases of the query"
            }
            Self::Query(QueryError::NotRows) => "check endpoint: api/query on EMS, api/iqa on older versions",
            Self::Query(_) => "filter the query on the dynamic value \"LoggedIn User Key\"",
            Self::NoRedirect | Self::WrongKey => {
                "LoginStatusRedirect.aspx is a part of iMIS 2017 only; check its path"
            }
            Self::Ticket(TicketError::Mac) => {
                "compare validation, validation_key and compatibility_mode with machineKey in iMIS's web.config"
            }
            Self::Ticket(TicketError::Decryption | TicketError::NotATicket) => {
                "compare decryption_key and compatibility_mode with machineKey in iMIS's web.config"
            }
            Self::Ticket(_) => "name the authentication cookie in session_cookies; on EMS it is no ticket",
            Self::Liveness => "check session_info: it is what iMIS's own scripts ask for",
            Self::User(_) => "check api_url and the service account: it has to be allowed to read users",
            Self::Random(_) => "the system gives no randomness",
            Self::Shared(error) => error.advice(),
            Self::Stop(error) => error.advice(),
        }
    }

    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Stop(_) => true,
            Self::Shared(error) => error.is_final(),
            Self::Page(_)
            | Self::ErrorPage
            | Self::Missing
            | Self::UnexpectedRedirect
            | Self::NotHtml
            | Self::Context(_)
            | Self::Query(_)
            | Self::NoRedirect
            | Self::WrongKey
            | Self::Ticket(_)
            | Self::Liveness
            | Self::User(_)
            | Self::Random(_) => false,
        }
    }
}
