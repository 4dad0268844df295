//! Bodies over HTTP/2: a page of ours, or the upstream's response streamed frame by frame, with the upload that may still
//! be going the other way.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;
use tracing::warn;

use super::access::Access;
use super::activity::UnderWay;
use crate::http1::transfer::{ReceiveError, Sender};
use crate::incident::Incident;
use crate::proxy::connection::Stream;
use crate::proxy::exchange::{Exchange, Patience, Sending, Upload, UploadError};
use crate::telemetry::Chain;
use crate::worker::Worker;

/// The body of a request, from a stream of HTTP/2.
pub(super) struct FromStream {
    /// None: there is no more.
    body: Option<Incoming>,
    frame: Bytes,
    received: u64,
}

impl FromStream {
    pub(super) fn new(body: Incoming) -> Self {
        let body = (!http_body::Body::is_end_stream(&body)).then_some(body);
        Self { body, frame: Bytes::new(), received: 0 }
    }
}

impl Upload for FromStream {
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        sender: &mut Sender,
        stream: &mut Stream,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            let last = self.body.is_none();
            while !self.frame.is_empty() || !sender.is_over(last) {
                let sent = ready!(sender.poll_send(cx, stream, &self.frame, last));
                self.frame.advance(sent.map_err(UploadError::Upstream)?);
            }
            let Some(body) = &mut self.body else {
                return sender.poll_flush(cx, stream).map_err(UploadError::Upstream);
            };
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are not forwarded (RFC 9110 section 6.5.1 lets an intermediary drop them).
                    self.frame = frame.into_data().unwrap_or_default();
                    self.received += self.frame.len() as u64;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(UploadError::Stream(error))),
                Poll::Ready(None) => self.body = None,
                Poll::Pending => {
                    ready!(sender.poll_flush(cx, stream)).map_err(UploadError::Upstream)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// hyper drops the request when its stream is reset.
    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn received(&self) -> u64 {
        self.received
    }
}

/// The body of a response, as the upstream sends it.
///
/// hyper asks for more of it only while the browser takes it. What has to go on meanwhile, the upload that is still under
/// way and the deadlines, goes on in a task beside it (`attend`).
pub(super) struct Streamed(Rc<RefCell<Passing>>);

struct Passing {
    /// Until it is over, or given up.
    exchange: Option<Exchange>,
    /// Why it was given up.
    broke: Option<BodyBroke>,
    upload: FromStream,
    /// The upstream keeps its connection.
    keep: bool,
    /// The browser has taken all that there was.
    waits_for_upstream: bool,
    /// When something last passed, in either direction.
    last_moved: Instant,
    reader: Option<Waker>,
    attendant: Option<Waker>,
    worker: Rc<Worker>,
    site: usize,
}

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyBroke {
    #[error("the upstream")]
    Upstream(#[source] ReceiveError),
    #[error("the upstream fell silent within the body")]
    UpstreamSilent,
    #[error("the browser takes no more of the body")]
    BrowserSilent,
    #[error("the request's body broke off")]
    Upload,
}

impl Streamed {
    pub(super) fn new(
        exchange: Exchange,
        upload: FromStream,
        keep: bool,
        worker: Rc<Worker>,
        site: usize,
    ) -> Self {
        let mut passing = Passing {
            exchange: Some(exchange),
            broke: None,
            upload,
            keep,
            waits_for_upstream: false,
            last_moved: Instant::now(),
            reader: None,
            attendant: None,
            worker,
            site,
        };
        passing.notice_end();
        let attended = passing.exchange.is_some();
        let streamed = Self(Rc::new(RefCell::new(passing)));
        if attended {
            tokio::task::spawn_local(attend(Rc::downgrade(&streamed.0)));
        }
        streamed
    }

    fn is_over(&self) -> bool {
        self.0.borrow().is_over()
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyBroke>>> {
        self.0.borrow_mut().poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        let passing = self.0.borrow();
        let left = match (&passing.exchange, passing.is_over()) {
            (Some(exchange), _) => exchange.connection.receiver.left(),
            (None, over) => over.then_some(0),
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if let Some(attendant) = self.0.borrow_mut().attendant.take() {
            attendant.wake();
        }
    }
}

/// Moves an upload on and keeps the deadlines, for as long as somebody holds the body and it is not over.
async fn attend(passing: Weak<RefCell<Passing>>) {
    poll_fn(|cx| match passing.upgrade() {
        Some(passing) => passing.borrow_mut().poll_attend(cx),
        None => Poll::Ready(()),
    })
    .await;
}

impl Passing {
    fn patience(&self) -> Patience {
        self.worker.upstreams[self.site].patience
    }

    fn is_over(&self) -> bool {
        self.broke.is_none()
            && self.exchange.as_ref().is_none_or(|exchange| exchange.connection.receiver.is_taken())
    }

    /// Gives the connection back once everything has been taken from it.
    fn notice_end(&mut self) {
        let Some(exchange) = self.exchange.take_if(|exchange| {
            exchange.connection.receiver.is_taken() && exchange.sending != Sending::UnderWay
        }) else {
            return;
        };
        // Over HTTP/2 no connection is a browser's alone.
        drop(self.worker.upstreams[self.site].settle(exchange, self.keep));
        if let Some(attendant) = self.attendant.take() {
            attendant.wake();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyBroke>>> {
        if let Some(broke) = self.broke.take() {
            return Poll::Ready(Some(Err(broke)));
        }
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
        let connection = &mut *exchange.connection;
        match connection.receiver.poll_body(cx, &mut connection.stream) {
            Poll::Ready(Ok(())) if connection.receiver.is_taken() => {
                self.notice_end();
                // An upload that nobody waits for any more is given up with its connection.
                self.exchange = None;
                Poll::Ready(None)
            }
            Poll::Ready(Ok(())) => {
                let bytes = connection.receiver.take();
                self.waits_for_upstream = false;
                self.last_moved = Instant::now();
                self.notice_end();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(BodyBroke::Upstream(error)))),
            Poll::Pending => {
                self.waits_for_upstream = true;
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_attend(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let patience = self.patience();
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(()) };
        if exchange.sending == Sending::UnderWay {
            if let Poll::Ready(Err(_)) = exchange.poll_send(cx, &mut self.upload) {
                return self.give_up(BodyBroke::Upload);
            }
            if exchange.progressed(&self.upload) {
                self.last_moved = Instant::now();
            }
        }
        self.attendant = Some(cx.waker().clone());
        loop {
            let waits_for_browser = !self.waits_for_upstream || exchange.waits_for_browser();
            let gap = if waits_for_browser { patience.browser } else { patience.upstream };
            let still = self.last_moved.elapsed();
            if still >= gap {
                let broke =
                    if waits_for_browser { BodyBroke::BrowserSilent } else { BodyBroke::UpstreamSilent };
                return self.give_up(broke);
            }
            // Nobody wakes this task at every piece that passes, or when it is the other side's turn: it looks in time.
            exchange.connection.deadline.set(gap.min(patience.browser).saturating_sub(still));
            if exchange.connection.deadline.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Lets go of the upstream; the browser's stream is reset when it next asks.
    fn give_up(&mut self, broke: BodyBroke) -> Poll<()> {
        self.exchange = None;
        self.broke = Some(broke);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(())
    }
}

/// What is sent to the browser.
pub(super) enum Body {
    Whole(Bytes),
    Streamed(Streamed),
}

impl Body {
    pub(super) fn empty() -> Self {
        Self::Whole(Bytes::new())
    }

    pub(super) fn whole(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Streamed(streamed) => streamed.is_over(),
        }
    }
}

/// A body whose delivery is followed: counted for the access log, and under way until it has been handed over.
pub(super) struct Followed {
    body: Body,
    access: Option<Access>,
    incident: Incident,
    _under_way: UnderWay,
}

impl Followed {
    /// `to_head`: the body is never asked for.
    pub(super) fn response(
        response: Response<Body>,
        access: Option<Access>,
        to_head: bool,
        incident: Incident,
        under_way: UnderWay,
    ) -> Response<Self> {
        let status = response.status();
        response.map(|body| {
            let mut followed = Self { body, access, incident, _under_way: under_way };
            if let Some(access) = &mut followed.access {
                access.answered(status);
                if to_head {
                    access.complete();
                }
            }
            followed.notice_end();
            followed
        })
    }

    fn notice_end(&mut self) {
        if let Some(access) = &mut self.access
            && self.body.is_over()
        {
            access.complete();
        }
    }
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = BodyBroke;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroke>>> {
        let frame = match &mut self.body {
            Body::Whole(bytes) if bytes.is_empty() => None,
            Body::Whole(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Body::Streamed(streamed) => ready!(streamed.poll_frame(cx)),
        };
        if let Some(Err(error @ (BodyBroke::Upstream(_) | BodyBroke::UpstreamSilent))) = &frame {
            warn!(incident = %self.incident, error = %Chain(error), "the upstream broke a response off");
        }
        if let Some(access) = &mut self.access {
            match &frame {
                Some(Ok(frame)) => access.count(frame.data_ref().map_or(0, |data| data.len() as u64)),
                Some(Err(BodyBroke::Upload | BodyBroke::BrowserSilent)) => {}
                Some(Err(BodyBroke::Upstream(_) | BodyBroke::UpstreamSilent)) => access.upstream_broke(),
                None => access.complete(),
            }
        }
        if let Some(Ok(_)) = &frame {
            self.notice_end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Streamed(streamed) => streamed.size_hint(),
        }
    }
}
