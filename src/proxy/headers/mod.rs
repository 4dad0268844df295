//! The headers that the gateway changes. All others are passed on unchanged.
//!
//! Hop-by-hop headers are removed (RFC 9110 section 7.6.1). Framing is written anew for the outgoing connection.
//! Headers that servers trust from a proxy are set only by the gateway: a client's are removed in every spelling
//! (`base::header_rules`). There is no `Via`, because IIS then stops reusing NTLM connections.

use http::header::{COOKIE, HeaderMap, HeaderValue, STRICT_TRANSPORT_SECURITY};

use crate::base::clock;
use crate::base::header_rules::Rules;
use crate::base::request_id::RequestId;
use crate::base::trace_context::TraceParent;
use crate::codec::fields::{FieldAction, decimal};
use crate::codec::request_head::{HeaderFields, RequestHead};
use crate::codec::{Length, Version, head};

/// The forwarding headers for the upstream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forwarding<'a> {
    /// `X-Forwarded-For`: the addresses from trusted proxies, then our peer.
    pub(crate) chain: &'a str,
    /// `X-Forwarded-Host`: the authority as the client wrote it.
    pub(crate) host: &'a str,
    pub(crate) incident: RequestId,
    /// The received `Max-Forwards` of an OPTIONS request.
    pub(crate) max_forwards: Option<u64>,
    pub(crate) trace: Traceparent,
}

/// The `traceparent` that iMIS gets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Traceparent {
    /// That of the request, if it has one.
    Keep,
    /// The request has none, so it gets a new one.
    Create,
    /// That of the gateway's own span. If the span starts the trace, a `tracestate` of the request is dropped.
    Replace { traceparent: TraceParent, starts_trace: bool },
}

impl Forwarding<'_> {
    /// Whether the gateway replaces a header of the client.
    pub(crate) fn replaces(&self, name: &str) -> bool {
        (self.max_forwards.is_some() && name.eq_ignore_ascii_case("max-forwards"))
            || match self.trace {
                Traceparent::Keep | Traceparent::Create => false,
                Traceparent::Replace { starts_trace, .. } => {
                    name.eq_ignore_ascii_case("traceparent")
                        || (starts_trace && name.eq_ignore_ascii_case("tracestate"))
                }
            }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for part in [
            "X-Forwarded-For: ",
            self.chain,
            "\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: ",
            self.host,
            "\r\nX-Request-Id: ",
        ] {
            out.extend_from_slice(part.as_bytes());
        }
        self.incident.write(out);
        out.extend_from_slice(b"\r\n");
        if let Some(hops) = self.max_forwards {
            out.extend_from_slice(format!("Max-Forwards: {}\r\n", hops.saturating_sub(1)).as_bytes());
        }
        match self.trace {
            Traceparent::Keep => {}
            Traceparent::Create => TraceParent::generate(self.incident).write(out),
            Traceparent::Replace { traceparent, .. } => traceparent.write(out),
        }
    }
}

/// Joins the Cookie headers, which HTTP/2 clients may split (RFC 9113 section 8.2.3).
pub(crate) fn join_cookie_crumbs(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // Valid, because the parts are.
    if let Ok(mut joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        joined.set_sensitive(true);
        headers.insert(COOKIE, joined);
    }
}

/// Writes the head of a request for the upstream. `own_host`: replaces the client's Host.
pub(crate) fn write_request<F: HeaderFields>(
    out: &mut Vec<u8>,
    request: &RequestHead<'_, F>,
    own_host: Option<&str>,
    rules: &Rules,
    forwarding: &Forwarding<'_>,
) {
    for part in [request.method, " ", request.target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    if let Some(host) = own_host {
        for part in ["Host: ", host, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    request.fields.write(out, |name| {
        if forwarding.replaces(name) {
            FieldAction::Drop
        } else {
            action_in_request(name, request.named_by_connection, own_host.is_some(), rules)
        }
    });
    out.extend_from_slice(request_framing(request.method, request.length, request.has_length));
    if request.wants_websocket {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    forwarding.write(out);
    out.extend_from_slice(b"\r\n");
}

/// Whether a request header is passed on. `named`: the options of `Connection`. Essential headers are passed on even if
/// `Connection` names them. `own_host`: the gateway replaces `Host`.
fn action_in_request(name: &str, named: &[&str], own_host: bool, rules: &Rules) -> FieldAction {
    let is_dropped = is_hop_by_hop(name)
        || rules.forbid(name)
        // The gateway answers `100-continue` itself.
        || name.eq_ignore_ascii_case("expect")
        || (own_host && name.eq_ignore_ascii_case("host"))
        || (named.iter().any(|option| name.eq_ignore_ascii_case(option)) && !is_essential(name));
    if is_dropped { FieldAction::Drop } else { FieldAction::Keep }
}

/// The value of `Max-Forwards` in an OPTIONS request (RFC 9110 section 7.6.2). None for other methods.
pub(crate) fn max_forwards<'a>(
    method: &str,
    mut fields: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Option<u64> {
    if method != "OPTIONS" {
        return None;
    }
    decimal(fields.find(|(name, _)| name.eq_ignore_ascii_case("max-forwards"))?.1)
}

/// The framing header that the gateway adds to a request. Empty if the client's Content-Length is passed on or no body
/// is expected. `has_length`: the request has a Content-Length.
fn request_framing(method: &str, length: Length, has_length: bool) -> &'static [u8] {
    match length {
        Length::Chunked | Length::UntilClose => b"Transfer-Encoding: chunked\r\n",
        // http.sys answers 411 to a POST without Content-Length. HTTP/2 allows such a request.
        Length::Known(_) if !has_length && matches!(method, "POST" | "PUT" | "PATCH") => {
            b"Content-Length: 0\r\n"
        }
        Length::Known(_) => b"",
    }
}

/// Whether a response header is passed on. `named`: the options of `Connection`. Essential headers are passed on even
/// if `Connection` names them.
pub(crate) fn action_in_response(name: &str, named: &[&str], status: u16) -> FieldAction {
    let is_dropped = is_hop_by_hop(name)
        // RFC 9110 section 8.6: such a response must not have one.
        || (matches!(status, 100..=199 | 204) && name.eq_ignore_ascii_case("content-length"))
        || (named.iter().any(|option| name.eq_ignore_ascii_case(option)) && !is_essential(name));
    if is_dropped { FieldAction::Drop } else { FieldAction::Keep }
}

/// The framing of a response for an HTTP/1 client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResponseFraming {
    pub(crate) version: Version,
    pub(crate) length: Length,
    pub(crate) close: bool,
    pub(crate) tunnel: bool,
}

/// Changes to the response head of the upstream.
#[derive(Debug, Default)]
pub(crate) struct HeadChanges<'a> {
    /// Replaces `Location`.
    pub(crate) location: Option<&'a str>,
    /// Values of additional `Set-Cookie` headers.
    pub(crate) set_cookies: [Option<&'a str>; 2],
    /// `Strict-Transport-Security`, added if the response has none.
    pub(crate) hsts: Option<&'a str>,
}

/// Writes the head of a response for an HTTP/1 client.
pub(crate) fn write_response(
    out: &mut Vec<u8>,
    response: &head::Response<'_, '_>,
    framing: ResponseFraming,
    changes: &HeadChanges<'_>,
) {
    out.extend_from_slice(b"HTTP/1.1");
    out.extend_from_slice(response.after_version);
    out.extend_from_slice(b"\r\n");
    let named = &response.named_by_connection;
    let mut has_date = response.status < 200;
    let mut hsts = changes.hsts;
    response.fields.write(out, |name| {
        has_date |= name.eq_ignore_ascii_case("date");
        if hsts.is_some() && name.eq_ignore_ascii_case(STRICT_TRANSPORT_SECURITY.as_str()) {
            hsts = None;
        }
        if changes.location.is_some() && name.eq_ignore_ascii_case("location") {
            return FieldAction::Drop;
        }
        action_in_response(name, named, response.status)
    });
    let location = changes.location.map(|location| ("Location: ", location));
    let cookies = changes.set_cookies.iter().flatten().map(|cookie| ("Set-Cookie: ", *cookie));
    let hsts = hsts.map(|value| ("Strict-Transport-Security: ", value));
    for (name, value) in location.into_iter().chain(cookies).chain(hsts) {
        for part in [name, value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    if !has_date {
        // RFC 9110 section 6.6.1.
        out.extend_from_slice(format!("Date: {}\r\n", clock::http_date()).as_bytes());
    }
    end_response(out, framing);
}

/// Writes the framing headers and the end of a response head for an HTTP/1 client.
pub(crate) fn end_response(out: &mut Vec<u8>, framing: ResponseFraming) {
    if framing.length == Length::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if framing.tunnel {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    } else if framing.close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if framing.version == Version::Http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Headers that concern one connection only. Includes framing, which is written anew.
fn is_hop_by_hop(name: &str) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 => is("te"),
        7 => is("trailer") || is("upgrade"),
        10 => is("connection") || is("keep-alive"),
        16 => is("proxy-connection"),
        17 => is("transfer-encoding"),
        18 => is("proxy-authenticate"),
        19 => is("proxy-authorization"),
        _ => false,
    }
}

/// Headers without which a message would have another meaning. `Connection` cannot remove them.
fn is_essential(name: &str) -> bool {
    ["host", "cookie", "set-cookie", "authorization", "content-length", "content-type"]
        .iter()
        .any(|essential| name.eq_ignore_ascii_case(essential))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::head::{ParsedHead, Request, Response, header_slots};

    /// The header lines of a response as the client gets them.
    fn for_client(lines: &str) -> String {
        const DATE: &str = "Date: Wed, 25 Nov 2026 02:00:00 GMT\r\n";
        let head = format!("HTTP/1.1 200 OK\r\n{lines}{DATE}\r\n");
        let mut slots = header_slots();
        let response = Response::parse(head.as_bytes(), &mut slots, false).unwrap();
        let mut out = Vec::new();
        let framing = ResponseFraming {
            version: Version::Http11,
            length: Length::Known(0),
            close: false,
            tunnel: false,
        };
        write_response(&mut out, &response, framing, &HeadChanges::default());
        let out = String::from_utf8(out).unwrap();
        out.strip_prefix("HTTP/1.1 200 OK\r\n").unwrap().strip_suffix("\r\n").unwrap().replace(DATE, "")
    }

    #[test]
    fn hop_by_hop_headers_are_removed_for_every_connection_line() {
        let left = for_client(
            "Connection: keep-alive, x-one\r\nConnection: X-Two\r\nX-One: 1\r\nx-two: 2\r\nX-Three: 3\r\n\
             Keep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nUpgrade: h2c\r\n\
             Proxy-Connection: keep-alive\r\n",
        );
        assert_eq!(left, "X-Three: 3\r\n");
    }

    #[test]
    fn other_headers_keep_their_order_and_spelling() {
        let left = for_client("A: 1\r\nconnection: x\r\nb:2\r\nC:  3 \r\na: 4\r\nx: 5\r\nD: \r\n");
        assert_eq!(left, "A: 1\r\nb:2\r\nC:  3 \r\na: 4\r\nD: \r\n");
    }

    #[test]
    fn connection_cannot_remove_a_cookie_from_a_response() {
        let lines = "Connection: set-cookie\r\nSet-Cookie: a=b\r\n";
        assert_eq!(for_client(lines), "Set-Cookie: a=b\r\n");
    }

    #[test]
    fn a_request_keeps_its_order_and_forwarding_headers_follow() {
        let head = "POST /a//b?c HTTP/1.1\r\nHOST: Members.example.org\r\nX-Forwarded-For: 6.6.6.6\r\nx-a:1\r\n\
                    Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nExpect: 100-continue\r\nCookie: a=b\r\n\
                    Content-Length: 3\r\nCookie: c=d\r\n\r\n";
        let mut slots = header_slots();
        let request = Request::of(&ParsedHead::parse(head.as_bytes(), &mut slots).unwrap()).unwrap();
        let mut out = Vec::new();
        let forwarding = Forwarding {
            chain: "192.0.2.1",
            host: "h",
            incident: RequestId::new(1, 2),
            max_forwards: None,
            trace: Traceparent::Keep,
        };
        write_request(&mut out, &RequestHead::of(&request, false), None, &Rules::default(), &forwarding);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "POST /a//b?c HTTP/1.1\r\nHOST: Members.example.org\r\nx-a:1\r\nCookie: a=b\r\nContent-Length: 3\r\n\
             Cookie: c=d\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: h\r\n\
             X-Request-Id: 0000000001-2\r\n\r\n"
        );
    }

    #[test]
    fn cookie_crumbs_become_one_header() {
        let mut map = HeaderMap::new();
        for crumb in ["a=1", "Login=x", "b=2"] {
            map.append(COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookie_crumbs(&mut map);
        assert_eq!(map.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; Login=x; b=2"]);
    }
}
