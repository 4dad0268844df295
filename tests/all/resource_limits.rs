//! The gateway goes on when something runs out: concurrent requests at iMIS, a log that is not read, disk space.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::support::SITE;
use crate::support::gateway::TIMEOUT;
use crate::support::http2_frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Raw, SETTINGS, frame, request};
use crate::support::origin::{Connection, Origin, Proxy, read_request};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn quick(mut connection: Connection) {
    while read_request(&mut connection).await.is_some() {
        if connection.write_all(OK).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn requests_beyond_the_concurrency_limit_get_a_503_at_once_with_retry_after() {
    let answer = Arc::new(Semaphore::new(0));
    let authority = Authority::new("test CA");
    let may_answer = answer.clone();
    let origin = Origin::start(&authority, move |mut connection| {
        let may_answer = may_answer.clone();
        async move {
            while read_request(&mut connection).await.is_some() {
                let _permit = may_answer.acquire().await;
                if connection.write_all(OK).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let server = format!("https://{}", origin.address);
    let upstream = "response_head: 120s}\n      limits: {concurrent_requests: 4, queue_timeout: 200ms";
    let proxy = Proxy::with_timeouts(authority, &server, Some(origin), "", upstream);
    let mut asked: FuturesUnordered<_> = (0..20)
        .map(|number| {
            let proxy = &proxy;
            async move {
                if number % 2 == 0 {
                    proxy.client.get("/", &[]).await
                } else {
                    proxy.client.send_h2(http::Method::GET, "/", &[], "").await
                }
            }
        })
        .collect();
    // iMIS answers none before the others have been refused.
    for _ in 0..16 {
        let reply = asked.next().await.unwrap();
        assert_eq!(reply.status, 503);
        assert_eq!(reply.header("retry-after"), "5");
        assert!(reply.text().contains("very busy"), "{}", reply.text());
    }
    answer.add_permits(4);
    for _ in 0..4 {
        assert_eq!(asked.next().await.unwrap().status, 200);
    }
    assert_eq!(proxy.client.get("/", &[]).await.status, 200, "there are free slots again");
}

#[tokio::test]
async fn requests_with_bodies_count_against_the_concurrency_limit() {
    let (arrived, mut arriving) = tokio::sync::mpsc::unbounded_channel();
    let answer = Arc::new(Semaphore::new(0));
    let authority = Authority::new("test CA");
    let may_answer = answer.clone();
    let origin = Origin::start(&authority, move |mut connection| {
        let (arrived, may_answer) = (arrived.clone(), may_answer.clone());
        async move {
            // Every whole request ends like this.
            let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
            while !bytes.ends_with(b"end") && !bytes.ends_with(b"\r\n0\r\n\r\n") {
                match connection.read(&mut piece).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => bytes.extend_from_slice(&piece[..count]),
                }
            }
            let _ = arrived.send(());
            let _permit = may_answer.acquire().await;
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let server = format!("https://{}", origin.address);
    let upstream = "response_head: 120s}\n      limits: {concurrent_requests: 2, queue_timeout: 200ms";
    let proxy = Proxy::with_timeouts(authority, &server, Some(origin), "", upstream);
    // The body comes a moment behind the head.
    let post = |framing: &'static str, rest: &'static str| {
        let client = &proxy.client;
        async move {
            let mut browser = client.connect("http/1.1").await;
            let head = format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n{framing}\r\n\r\n");
            browser.write_all(head.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            browser.write_all(rest.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let _ = browser.read_to_string(&mut answer).await;
            answer[9..12].to_owned()
        }
    };
    let known = || post("Content-Length: 3", "end");
    let chunked = || post("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n");
    let over_h2 = |said: bool| {
        let client = &proxy.client;
        async move {
            let mut browser = Raw::connect(client, &frame(SETTINGS, 0, 0, &[])).await;
            let said: &[_] = if said { &[("content-length", "3")] } else { &[] };
            browser.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/", said))).await;
            browser.send(&frame(DATA, 0, 1, b"e")).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            browser.send(&frame(DATA, 0, 1, b"nd")).await;
            browser.send(&frame(DATA, END_STREAM, 1, b"")).await;
            loop {
                let answer = browser.next().await.unwrap();
                if answer.kind == HEADERS {
                    // RFC 7541, appendix A: 8 is `:status: 200`.
                    return if answer.payload.starts_with(&[0x88]) { "200" } else { "503" }.to_owned();
                }
            }
        }
    };
    let mut asked: FuturesUnordered<BoxFuture<'_, String>> = FuturesUnordered::new();
    for upload in [known().boxed(), chunked().boxed(), known().boxed(), chunked().boxed()] {
        asked.push(upload);
    }
    for has_length in [true, false] {
        asked.push(over_h2(has_length).boxed());
    }
    // iMIS answers none before the others have been refused.
    for _ in 0..4 {
        assert_eq!(asked.next().await.unwrap(), "503");
    }
    answer.add_permits(2);
    for _ in 0..2 {
        assert_eq!(asked.next().await.unwrap(), "200");
    }
    let mut whole = 0;
    while arriving.try_recv().is_ok() {
        whole += 1;
    }
    assert_eq!(whole, 2, "whole requests that iMIS got");
}

/// Sends this number of requests over one connection and expects a response to each.
async fn ask(proxy: &Proxy, count: usize) {
    let mut browser = proxy.client.connect("http/1.1").await;
    let get = format!("GET /{} HTTP/1.1\r\nHost: {SITE}\r\n\r\n", "x".repeat(200));
    for _ in 0..count {
        browser.write_all(get.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            let read = tokio::time::timeout(TIMEOUT, browser.read_buf(&mut answer)).await;
            assert!(read.expect("an answer").unwrap() > 0);
        }
    }
}

#[tokio::test]
async fn a_log_reader_that_stalls_does_not_delay_requests() {
    let proxy = Proxy::start(quick).await;
    {
        let _unread = proxy.gateway.leave_log_unread();
        // Far more than a pipe holds and than may wait.
        ask(&proxy, 12_000).await;
    }
    let line = proxy
        .gateway
        .logged(|line| line["message"] == "the log was not read in time; lines are missing")
        .await;
    assert!(line["dropped_lines"].as_u64().unwrap() > 0);
    ask(&proxy, 10).await;
}

#[tokio::test]
async fn a_closed_log_pipe_does_not_stop_the_gateway() {
    let proxy = Proxy::start(quick).await;
    proxy.gateway.close_log();
    ask(&proxy, 2_000).await;
}

/// A process that ends with the value.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_full_disk_does_not_stop_the_gateway() {
    // `/dev/full` refuses every write as a full disk does.
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
        return crate::support::skip("/dev/full");
    };
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test CA");
    crate::support::lay_out_certificates(&authority, folder.path());
    let origin = Origin::start(&authority, quick).await;
    let port = crate::support::free_address().port();
    let yaml = format!(
        "version: 1\nlisten: {{https: [\"127.0.0.1:{port}\"], http: [], admin: null}}\nlog: {{level: debug}}\nsites:\n  - hosts: [{SITE}]\n    certificate: {{chain: members.pem, key: members.key}}\n    upstream: {{servers: [\"https://{}\"], ca_file: ca.pem}}\n",
        origin.address
    );
    std::fs::write(folder.path().join("config.yaml"), yaml).unwrap();
    let gateway = std::process::Command::new(env!("CARGO_BIN_EXE_imis-gateway"))
        .args(["run", "--config"])
        .arg(folder.path().join("config.yaml"))
        .stderr(full)
        .spawn()
        .unwrap();
    let _gateway = Ended(gateway);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let end = Instant::now() + TIMEOUT;
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < end, "it does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let client = crate::support::Client::new(&authority, address);
    let replies = futures_util::future::join_all((0..50).map(|_| client.get("/", &[]))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
}
