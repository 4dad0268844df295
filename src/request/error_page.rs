//! Failed requests, and the error page for each of them.

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue};
use http::{Response, StatusCode};

use crate::codec::message::HeadError;
use crate::pages::{Link, Message, Pages};
use crate::proxy::error::{ConnectError, ForwardError, UploadError, UpstreamError};

/// `Retry-After` in seconds. A request waits in the queue for about a second.
const RETRY_AFTER_OVERLOAD: u32 = 5;

/// Why a request gets an error page instead of a response of iMIS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    // Errors of the client.
    #[error("malformed request")]
    BadRequest,
    #[error("malformed request head")]
    Malformed(#[source] HeadError),
    #[error("the request head was not complete in time")]
    RequestTimeout,
    /// Holds the path that was probably intended.
    #[error("another spelling of an SSO path")]
    AmbiguousPath(String),
    #[error("the host is not served on this connection")]
    MisdirectedRequest,
    /// Holds the allowed methods.
    #[error("method not allowed")]
    MethodNotAllowed(&'static [&'static str]),
    #[error("the form is too large")]
    FormTooLarge,
    #[error("the client broke off the request body")]
    UploadBroken(#[source] UploadError),
    #[error("the client stopped sending the request body")]
    UploadStalled,
    /// No page is sent.
    #[error("the client closed the connection")]
    ClientGone,
    // A limit of the gateway.
    #[error("too many concurrent requests")]
    Overloaded,
    // Errors of the upstream.
    #[error("upstream failed")]
    Upstream(#[source] UpstreamError),
    // Errors of the gateway.
    #[error("internal error")]
    Internal,
}

impl From<ForwardError> for Failure {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::Upstream(error) => Self::Upstream(error),
            ForwardError::ClientGone => Self::ClientGone,
            ForwardError::UploadBroken(error) => Self::UploadBroken(error),
            ForwardError::UploadStalled => Self::UploadStalled,
            ForwardError::Overloaded => Self::Overloaded,
        }
    }
}

impl Failure {
    /// Whether the client caused it. An operator does not need to know of these.
    pub(crate) fn is_client_error(&self) -> bool {
        !matches!(self, Self::Overloaded | Self::Upstream(_) | Self::Internal)
    }

    /// The names of failures that are not client errors.
    pub(crate) const NAMES: [&str; 6] = [
        "upstream_unreachable",
        "upstream_timeout",
        "upstream_busy",
        "upstream_broke_off",
        "upstream_malformed",
        "internal",
    ];

    /// The name in logs and metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::BadRequest | Self::Malformed(_) => "malformed_request",
            Self::RequestTimeout => "slow_request",
            Self::AmbiguousPath(_) => "ambiguous_path",
            Self::MisdirectedRequest => "unknown_host",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::FormTooLarge => "form_too_large",
            Self::UploadBroken(_) => "upload_broke_off",
            Self::UploadStalled => "upload_stalled",
            Self::ClientGone => "client_gone",
            Self::Overloaded => "upstream_busy",
            Self::Internal => "internal",
            Self::Upstream(error) => match error {
                UpstreamError::Unreachable(_) => "upstream_unreachable",
                UpstreamError::Silent => "upstream_timeout",
                UpstreamError::Broken(_) => "upstream_broke_off",
                UpstreamError::Malformed(_)
                | UpstreamError::BodyBroke(_)
                | UpstreamError::SilentWithin
                | UpstreamError::EndlessInterim
                | UpstreamError::UnexpectedUpgrade => "upstream_malformed",
            },
        }
    }

    /// The error page. `home`: path of the site's start page; none if the request is for no site.
    pub(crate) fn page(&self, pages: &Pages, request_id: &str, home: Option<&str>) -> Response<Bytes> {
        let is_repeatable = matches!(
            self,
            Self::RequestTimeout
                | Self::UploadStalled
                | Self::Overloaded
                | Self::Upstream(_)
                | Self::Internal
        );
        let message = self.message();
        let message = if is_repeatable { message.link(Link::try_again()) } else { message };
        let message = match home {
            Some(home) => message.link(Link::back_to_site(home)),
            None => message,
        };
        let mut response = pages.message(&message, request_id);
        if let Self::MethodNotAllowed(allowed) = self
            && let Ok(allowed) = HeaderValue::try_from(allowed.join(", "))
        {
            response.headers_mut().insert(ALLOW, allowed);
        }
        response
    }

    fn message(&self) -> Message {
        match self {
            Self::BadRequest | Self::UploadBroken(_) | Self::ClientGone => invalid(StatusCode::BAD_REQUEST),
            Self::Malformed(error) => invalid(status(*error)),
            Self::FormTooLarge => invalid(StatusCode::PAYLOAD_TOO_LARGE),
            Self::RequestTimeout | Self::UploadStalled => {
                Message::new(StatusCode::REQUEST_TIMEOUT, "This request took too long to arrive")
                    .text("The rest of the request did not come, so it was not passed on. Please try again.")
            }
            Self::AmbiguousPath(intended) => Message::new(
                StatusCode::BAD_REQUEST,
                "This address is not spelled right",
            )
            .text("It looks like the address below, but is written in another way, so it was not followed.")
            .link(Link::primary(intended.clone(), intended.clone())),
            Self::MisdirectedRequest => {
                Message::new(StatusCode::MISDIRECTED_REQUEST, "This site is not served here")
                    .text("The name in the address is not one of the sites of this server.")
            }
            Self::MethodNotAllowed(allowed) => {
                let text = if *allowed == ["POST"] {
                    "This address is where the site's sign-in page sends people. It cannot be opened by itself."
                } else {
                    "This address can only be opened, nothing can be sent to it."
                };
                Message::new(StatusCode::METHOD_NOT_ALLOWED, "This cannot be done here").text(text)
            }
            Self::Overloaded => Message::new(StatusCode::SERVICE_UNAVAILABLE, "The site is very busy")
                .text(
                    "More people are using the site than it can serve at once. Please try again in a moment.",
                )
                .retry_after(RETRY_AFTER_OVERLOAD),
            Self::Upstream(UpstreamError::Silent | UpstreamError::Unreachable(ConnectError::TimedOut)) => {
                Message::new(StatusCode::GATEWAY_TIMEOUT, "The site takes too long to answer")
                    .text("The membership site did not answer in time. Please try again in a minute.")
            }
            Self::Upstream(_) => Message::new(StatusCode::BAD_GATEWAY, "The site cannot be reached")
                .text("The membership site does not answer at the moment. Please try again in a minute."),
            Self::Internal => Message::new(StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong")
                .text("This should not have happened. Please try again."),
        }
    }
}

fn invalid(status: StatusCode) -> Message {
    Message::new(status, "This request cannot be understood")
        .text("Something about the request is not as it should be, so it was not passed on.")
}

fn status(error: HeadError) -> StatusCode {
    match error {
        HeadError::Malformed(_) => StatusCode::BAD_REQUEST,
        HeadError::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        HeadError::Coding | HeadError::Method => StatusCode::NOT_IMPLEMENTED,
        HeadError::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        HeadError::TargetTooLong => StatusCode::URI_TOO_LONG,
    }
}
