//! What happens when something runs out: places at iMIS, the reader of the log, the file descriptors. The process lives, and
//! recovers.

use std::time::{Duration, Instant};

use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::SITE;
use crate::support::origin::{Connection, Origin, Proxy, read_request};

async fn slow(mut connection: Connection) {
    while read_request(&mut connection).await.is_some() {
        tokio::time::sleep(Duration::from_secs(1)).await;
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
    let upstream = "response_head: 20s}\n      limits: {requests: 4, wait: 200ms";
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
        assert!(*took < Duration::from_millis(900), "{took:?}");
    }
    assert_eq!(proxy.client.get("/", &[]).await.status, 200, "and then there are places again");
}

/// Sends so many requests over one connection and expects an answer to each.
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
    assert!(line["lines"].as_u64().unwrap() > 0);
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
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
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
