//! Errors of recognition, with advice for the operator.

use std::sync::Arc;

use crate::imis::client::ApiError;
use crate::imis::recognise::client_context::ContextError;
use crate::imis::recognise::forms_ticket::TicketError;
use crate::imis::recognise::query_row::QueryError;
use crate::imis::users::UserError;

/// A method could not tell who the visitor is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecogniseError {
    #[error("cannot fetch the recognition page")]
    Page(#[from] ApiError),
    #[error("the recognition page redirects to the error page of iMIS")]
    ErrorPage,
    #[error("the recognition page does not exist (404)")]
    Missing,
    #[error("the recognition page redirects to an unexpected page")]
    UnexpectedRedirect,
    #[error("the recognition page is not HTML")]
    NotHtml,
    #[error("the recognition page")]
    Context(#[from] ContextError),
    #[error("the query")]
    Query(#[from] QueryError),
    #[error("the page does not redirect; it is not LoginStatusRedirect.aspx of iMIS 2017")]
    NoRedirect,
    #[error("the page redirects without the key that was sent to it")]
    WrongKey,
    #[error("the session cookie")]
    Ticket(#[from] TicketError),
    #[error("the response to session_info is not what iMIS sends")]
    Liveness,
    #[error("the user name")]
    User(#[from] UserError),
    #[error("the system cannot provide random bytes")]
    Random(#[source] getrandom::Error),
    /// The result of another caller's attempt.
    #[error(transparent)]
    Shared(Arc<RecogniseError>),
    /// No other method may be tried.
    #[error(transparent)]
    Stop(Box<RecogniseError>),
}

impl RecogniseError {
    /// Whether the visitor's cookie is the cause, not iMIS.
    pub(super) fn is_visitor_error(&self) -> bool {
        matches!(self, Self::Ticket(_))
    }

    /// How the operator can fix it.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Page(ApiError::Status(status)) if status.as_u16() == 403 => {
                "403 usually comes from a firewall; allow the gateway's address"
            }
            Self::Page(_) => "check upstream.servers, ca_file and the endpoint's path; is iMIS up?",
            Self::ErrorPage => "open the page in a browser; iMIS itself reports an error",
            Self::Missing => {
                "the path is wrong; give the whole path as on the site, which starts with /iMIS on 2017"
            }
            Self::UnexpectedRedirect => {
                "open the page in a browser; it must be public, and sign_in must be the site's own sign-in page"
            }
            Self::NotHtml => "choose a RiSE page, not a file or a service",
            Self::Context(ContextError::NoField) => {
                "a page without iMIS markup comes from a firewall or another server; otherwise choose a RiSE page"
            }
            Self::Context(_) => {
                "the page differs from what iMIS creates; choose an empty page without content of your own"
            }
            Self::Query(QueryError::NoToken) => "choose a RiSE page; it provides the anti-forgery token",
            Self::Query(QueryError::Column(_)) => {
                "check the names of the columns; they are the aliases in the query"
            }
            Self::Query(QueryError::NotRows) => "check endpoint: api/query on EMS, api/iqa on older versions",
            Self::Query(_) => "filter the query by the dynamic value \"LoggedIn User Key\"",
            Self::NoRedirect | Self::WrongKey => {
                "only iMIS 2017 has LoginStatusRedirect.aspx; check its path"
            }
            Self::Ticket(TicketError::Mac) => {
                "compare validation, validation_key and compatibility_mode with machineKey in iMIS's web.config"
            }
            Self::Ticket(TicketError::Decryption | TicketError::NotATicket) => {
                "compare decryption_key and compatibility_mode with machineKey in iMIS's web.config"
            }
            Self::Ticket(_) => {
                "put the authentication cookie into session_cookies; on EMS it is not a ticket"
            }
            Self::Liveness => "check session_info; scripts of iMIS request the same path",
            Self::User(_) => "check api_url and the service account, which must be allowed to read users",
            Self::Random(_) => "the system cannot provide random bytes",
            Self::Shared(error) => error.advice(),
            Self::Stop(error) => error.advice(),
        }
    }

    /// Whether no other method may be tried.
    pub(super) fn is_final(&self) -> bool {
        if let Self::Shared(error) = self { error.is_final() } else { matches!(self, Self::Stop(_)) }
    }
}
