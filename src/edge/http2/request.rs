//! A request that came over HTTP/2: whom it is for, and how the upstream gets it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::RecvStream;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderValue};
use http::request::Parts;
use http::uri::Authority;

use crate::edge::http2::gather::Arrivals;
use crate::edge::http2::watch::Watch;
use crate::request::access_log::Access;
use crate::request::connection::{Asked, Connection};
use std::net::SocketAddr;

use crate::base::request_id::Incident;
use crate::codec::Length;
use crate::codec::fields::{Fate, decimal};
use crate::codec::head;
use crate::codec::transfer::Sender;
use crate::pages::Failure;
use crate::proxy::connection::Stream;
use crate::proxy::exchange::{Turn, Upload, UploadError};
use crate::proxy::headers::{self, Forwarding, RequestFraming, pairs};
use crate::proxy::upstream::UpstreamError;
use crate::proxy::{Kind, Outgoing, windows};

/// The authority of the target or of Host; both must agree when both are there (RFC 9113 section 8.3.1).
pub(crate) fn authority_of(request: &Parts) -> Result<Authority, Failure> {
    let mut lines = request.headers.get_all(HOST).iter();
    let from_host = match (lines.next(), lines.next()) {
        (None, _) => None,
        (Some(host), None) => Some(Authority::try_from(host.as_bytes()).map_err(|_| Failure::BadRequest)?),
        (Some(_), Some(_)) => return Err(Failure::BadRequest),
    };
    let authority = match (request.uri.authority(), from_host) {
        (Some(target), Some(host)) if *target != host => return Err(Failure::BadRequest),
        (Some(target), _) => target.clone(),
        (None, Some(host)) => host,
        (None, None) => return Err(Failure::BadRequest),
    };
    match head::Authority::parse(authority.as_str().as_bytes()) {
        Some(_) => Ok(authority),
        None => Err(Failure::BadRequest),
    }
}

/// RFC 9113 section 8.2.1: no value begins or ends with a blank.
pub(crate) fn is_well_formed(request: &Parts) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    request
        .headers
        .values()
        .map(HeaderValue::as_bytes)
        .all(|value| !blank(value.first()) && !blank(value.last()))
}

/// The request as the upstream gets it.
pub(crate) fn outgoing(
    request: &Parts,
    has_body: bool,
    asked: &Asked<'_>,
    connection: &Connection,
    (site, host): (usize, &str),
    (incident, access): (Incident, &Access),
) -> Result<Outgoing, Failure> {
    let said = said_length(request)?;
    let length = match (said, has_body) {
        (Some(bytes), true) => Length::Known(bytes),
        (None, true) => Length::Chunked,
        (Some(0) | None, false) => Length::Known(0),
        (Some(_), false) => return Err(Failure::BadRequest),
    };
    let upstream = &connection.worker.gateway.sites[site].config.upstream;
    let rewritten = upstream.host.as_ref().map(ToString::to_string);
    let mut head = connection.worker.buffers.head();
    headers::write_request_line(
        &mut head,
        asked.method,
        asked.target,
        Some(rewritten.as_deref().unwrap_or(host)),
    );
    let chain = connection.chain(pairs(&request.headers));
    let trace = connection.trace_of(access, pairs(&request.headers));
    let forwarding = Forwarding { chain: &chain, host, incident, max_forwards: asked.max_forwards, trace };
    for (name, value) in pairs(&request.headers) {
        if !forwarding.replaces(name)
            && headers::fate_in_request(name, &[], true, &upstream.headers) == Fate::Keep
        {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
    }
    let framing = RequestFraming::of(asked.method, length, said.is_some());
    headers::end_request(&mut head, framing, false, &forwarding);
    Ok(Outgoing {
        head,
        length,
        whole: !has_body,
        client: SocketAddr::new(connection.visitor(pairs(&request.headers)), connection.port),
        session: connection.worker.upstreams[site].servers.session(pairs(&request.headers)),
        method: Kind::of(asked.method),
        tunnel: false,
        signs_in: windows::used_by(pairs(&request.headers)),
        departure: connection.departure(site, (asked.method, host, asked.target), pairs(&request.headers)),
    })
}

fn said_length(request: &Parts) -> Result<Option<u64>, Failure> {
    let mut lines = request.headers.get_all(CONTENT_LENGTH).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(digits), None) => decimal(digits.as_bytes()).map(Some).ok_or(Failure::BadRequest),
        (Some(_), Some(_)) => Err(Failure::BadRequest),
    }
}

/// Whether the client waits to be told to send its body (RFC 9110 section 10.1.1).
pub(crate) fn expects_continue(request: &Parts) -> bool {
    request.headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The body of a request, from a stream of HTTP/2.
pub(crate) struct FromStream {
    /// None: there is no more.
    body: Option<RecvStream>,
    frame: Bytes,
    /// Of a body whose length was said, what has not come yet.
    left: Option<u64>,
    /// Bytes of it that have come.
    received: u64,
    /// Bytes that have been handed over to be sent to the browser.
    pub(crate) handed_over: u64,
    watch: Rc<Watch>,
    arrivals: Arrivals,
    waits: bool,
}

impl FromStream {
    pub(crate) fn new(body: RecvStream, watch: Rc<Watch>, arrivals: Arrivals) -> Self {
        let body = (!body.is_end_stream()).then_some(body);
        watch.begin();
        Self {
            body,
            frame: Bytes::new(),
            left: None,
            received: 0,
            handed_over: 0,
            watch,
            arrivals,
            waits: false,
        }
    }

    /// So many bytes will come, if that was said.
    pub(crate) fn expect(&mut self, length: Length) {
        if let Length::Known(bytes) = length {
            self.left = Some(bytes);
        }
    }

    /// Whether the browser is waited for.
    pub(crate) fn set_waits(&mut self, waits: bool) {
        if waits != self.waits {
            self.waits = waits;
            self.watch.waits(waits);
        }
    }

    /// Whether all of the body that has not gone on is at hand.
    fn is_at_hand(&self) -> bool {
        self.left == Some(0) || self.body.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    pub(crate) fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// Collects a form of at most so many bytes, which has to come in time.
    pub(crate) async fn form(&mut self, most: usize, time: Duration) -> Result<Bytes, Failure> {
        let mut form = Vec::new();
        self.set_waits(true);
        let collected = tokio::time::timeout(time, async {
            while let Some(body) = &mut self.body {
                match body.data().await {
                    Some(Ok(frame)) => {
                        form.extend_from_slice(&frame);
                        // The client may send as much again. Fails only when nobody is there to be told.
                        let _ = body.flow_control().release_capacity(frame.len());
                        if form.len() > most {
                            return Err(Failure::FormTooLarge);
                        }
                    }
                    Some(Err(error)) => {
                        return Err(Failure::Upstream(UpstreamError::UploadBroke(UploadError::Stream(
                            error,
                        ))));
                    }
                    None => self.body = None,
                }
            }
            Ok(())
        });
        let collected = collected.await.unwrap_or(Err(Failure::RequestTimeout));
        self.set_waits(false);
        collected.map(|()| form.into())
    }
}

impl Upload for FromStream {
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        (sender, stream): (&mut Sender, &mut Stream),
        mut may_end: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            if self.is_at_hand() {
                ready!(may_end(cx));
            }
            let last = self.body.is_none();
            while !self.frame.is_empty() || !sender.is_over(last) {
                let sent = ready!(sender.poll_send(cx, stream, &self.frame, last));
                let sent = sent.map_err(UploadError::Upstream)?;
                self.frame.advance(sent);
                if let Some(body) = &mut self.body {
                    // The client may send as much again. Fails only when nobody is there to be told.
                    let _ = body.flow_control().release_capacity(sent);
                }
            }
            let Some(body) = &mut self.body else {
                return sender.poll_flush(cx, stream).map_err(UploadError::Upstream);
            };
            match Pin::new(body).poll_data(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.received += frame.len() as u64;
                    self.left = self.left.map(|left| left.saturating_sub(frame.len() as u64));
                    self.frame = frame;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(UploadError::Stream(error))),
                // Trailers are not forwarded (RFC 9110 section 6.5.1 lets an intermediary drop them).
                Poll::Ready(None) => self.body = None,
                Poll::Pending => {
                    ready!(sender.poll_flush(cx, stream)).map_err(UploadError::Upstream)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Whether the stream has been reset is asked beside the exchange.
    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn wants_data(&self) -> bool {
        self.frame.is_empty() && self.body.is_some()
    }

    fn moved(&self, turn: Turn) -> u64 {
        if turn == Turn::Reads { self.handed_over } else { self.received }
    }

    /// A stream is not slower than its connection: what arrives of any of them counts.
    fn arrived(&self, turn: Turn) -> Option<u64> {
        if turn == Turn::Reads { self.arrivals.arrived() } else { Some(self.watch.data_received.get()) }
    }

    /// Connections make room as a whole.
    fn poll_evicted(&mut self, _: &mut Context<'_>, is_waited_for: bool) -> Poll<()> {
        self.set_waits(is_waited_for);
        Poll::Pending
    }
}

impl Drop for FromStream {
    fn drop(&mut self) {
        self.set_waits(false);
        self.watch.end();
    }
}
