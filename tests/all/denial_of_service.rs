//! Attackers on HTTP/2 and HTTP/1: each is hung up on in time, whoever is good is served meanwhile, and memory stays within
//! bounds. Deadlines are short here; the defaults are in `docs/hardening.md`.

use std::time::{Duration, Instant};

use http::Method;
use imis_gateway_simulators::certificates::Authority;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::SITE;
use crate::support::http2_frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, Raw,
    SETTINGS, WINDOW_UPDATE, block, frame, request, setting,
};
use crate::support::origin::{Connection, Origin, Proxy, read_request};

const ENHANCE_YOUR_CALM: u8 = 11;

/// In front of an upstream that answers with 4 MiB on `/large`, and with two bytes else.
async fn proxy(more: &str) -> Proxy {
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, serve).await;
    let server = format!("https://{}", origin.address);
    let more = format!("timeouts: {{request_head: 2s, body_idle: 2s, idle: 10s}}\n{more}");
    Proxy::with_timeouts(authority, &server, Some(origin), &more, "response_head: 20s")
}

async fn serve(mut connection: Connection) {
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
    let end = Instant::now() + Duration::from_secs(20);
    while raw.send(&many).await {
        assert!(Instant::now() < end, "not hung up on");
    }
    read.await.unwrap()
}

fn calmed(frames: &[Frame]) -> bool {
    frames.iter().any(|frame| frame.kind == GOAWAY && frame.payload[7] == ENHANCE_YOUR_CALM)
}

#[tokio::test]
async fn floods_over_http2_are_hung_up_on_and_nobody_else_is() {
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
            let began = Instant::now();
            let frames = flood(&proxy, begin, bytes).await;
            assert!(frames.len() < 200_000, "{name}: {} frames in answer", frames.len());
            assert!(began.elapsed() < Duration::from_secs(10), "{name}");
        }
    };
    tokio::join!(good, attacks);
    assert!(proxy.gateway.peak_memory() < 64 * 1024, "{} KiB", proxy.gateway.peak_memory());
}

#[tokio::test]
async fn requests_that_are_reset_at_once_are_hung_up_on() {
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
        proxy
            .gateway
            .logged(|line| {
                line["reason"] == "it costs and brings nothing" || line["message"] == "connection ended"
            })
            .await;
        assert_eq!(proxy.client.send_h2(Method::GET, "/", &[], "").await.status, 200);
    }
}

/// Waits until the peer closes, and tells how long it took.
async fn closed(raw: &mut Raw) -> Duration {
    let began = Instant::now();
    let read = raw.read_to_end();
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("not closed").unwrap();
    began.elapsed()
}

#[tokio::test]
async fn whoever_takes_an_answer_in_drips_or_not_at_all_is_hung_up_on() {
    let proxy = proxy("").await;
    let get = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", "/large", &[]));
    let no_window = setting(4, 0);
    let bound = Duration::from_secs(9);

    let silent = async {
        let mut raw = Raw::connect(&proxy.client, &no_window).await;
        raw.send(&get(1)).await;
        assert!(closed(&mut raw).await < bound);
    };
    let dripping = async {
        let mut raw = Raw::connect(&proxy.client, &no_window).await;
        raw.send(&get(1)).await;
        let read = raw.read_to_end();
        let began = Instant::now();
        while !read.is_finished() {
            raw.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(began.elapsed() < bound);
        }
    };
    let many = async {
        // A hundred at once, each with a page that is small, but not for this window.
        let mut raw = Raw::connect(&proxy.client, &no_window).await;
        for stream in 0..100 {
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream * 2 + 1, &request("GET", "/", &[])))
                .await;
        }
        assert!(closed(&mut raw).await < bound);
    };
    let connection_window = async {
        let mut raw = Raw::connect(&proxy.client, &setting(4, 1 << 20)).await;
        raw.send(&get(1)).await;
        assert!(closed(&mut raw).await < bound);
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
        // The socket's buffers are full, nothing is read; the other side gives up by itself.
        let line = proxy
            .gateway
            .logged(|line| line["message"] == "connection given up" || line["message"] == "connection ended");
        line.await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let began = Instant::now();
        while raw.send(&frame(PING, 0, 0, &[0; 8])).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(began.elapsed() < bound);
        }
    };
    tokio::join!(silent, dripping, many, connection_window, never_reads);
    assert_eq!(proxy.client.send_h2(Method::GET, "/large", &[], "").await.body.len(), 4 << 20);
}

#[tokio::test]
async fn requests_that_never_become_whole_end_over_http2() {
    let proxy = proxy("").await;
    let bound = Duration::from_secs(9);
    let nothing = async {
        let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        assert!(closed(&mut raw).await < bound);
    };
    let half_a_head = async {
        let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        // A good request first, so that it is no longer the first.
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/", &[]))).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        raw.send(&frame(HEADERS, END_STREAM, 3, &request("GET", "/", &[]))).await;
        assert!(closed(&mut raw).await < bound);
    };
    let half_a_body = async {
        let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        raw.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]))).await;
        let read = raw.read_to_end();
        let began = Instant::now();
        while !read.is_finished() {
            raw.send(&frame(DATA, 0, 1, b"x")).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(began.elapsed() < bound);
        }
        let frames = read.await.unwrap();
        let head = frames.iter().find(|frame| frame.kind == HEADERS && frame.stream == 1).unwrap();
        assert!(head.payload.windows(3).any(|digits| digits == b"408") || head.flags > 0, "an answer first");
    };
    tokio::join!(nothing, half_a_head, half_a_body);
}

#[tokio::test]
async fn header_lists_are_limited_in_bytes_and_in_number_crumbs_of_cookies_included() {
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
    let frames = tokio::time::timeout(Duration::from_secs(15), read).await.expect("not closed").unwrap();
    let refused =
        frames.iter().filter(|frame| frame.kind == HEADERS && frame.flags & END_STREAM != 0).count();
    assert!(refused > 50 || calmed(&frames), "{refused} refused");
    assert!(proxy.gateway.peak_memory() < 64 * 1024, "{} KiB", proxy.gateway.peak_memory());
}

#[tokio::test]
async fn uploads_and_downloads_that_drip_end_over_http1() {
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
        assert!(began.elapsed() < Duration::from_secs(9));
    };
    let steady = async {
        // Slow, and fast enough: a hundred bytes each tenth of a second.
        let mut browser = proxy.client.connect("http/1.1").await;
        let head =
            format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\nContent-Length: 6000\r\n\r\n");
        browser.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..60 {
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
async fn when_there_is_no_place_left_whoever_waits_longest_makes_room() {
    let proxy = proxy("limits: {connections: 100, connections_per_address: 1000}").await;
    // More than there are places, all silent behind their handshake or in the middle of a head.
    let mut silent = Vec::new();
    for count in 0..160 {
        let mut stream = proxy.client.connect("http/1.1").await;
        if count % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
        }
        silent.push(stream);
        if count % 20 == 0 {
            assert_eq!(proxy.client.get("/", &[]).await.status, 200, "{count}");
        }
    }
    let mut ended = 0;
    for stream in &mut silent {
        let mut byte = [0; 1];
        if tokio::time::timeout(Duration::from_millis(1), stream.read(&mut byte)).await.is_ok() {
            ended += 1;
        }
    }
    assert!(ended >= 60, "{ended}");
    assert_eq!(proxy.client.get("/", &[]).await.status, 200);
}

#[tokio::test]
async fn one_address_gets_only_so_many_connections_and_the_log_says_so_once() {
    let proxy = proxy("limits: {connections: 100, connections_per_address: 5}").await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(proxy.client.connect("http/1.1").await);
    }
    for _ in 0..10 {
        assert!(proxy.client.connect_as("http/1.1", SITE).await.is_err(), "a sixth");
    }
    let line = proxy.gateway.logged(|line| line["message"] == "connections were turned away").await;
    assert_eq!((&line["count"], &line["limit"]), (&10.into(), &"limits.connections_per_address".into()));
    drop(held);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(proxy.client.get("/", &[]).await.status, 200);
}

#[tokio::test]
async fn a_connection_ends_at_its_age_with_its_last_answer() {
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, serve).await;
    let server = format!("https://{}", origin.address);
    let proxy = Proxy::with_timeouts(authority, &server, Some(origin), "timeouts: {connection_age: 1s}", "");
    let mut browser = proxy.client.connect("http/1.1").await;
    let get = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n");
    let began = Instant::now();
    let mut answers = Vec::new();
    while began.elapsed() < Duration::from_secs(10) {
        if browser.write_all(get.as_bytes()).await.is_err() {
            break;
        }
        if browser.read_buf(&mut answers).await.unwrap_or(0) == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let text = String::from_utf8_lossy(&answers);
    assert!(began.elapsed() > Duration::from_millis(900) && began.elapsed() < Duration::from_secs(8));
    assert_eq!(text.matches("Connection: close").count(), 1, "{text}");
    assert!(text.ends_with("xx"), "{text}");
    // Over HTTP/2 it is told to go.
    let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/", &[]))).await;
    let frames = tokio::time::timeout(Duration::from_secs(15), raw.read_to_end()).await.unwrap().unwrap();
    assert!(frames.iter().any(|frame| frame.kind == GOAWAY && frame.payload[4..8] == [0; 4]), "{frames:?}");
}

#[tokio::test]
async fn without_descriptors_the_gateway_waits_and_recovers() {
    let proxy = proxy("limits: {connections: 1000, connections_per_address: 1000}").await;
    assert_eq!(proxy.client.get("/", &[]).await.status, 200);
    let pid = proxy.gateway.pid().to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = |limit: usize| {
        let set = std::process::Command::new("prlimit")
            .args(["--pid", &pid, &format!("--nofile={limit}:")])
            .status();
        set.is_ok_and(|status| status.success())
    };
    if !limit(open + 20) {
        return crate::support::skip("prlimit");
    }
    let mut held = Vec::new();
    for _ in 0..60 {
        let connected = tokio::net::TcpStream::connect(proxy.gateway.https).await.unwrap();
        held.push(connected);
    }
    proxy.gateway.logged(|line| line["message"] == "cannot accept connections").await;
    drop(held);
    limit(1000);
    assert_eq!(proxy.client.get("/", &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_thousand_slow_connections_keep_nobody_waiting() {
    // One descriptor for each, here as there.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(20_000)), hard).unwrap();
    let proxy = proxy("limits: {connections: 10000, connections_per_address: 10000}").await;
    let mut silent = Vec::new();
    for _ in 0..3_000 {
        silent.push(tokio::net::TcpStream::connect(proxy.gateway.https).await.unwrap());
    }
    let slow = async {
        let mut slow = Vec::new();
        for number in 0..1_000 {
            let mut stream = proxy.client.connect("http/1.1").await;
            let begun = match number % 4 {
                0 => String::new(),
                1 => "GET /".to_owned(),
                2 => format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nX: "),
                _ => format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 100000\r\n\r\nx"),
            };
            let _ = stream.write_all(begun.as_bytes()).await;
            slow.push(stream);
        }
        slow
    };
    let good = async {
        let mut worst = Duration::ZERO;
        for number in 0..60 {
            let began = Instant::now();
            let reply = if number % 2 == 0 {
                proxy.client.get("/", &[]).await
            } else {
                proxy.client.send_h2(Method::GET, "/", &[], "").await
            };
            assert_eq!(reply.status, 200);
            worst = worst.max(began.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        worst
    };
    let (held, worst) = tokio::join!(slow, good);
    // No measurement: whoever waited for one of them would have waited for its deadline.
    assert!(worst < Duration::from_secs(5), "{worst:?}");
    drop((held, silent));
    assert_eq!(proxy.client.get("/", &[]).await.status, 200);
}

#[tokio::test]
async fn a_page_of_ours_that_is_taken_byte_by_byte_ends_too() {
    let proxy = proxy("").await;
    let mut raw = Raw::connect(&proxy.client, &setting(4, 0)).await;
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("TRACE", "/", &[]))).await;
    let read = raw.read_to_end();
    let began = Instant::now();
    while !read.is_finished() {
        raw.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(began.elapsed() < Duration::from_secs(9));
    }
}

#[tokio::test]
async fn whoever_does_not_answer_a_ping_is_not_served_for_ever() {
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, serve).await;
    let server = format!("https://{}", origin.address);
    let more = "timeouts: {connection_age: 1s, body_idle: 2s}";
    let proxy = Proxy::with_timeouts(authority, &server, Some(origin), more, "response_head: 20s");
    // Always one request under way, whose answer is never taken, and no word to the PING of a shutdown.
    let mut raw = Raw::connect(&proxy.client, &setting(4, 0)).await;
    let read = raw.read_to_end();
    let began = Instant::now();
    for number in 0.. {
        if read.is_finished() {
            break;
        }
        let get = request("GET", "/", &[]);
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, number * 2 + 1, &get)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(began.elapsed() < Duration::from_secs(15), "still served");
    }
}

#[tokio::test]
async fn answers_that_wait_for_windows_which_were_taken_back_are_not_kept() {
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
    assert!(closed(&mut raw).await < Duration::from_secs(12));
}

#[tokio::test]
async fn a_connection_that_ends_by_its_age_loses_nothing_of_its_last_answers() {
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, serve).await;
    let server = format!("https://{}", origin.address);
    let proxy = Proxy::with_timeouts(
        authority,
        &server,
        Some(origin),
        "timeouts: {connection_age: 1s}",
        "response_head: 20s",
    );
    let wide = [setting(4, 0x3fff_ffff), frame(WINDOW_UPDATE, 0, 0, &[0x3f, 0, 0, 0])].concat();
    let mut raw = Raw::greet(proxy.client.narrow("h2", 64 * 1024).await, &wide).await;
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/large", &[]))).await;
    let (mut bytes, mut ended) = (0, false);
    // Slow enough for the connection to have been told to end, and with a word for each frame, as browsers say.
    while let Some(frame) = raw.next().await {
        if frame.kind == DATA {
            bytes += frame.payload.len();
            ended |= frame.flags & END_STREAM != 0;
            raw.send(&self::frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0x40, 0])).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if frame.kind == PING && frame.flags == 0 {
            raw.send(&self::frame(PING, 1, 0, &frame.payload)).await;
        }
    }
    assert_eq!((bytes, ended), (4 << 20, true));
}
