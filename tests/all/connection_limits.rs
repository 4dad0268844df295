//! How many connections there may be and how long each may live: which one makes room for another, and how the last one
//! ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use imis_gateway_simulators::certificates::Authority;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::denial_of_service::{proxy, serve};
use crate::support::SITE;
use crate::support::gateway::TIMEOUT;
use crate::support::http2_frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, Raw, SETTINGS, WINDOW_UPDATE, frame, request,
    setting,
};
use crate::support::origin::{Connection, Origin, Proxy, read_request};

#[tokio::test]
async fn at_the_connection_limit_the_longest_idle_connections_are_closed() {
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
async fn connections_per_address_are_limited_and_rejections_logged_together() {
    let proxy = proxy("limits: {connections: 100, connections_per_address: 5}").await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(proxy.client.connect("http/1.1").await);
    }
    for _ in 0..10 {
        assert!(proxy.client.connect_as("http/1.1", SITE).await.is_err(), "a sixth");
    }
    // One line for all, or a few if this machine was slow.
    let (mut counted, mut lines) = (0, 0);
    while counted < 10 {
        lines += 1;
        let is_summary = |line: &Value| line["message"] == "connections were turned away";
        let line = proxy.gateway.logged_times(lines, is_summary).await;
        assert_eq!(line["limit"], "limits.connections_per_address");
        counted += line["count"].as_u64().unwrap();
    }
    assert!(counted == 10 && lines < 5, "{counted} in {lines} lines");
    drop(held);
    proxy.gateway.wait_for_metric("imis_gateway_connections 0").await;
    assert_eq!(proxy.client.get("/", &[]).await.status, 200);
}

#[tokio::test]
async fn a_connection_ends_at_its_maximum_age_with_a_last_response() {
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, serve).await;
    let server = format!("https://{}", origin.address);
    let proxy = Proxy::with_timeouts(authority, &server, Some(origin), "timeouts: {connection_age: 1s}", "");
    let mut browser = proxy.client.connect("http/1.1").await;
    let get = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n");
    let began = Instant::now();
    let mut answers = Vec::new();
    while began.elapsed() < TIMEOUT {
        if browser.write_all(get.as_bytes()).await.is_err() {
            break;
        }
        if browser.read_buf(&mut answers).await.unwrap_or(0) == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let text = String::from_utf8_lossy(&answers);
    assert!((Duration::from_millis(900)..TIMEOUT).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(text.matches("Connection: close").count(), 1, "{text}");
    assert!(text.ends_with("xx"), "{text}");
    // Over HTTP/2 it is told to go.
    let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/", &[]))).await;
    let frames = tokio::time::timeout(TIMEOUT, raw.read_to_end()).await.unwrap().unwrap();
    assert!(frames.iter().any(|frame| frame.kind == GOAWAY && frame.payload[4..8] == [0; 4]), "{frames:?}");
}

#[tokio::test]
async fn a_connection_that_reaches_its_maximum_age_delivers_its_last_response() {
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

#[tokio::test]
async fn a_client_that_ignores_the_shutdown_ping_is_closed() {
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
        assert!(began.elapsed() < TIMEOUT, "still served");
    }
}

#[tokio::test]
async fn without_file_descriptors_the_gateway_waits_and_recovers() {
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
async fn four_thousand_slow_connections_do_not_delay_other_clients() {
    // One descriptor for each, here as there.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(20_000)), hard).unwrap();
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, serve).await;
    let server = format!("https://{}", origin.address);
    let more = "timeouts: {handshake: 300s, request_head: 300s, body_idle: 300s}\n\
                limits: {connections: 10000, connections_per_address: 10000}";
    let proxy = Proxy::with_timeouts(authority, &server, Some(origin), more, "response_head: 20s");
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
    // A request that had waited for one of them would have waited for its timeout.
    assert!(worst < TIMEOUT, "{worst:?}");
    drop((held, silent));
    assert_eq!(proxy.client.get("/", &[]).await.status, 200);
}

/// Reads until the bytes end like this. `false`: the connection has ended before.
async fn reads_until(connection: &mut Connection, end: &[u8]) -> bool {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    while !bytes.ends_with(end) {
        match connection.read(&mut piece).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
    true
}

#[tokio::test]
async fn a_connection_whose_upload_waits_for_imis_is_not_closed_to_make_room() {
    let (arrived, mut arriving) = tokio::sync::mpsc::unbounded_channel();
    let answer = Arc::new(Semaphore::new(0));
    let authority = Authority::new("test CA");
    let may_answer = answer.clone();
    let origin = Origin::start(&authority, move |mut connection| {
        let (arrived, may_answer) = (arrived.clone(), may_answer.clone());
        async move {
            if !reads_until(&mut connection, b"end").await {
                return;
            }
            let _ = arrived.send(());
            let _permit = may_answer.acquire().await;
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let server = format!("https://{}", origin.address);
    let limits = "timeouts: {body_idle: 300s}\nlimits: {connections: 3, connections_per_address: 100}";
    let proxy = Proxy::with_timeouts(authority, &server, Some(origin), limits, "response_head: 120s");
    let head = format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 3\r\n\r\n");
    let h1 = async {
        let mut client = proxy.client.connect("http/1.1").await;
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(b"end").await.unwrap();
        let mut status = [0; 12];
        client.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    };
    let h2 = async {
        let mut client = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        let post = request("POST", "/", &[("content-length", "3")]);
        client.send(&frame(HEADERS, END_HEADERS, 1, &post)).await;
        client.send(&frame(DATA, END_STREAM, 1, b"end")).await;
        while client.next().await.expect("a response").kind != HEADERS {}
    };
    let others = async {
        arriving.recv().await.unwrap();
        arriving.recv().await.unwrap();
        // Its client stops in the middle of an upload, later than the other two have finished theirs.
        let mut stalled = proxy.client.connect("http/1.1").await;
        stalled.write_all(head.as_bytes()).await.unwrap();
        // A new connection has to wait until the stalled one may be closed for it; by then, the others are as old.
        let end = Instant::now() + TIMEOUT;
        while proxy.client.connect_as("http/1.1", SITE).await.is_err() {
            assert!(Instant::now() < end, "nothing makes room");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut rest = Vec::new();
        let closed = stalled.read_to_end(&mut rest);
        let _ = tokio::time::timeout(TIMEOUT, closed).await.expect("the stalled upload made room");
        answer.add_permits(2);
    };
    tokio::join!(h1, h2, others);
}

#[tokio::test]
async fn a_client_that_does_not_read_or_send_makes_room_for_others() {
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, |mut connection| async move {
        let head = read_request(&mut connection).await.unwrap_or_default();
        let length = if head.starts_with("GET /large") { 8 << 20 } else { 2 };
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        let _ = connection.write_all(&[head.as_bytes(), &vec![b'x'; length]].concat()).await;
        let _ = connection.read_u8().await;
    })
    .await;
    let server = format!("https://{}", origin.address);
    let limits = "timeouts: {body_idle: 300s}\nlimits: {connections: 6, connections_per_address: 100}";
    let proxy = Proxy::to(authority, &server, Some(origin), limits);
    let mut holding = Vec::new();
    for number in 0..6 {
        let alpn = if number % 2 == 0 { "http/1.1" } else { "h2" };
        let mut browser = proxy.client.narrow(alpn, 8 * 1024).await;
        let asked = match number {
            0 | 2 => format!("GET /large HTTP/1.1\r\nHost: {SITE}\r\n\r\n").into_bytes(),
            4 => format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 9\r\n\r\n").into_bytes(),
            _ => [
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                setting(4, 0),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/large", &[])),
            ]
            .concat(),
        };
        browser.write_all(&asked).await.unwrap();
        holding.push(browser);
    }
    // All slots are taken; a slow client may keep its slot for a moment, and then makes room long before its timeout.
    let end = Instant::now() + TIMEOUT;
    while proxy.client.connect_as("http/1.1", SITE).await.is_err() {
        assert!(Instant::now() < end, "nothing makes room");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for alpn in ["http/1.1", "h2"] {
        let status = if alpn == "h2" {
            proxy.client.send_h2(Method::GET, "/", &[], "").await.status
        } else {
            proxy.client.get("/", &[]).await.status
        };
        assert_eq!(status, 200, "{alpn}");
    }
}
