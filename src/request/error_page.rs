//! Why a request outside the sign-in gets a page of ours instead of iMIS's, and which.

use http::StatusCode;

use crate::codec::head::HeadError;
use crate::pages::{Link, Message};
use crate::proxy::upstream::{ConnectError, UpstreamError};

/// Seconds; the queue is a second long.
const RETRY_AFTER_BUSY: u32 = 5;

/// Why a request outside the sign-in gets a page of ours instead of iMIS's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("malformed request")]
    BadRequest,
    #[error("malformed request head")]
    Malformed(#[source] HeadError),
    #[error("the request head did not come in time")]
    RequestTimeout,
    /// Holds the path that was probably meant.
    #[error("another spelling of an SSO path")]
    AmbiguousPath(String),
    #[error("a host that is not served here")]
    UnknownHost,
    /// Holds those that are.
    #[error("method not allowed")]
    MethodNotAllowed(&'static str),
    #[error("a form that is too large")]
    FormTooLarge,
    #[error("upstream")]
    Upstream(#[source] UpstreamError),
    #[error("internal error")]
    Internal,
}

/// Kinds of failures that look the same to whoever reads the page.
enum Looks {
    Wrong(StatusCode),
    Slow(StatusCode),
    Unreachable,
    TakesTooLong,
    Busy,
}

impl Failure {
    /// Whether the client brought it upon itself: nothing that an operator has to look at.
    pub(crate) fn is_the_clients(&self) -> bool {
        match self {
            Self::BadRequest
            | Self::Malformed(_)
            | Self::RequestTimeout
            | Self::AmbiguousPath(_)
            | Self::UnknownHost
            | Self::MethodNotAllowed(_)
            | Self::FormTooLarge => true,
            Self::Upstream(error) => match looks(error) {
                Looks::Wrong(_) | Looks::Slow(_) => true,
                Looks::Unreachable | Looks::TakesTooLong | Looks::Busy => false,
            },
            Self::Internal => false,
        }
    }

    /// Names of what an operator looks after.
    pub(crate) const NAMES: [&str; 6] = [
        "upstream_unreachable",
        "upstream_timeout",
        "upstream_busy",
        "upstream_broke_off",
        "upstream_malformed",
        "internal",
    ];

    /// For logs and metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::BadRequest | Self::Malformed(_) => "malformed_request",
            Self::RequestTimeout => "slow_request",
            Self::AmbiguousPath(_) => "ambiguous_path",
            Self::UnknownHost => "unknown_host",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::FormTooLarge => "form_too_large",
            Self::Internal => "internal",
            Self::Upstream(error) => match error {
                UpstreamError::Unreachable(_) => "upstream_unreachable",
                UpstreamError::Silent => "upstream_timeout",
                UpstreamError::Busy => "upstream_busy",
                UpstreamError::UploadBroke(_) => "upload_broke_off",
                UpstreamError::UploadStalled => "upload_stalled",
                UpstreamError::BrowserGone => "browser_gone",
                UpstreamError::Broken(_) => "upstream_broke_off",
                UpstreamError::Malformed(_)
                | UpstreamError::BodyBroke(_)
                | UpstreamError::SilentWithin
                | UpstreamError::EndlessInterim
                | UpstreamError::UnexpectedUpgrade => "upstream_malformed",
            },
        }
    }

    pub(crate) fn message(&self) -> Message {
        match self {
            Self::BadRequest => like(Looks::Wrong(StatusCode::BAD_REQUEST)),
            Self::Malformed(error) => like(Looks::Wrong(status(*error))),
            Self::RequestTimeout => like(Looks::Slow(StatusCode::REQUEST_TIMEOUT)),
            Self::AmbiguousPath(meant) => Message::new(
                StatusCode::BAD_REQUEST,
                "This address is not spelled right",
            )
            .text("It looks like the address below, but is written in another way, so it was not followed.")
            .link(Link::primary(meant.clone(), meant.clone())),
            Self::UnknownHost => {
                Message::new(StatusCode::MISDIRECTED_REQUEST, "This site is not served here")
                    .text("The name in the address is not one of the sites of this server.")
            }
            Self::MethodNotAllowed(allowed) => {
                let text = if *allowed == "POST" {
                    "This address is where the site's sign-in page sends people. It cannot be opened by itself."
                } else {
                    "This address can only be opened, nothing can be sent to it."
                };
                Message::new(StatusCode::METHOD_NOT_ALLOWED, "This cannot be done here").text(text)
            }
            Self::FormTooLarge => like(Looks::Wrong(StatusCode::PAYLOAD_TOO_LARGE)),
            Self::Upstream(error) => like(looks(error)),
            Self::Internal => Message::new(StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong")
                .text("This should not have happened. Please try again."),
        }
    }
}

fn like(looks: Looks) -> Message {
    match looks {
        Looks::Wrong(status) => Message::new(status, "This request cannot be understood")
            .text("Something about the request is not as it should be, so it was not passed on."),
        Looks::Slow(status) => Message::new(status, "This request took too long to arrive")
            .text("The rest of the request did not come, so it was not passed on. Please try again."),
        Looks::Unreachable => Message::new(StatusCode::BAD_GATEWAY, "The site cannot be reached")
            .text("The membership site does not answer at the moment. Please try again in a minute."),
        Looks::Busy => Message::new(StatusCode::SERVICE_UNAVAILABLE, "The site is very busy")
            .text("More people are using the site than it can serve at once. Please try again in a moment.")
            .retry_after(RETRY_AFTER_BUSY),
        Looks::TakesTooLong => Message::new(StatusCode::GATEWAY_TIMEOUT, "The site takes too long to answer")
            .text("The membership site did not answer in time. Please try again in a minute."),
    }
}

fn status(error: HeadError) -> StatusCode {
    match error {
        HeadError::Malformed(_) => StatusCode::BAD_REQUEST,
        HeadError::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        HeadError::Coding | HeadError::Method => StatusCode::NOT_IMPLEMENTED,
        HeadError::Expectation => StatusCode::EXPECTATION_FAILED,
        HeadError::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        HeadError::TargetTooLong => StatusCode::URI_TOO_LONG,
    }
}

fn looks(error: &UpstreamError) -> Looks {
    match error {
        UpstreamError::Silent | UpstreamError::Unreachable(ConnectError::TimedOut) => Looks::TakesTooLong,
        UpstreamError::UploadBroke(_) | UpstreamError::BrowserGone => Looks::Wrong(StatusCode::BAD_REQUEST),
        UpstreamError::Busy => Looks::Busy,
        UpstreamError::UploadStalled => Looks::Slow(StatusCode::REQUEST_TIMEOUT),
        UpstreamError::Unreachable(_)
        | UpstreamError::Broken(_)
        | UpstreamError::Malformed(_)
        | UpstreamError::BodyBroke(_)
        | UpstreamError::SilentWithin
        | UpstreamError::EndlessInterim
        | UpstreamError::UnexpectedUpgrade => Looks::Unreachable,
    }
}
