//! Floods and slow clients over HTTP/2 and HTTP/1: the gateway closes their connections in time, serves other clients
//! meanwhile, and uses little memory. The timeouts are short here; the defaults are in `docs/hardening.md`.

use std::time::{Duration, Instant};

use http::Method;
use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::SITE;
use crate::support::gateway::TIMEOUT;
use crate::support::http2_frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, Raw,
    SETTINGS, WINDOW_UPDATE, block, frame, request, setting,
};
use crate::support::origin::{Connection, Origin, Proxy, read_request};

const ENHANCE_YOUR_CALM: u8 = 11;
/// A client that is too slow is gone by then: ten times the timeouts of `proxy`, and far less than its idle timeout.
const CLOSED_WITHIN: Duration = Duration::from_secs(20);

/// In front of an upstream that answers with 4 MiB on `/large`, and with two bytes else.
pub(crate) async fn proxy(more: &str) -> Proxy {
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, serve).await;
    let server = format!("https://{}", origin.address);
    let more = format!("timeouts: {{request_head: 2s, body_idle: 2s, idle: 300s}}\n{more}");
    Proxy::with_timeouts(authority, &server, Some(origin), &more, "response_head: 20s")
}

pub(crate) async fn serve(mut connection: Connection) {
    while let Some(request) = read_request(&mut connection).await {
        let size = match request.split(' ').nth(1) {
            Some("/large") => 4 << 20,
            Some("/middling") => 120_000,
            Some(_) | None => 2,
        };
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + size, b'x');
        if connection.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// Sends the same bytes over and over until the peer closes.
async fn flood(proxy: &Proxy, begin: &[u8], bytes: &[u8]) -> Vec<Frame> {
    let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
    let read = raw.read_to_end();
    raw.send(begin).await;
    let many = bytes.repeat(100);
    let end = Instant::now() + TIMEOUT;
    while raw.send(&many).await {
        assert!(Instant::now() < end, "not hung up on");
    }
    read.await.unwrap()
}

fn calmed(frames: &[Frame]) -> bool {
    frames.iter().any(|frame| frame.kind == GOAWAY && frame.payload[7] == ENHANCE_YOUR_CALM)
}

#[tokio::test]
async fn floods_over_http2_are_closed_and_other_clients_are_served() {
    let proxy = proxy("").await;
    let get = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", "/", &[]));
    let post = frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]));
    let floods: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("PING", vec![], frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", vec![], frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("unknown frames", vec![], frame(0xbe, 0, 0, &[])),
        ("empty DATA", post.clone(), frame(DATA, 0, 1, &[])),
        ("small DATA", post.clone(), frame(DATA, 0, 1, b"x")),
        (
            "empty CONTINUATION",
            frame(HEADERS, 0, 1, &request("GET", "/", &[])),
            frame(CONTINUATION, 0, 1, &[]),
        ),
        (
            "CONTINUATION",
            frame(HEADERS, 0, 1, &request("GET", "/", &[])),
            frame(CONTINUATION, 0, 1, &block(&[("x-a", &"a".repeat(8_000))])),
        ),
        ("RST_STREAM", get(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
    ];
    // A good client, all the while, on one connection.
    let good = async {
        for _ in 0..400 {
            let reply = proxy.client.send_h2(Method::GET, "/", &[], "").await;
            assert_eq!(reply.status, 200);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let attacks = async {
        for (name, begin, bytes) in &floods {
            let frames = flood(&proxy, begin, bytes).await;
            assert!(frames.len() < 200_000, "{name}: {} frames in answer", frames.len());
        }
    };
    tokio::join!(good, attacks);
    assert!(proxy.gateway.peak_memory() < 64 * 1024, "{} KiB", proxy.gateway.peak_memory());
}

#[tokio::test]
async fn a_client_that_resets_its_requests_at_once_is_closed() {
    let proxy = proxy("").await;
    // Rapid Reset, and its sibling in which the gateway is made to reset: a window that is opened by nothing.
    let resets: [(&str, u8, &[u8]); 2] =
        [("rapid reset", RST_STREAM, &[0, 0, 0, 8]), ("made you reset", WINDOW_UPDATE, &[0, 0, 0, 0])];
    for (name, kind, payload) in resets {
        let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        let read = raw.read_to_end();
        let mut stream = 1;
        loop {
            let get = frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", "/large", &[]));
            if !raw.send(&[get, frame(kind, 0, stream, payload)].concat()).await {
                break;
            }
            stream += 2;
            assert!(stream < 20_000, "{name}: not hung up on");
        }
        // With a word why, unless the socket has been reset before it was read; the log has it in any case.
        let frames = read.await.unwrap();
        let mut goodbyes = frames.iter().filter(|frame| frame.kind == GOAWAY);
        assert!(goodbyes.all(|frame| frame.payload[4..8] != [0; 4]), "{name}: as if nothing were wrong");
        proxy.gateway.logged(|line| line["reason"] == "flood" || line["message"] == "connection ended").await;
        assert_eq!(proxy.client.send_h2(Method::GET, "/", &[], "").await.status, 200);
    }
}

/// Waits until the gateway closes the connection.
async fn closed(raw: &mut Raw) {
    let read = raw.read_to_end();
    tokio::time::timeout(CLOSED_WITHIN, read).await.expect("not closed").unwrap();
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_over_http2_is_closed() {
    let proxy = proxy("").await;
    let get = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", "/large", &[]));
    let no_window = setting(4, 0);

    let silent = async {
        let mut raw = Raw::connect(&proxy.client, &no_window).await;
        raw.send(&get(1)).await;
        closed(&mut raw).await;
    };
    let dripping = async {
        let mut raw = Raw::connect(&proxy.client, &no_window).await;
        raw.send(&get(1)).await;
        let read = raw.read_to_end();
        let began = Instant::now();
        while !read.is_finished() {
            raw.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(began.elapsed() < CLOSED_WITHIN);
        }
    };
    let many = async {
        // A hundred at once, each with a page that is small, but not for this window.
        let mut raw = Raw::connect(&proxy.client, &no_window).await;
        for stream in 0..100 {
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream * 2 + 1, &request("GET", "/", &[])))
                .await;
        }
        closed(&mut raw).await;
    };
    let connection_window = async {
        let mut raw = Raw::connect(&proxy.client, &setting(4, 1 << 20)).await;
        raw.send(&get(1)).await;
        closed(&mut raw).await;
    };
    let never_reads = async {
        let mut raw = Raw::connect(
            &proxy.client,
            &[setting(4, 1 << 30), frame(WINDOW_UPDATE, 0, 0, &[0x3f, 0, 0, 0])].concat(),
        )
        .await;
        for stream in 0..20 {
            raw.send(&get(stream * 2 + 1)).await;
        }
        raw
    };
    let (.., never_reads) = tokio::join!(silent, dripping, many, connection_window, never_reads);
    // The socket's buffers are full and nothing is read: the gateway closes this connection, too.
    proxy.gateway.wait_for_metric("imis_gateway_connections 0").await;
    drop(never_reads);
    assert_eq!(proxy.client.send_h2(Method::GET, "/large", &[], "").await.body.len(), 4 << 20);
}

#[tokio::test]
async fn incomplete_requests_over_http2_time_out() {
    let proxy = proxy("").await;
    let nothing = async {
        let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        closed(&mut raw).await;
    };
    let half_a_head = async {
        let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        // A good request first, so that it is no longer the first.
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/", &[]))).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        raw.send(&frame(HEADERS, END_STREAM, 3, &request("GET", "/", &[]))).await;
        closed(&mut raw).await;
    };
    let half_a_body = async {
        let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        raw.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]))).await;
        let read = raw.read_to_end();
        let began = Instant::now();
        while !read.is_finished() {
            raw.send(&frame(DATA, 0, 1, b"x")).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(began.elapsed() < CLOSED_WITHIN);
        }
        let frames = read.await.unwrap();
        let head = frames.iter().find(|frame| frame.kind == HEADERS && frame.stream == 1).unwrap();
        assert!(head.payload.windows(3).any(|digits| digits == b"408") || head.flags > 0, "an answer first");
    };
    tokio::join!(nothing, half_a_head, half_a_body);
}

#[tokio::test]
async fn header_lists_are_limited_in_size_and_number_including_cookie_crumbs() {
    let proxy = proxy("").await;
    let crumbs: Vec<(&str, &str)> = (0..300).map(|_| ("cookie", "a=b")).collect();
    let reply = proxy.client.send_h2(Method::GET, "/", &crumbs, "").await;
    assert_eq!(reply.status, 431);
    assert_eq!(proxy.client.send_h2(Method::GET, "/", &crumbs[..200], "").await.status, 200);

    // A bomb: one large field in the table, and then by its number, a thousand times over in each of many requests.
    let mut raw = Raw::connect(&proxy.client, &setting(4, 0)).await;
    let read = raw.read_to_end();
    // 4,000 bytes under a name of three: what the table holds at most (RFC 7541 sections 4.1, 6.2.1).
    let mut large = vec![0x40, 3, b'x', b'-', b'b', 127, 0xa1, 0x1e];
    large.extend([b'a'; 4_000]);
    let first = [request("GET", "/", &[]), large].concat();
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &first)).await;
    for stream in 1..100 {
        let by_number = [request("GET", "/", &[]), vec![0xbe; 15_000]].concat();
        if !raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream * 2 + 1, &by_number)).await {
            break;
        }
    }
    let frames = tokio::time::timeout(CLOSED_WITHIN, read).await.expect("not closed").unwrap();
    let refused =
        frames.iter().filter(|frame| frame.kind == HEADERS && frame.flags & END_STREAM != 0).count();
    assert!(refused > 50 || calmed(&frames), "{refused} refused");
    assert!(proxy.gateway.peak_memory() < 64 * 1024, "{} KiB", proxy.gateway.peak_memory());
}

#[tokio::test]
async fn an_upload_that_is_too_slow_over_http1_ends_with_408() {
    let proxy = proxy("").await;
    let upload = async {
        let mut browser = proxy.client.connect("http/1.1").await;
        let head = format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 100000\r\n\r\n");
        browser.write_all(head.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(browser);
        let began = Instant::now();
        let drip = async {
            loop {
                let _ = writer.write_all(b"x").await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            () = drip => {}
            _ = reader.read_to_end(&mut answer) => {}
        }
        assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
        assert!(began.elapsed() < CLOSED_WITHIN);
    };
    let steady = async {
        // Slow, but fast enough: 100 bytes every 100 ms, for longer than the timeout.
        let mut browser = proxy.client.connect("http/1.1").await;
        let head =
            format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\nContent-Length: 3000\r\n\r\n");
        browser.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..30 {
            browser.write_all(&[b'x'; 100]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut answer = Vec::new();
        let _ = browser.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    };
    tokio::join!(upload, steady);
}

#[tokio::test]
async fn an_error_page_that_is_read_byte_by_byte_is_closed() {
    let proxy = proxy("").await;
    let mut raw = Raw::connect(&proxy.client, &setting(4, 0)).await;
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("TRACE", "/", &[]))).await;
    let read = raw.read_to_end();
    let began = Instant::now();
    while !read.is_finished() {
        raw.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(began.elapsed() < CLOSED_WITHIN);
    }
}

#[tokio::test]
async fn responses_blocked_by_a_shrunk_window_are_closed() {
    let proxy = proxy("").await;
    let wide = [setting(4, 0x3fff_ffff), frame(WINDOW_UPDATE, 0, 0, &[0x3f, 0, 0, 0])].concat();
    let mut raw = Raw::greet(proxy.client.narrow("h2", 4096).await, &wide).await;
    for stream in 0..40 {
        raw.send(&frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream * 2 + 1,
            &request("GET", "/middling", &[]),
        ))
        .await;
    }
    // All of it waits for the socket, and then for windows; what is under way is read.
    tokio::time::sleep(Duration::from_secs(1)).await;
    raw.send(&setting(4, 0)).await;
    closed(&mut raw).await;
}
