//! The client's side of one request: what differs between HTTP/1 and HTTP/2.

use std::borrow::Cow;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;

use crate::codec::head;
use crate::codec::request_head::{HeaderFields, RequestHead};
use crate::proxy::connection::Connection;
use crate::proxy::error::UpstreamError;
use crate::proxy::exchange::{Exchange, RelayTimeouts, Upload};
use crate::proxy::headers::HeadChanges;
use crate::proxy::websocket_tunnel::TunnelError;
use crate::request::access_log::Access;
use crate::request::error_page::Failure;

/// A request head as it was received. The fields for the access log are set even if the request is refused.
pub(crate) struct ReceivedHead<'a, F> {
    pub(crate) method: &'a str,
    pub(crate) host: Cow<'a, str>,
    pub(crate) path: &'a str,
    /// As the access log has it: `HTTP/1.1`.
    pub(crate) version: &'static str,
    /// None when the head could not be split into fields.
    pub(crate) fields: Option<F>,
    pub(crate) request: Result<RequestHead<'a, F>, Refusal>,
}

/// Why a request head is not served.
pub(crate) enum Refusal {
    /// The client gets an error page.
    Page(Failure),
    /// The stream is reset: the request is malformed (RFC 9113 section 8.1.1).
    Reset,
}

/// Why a response was not relayed to its end.
pub(crate) enum RelayError {
    Upstream(UpstreamError),
    /// The client closed the connection or reset the stream.
    ClientGone,
    /// The client was too slow, or its connection was closed to make room for others.
    ClientStalled,
}

/// Why a request ends without a complete response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abort {
    MalformedRequest,
    UpstreamFailed,
    ClientGone,
    ClientStalled,
}

impl<'a, F> ReceivedHead<'a, F> {
    /// A head that could not be parsed.
    pub(crate) fn unreadable(failure: Failure) -> Self {
        Self {
            method: "?",
            host: Cow::Borrowed(""),
            path: "",
            version: "?",
            fields: None,
            request: Err(Refusal::Page(failure)),
        }
    }
}

/// The client's side of one request. The methods are listed in the order in which they are called.
pub(crate) trait ClientStream: Upload {
    /// The header fields of the request.
    type Fields<'a>: HeaderFields;

    /// Calls `read` with the request head.
    fn read_head<T>(&mut self, read: impl FnOnce(ReceivedHead<'_, Self::Fields<'_>>) -> T) -> T;

    /// Begins the request body, after the head has been read. If the request has no body, it is complete afterwards.
    async fn begin_request_body(&mut self) -> Result<(), Failure>;

    /// Whether the whole request body has been received.
    fn has_whole_body(&self) -> bool;

    /// Reads a request body of at most `max` bytes, which must be complete within `timeout`.
    async fn read_form(&mut self, max: usize, timeout: Duration) -> Result<Bytes, Failure>;

    /// Sends a response that the gateway generated. `failure`: why the request failed, if it did.
    async fn send_page(&mut self, page: Response<Bytes>, failure: Option<&Failure>, access: &mut Access);

    /// The upstream connection that Windows authentication has signed in for this client connection.
    fn take_upstream(&mut self) -> Option<Box<Connection>> {
        None
    }

    /// Keeps an upstream connection that may only be used for this client connection.
    fn keep_upstream(&mut self, connection: Box<Connection>) {
        drop(connection);
    }

    /// Writes an interim response (RFC 9110 section 15.2). `bytes`: the head as it was received.
    fn write_interim(&mut self, response: &head::Response<'_, '_>, bytes: &[u8])
    -> Result<(), UpstreamError>;

    /// Sends the interim response that has been written.
    async fn flush_interim(&mut self) -> Result<(), RelayError>;

    /// Writes the response head. It is sent with the body. `bytes`: the head as it was received. `request_sent`: the
    /// upstream has received all of the request.
    fn write_head(
        &mut self,
        response: &head::Response<'_, '_>,
        bytes: &[u8],
        changes: &HeadChanges<'_>,
        request_sent: bool,
    ) -> Result<(), UpstreamError>;

    /// Discards the head that `write_head` wrote.
    fn discard_head(&mut self);

    /// Begins the response body. `upstream` may have buffered part of it already.
    fn begin_response_body(&mut self, upstream: &Connection) -> Result<(), RelayError>;

    /// Moves the response body to the client.
    fn poll_relay(&mut self, cx: &mut Context<'_>, upstream: &mut Connection)
    -> Poll<Result<(), RelayError>>;

    /// Whether data for the client is buffered because the client does not read.
    fn is_blocked(&self, upstream: &Connection) -> bool;

    /// Bytes of the body that were taken from the upstream and have not been sent.
    fn unsent(&self) -> u64 {
        0
    }

    /// Ends the response after its body has been relayed.
    async fn end_response(&mut self) -> Result<(), RelayError>;

    /// Ends the request without a complete response.
    fn abort(&mut self, reason: Abort);

    /// Writes the 101 response that accepts a WebSocket. HTTP/2 requests never ask for one.
    fn write_upgrade(&mut self, _response: &head::Response<'_, '_>) {}

    /// Moves bytes in both directions until both sides have closed.
    async fn tunnel(
        &mut self,
        _exchange: &mut Exchange,
        _timeouts: RelayTimeouts,
    ) -> Result<(), TunnelError> {
        Ok(())
    }
}
