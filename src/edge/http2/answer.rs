//! One request over HTTP/2 and its answer: never without one, always one line in the access log.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::header::{CONTENT_LENGTH, DATE, Entry, HeaderName, HeaderValue, LOCATION, SET_COOKIE};
use http::request::Parts;
use http::{Response, StatusCode, Version};
use tokio::time::Instant;
use tracing::warn;

use crate::base::clock;
use crate::base::request_id::Incident;
use crate::codec::fields::Fate;
use crate::codec::head;
use crate::codec::head::{HeadError, MOST_FIELDS, is_refused, slots};
use crate::edge::http2::passing::{Broke, Passing, poll_room};
use crate::edge::http2::request;
use crate::edge::http2::request::FromStream;
use crate::edge::http2::watch::Watch;
use crate::observe::log::Chain;
use crate::pages::{self, Failure};
use crate::proxy::exchange::Exchange;
use crate::proxy::headers::{self, pairs};
use crate::proxy::upstream::UpstreamError;
use crate::proxy::{Kind, MOST_INTERIM, Outgoing, windows};
use crate::request::access_log::{Access, Seen};
use crate::request::connection::traceparent;
use crate::request::connection::{Asked, Connection, MOST_FORM, Verdict};

/// What it takes of a connection's patience to be answered with a page that says what was wrong.
const A_REFUSAL: u32 = 20;
/// What a browser that has let its upload stand has to take note of that.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What is kept of a request while it is answered.
struct Answering {
    connection: Rc<Connection>,
    watch: Rc<Watch>,
    incident: Incident,
    access: Access,
    is_head: bool,
    reply: SendResponse<Bytes>,
    upload: FromStream,
}

/// What a request is answered with.
enum Answer {
    /// A page of ours.
    Page(Response<Bytes>),
    /// What the upstream says. `keep`: it keeps its connection.
    Upstream { response: Response<()>, exchange: Exchange, keep: bool, site: usize },
}

/// Why there is none.
enum NoAnswer {
    Failed(Failure),
    /// The request is malformed (RFC 9113 section 8.1.1).
    Malformed,
    /// Nobody waits for one.
    Gone,
}

impl From<Failure> for NoAnswer {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<UpstreamError> for NoAnswer {
    fn from(error: UpstreamError) -> Self {
        Self::Failed(Failure::Upstream(error))
    }
}

/// Answers one request.
pub(crate) async fn answer(
    mut head: Parts,
    upload: FromStream,
    reply: SendResponse<Bytes>,
    (connection, watch): (Rc<Connection>, Rc<Watch>),
) {
    let fields = head.headers.len();
    headers::join_cookie_crumbs(&mut head.headers);
    let incident = connection.worker.next_request_id();
    let seen = Seen {
        method: head.method.as_str(),
        host: head.uri.host().unwrap_or_default(),
        path: head.uri.path(),
        version: "HTTP/2.0",
        trace: traceparent(pairs(&head.headers)),
    };
    let client = connection.visitor(pairs(&head.headers));
    let access = connection.access(&seen, client, incident);
    let is_head = head.method == http::Method::HEAD;
    let mut answering = Answering { connection, watch, incident, access, is_head, reply, upload };
    let answer = if fields > MOST_FIELDS {
        Err(Failure::Malformed(HeadError::TooLarge).into())
    } else {
        answering.respond(head).await
    };
    match answer {
        Ok(Answer::Page(page)) => answering.send(page, answering.gap()).await,
        Ok(Answer::Upstream { response, exchange, keep, site }) => {
            answering.stream(response, exchange, keep, site).await;
        }
        Err(NoAnswer::Failed(failure)) => {
            let stalled = matches!(failure, Failure::Upstream(UpstreamError::UploadStalled));
            answering.access.failed(failure.name());
            let page = answering.connection.failed(&failure, incident);
            // No request of value pays for what costs.
            answering.watch.spend(A_REFUSAL);
            answering.watch.retire.set(answering.watch.retire.get() || stalled);
            let time = if stalled { LAST_WORDS } else { answering.gap() };
            answering.send(page, time).await;
        }
        Err(NoAnswer::Malformed) => {
            answering.access.answered(StatusCode::BAD_REQUEST);
            answering.access.complete();
            answering.reply.send_reset(Reason::PROTOCOL_ERROR);
        }
        Err(NoAnswer::Gone) => {}
    }
}

impl Answering {
    async fn respond(&mut self, request: Parts) -> Result<Answer, NoAnswer> {
        let Self { connection, incident, reply, upload, access, .. } = self;
        let (connection, incident) = (&**connection, *incident);
        if is_refused(request.method.as_str()) {
            return Err(Failure::Malformed(HeadError::Method).into());
        }
        let authority = request::authority_of(&request).map_err(|_| NoAnswer::Malformed)?;
        if !request::is_well_formed(&request) {
            return Err(NoAnswer::Malformed);
        }
        let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
        if !head::is_path(request.method.as_str(), target) {
            return Err(NoAnswer::Malformed);
        }
        let asked = Asked {
            method: request.method.as_str(),
            target,
            authority: Some((authority.host(), authority.as_str())),
            max_forwards: headers::max_forwards(request.method.as_str(), pairs(&request.headers)),
        };
        let (site, host) = match crate::request::decide::decide(&asked, connection)? {
            // Of the plain-HTTP port, which speaks HTTP/1 alone.
            Verdict::Redirect(_) | Verdict::Challenge(_) => return Err(Failure::Internal.into()),
            Verdict::Options => return Ok(Answer::Page(pages::options())),
            Verdict::Forward { site, host } => {
                access.is_for(site);
                access.is_forwarded();
                (site, host)
            }
            Verdict::Visit { site, host, visit } => {
                access.is_for(site);
                let headers = request.headers.clone();
                let visited = crate::request::connection::visited(
                    connection,
                    &asked,
                    (site, host),
                    visit,
                    headers,
                    incident,
                )?;
                let form = if visited.has_form() {
                    if request::expects_continue(&request) {
                        // Whoever is not there any more is noticed soon enough.
                        let _ = reply.send_informational(interim(StatusCode::CONTINUE));
                    }
                    let time = connection.worker.gateway.timeouts.request_head;
                    upload.form(MOST_FORM, time).await?
                } else {
                    Bytes::new()
                };
                let page = crate::request::connection::visit(&connection.worker, *visited, form, incident);
                return match while_there(reply, page).await {
                    Some(page) => Ok(Answer::Page(page?)),
                    None => Err(NoAnswer::Gone),
                };
            }
        };
        let has_body = upload.has_body();
        let of_request = (incident, &*access);
        let mut outgoing =
            request::outgoing(&request, has_body, &asked, connection, (site, host), of_request)?;
        if has_body && request::expects_continue(&request) {
            // Whoever is not there any more is noticed soon enough.
            let _ = reply.send_informational(interim(StatusCode::CONTINUE));
        }
        drop(request);
        upload.expect(outgoing.length);
        let kind = outgoing.method;
        let upstream = &connection.worker.upstreams[site];
        if outgoing.departure.is_some() {
            connection.forget(site, &outgoing.head).await;
        }
        let sent = while_there(reply, upstream.send(&outgoing, upload, None)).await;
        let mut exchange = match sent {
            Some(Ok(exchange)) => exchange,
            sent => {
                connection.worker.buffers.keep_head(&mut outgoing.head);
                return Err(
                    sent.map_or(NoAnswer::Gone, |sent| sent.map_or_else(Into::into, |_| NoAnswer::Gone))
                );
            }
        };
        for interim in 0..=MOST_INTERIM {
            match take_head(&mut exchange, kind)? {
                Taken::Response { mut response, keep } => {
                    depart(&mut response, &outgoing, connection, site).await;
                    let used = (outgoing.session.as_ref(), exchange.connection.server);
                    if let Some(cookie) = upstream.servers.answered(used, pairs(response.headers()))
                        && let Ok(cookie) = HeaderValue::try_from(cookie)
                    {
                        response.headers_mut().append(SET_COOKIE, cookie);
                    }
                    connection.worker.buffers.keep_head(&mut outgoing.head);
                    return Ok(Answer::Upstream { response, exchange, keep, site });
                }
                Taken::Interim(response) => {
                    if interim == MOST_INTERIM {
                        break;
                    }
                    if response.status() != StatusCode::CONTINUE {
                        let _ = reply.send_informational(response);
                    }
                }
            }
            let head = exchange.response_head(upload, upstream.patience);
            while_there(reply, head).await.ok_or(NoAnswer::Gone)??;
        }
        Err(UpstreamError::EndlessInterim.into())
    }

    fn gap(&self) -> Duration {
        self.connection.worker.gateway.limits.gap
    }

    /// Sends a page of ours, which has to be taken within `time`.
    async fn send(&mut self, page: Response<Bytes>, time: Duration) {
        let status = page.status();
        let (mut head, bytes) = page.into_parts();
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        let bytes = if self.is_head { Bytes::new() } else { bytes };
        self.access.answered(status);
        let Ok(mut body) = self.reply.send_response(Response::from_parts(head, ()), bytes.is_empty()) else {
            return;
        };
        let length = bytes.len() as u64;
        self.upload.set_waits(true);
        let (end, mut rest) = (Instant::now() + time, bytes);
        while !rest.is_empty() {
            match tokio::time::timeout_at(end, poll_fn(|cx| poll_room(cx, &mut body, rest.len()))).await {
                Ok(Some(room)) => {
                    let piece = rest.split_to(room);
                    if body.send_data(piece, rest.is_empty()).is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                // It has let a page stand for longer than anybody takes to read it.
                Err(_) => {
                    body.send_reset(Reason::CANCEL);
                    return self.watch.retire.set(true);
                }
            }
        }
        self.access.count(length);
        self.access.complete();
    }

    /// Passes the upstream's response on.
    async fn stream(&mut self, response: Response<()>, exchange: Exchange, keep: bool, site: usize) {
        self.access.answered(response.status());
        let end = exchange.connection.receiver.is_taken();
        let Ok(body) = self.reply.send_response(response, end) else { return };
        let worker = self.connection.worker.clone();
        let upstream = &worker.upstreams[site];
        let mut passing = Passing {
            body,
            piece: Bytes::new(),
            ended: end,
            exchange,
            upload: &mut self.upload,
            counted: 0,
            patience: upstream.patience,
        };
        let passed = poll_fn(|cx| passing.poll(cx)).await;
        if passed.is_ok() {
            self.watch.answered();
        }
        self.access.count(passing.counted);
        match &passed {
            Ok(()) => self.access.complete(),
            Err(Broke::Upstream(_)) => self.access.upstream_broke(),
            Err(Broke::Gone | Broke::Stalled) => {}
        }
        match passed {
            // An upload that nobody waits for any more is given up with its connection. Over HTTP/2 none is a browser's alone.
            Ok(()) => drop(upstream.settle(passing.exchange, keep)),
            Err(Broke::Gone) => {}
            Err(Broke::Upstream(error)) => {
                passing.body.send_reset(Reason::INTERNAL_ERROR);
                warn!(incident = %self.incident, error = %Chain(&error), "the upstream broke a response off");
            }
            Err(Broke::Stalled) => {
                passing.body.send_reset(Reason::CANCEL);
                self.watch.retire.set(true);
            }
        }
    }
}

/// What an answer may mean for the session: it is forgotten, and the browser led elsewhere.
async fn depart(response: &mut Response<()>, outgoing: &Outgoing, connection: &Connection, site: usize) {
    let ends = connection.ends_session(site, pairs(response.headers()));
    if outgoing.departure.is_none() && !ends {
        return;
    }
    let had_session = connection.forget(site, &outgoing.head).await;
    let Some(departure) = &outgoing.departure else { return };
    let location = response.headers().get(LOCATION).map(HeaderValue::as_bytes);
    let answer = (response.status().as_u16(), location);
    let Some(to) = connection.detour(site, departure, had_session, answer) else { return };
    let [location, set_cookie] = [to.location, to.set_cookie].map(HeaderValue::try_from);
    if let (Ok(location), Ok(set_cookie)) = (location, set_cookie) {
        response.headers_mut().insert(LOCATION, location);
        response.headers_mut().append(SET_COOKIE, set_cookie);
    }
}

/// What comes of something that takes its time, unless the browser resets its stream before.
async fn while_there<T>(reply: &mut SendResponse<Bytes>, something: impl Future<Output = T>) -> Option<T> {
    if poll_fn(|cx| Poll::Ready(reply.poll_reset(cx).is_ready())).await {
        // Before anything has been begun.
        return None;
    }
    let mut something = std::pin::pin!(something);
    poll_fn(|cx| match something.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending => reply.poll_reset(cx).map(|_| None),
    })
    .await
}

fn interim(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = Version::HTTP_2;
    response
}

/// What a head from the upstream was.
enum Taken {
    /// `keep`: the upstream keeps its connection.
    Response {
        response: Response<()>,
        keep: bool,
    },
    Interim(Response<()>),
}

/// Takes a head from the upstream.
fn take_head(exchange: &mut Exchange, method: Kind) -> Result<Taken, UpstreamError> {
    let head = Bytes::copy_from_slice(&exchange.connection.receiver.head()[..exchange.head]);
    let mut slots = slots();
    let read =
        head::Response::parse(&head, &mut slots, method == Kind::Head).map_err(UpstreamError::Malformed)?;
    if read.status == 101 {
        return Err(UpstreamError::UnexpectedUpgrade);
    }
    let malformed = |what| UpstreamError::Malformed(HeadError::Malformed(what));
    let mut response = interim(StatusCode::from_u16(read.status).map_err(|_| malformed("the status"))?);
    let headers = response.headers_mut();
    headers.reserve(read.fields.len());
    for (name, value) in read.fields.pairs() {
        if headers::fate_in_response(name, &read.named_by_connection, read.status) == Fate::Keep {
            let value =
                HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| malformed("a field"))?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed("a field name"))?;
            headers.append(name, value);
        }
    }
    if read.status < 200 {
        exchange.pass_over_head()?;
        return Ok(Taken::Interim(response));
    }
    if let Entry::Vacant(date) = headers.entry(DATE) {
        // RFC 9110 section 6.6.1: when it came.
        date.insert(HeaderValue::try_from(clock::http_date()).map_err(|_| malformed("the date"))?);
    }
    exchange.exclusive |= windows::asked_for_by(read.fields.pairs());
    exchange.begin_body(read.length)?;
    Ok(Taken::Response { response, keep: read.keep_alive })
}
