//! Entry points to inner functions for `benches/` and `fuzz/`. The program does not use them.

pub mod targets;
pub mod ticket_vectors;

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::HeaderMap;
use tokio::io::{AsyncRead, ReadBuf};

use crate::base::buffers::Buffers;
use crate::base::header_rules::Rules;
use crate::base::phone::Preference;
use crate::base::request_id::RequestId;
use crate::codec::head::{ParsedHead, Request, Response, Scanner, header_slots};
use crate::codec::request_head::RequestHead;
use crate::codec::transfer::Receiver;
use crate::codec::{Length, Version};
use crate::config::expression::Language;
use crate::config::{self, App, Secret};
use crate::imis;
use crate::imis::PartyId;
use crate::imis::party::Party;
use crate::imis::recognise::Identity;
use crate::proxy::headers::{self, Forwarding, HeadChanges, ResponseFraming};
use crate::request::app_path;
use crate::sso::login_params::LoginParams;
use crate::sso::trace::Trace;
use crate::sso::{facts, policy, token};

/// Reads the head of a request and writes the one that goes to the upstream.
pub fn rewrite_request(head: &[u8], out: &mut Vec<u8>) -> bool {
    let mut slots = header_slots();
    let Ok(parsed_head) = ParsedHead::parse(head, &mut slots) else { return false };
    let Ok(request) = Request::of(&parsed_head) else { return false };
    let host = "members.example.org";
    let forwarding = Forwarding {
        chain: "192.0.2.1",
        host,
        incident: RequestId::new(1, 1),
        max_forwards: None,
        trace: headers::Traceparent::Keep,
    };
    let own_host = (!request.has_host).then_some(host);
    let head = RequestHead::of(&request, false);
    headers::write_request(out, &head, own_host, &Rules::default(), &forwarding);
    true
}

/// Reads the head of a response and writes the one that goes to the client.
pub fn rewrite_response(head: &[u8], out: &mut Vec<u8>) -> bool {
    let mut slots = header_slots();
    let Ok(response) = Response::parse(head, &mut slots, false) else { return false };
    let length = match response.length {
        Length::Known(bytes) => Length::Known(bytes),
        Length::Chunked | Length::UntilClose => Length::Chunked,
    };
    let framing = ResponseFraming { version: Version::Http11, length, close: false, tunnel: false };
    headers::write_response(out, &response, framing, &HeadChanges::default());
    true
}

/// A message that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Bytes of the head.
    pub head: usize,
    /// The body without its framing.
    pub data: Vec<u8>,
    /// Whether the body has ended.
    pub whole: bool,
    /// Bytes after the body.
    pub rest: usize,
}

/// Reads a message that arrives in pieces of `cut` bytes. `None` if it is refused, or its head is incomplete.
pub fn read_message(bytes: &[u8], is_response: bool, cut: usize) -> Option<Message> {
    let mut scanner = Scanner::default();
    let cut = cut.max(1);
    let (mut seen, mut head) = (0, None);
    while head.is_none() && seen < bytes.len() {
        seen = bytes.len().min(seen + cut);
        head = scanner.find_end(&bytes[..seen], 64 * 1024).ok()?;
    }
    let head = head?;
    let mut slots = header_slots();
    let length = if is_response {
        Response::parse(&bytes[..head], &mut slots, false).ok()?.length
    } else {
        Request::of(&ParsedHead::parse(&bytes[..head], &mut slots).ok()?).ok()?.length
    };
    let mut receiver = Receiver::new(Rc::new(Buffers::default()));
    receiver.begin_body(0, length).ok()?;
    let mut data = Vec::new();
    let mut at = head;
    while at < bytes.len() && !receiver.is_over() {
        let end = bytes.len().min(at + cut);
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(outcome) = receiver.poll_body(&mut cx, &mut Piece(&bytes[at..end])) {
            outcome.ok()?;
        }
        at = end;
        data.extend_from_slice(receiver.data());
        let ready = receiver.data().len();
        receiver.consume(ready);
    }
    let rest = receiver.head().len() + bytes.len() - at;
    Some(Message { head, data, whole: receiver.is_over(), rest })
}

/// A reader of the bytes that have arrived. After them it is pending, not at its end.
struct Piece<'a>(&'a [u8]);

impl AsyncRead for Piece<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let count = self.0.len().min(buffer.remaining());
        buffer.put_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Poll::Ready(Ok(()))
    }
}

/// The apps of a site, for routing.
pub struct Routes(Vec<Arc<App>>);

impl Routes {
    /// One app at `path`. `None` for a path that an app cannot have.
    pub fn new(path: &str) -> Option<Self> {
        Some(Self(vec![Arc::new(config::app_at(path)?)]))
    }

    /// Whether a path belongs to the app, in any spelling.
    pub fn is_ours(&self, path: &str) -> bool {
        !matches!(app_path::match_path(&self.0, path), app_path::PathMatch::Proxy)
    }
}

/// Whether a session cookie is among the cookies.
pub fn has_session(headers: &HeaderMap, names: &[String]) -> bool {
    imis::recognise::SessionCookies::find(headers, names).is_ok()
}

/// Mints parsed_head for the benchmark.
pub struct Mint {
    permit: policy::Permit,
    secret: Secret,
}

impl Mint {
    /// `record`: a contact as the REST API returns it.
    pub fn of(id: &str, record: &[u8]) -> Option<Self> {
        let id = PartyId::parse(id)?;
        let profile = Party::parse(record).ok()?.profile(&id, &Preference::default()).ok()?;
        let app = config::app_at("/sso/zendesk")?;
        let identity = Identity::of(id);
        let facts = facts::collect(&profile, &identity, &app, &LoginParams::default(), &[], "2026-11-27");
        let permit =
            policy::authorize(profile, &app, &Language::new(), &facts, &mut Trace::disabled()).ok()?;
        Some(Self { permit, secret: Secret::new("not-a-real-secret-but-a-long-one") })
    }

    /// Mints a token, and returns only its length.
    pub fn token_length(&self, now: u64, jti: &str) -> Option<usize> {
        token::mint(&self.secret, &self.permit, now, jti).ok().map(|token| token.expose().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads each seed in pieces of every size.
    #[test]
    fn pieces_of_any_size_give_the_same_message() {
        let mut seen = 0;
        for (kind, is_response) in [("request", false), ("response", true)] {
            for seed in
                std::fs::read_dir(format!("{}/fuzz/seeds/{kind}", env!("CARGO_MANIFEST_DIR"))).unwrap()
            {
                // The first byte is the cut.
                let bytes = std::fs::read(seed.unwrap().path()).unwrap().split_off(1);
                let whole = read_message(&bytes, is_response, bytes.len());
                for cut in 1..bytes.len() {
                    assert_eq!(
                        read_message(&bytes, is_response, cut),
                        whole,
                        "{cut}: {}",
                        String::from_utf8_lossy(&bytes)
                    );
                }
                seen += usize::from(whole.is_some());
            }
        }
        assert!(seen > 5, "{seen}");
    }
}
