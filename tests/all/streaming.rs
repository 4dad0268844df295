//! Bodies of any size pass in little memory, at the pace of whoever is slower.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::SITE;
use crate::support::origin::Proxy;

/// What a body may add to the memory in use, in KiB: buffers of both sides, and what the allocator keeps.
const FLAT: u64 = 12 * 1024;

/// A plain-HTTP upstream for bodies that are large, so that the test does not spend its time on TLS. It says how much
/// of a request's body has come, and answers with as many bytes as the path asks for.
async fn plain(received: Arc<AtomicU64>) -> (Proxy, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, received.clone()));
        }
    });
    (Proxy::to(Authority::new("test CA"), &server, None, ""), task)
}

async fn serve(mut stream: TcpStream, received: Arc<AtomicU64>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let mut buffer = vec![b'x'; 256 * 1024];
    let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
    let mut left: u64 = length.map_or(0, |length| length.parse().unwrap());
    while left > 0 {
        let Ok(count @ 1..) = stream.read(&mut buffer).await else { return };
        left -= count as u64;
        received.fetch_add(count as u64, Ordering::Relaxed);
    }
    let mut to_send: usize = head.split(' ').nth(1).unwrap().trim_start_matches('/').parse().unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {to_send}\r\n\r\n");
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    buffer.fill(b'x');
    while to_send > 0 {
        let count = to_send.min(buffer.len());
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        received.fetch_add(count as u64, Ordering::Relaxed);
        to_send -= count;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_megabytes_go_up_in_little_memory() {
    const BYTES: usize = 30 * 1024 * 1024;
    let (proxy, _task) = plain(Arc::default()).await;
    proxy.client.get("/1", &[]).await;
    let before = proxy.gateway.peak_memory();
    for h2 in [false, true] {
        let body = vec![b'x'; BYTES];
        let (method, status) = (http::Method::POST, http::StatusCode::OK);
        let reply = match h2 {
            true => proxy.client.send_h2(method, "/2", &[], body).await,
            false => proxy.client.send(method, "/2", &[], body).await,
        };
        assert_eq!((reply.status, reply.text().as_str()), (status, "xx"));
        let grown = proxy.gateway.peak_memory().saturating_sub(before);
        assert!(grown < FLAT, "h2 {h2}: {grown} KiB more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gigabytes_come_down_in_little_memory() {
    const BYTES: u64 = 2 * 1024 * 1024 * 1024 + 12_345;
    let (proxy, _task) = plain(Arc::default()).await;
    proxy.client.get("/1", &[]).await;
    let before = proxy.gateway.peak_memory();
    let mut browser = proxy.client.connect("http/1.1").await;
    let request = format!("GET /{BYTES} HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
    browser.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 256 * 1024];
    let mut got = 0;
    while let count @ 1.. = browser.read(&mut buffer).await.unwrap() {
        got += count as u64;
    }
    assert!(got > BYTES && got < BYTES + 300, "{got}");
    let grown = proxy.gateway.peak_memory() - before;
    assert!(grown < FLAT, "{grown} KiB more");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_gigabyte_comes_down_over_http_2_in_little_memory() {
    use http_body_util::BodyExt;
    const BYTES: u64 = 512 * 1024 * 1024 + 12_345;
    let (proxy, _task) = plain(Arc::default()).await;
    proxy.client.get("/1", &[]).await;
    let before = proxy.gateway.peak_memory();
    let io = hyper_util::rt::TokioIo::new(proxy.client.connect("h2").await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("https://{SITE}/{BYTES}")).body(String::new()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut got = 0;
    while let Some(frame) = body.frame().await {
        got += frame.unwrap().data_ref().map_or(0, |data| data.len() as u64);
    }
    assert_eq!(got, BYTES);
    let grown = proxy.gateway.peak_memory() - before;
    assert!(grown < FLAT, "{grown} KiB more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_the_upstream_back_and_costs_little_memory() {
    const BYTES: usize = 200 * 1024 * 1024;
    let sent = Arc::new(AtomicU64::new(0));
    let (proxy, _task) = plain(sent.clone()).await;
    let before = proxy.gateway.peak_memory();
    let mut browsers = Vec::new();
    for _ in 0..4 {
        let mut browser = proxy.client.connect("http/1.1").await;
        let request = format!("GET /{BYTES} HTTP/1.1\r\nHost: {SITE}\r\n\r\n");
        browser.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0; 1000];
        browser.read_exact(&mut first).await.unwrap();
        browsers.push(browser);
    }
    // Until nothing moves any more: every buffer on the way is full.
    let mut seen = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = sent.load(Ordering::Relaxed);
        if now == seen {
            break;
        }
        seen = now;
    }
    assert!(seen < 4 * BYTES as u64 / 2, "the upstream was let go on: {seen} bytes");
    let grown = proxy.gateway.peak_memory().saturating_sub(before);
    assert!(grown < FLAT, "{grown} KiB more");
    // Whoever reads on gets the rest.
    let mut browser = browsers.pop().unwrap();
    let mut rest = vec![0; 20 * 1024 * 1024];
    browser.read_exact(&mut rest).await.unwrap();
    assert!(rest.iter().all(|byte| *byte == b'x'));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_waits_for_an_upstream_that_reads_slowly() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let proxy = Proxy::to(Authority::new("test CA"), &server, None, "");
    let before = proxy.gateway.peak_memory();
    let mut browser = proxy.client.connect("http/1.1").await;
    let head = format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 209715200\r\n\r\n");
    browser.write_all(head.as_bytes()).await.unwrap();
    let (_held, _) = listener.accept().await.unwrap();
    let mut sent = 0;
    let chunk = vec![b'x'; 64 * 1024];
    // Until a write waits: the upstream reads nothing.
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(700), browser.write_all(&chunk)).await
    {
        written.unwrap();
        sent += chunk.len();
        assert!(sent < 150 * 1024 * 1024, "nobody holds the browser back");
    }
    let grown = proxy.gateway.peak_memory().saturating_sub(before);
    assert!(grown < FLAT, "{grown} KiB more");
}
