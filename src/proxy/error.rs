//! Why a request gets no response, or not all of one.

use std::io;

use crate::codec::head_error::HeadError;
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

/// Why a request does not arrive whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The client broke off, or sent what is no body.
    #[error("reading from the client failed")]
    Client(#[source] ReceiveError),
    /// The client's HTTP/2 stream ended before its body did.
    #[error("the HTTP/2 stream ended early")]
    Stream(#[source] h2::Error),
    #[error("writing to the upstream failed")]
    Upstream(#[source] SendError),
}

/// Why iMIS gave no response, or not all of one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// No server accepted a connection in time.
    #[error("no upstream server accepts a connection")]
    Unreachable(#[source] ConnectError),
    /// The connection was lost before the head of the response.
    #[error("the upstream connection failed")]
    Broken(#[source] io::Error),
    /// What came is no response, or one that two readers could read in two ways.
    #[error("invalid response head")]
    Malformed(#[source] HeadError),
    /// The body of the response is malformed or broke off.
    #[error("the response body broke off")]
    BodyBroke(#[source] ReceiveError),
    /// Nothing has come of the body for too long.
    #[error("the response body stalled")]
    SilentWithin,
    /// More interim responses than anybody sends.
    #[error("too many interim responses")]
    EndlessInterim,
    /// No response head within the time allowed, or the upstream has stopped taking the request.
    #[error("no response head from the upstream in time")]
    Silent,
    /// 101 without being asked, or to something else than was asked for.
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
