//! What a client sends has one meaning and cannot pose as the gateway: spellings of paths, names of headers, upgrades.
//! The upstream records everything that reaches it.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::http2_frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Raw, SETTINGS, block, frame, request,
};
use crate::support::origin::{Proxy, read_request};
use crate::support::{SITE, SSO};

/// What reached the upstream, in the order in which it came.
type Heads = Arc<Mutex<Vec<String>>>;

async fn recording() -> (Proxy, Heads) {
    let heads = Heads::default();
    let shared = heads.clone();
    let proxy = Proxy::with_app(move |mut connection| {
        let heads = shared.clone();
        async move {
            while let Some(request) = read_request(&mut connection).await {
                heads.lock().unwrap().push(request);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                if connection.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    });
    (proxy.await, heads)
}

/// Sends bytes and reads to the end of the connection.
async fn answer(proxy: &Proxy, bytes: &str) -> String {
    let mut stream = proxy.client.connect("http/1.1").await;
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A connection that ends without a word has said all there was.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn targets() -> Vec<&'static str> {
    include_str!("../data/imis-urls.txt").lines().filter(|line| !line.starts_with('#')).collect()
}

#[tokio::test]
async fn three_hundred_targets_of_an_imis_site_pass_byte_for_byte() {
    let (proxy, heads) = recording().await;
    let targets = targets();
    assert!(targets.len() >= 300, "{}", targets.len());
    // One after the other on one connection: an answer behind each, and no request more or less than was sent.
    let mut stream = proxy.client.connect("http/1.1").await;
    for target in &targets {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {SITE}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok") {
            let count = stream.read_buf(&mut answer).await.unwrap();
            assert!(count > 0, "{target}: {}", String::from_utf8_lossy(&answer));
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{target}: {}", String::from_utf8_lossy(&answer));
    }
    let seen = heads.lock().unwrap();
    let seen: Vec<&str> = seen.iter().map(|head| head.split(' ').nth(1).unwrap()).collect();
    assert_eq!(seen, targets);
}

#[tokio::test]
async fn the_same_targets_pass_over_http2_as_far_as_its_uris_can_hold_them() {
    let (proxy, heads) = recording().await;
    let mut sent = Vec::new();
    for target in targets() {
        // The client's own library takes no other.
        if format!("https://{SITE}{target}").parse::<http::Uri>().is_ok() {
            let reply = proxy.client.send_h2(http::Method::GET, target, &[], "").await;
            assert_eq!(reply.status, 200, "{target}");
            sent.push(target);
        }
    }
    assert!(sent.len() > 280, "{}", sent.len());
    let seen = heads.lock().unwrap();
    let seen: Vec<&str> = seen.iter().map(|head| head.split(' ').nth(1).unwrap()).collect();
    assert_eq!(seen, sent);
}

#[tokio::test]
async fn other_spellings_of_an_sso_path_are_refused_and_not_forwarded() {
    let (proxy, heads) = recording().await;
    let spellings = [
        "/SSO/zendesk",
        "/sso/zendesk/",
        "//sso/zendesk",
        "/sso/%7aendesk",
        "/sso%2fzendesk",
        "/sso%252fzendesk",
        "/sso%5czendesk",
        "/sso\\zendesk",
        "/sso/zendesk;x=1",
        "/sso/zendesk::$DATA",
        "/sso/zendesk.",
        "/sso/zendesk%20",
        "/(S(abc))/sso/zendesk",
        "/x/../sso/zendesk",
        "/x/%2e%2e/sso/zendesk",
        "/sso%u002fzendesk",
        "/sso%c0%afzendesk",
        "/sso%ef%bc%8fzendesk",
        "/(a(/../sso/zendesk/))/..",
        "/sso/zendesk/Signed-Out",
        "/sso/zendesk/signed-out/",
    ];
    for spelling in spellings {
        for target in
            [spelling.to_owned(), format!("{spelling}?return_to=%2Fhc"), format!("https://{SITE}{spelling}")]
        {
            let request = format!("GET {target} HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
            let answer = answer(&proxy, &request).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{target}: {answer}");
        }
        if spelling.parse::<http::Uri>().is_ok() {
            let reply = proxy.client.send_h2(http::Method::GET, spelling, &[], "").await;
            assert_eq!(reply.status, 400, "{spelling}");
        }
    }
    assert_eq!(*heads.lock().unwrap(), Vec::<String>::new());
    let exact =
        answer(&proxy, &format!("GET {SSO} HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n")).await;
    assert!(!exact.starts_with("HTTP/1.1 400 "), "{exact}");
}

/// Names that some server takes a proxy's word from.
const SPOOFED: [&str; 24] = [
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-User",
    "X-Real-IP",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "CF-Connecting-IP",
    "True-Client-IP",
    "Client-IP",
    "X-HTTP-Method-Override",
    "X-Host",
    "Remote-User",
    "X-Remote-User",
    "X-Auth-Request-User",
    "X-MS-Client-Principal-Name",
    "X-ARR-SSL",
    "Front-End-Https",
    "X-Azure-ClientIP",
    "Proxy",
    "X-Request-Id",
    "Content_Length",
];

#[tokio::test]
async fn headers_that_only_a_proxy_may_set_are_removed_in_any_spelling() {
    let (proxy, heads) = recording().await;
    for name in SPOOFED {
        let spellings = [
            name.to_owned(),
            name.to_lowercase(),
            name.to_uppercase().replace('-', "_"),
            name.replacen('-', "_", 1),
        ];
        for spelling in spellings {
            let request = format!(
                "GET /spoofed HTTP/1.1\r\nHost: {SITE}\r\n{spelling}: spoof-1\r\nX-Kept: 1\r\n{spelling}: spoof-2\r\nConnection: close\r\n\r\n"
            );
            assert!(answer(&proxy, &request).await.starts_with("HTTP/1.1 200 "), "{spelling}");
            let named = request.replace("Connection: close", &format!("Connection: close, {name}"));
            assert!(answer(&proxy, &named).await.starts_with("HTTP/1.1 200 "), "{spelling}");
            let lower = spelling.to_lowercase();
            let fields = [(lower.as_str(), "spoof-3"), ("x-kept", "1"), (lower.as_str(), "spoof-4")];
            assert_eq!(proxy.client.send_h2(http::Method::GET, "/spoofed", &fields, "").await.status, 200);
        }
    }
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), SPOOFED.len() * 4 * 3);
    for head in heads.iter() {
        assert!(!head.contains("spoof-"), "{head}");
        assert!(head.to_lowercase().contains("x-kept: 1"), "{head}");
    }
}

#[tokio::test]
async fn a_connection_header_cannot_remove_essential_headers() {
    let (proxy, heads) = recording().await;
    for name in ["cookie", "Host", "content-length", "Authorization", "content-type"] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {SITE}\r\nCookie: a=b\r\nAuthorization: Basic eDp5\r\nContent-Type: text/plain\r\nContent-Length: 1\r\nConnection: close, {name}\r\n\r\nx"
        );
        let answer = answer(&proxy, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
        let head = heads.lock().unwrap().pop().unwrap().to_lowercase();
        assert!(head.contains(&format!("\r\n{}: ", name.to_lowercase())), "{name}: {head}");
    }
}

/// IIS takes a backslash for a slash, and no URI has one in its path.
#[tokio::test]
async fn a_backslash_in_a_path_is_refused() {
    let (proxy, heads) = recording().await;
    for path in ["/a\\b", "/\\evil.example", "/a\\..\\b?c"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
        assert!(answer(&proxy, &request).await.starts_with("HTTP/1.1 400 "), "{path}");
    }
    assert_eq!(*heads.lock().unwrap(), Vec::<String>::new());
    let request = format!("GET /a?b\\c HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
    assert!(answer(&proxy, &request).await.starts_with("HTTP/1.1 200 "), "browsers send it in a query");
}

#[tokio::test]
async fn malformed_http2_requests_are_reset_and_not_forwarded() {
    let (proxy, heads) = recording().await;
    let malformed = [
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", SITE),
            (":path", "/"),
            ("x-a", " leading"),
        ]),
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", SITE),
            (":path", "/"),
            ("x-a", "trailing\t"),
        ]),
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", SITE),
            (":path", "/"),
            ("host", "www.example.org"),
        ]),
        block(&[(":method", "GET"), (":scheme", "https"), (":path", "/")]),
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "a@members.example.org"),
            (":path", "/"),
        ]),
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", SITE),
            (":path", "/"),
            ("connection", "close"),
        ]),
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", SITE),
            (":path", "/"),
            ("transfer-encoding", "chunked"),
        ]),
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", SITE),
            (":path", "/"),
            ("X-Upper", "1"),
        ]),
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", SITE),
            (":path", "/"),
            (":path", "/b"),
        ]),
        block(&[(":method", "GET"), (":scheme", "https"), (":authority", SITE), (":path", "/a b")]),
        block(&[(":method", "GET"), (":scheme", "https"), (":authority", SITE), (":path", "/a\r\nX: b")]),
        block(&[(":method", "GET"), (":scheme", "https"), (":authority", SITE), (":path", "")]),
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", SITE),
            (":path", "http://x/sso/zendesk"),
        ]),
        block(&[(":method", "GET"), (":scheme", "https"), (":authority", SITE), (":path", "x")]),
        block(&[(":method", "GET"), (":scheme", "https"), (":authority", SITE), (":path", "*")]),
        block(&[(":method", "GET"), (":scheme", "https"), (":authority", SITE), (":path", "/caf\u{e9}")]),
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", SITE),
            (":path", "/"),
            ("x-a", "1\r\nX-B: 2"),
        ]),
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", SITE),
            (":path", "/"),
            ("x-a", "1\0"),
        ]),
        block(&[
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", SITE),
            (":path", "/"),
            ("content-length", "5"),
        ]),
        block(&[
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", SITE),
            (":path", "/"),
            ("content-length", "+0"),
        ]),
    ];
    for block in &malformed {
        let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, block)).await;
        let shown = String::from_utf8_lossy(block);
        loop {
            let Some(frame) = raw.next().await else { break };
            assert!(
                frame.kind != HEADERS || frame.payload[0] != 0x88,
                "answered as if nothing were: {shown}"
            );
            if matches!(frame.kind, RST_STREAM | GOAWAY)
                || (frame.stream == 1 && frame.flags & END_STREAM != 0)
            {
                break;
            }
        }
    }
    assert_eq!(*heads.lock().unwrap(), Vec::<String>::new());
}

/// What is accepted in a name differs from one library to the next; here the names are those of HTTP/1.
#[tokio::test]
async fn header_names_over_http2_are_those_of_http1() {
    let (proxy, heads) = recording().await;
    for byte in 0x21..=0x7e_u8 {
        let name = format!("x{}a", char::from(byte));
        let is_token =
            byte.is_ascii_digit() || byte.is_ascii_lowercase() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/", &[(&name, "1")]))).await;
        let taken = loop {
            match raw.next().await {
                Some(frame) if frame.kind == HEADERS => break frame.payload[0] == 0x88,
                Some(frame) if matches!(frame.kind, RST_STREAM | GOAWAY) => break false,
                Some(_) => {}
                None => break false,
            }
        };
        assert_eq!(taken, is_token, "{name}");
        assert_eq!(heads.lock().unwrap().pop().is_some(), is_token, "{name}");
    }
    // A scheme that is empty.
    let block = block(&[(":method", "GET"), (":scheme", ""), (":authority", SITE), (":path", "/")]);
    let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    while let Some(frame) = raw.next().await
        && !matches!(frame.kind, RST_STREAM | GOAWAY)
    {
        assert_ne!(frame.kind, HEADERS, "it is answered");
    }
    assert_eq!(*heads.lock().unwrap(), Vec::<String>::new());
}

/// RFC 9113 section 8.1.1: a request whose body is not as long as it says is malformed. That shows only at its end.
#[tokio::test]
async fn an_http2_request_reaches_imis_only_when_it_is_complete() {
    let (proxy, heads) = recording().await;
    for (length, first, last, is_complete) in [
        ("3", "hel", "", true),
        ("3", "he", "l", true),
        ("3", "hel", "lo", false),
        ("3", "he", "", false),
        ("0", "", "", true),
        ("0", "", "x", false),
        ("1", "x", "", true),
    ] {
        let case = format!("content-length {length}, {first:?}, {last:?}");
        let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        let head = request("POST", "/", &[("content-length", length)]);
        raw.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
        raw.send(&frame(DATA, 0, 1, first.as_bytes())).await;
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        assert_eq!(*heads.lock().unwrap(), Vec::<String>::new(), "{case}: before its end");
        raw.send(&frame(DATA, END_STREAM, 1, last.as_bytes())).await;
        let answered = loop {
            match raw.next().await {
                Some(frame) if frame.kind == HEADERS => break frame.payload[0] == 0x88,
                Some(frame) if matches!(frame.kind, RST_STREAM | GOAWAY) => break false,
                Some(_) => {}
                None => break false,
            }
        };
        assert_eq!(answered, is_complete, "{case}");
        let received = std::mem::take(&mut *heads.lock().unwrap());
        assert_eq!(received.len(), usize::from(is_complete), "{case}: {received:?}");
        assert!(received.iter().all(|text| text.ends_with(&format!("{first}{last}"))), "{case}");
    }
}

/// Which errors of a request close its stream, and which the whole connection because h2 cannot go on
/// (docs/decisions/0003-h2-without-hyper.md).
#[tokio::test]
async fn an_invalid_http2_request_closes_its_stream_where_h2_can_go_on() {
    let (proxy, _) = recording().await;
    let usual = [(":method", "GET"), (":scheme", "https"), (":authority", SITE), (":path", "/")];
    let with = |name: &'static str, value: &'static str| {
        let mut fields = usual.to_vec();
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
        block(&fields)
    };
    let without = |name: &str| block(&usual.into_iter().filter(|(own, _)| *own != name).collect::<Vec<_>>());
    let twice = |index: usize| block(&[&usual[..], &[usual[index]]].concat());
    let stream = [
        without(":method"),
        without(":scheme"),
        without(":path"),
        without(":authority"),
        twice(0),
        twice(1),
        twice(2),
        twice(3),
        with(":path", ""),
        with(":path", "x"),
        with(":path", "/a b"),
        with(":scheme", ""),
        with(":authority", "a@b"),
        with("connection", "close"),
        with("transfer-encoding", "chunked"),
        with("te", "gzip"),
        with("x-a", " leading"),
        with("x\"a", "1"),
        with("content-length", "5"),
        block(&[&[("x-a", "1")], &usual[..]].concat()),
    ];
    let connection = [
        with("X-Upper", "1"),
        with("x a", "1"),
        with("", "1"),
        with("x-a", "1\r\nx-b: 2"),
        with("x-a", "1\0"),
        with(":unknown", "1"),
        with(":method", "G T"),
    ];
    for (blocks, closes) in [(&stream[..], false), (&connection[..], true)] {
        for block in blocks {
            let shown = String::from_utf8_lossy(block);
            let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, block)).await;
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &request("GET", "/", &[]))).await;
            let is_answered = loop {
                match raw.next().await {
                    Some(frame) if frame.stream == 3 && frame.kind == HEADERS => break true,
                    Some(frame) if frame.kind != GOAWAY => {}
                    Some(_) | None => break false,
                }
            };
            assert_eq!(is_answered, !closes, "{shown:?}");
        }
    }
}
