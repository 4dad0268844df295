//! An upstream that cannot be reached, breaks off or stays silent: what the client gets over either protocol, and that
//! no connection is left behind.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Method;
use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::sign_in::assert_strict_page;
use crate::support::SITE;
use crate::support::gateway::TIMEOUT;
use crate::support::http2_frames::{
    END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Raw, SETTINGS, frame, request,
};
use crate::support::origin::{Origin, Proxy, read_request};

/// How a connection of the upstream ends.
#[derive(Clone, Copy)]
enum Then {
    Keep,
    Close,
    Reset,
    /// Neither another word nor an end.
    Silence,
}

/// What a browser has to get.
#[derive(Clone, Copy, PartialEq)]
enum Gets {
    Status(&'static str),
    /// The beginning of an answer, and no end that could be taken for one.
    Broken,
    /// One of the two: the fault may show before anything has been passed on.
    BadOrBroken,
}

struct Fault {
    name: &'static str,
    says: &'static str,
    then: Then,
    gets: Gets,
}

const fn fault(name: &'static str, says: &'static str, then: Then, gets: Gets) -> Fault {
    Fault { name, says, then, gets }
}

const BAD: Gets = Gets::Status("502");
const LATE: Gets = Gets::Status("504");
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const FAULTS: [Fault; 22] = [
    fault("closed-at-once", "", Then::Close, BAD),
    fault("reset-at-once", "", Then::Reset, BAD),
    fault("silent", "", Then::Silence, LATE),
    fault("closed-in-head", "HTTP/1.1 200 OK\r\nContent-Len", Then::Close, BAD),
    fault("reset-in-head", "HTTP/1.1 200 OK\r\nContent-Len", Then::Reset, BAD),
    fault("silent-in-head", "HTTP/1.1 200 OK\r\nContent-Len", Then::Silence, LATE),
    fault("closed-in-body", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", Then::Close, Gets::Broken),
    fault("reset-in-body", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", Then::Reset, Gets::Broken),
    fault("silent-in-body", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", Then::Silence, Gets::Broken),
    fault(
        "closed-in-chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
        Then::Close,
        Gets::Broken,
    ),
    fault(
        "no-last-chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        Then::Close,
        Gets::Broken,
    ),
    fault(
        "reset-in-chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
        Then::Reset,
        Gets::Broken,
    ),
    fault(
        "bad-chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nxyz\r\n",
        Then::Keep,
        Gets::BadOrBroken,
    ),
    fault("garbage", "\u{0}\u{1}\u{2}garbage\r\n\r\n", Then::Keep, BAD),
    fault("html", "<html>Service Unavailable</html>\r\n\r\n", Then::Close, BAD),
    fault(
        "two-lengths",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
        Then::Keep,
        BAD,
    ),
    fault(
        "length-and-chunks",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Then::Keep,
        BAD,
    ),
    fault(
        "unasked-101",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        Then::Keep,
        BAD,
    ),
    fault("folded", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", Then::Keep, BAD),
    fault("bare-lf", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", Then::Keep, BAD),
    fault("endless-1xx", "1xx", Then::Keep, BAD),
    fault(
        "more-behind",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale",
        Then::Keep,
        Gets::Status("200"),
    ),
];

/// What the upstream has seen.
#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<String>>,
    connections: AtomicUsize,
}

async fn upstream(mut stream: TcpStream, seen: Arc<Seen>) {
    seen.connections.fetch_add(1, Ordering::SeqCst);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
        seen.requests.lock().unwrap().push(format!("{} {path}", head.split(' ').next().unwrap()));
        let Some(fault) = FAULTS.iter().find(|fault| fault.name == path) else {
            let _ = stream.write_all(OK.as_bytes()).await;
            continue;
        };
        if fault.says == "1xx" {
            while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {}
            return;
        }
        let _ = stream.write_all(fault.says.as_bytes()).await;
        match fault.then {
            Then::Keep => {}
            Then::Close => return,
            Then::Reset => {
                // What has been said is to arrive before.
                tokio::time::sleep(Duration::from_millis(20)).await;
                return socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            Then::Silence => {
                let _ = stream.read_u8().await;
                return;
            }
        }
    }
}

async fn stage() -> (Proxy, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Seen::default());
    let shared = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(upstream(stream, shared.clone()));
        }
    });
    let timeouts = "connect: 1s, response_head: 1s, body_idle: 1s, idle: 60s";
    (Proxy::with_timeouts(Authority::new("test CA"), &server, None, "", timeouts), seen)
}

/// Over HTTP/1.1.
async fn over_h1(proxy: &Proxy, method: &str, path: &str) -> Gets {
    let mut browser = proxy.client.connect("http/1.1").await;
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    let request = format!("{method} /{path} HTTP/1.1\r\nHost: {SITE}\r\n{length}Connection: close\r\n\r\n");
    browser.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let ended = browser.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.rsplit("102 Processing\r\n\r\n").next().unwrap();
    let status = text.split(' ').nth(1).unwrap_or_default();
    let chunked = text.contains("Transfer-Encoding: chunked");
    let whole = if chunked { text.ends_with("0\r\n\r\n") } else { ended.is_ok() && !text.ends_with("half") };
    match status {
        _ if !whole => Gets::Broken,
        "200" => Gets::Status("200"),
        "502" => BAD,
        "504" => LATE,
        other => panic!("{method} {path}: {other}: {text}"),
    }
}

/// Over HTTP/2.
async fn over_h2(proxy: &Proxy, method: &str, path: &str) -> Gets {
    let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
    let block = request(method, &format!("/{path}"), &[]);
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    let mut status = String::new();
    loop {
        let frame = raw.next().await.expect("an end of the stream");
        if frame.stream != 1 {
            continue;
        }
        match frame.kind {
            HEADERS if status.is_empty() || status.starts_with('1') => {
                status = status_of(&frame.payload, &status)
            }
            RST_STREAM => return Gets::Broken,
            _ => {}
        }
        if frame.kind <= HEADERS && frame.flags & END_STREAM != 0 {
            return match &*status {
                "200" => Gets::Status("200"),
                "502" => BAD,
                "504" => LATE,
                other => panic!("{method} {path}: {other}"),
            };
        }
    }
}

/// The status at the beginning of a header block, as servers write it (RFC 7541 section 6 and appendix A).
fn status_of(block: &[u8], before: &str) -> String {
    match block[0] {
        0x88 => "200".to_owned(),
        0x89 => "204".to_owned(),
        0x8d => "404".to_owned(),
        0x8e => "500".to_owned(),
        // A literal under the name `:status`, Huffman-coded: digits 0 to 2 have 5 bits, the others 6.
        0x48 | 0x08 => {
            let bits: String =
                block[2..2 + usize::from(block[1] & 0x7f)].iter().map(|byte| format!("{byte:08b}")).collect();
            let (mut digits, mut at) = (String::new(), 0);
            while digits.len() < 3 {
                let five = u8::from_str_radix(&bits[at..at + 5], 2).unwrap();
                if five < 3 {
                    digits.push(char::from(b'0' + five));
                    at += 5;
                } else {
                    let six = u8::from_str_radix(&bits[at..at + 6], 2).unwrap();
                    digits.push(char::from(b'3' + six - 0b01_1001));
                    at += 6;
                }
            }
            digits
        }
        // The last that was put into the table.
        _ => before.to_owned(),
    }
}

#[tokio::test]
async fn every_upstream_failure_is_reported_over_both_protocols_and_leaves_no_connection() {
    let (proxy, seen) = stage().await;
    let open = || std::fs::read_dir(format!("/proc/{}/fd", proxy.gateway.pid())).unwrap().count();
    assert!(over_h1(&proxy, "GET", "").await == Gets::Status("200"));
    let before = open();
    for fault in &FAULTS {
        for h2 in [false, true] {
            let which = if h2 { "HTTP/2" } else { "HTTP/1.1" };
            let asked = async {
                if h2 {
                    over_h2(&proxy, "GET", fault.name).await
                } else {
                    over_h1(&proxy, "GET", fault.name).await
                }
            };
            let gets = tokio::time::timeout(TIMEOUT, asked).await;
            let gets = gets.unwrap_or_else(|_| panic!("{} over {which}: no end", fault.name));
            let right =
                gets == fault.gets || (fault.gets == Gets::BadOrBroken && matches!(gets, Gets::Broken | BAD));
            assert!(right, "{} over {which}", fault.name);
            // A faulted connection is never used again: the next request gets its own answer.
            let good = if h2 { over_h2(&proxy, "GET", "").await } else { over_h1(&proxy, "GET", "").await };
            assert!(good == Gets::Status("200"), "after {} over {which}", fault.name);
        }
    }
    // No socket is left, but for a kept connection or two.
    let end = Instant::now() + TIMEOUT;
    while open() > before + 2 {
        assert!(Instant::now() < end, "{} descriptors, {before} before", open());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(seen.connections.load(Ordering::SeqCst) >= FAULTS.len());
}

#[tokio::test]
async fn unsafe_requests_are_sent_once_and_safe_ones_at_most_twice() {
    let (proxy, seen) = stage().await;
    for h2 in [false, true] {
        for (method, most) in [("POST", 1), ("DELETE", 1), ("GET", 2)] {
            for name in ["closed-at-once", "reset-at-once"] {
                // A connection that is kept, so that it could have died.
                assert!(over_h1(&proxy, "GET", "").await == Gets::Status("200"));
                seen.requests.lock().unwrap().clear();
                let gets = if h2 {
                    over_h2(&proxy, method, name).await
                } else {
                    over_h1(&proxy, method, name).await
                };
                assert!(gets == BAD, "{method} {name}");
                let seen = seen.requests.lock().unwrap().clone();
                assert!((1..=most).contains(&seen.len()), "{method} {name}: {seen:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_refused_upstream_connection_is_a_502_over_both_protocols() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let proxy = Proxy::to(Authority::new("test CA"), &format!("http://127.0.0.1:{port}"), None, "");
    assert!(over_h1(&proxy, "GET", "").await == BAD);
    assert!(over_h2(&proxy, "GET", "").await == BAD);
}

#[tokio::test]
async fn an_unreachable_upstream_is_a_502_with_an_error_page() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let proxy = Proxy::to(Authority::new("test CA"), &format!("https://127.0.0.1:{port}"), None, "");
    for method in [Method::GET, Method::POST] {
        let reply = proxy.client.send(method, "/iMIS/Default.aspx", &[], "").await;
        assert_eq!(reply.status, 502);
        assert!(reply.text().contains("The site cannot be reached"));
        assert_strict_page(&reply);
    }
    let line = proxy
        .gateway
        .logged(|line| line["error"].as_str().is_some_and(|text| text.contains("no upstream server")))
        .await;
    assert!(line["request_id"].is_string());
}

#[tokio::test]
async fn a_silent_upstream_is_a_504() {
    let proxy =
        Proxy::start(|mut connection| async move { while read_request(&mut connection).await.is_some() {} })
            .await;
    let reply = proxy.client.get("/", &[]).await;
    assert_eq!(reply.status, 504);
    assert_strict_page(&reply);
}

#[tokio::test]
async fn an_untrusted_upstream_certificate_is_a_502() {
    let other = Authority::new("another CA");
    let origin = Origin::start(&other, |_| async {}).await;
    let proxy =
        Proxy::to(Authority::new("test CA"), &format!("https://{}", origin.address), Some(origin), "");
    assert_eq!(proxy.client.get("/", &[]).await.status, 502);
    proxy.gateway.logged(|line| line["error"].as_str().is_some_and(|text| text.contains("TLS"))).await;
}
