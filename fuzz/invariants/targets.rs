//! The fuzz targets: what must hold for any input, one function per reader. Each panics if it does not hold.
//! `cargo fuzz` runs them without a limit, the unit tests below for a short time.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{COOKIE, HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::codec::head::{ParsedHead, Request, header_slots};
use crate::config;
use crate::edge::proxy_protocol::read_header;
use crate::fuzzing::ticket_vectors::Vector;
use crate::fuzzing::{Piece, Routes, read_message, rewrite_request, rewrite_response};
use crate::imis::PartyId;
use crate::imis::party::Party;
use crate::imis::recognise::page::Page;
use crate::imis::recognise::{SessionCookies, client_context as context, forms_ticket, query_row};
use crate::sso::return_to::ReturnTo;

/// Reads a message in one piece.
const WHOLE: usize = usize::MAX >> 1;

/// The name of a target and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const ALL: [Target; 13] = [
    ("request", request),
    ("response", response),
    ("rewrite", rewrite),
    ("guard", guard),
    ("path", path),
    ("proxy_header", proxy_header),
    ("cookies", cookies),
    ("return_to", return_to),
    ("client_context", client_context),
    ("party", party),
    ("forms_ticket", forms_ticket),
    ("whoami_query", whoami_query),
    ("configuration", configuration),
];

/// A request has the same meaning in pieces of any size. The first byte is the size.
pub fn request(bytes: &[u8]) {
    cut(bytes, false);
}

/// A response has the same meaning in pieces of any size. The first byte is the size.
pub fn response(bytes: &[u8]) {
    cut(bytes, true);
}

fn cut(bytes: &[u8], is_response: bool) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    assert_eq!(read_message(bytes, is_response, WHOLE), read_message(bytes, is_response, usize::from(*cut)));
}

/// A rewritten request is a valid request, and rewriting it again changes nothing. A rewritten response is a valid
/// response.
pub fn rewrite(head: &[u8]) {
    let mut once = Vec::new();
    if read_message(head, false, WHOLE).is_some_and(|message| message.head == head.len())
        && rewrite_request(head, &mut once)
        // The sending connection writes Transfer-Encoding, which is not part of this test.
        && !head.windows(8).any(|part| part.eq_ignore_ascii_case(b"chunked\r"))
    {
        let mut twice = Vec::new();
        assert!(rewrite_request(&once, &mut twice), "{}", String::from_utf8_lossy(&once));
        assert_eq!(once, twice);
    }
    let mut out = Vec::new();
    if read_message(head, true, WHOLE).is_some_and(|message| message.head == head.len())
        && rewrite_response(head, &mut out)
    {
        let message = read_message(&out, true, WHOLE).expect("a response that can be read");
        assert_eq!(message.head, out.len());
    }
}

/// The parts of a request that two readers must agree on.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    body: Vec<u8>,
}

/// hyper reads the requests that we accept in the same way, or refuses them.
pub fn guard(bytes: &[u8]) {
    let ours = our_requests(bytes);
    let theirs = hyper_requests(bytes);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs, "{}", String::from_utf8_lossy(bytes));
    }
}

/// The complete requests at the beginning of `bytes`, as our codec reads them.
fn our_requests(bytes: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut rest = bytes;
    loop {
        while let Some(after) = rest.strip_prefix(b"\r\n") {
            rest = after;
        }
        let Some(message) = read_message(rest, false, WHOLE).filter(|message| message.whole) else {
            return seen;
        };
        let mut slots = header_slots();
        let Ok(parsed_head) = ParsedHead::parse(&rest[..message.head], &mut slots) else { return seen };
        let Ok(request) = Request::of(&parsed_head) else { return seen };
        let (method, target) = (request.method.to_owned(), request.target.clone().into_owned());
        seen.push(Seen { method, target, body: message.data });
        if !request.keep_alive {
            return seen;
        }
        rest = &rest[rest.len() - message.rest..];
    }
}

/// The complete requests at the beginning of `bytes`, as hyper's server reads them.
fn hyper_requests(bytes: &[u8]) -> Vec<Seen> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shared = seen.clone();
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let seen = shared.clone();
        async move {
            let method = request.method().to_string();
            let uri = request.uri();
            let target = match uri.path_and_query() {
                // For `OPTIONS https://host` the http crate returns `/`, we return `*` (RFC 9112 section 3.2.4).
                Some(_) if method == "OPTIONS" && uri.authority().is_some() && uri.path() == "/" => {
                    "*".to_owned()
                }
                Some(target) => target.to_string(),
                None => "*".to_owned(),
            };
            if let Ok(body) = request.into_body().collect().await
                && let Ok(mut seen) = seen.lock()
            {
                seen.push(Seen { method, target, body: body.to_bytes().to_vec() });
            }
            Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::new())))
        }
    });
    let io = TokioIo::new(Script(Piece(bytes)));
    let mut served = std::pin::pin!(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
    let mut cx = Context::from_waker(Waker::noop());
    // No I/O ever waits; each poll goes as far as it can.
    for _ in 0..64 {
        if served.as_mut().poll(&mut cx).is_ready() {
            break;
        }
    }
    seen.lock().map(|mut seen| std::mem::take(&mut *seen)).unwrap_or_default()
}

/// A connection that sends the given bytes and accepts every write.
struct Script<'a>(Piece<'a>);

impl AsyncRead for Script<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Script<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// None of the readers below resolves a path that is proxied to iMIS to a path of the gateway.
pub fn path(bytes: &[u8]) {
    const OURS: &str = "/sso/zendesk";
    // The codec refuses other bytes.
    let Some(text) =
        std::str::from_utf8(bytes).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
    else {
        return;
    };
    let path = format!("/{}", text.split('?').next().unwrap_or_default());
    let Some(routes) = Routes::new(OURS) else { return };
    if routes.is_ours(&path) {
        return;
    }
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let once = decoded(&path);
    let twice = decoded(&once);
    let slashed = |text: &str| text.replace('\\', "/");
    let by_browser = url::Url::parse(&format!("https://members.example.org{path}"));
    for reading in [
        resolved(&path, false),
        resolved(&slashed(&path), true),
        resolved(&once, false),
        resolved(&slashed(&once), true),
        resolved(&slashed(&once), false),
        resolved(&slashed(&twice), true),
        decoded(&resolved(&path, false)),
        by_browser.map(|url| url.path().to_owned()).unwrap_or_default(),
    ] {
        let reading = reading.to_ascii_lowercase();
        let reading = reading.trim_end_matches(['.', ' ', '/']);
        assert!(reading != OURS && reading != format!("{OURS}/signed-out"), "{path}");
    }
}

/// RFC 3986 section 5.2.4, with empty segments collapsed or kept.
fn resolved(path: &str, collapse: bool) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            "" if collapse => {}
            other => segments.push(other),
        }
    }
    format!("/{}", segments.join("/"))
}

/// A session cookie is found in any case of its name, and only if the header contains the name.
pub fn cookies(bytes: &[u8]) {
    let names = ["Login".to_owned()];
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let found = |value| SessionCookies::find(&HeaderMap::from_iter([(COOKIE, value)]), &names).is_ok();
    let here = found(value);
    let lower: Vec<u8> = bytes.to_ascii_lowercase();
    if here {
        assert!(lower.windows(5).any(|part| part == b"login"), "{}", String::from_utf8_lossy(bytes));
    }
    // Values are case-sensitive: lower case can only make two values equal.
    if let (true, Ok(lower)) = (here, HeaderValue::from_bytes(&lower)) {
        assert!(found(lower), "{}", String::from_utf8_lossy(bytes));
    }
}

/// An accepted `return_to` is a URL of the account as browsers read it, and parses to itself.
pub fn return_to(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some(app) = config::app_at("/sso/zendesk") else { return };
    let Some(taken) = ReturnTo::parse(text, &app.zendesk) else { return };
    let again = ReturnTo::parse(taken.as_str(), &app.zendesk).expect("an accepted URL is accepted again");
    assert_eq!(taken.as_str(), again.as_str());
    let base = url::Url::parse(&format!("https://{}/", app.zendesk.origin)).expect("an origin");
    for text in [text, taken.as_str()] {
        let url = base.join(text).expect("a URL");
        let known = |host: &str| app.zendesk.authorities().any(|own| own.host == host);
        assert!(
            url.scheme() == "https" && url.host_str().is_some_and(known) && url.port().is_none(),
            "{text:?}"
        );
        assert!(url.username().is_empty() && url.password().is_none(), "{text:?}");
        assert!(!text.bytes().any(|byte| byte.is_ascii_control() || byte == b'\\'), "{text:?}");
    }
}

fn read_client_context(html: &[u8]) -> Option<PartyId> {
    context::read(&Page::parse(html)).ok().flatten().map(|person| person.id)
}

fn read_rows(json: &[u8]) -> Option<usize> {
    query_row::only_row(json).ok().flatten().map(|row| row.len())
}

/// An ID that is read from a page is a well-formed iMIS ID, from a page that contains the field.
pub fn client_context(page: &[u8]) {
    if let Some(id) = read_client_context(page) {
        let digits = id.as_str().as_bytes();
        // The page may contain it with entities and escapes.
        assert!(
            digits.len() <= 64 && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        );
        assert!(
            page.windows(7).any(|part| part.eq_ignore_ascii_case(b"__Clien") || part == b"Context")
                || page.contains(&b'&')
        );
    }
}

/// A profile is returned only from a record with the requested ID.
pub fn party(json: &[u8]) {
    let Some(id) = PartyId::parse("104019") else { return };
    if let Ok(party) = Party::parse(json) {
        let phones = crate::base::phone::Preference { order: vec!["Mobile".to_owned()], region: None };
        if party.profile(&id, &phones).is_ok() {
            assert!(
                json.windows(6).any(|part| part == b"104019") || json.contains(&b'\\'),
                "record of another ID"
            );
        }
    }
}

/// A decrypted ticket is read to its last byte. Only signed tickets can be opened.
pub fn forms_ticket(bytes: &[u8]) {
    if forms_ticket::parse(bytes).is_ok() && !bytes.is_empty() {
        assert!(forms_ticket::parse(&bytes[..bytes.len() - 1]).is_err(), "truncated");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for vector in Vector::all() {
        assert!(!vector.opens(text) || vector.cookie().eq_ignore_ascii_case(text), "{text}");
    }
}

/// A query response has the same meaning with and without a byte order mark.
pub fn whoami_query(bytes: &[u8]) {
    let columns = read_rows(bytes);
    if !bytes.starts_with(b"\xef\xbb\xbf") {
        assert_eq!(read_rows(&[b"\xef\xbb\xbf", bytes].concat()), columns);
    }
}

/// A PROXY header does not depend on the bytes after it, and no prefix of it is a header. Addresses are canonical.
pub fn proxy_header(bytes: &[u8]) {
    let Some((length, client)) = read_header(bytes) else { return };
    assert!(length <= bytes.len() && length >= 15, "{length}");
    assert!(bytes.starts_with(b"PROXY ") || bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
    assert_eq!(read_header(&bytes[..length]), Some((length, client)), "depends on what follows");
    for end in [0, length / 2, length - 1] {
        assert_eq!(read_header(&bytes[..end]), None, "{end} of {length} bytes");
    }
    if let Some(client) = client {
        assert_eq!(client.ip(), client.ip().to_canonical());
    }
}

/// A file is a valid configuration, or has problems with a line of the file.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // The YAML parser has limits of its own for large files.
    if text.len() > 8 * 1024 {
        return;
    }
    // In YAML a CR ends a line, too.
    let lines = text.matches(['\n', '\r']).count() as u64;
    if let Err(problems) = config::read(Path::new("/nowhere/config.yaml"), text) {
        assert!(!problems.is_empty(), "refused without a reason");
        for problem in problems {
            assert!(problem.line <= lines + 1, "{problem:?} of {lines} lines");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// How long each target runs on mutated seeds.
    const RUN_TIME: Duration = Duration::from_millis(1500);

    /// Pseudo-random numbers, the same in each run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
        }
    }

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let folder = format!("{}/fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    /// One of the seeds with a few changes. Some are pieces of other seeds.
    fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        const ODD: &[&[u8]] = &[
            b"\r\n",
            b"\n",
            b"\r",
            b"\0",
            b" ",
            b"\t",
            b":",
            b";",
            b",",
            b"=",
            b"/",
            b"\\",
            b"..",
            b"%2f",
            b"%5c",
            b"%25",
            b"%u002f",
            b"%c0%af",
            b"\xff",
            b"\xc2\xa0",
            b"0",
            b"1",
            b"ffff",
            b"chunked",
            b"Content-Length: 1\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"(S(x))",
            b"zendesk",
            b"Login=",
            b"@",
            b"//",
            b"\"",
            b"{",
            b"}",
            b"[",
            b"&quot;",
        ];
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len() + 1);
            match random.below(6) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => {
                    let end = bytes.len().min(at + random.below(24));
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                4 => {
                    let other = &seeds[random.below(seeds.len())];
                    let from = random.below(other.len() + 1);
                    let to = other.len().min(from + random.below(64));
                    bytes.splice(at..at, other[from..to].to_vec());
                }
                _ => drop(bytes.splice(at..at, ODD[random.below(ODD.len())].to_vec())),
            }
        }
        bytes
    }

    fn run(target: &Target, seeds: &[Vec<u8>], random: &mut Random) -> usize {
        let (name, run) = target;
        let checked = |bytes: &[u8]| {
            let outcome = std::panic::catch_unwind(|| run(bytes));
            assert!(outcome.is_ok(), "{name} on {:?}", String::from_utf8_lossy(bytes));
        };
        seeds.iter().for_each(|seed| checked(seed));
        let (begun, mut count) = (Instant::now(), 0);
        while begun.elapsed() < RUN_TIME {
            checked(&mutate(seeds, random));
            count += 1;
        }
        count
    }

    #[test]
    fn invariants_hold_for_mutated_seeds() {
        let all = std::thread::scope(|scope| {
            let each = ALL.iter().map(|target| {
                scope.spawn(move || {
                    let seeds = seeds(target.0);
                    assert!(seeds.len() >= 3, "{}", target.0);
                    (target.0, run(target, &seeds, &mut Random(1)))
                })
            });
            let each: Vec<_> = each.collect();
            each.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for (name, count) in all {
            assert!(count > 50, "{name}: only {count} runs");
        }
    }

    #[test]
    fn both_readers_return_each_request() {
        let two =
            b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: h\r\n\r\n";
        let ours = our_requests(two);
        assert_eq!(ours, hyper_requests(two));
        assert_eq!(ours.iter().map(|seen| &*seen.target).collect::<Vec<_>>(), ["/a", "/b"]);
        assert_eq!(ours[0].body, b"abc");
    }
}
