//! What happens when something runs out: places at iMIS, the reader of the log, the file descriptors. The process lives, and
//! recovers.

use std::time::{Duration, Instant};

use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::SITE;
use crate::support::http2_frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Raw, SETTINGS, frame, request, setting,
};
use crate::support::origin::{Connection, Origin, Proxy, read_request};

/// How long the slow take to answer.
const SLOW: Duration = Duration::from_secs(5);

async fn slow(mut connection: Connection) {
    while read_request(&mut connection).await.is_some() {
        tokio::time::sleep(SLOW).await;
        if connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

async fn quick(mut connection: Connection) {
    while read_request(&mut connection).await.is_some() {
        if connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn what_imis_cannot_take_gets_a_quick_503_that_says_when_to_come_back() {
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, slow).await;
    let server = format!("https://{}", origin.address);
    let upstream = "response_head: 20s}\n      limits: {concurrent_requests: 4, queue_timeout: 200ms";
    let proxy = Proxy::with_timeouts(authority, &server, Some(origin), "", upstream);
    let asked = (0..20).map(|number| {
        let proxy = &proxy;
        async move {
            let began = Instant::now();
            let reply = if number % 2 == 0 {
                proxy.client.get("/", &[]).await
            } else {
                proxy.client.send_h2(http::Method::GET, "/", &[], "").await
            };
            (reply, began.elapsed())
        }
    });
    let replies = futures_util::future::join_all(asked).await;
    let good = replies.iter().filter(|(reply, _)| reply.status == 200).count();
    assert_eq!(good, 4);
    for (reply, took) in replies.iter().filter(|(reply, _)| reply.status != 200) {
        assert_eq!(reply.status, 503);
        assert_eq!(reply.header("retry-after"), "5");
        assert!(reply.text().contains("very busy"), "{}", reply.text());
        assert!(*took < SLOW, "{took:?}: as if it had waited for a place");
    }
    assert_eq!(proxy.client.get("/", &[]).await.status, 200, "and then there are places again");
}

/// Sends so many requests over one connection and expects an answer to each.

#[tokio::test]
async fn requests_with_bodies_are_no_way_around_the_places() {
    let (arrived, mut arriving) = tokio::sync::mpsc::unbounded_channel();
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, move |mut connection| {
        let arrived = arrived.clone();
        async move {
            // Whatever ends in this has come whole.
            let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
            while !bytes.ends_with(b"end") && !bytes.ends_with(b"\r\n0\r\n\r\n") {
                match connection.read(&mut piece).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => bytes.extend_from_slice(&piece[..count]),
                }
            }
            let _ = arrived.send(());
            tokio::time::sleep(Duration::from_secs(2)).await;
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let server = format!("https://{}", origin.address);
    let upstream = "response_head: 20s}\n      limits: {concurrent_requests: 2, queue_timeout: 200ms";
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
    let statuses = tokio::join!(known(), chunked(), over_h2(true), over_h2(false), known(), chunked());
    let statuses = <[String; 6]>::from(statuses);
    let good = statuses.iter().filter(|status| *status == "200").count();
    assert_eq!(good, 2, "{statuses:?}");
    assert!(statuses.iter().all(|status| status == "200" || status == "503"), "{statuses:?}");
    let mut whole = 0;
    while arriving.try_recv().is_ok() {
        whole += 1;
    }
    assert_eq!(whole, 2, "iMIS got no more to work on");
}

#[tokio::test]
async fn whoever_waits_for_imis_behind_an_upload_does_not_make_room() {
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, |mut connection| async move {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        while !bytes.ends_with(b"end") {
            match connection.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
            }
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    })
    .await;
    let server = format!("https://{}", origin.address);
    let limits = "limits: {connections: 2, connections_per_address: 100}";
    let proxy = Proxy::with_timeouts(authority, &server, Some(origin), limits, "response_head: 20s");
    let pause = || tokio::time::sleep(Duration::from_millis(100));
    let h1 = async {
        let mut browser = proxy.client.connect("http/1.1").await;
        let head = format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 3\r\n\r\n");
        browser.write_all(head.as_bytes()).await.unwrap();
        pause().await;
        browser.write_all(b"end").await.unwrap();
        let mut status = [0; 12];
        browser.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    };
    let h2 = async {
        let mut browser = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        let post = request("POST", "/", &[("content-length", "3")]);
        browser.send(&frame(HEADERS, END_HEADERS, 1, &post)).await;
        pause().await;
        browser.send(&frame(DATA, END_STREAM, 1, b"end")).await;
        while browser.next().await.expect("it is answered").kind != HEADERS {}
    };
    let others = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        for _ in 0..3 {
            drop(proxy.client.connect_as("http/1.1", SITE).await);
        }
    };
    tokio::join!(h1, h2, others);
}

#[tokio::test]
async fn whoever_does_not_read_or_send_makes_room_for_others() {
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
    let proxy =
        Proxy::to(authority, &server, Some(origin), "limits: {connections: 6, connections_per_address: 100}");
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
    tokio::time::sleep(Duration::from_millis(3500)).await;
    // All the places are held, and nobody has been silent for as long as the gap.
    for alpn in ["http/1.1", "h2"] {
        let status = if alpn == "h2" {
            proxy.client.send_h2(http::Method::GET, "/", &[], "").await.status
        } else {
            proxy.client.get("/", &[]).await.status
        };
        assert_eq!(status, 200, "{alpn}");
    }
}

async fn ask(proxy: &Proxy, count: usize) {
    let mut browser = proxy.client.connect("http/1.1").await;
    let get = format!("GET /{} HTTP/1.1\r\nHost: {SITE}\r\n\r\n", "x".repeat(200));
    for _ in 0..count {
        browser.write_all(get.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            let read = tokio::time::timeout(Duration::from_secs(20), browser.read_buf(&mut answer)).await;
            assert!(read.expect("an answer").unwrap() > 0);
        }
    }
}

#[tokio::test]
async fn nobody_waits_for_whoever_does_not_read_the_log() {
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
async fn a_log_that_nobody_can_read_any_more_stops_nothing() {
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
async fn a_full_disk_under_the_log_stops_nothing() {
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
    let end = Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < end, "it does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let client = crate::support::Client::new(&authority, address);
    let replies = futures_util::future::join_all((0..50).map(|_| client.get("/", &[]))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
}
