//! Why a request outside the sign-in gets a page of ours instead of iMIS's, and which.

use http::StatusCode;

use super::{Link, Message};
use crate::proxy::upstream::{ConnectError, UpstreamError};

/// Why a request outside the sign-in gets a page of ours instead of iMIS's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("malformed request")]
    BadRequest,
    /// Holds the path that was probably meant.
    #[error("another spelling of an SSO path")]
    AmbiguousPath(String),
    #[error("a host that is not served here")]
    UnknownHost,
    #[error("method not allowed")]
    MethodNotAllowed,
    #[error("upstream")]
    Upstream(#[source] UpstreamError),
    #[error("internal error")]
    Internal,
}

impl Failure {
    /// Whether the client brought it upon itself: nothing that an operator has to look at.
    pub(crate) fn is_the_clients(&self) -> bool {
        match self {
            Self::BadRequest
            | Self::AmbiguousPath(_)
            | Self::UnknownHost
            | Self::MethodNotAllowed
            | Self::Upstream(UpstreamError::InvalidRequest | UpstreamError::UploadBroke(_)) => true,
            Self::Upstream(_) | Self::Internal => false,
        }
    }

    pub(super) fn message(&self) -> Message {
        match self {
            Self::BadRequest
            | Self::Upstream(UpstreamError::InvalidRequest | UpstreamError::UploadBroke(_)) => {
                Message::new(StatusCode::BAD_REQUEST, "This request cannot be understood")
                    .text("Something about the request is not as it should be, so it was not passed on.")
            }
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
            Self::MethodNotAllowed => {
                Message::new(StatusCode::METHOD_NOT_ALLOWED, "This cannot be done here")
                    .text("This address can only be opened, nothing can be sent to it.")
            }
            Self::Upstream(error) if is_slow(error) => {
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

fn is_slow(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Silent | UpstreamError::Unreachable(ConnectError::TimedOut) => true,
        UpstreamError::Unreachable(_)
        | UpstreamError::Broken(_)
        | UpstreamError::UnexpectedUpgrade
        | UpstreamError::AmbiguousLength
        | UpstreamError::UploadBroke(_)
        | UpstreamError::InvalidRequest => false,
    }
}
