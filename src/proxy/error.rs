//! Errors of forwarding.

use std::io;

use crate::codec::message::HeadError;
use crate::codec::transfer::{ReceiveError, SendError};

/// Why a request gets no response from the upstream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("the client closed the connection")]
    ClientGone,
    #[error("the client broke off the request body")]
    UploadBroken(#[source] UploadError),
    #[error("the client stopped sending the request body")]
    UploadStalled,
    /// The gateway's own limit.
    #[error(
        "upstream.limits.concurrent_requests reached, and none finished within upstream.limits.queue_timeout"
    )]
    Overloaded,
}

/// Why a request could not be sent completely.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The client closed the connection or sent an invalid body.
    #[error("reading from the client failed")]
    Client(#[source] ReceiveError),
    /// The client's HTTP/2 stream ended before its body did.
    #[error("the HTTP/2 stream ended early")]
    Stream(#[source] h2::Error),
    #[error("writing to the upstream failed")]
    Upstream(#[source] SendError),
}

/// Why the upstream gave no response, or an incomplete one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// No server accepted a connection in time.
    #[error("no upstream server accepts a connection")]
    Unreachable(#[source] ConnectError),
    /// The connection was lost before the head of the response.
    #[error("the upstream connection failed")]
    Broken(#[source] io::Error),
    /// The response head is invalid or ambiguous.
    #[error("invalid response head")]
    Malformed(#[source] HeadError),
    /// The response body is malformed or incomplete.
    #[error("the response body broke off")]
    BodyBroke(#[source] ReceiveError),
    #[error("the response body stalled")]
    SilentWithin,
    #[error("too many interim responses")]
    EndlessInterim,
    /// No response head within the time-out, or the upstream stopped reading the request.
    #[error("no response head from the upstream in time")]
    Silent,
    /// A 101 response that the request did not ask for.
    #[error("the upstream switched protocols unasked")]
    UnexpectedUpgrade,
}

/// Why one server could not be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("TCP connection failed")]
    Tcp(#[source] io::Error),
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("timed out")]
    TimedOut,
    #[error("`{0}` is not a valid TLS server name")]
    Name(String),
}
