//! Signals: SIGTERM and SIGINT drain and end the process; SIGHUP reloads; the others end nothing.

use std::time::Duration;

use imis_gateway_simulators::imis::{Faults, Generation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::gateway::TIMEOUT;
use crate::support::origin::{Proxy, read_request};
use crate::support::{Setup, Stage};

/// A stage with a request under way that iMIS has not answered yet.
async fn with_a_request_under_way(delay: Duration) -> (Stage, tokio::task::JoinHandle<http::StatusCode>) {
    let stage = Stage::new().await;
    stage.imis.set_faults(Faults { delay: Some(delay), ..Faults::default() });
    let client = stage.client();
    let request = tokio::spawn(async move { client.get("/Default.aspx", &[]).await.status });
    while stage.imis.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    (stage, request)
}

#[tokio::test]
async fn a_signal_lets_requests_finish_and_ends_cleanly() {
    for signal in ["TERM", "INT"] {
        let (mut stage, request) = with_a_request_under_way(Duration::from_millis(500)).await;
        stage.gateway.signal(signal);
        assert_eq!(request.await.unwrap(), 200, "the request under way was answered");
        let status = tokio::task::spawn_blocking(move || stage.gateway.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

#[tokio::test]
async fn a_second_signal_cuts_off_and_says_so() {
    let (mut stage, request) = with_a_request_under_way(Duration::from_secs(60)).await;
    stage.gateway.signal("TERM");
    stage.gateway.logged(|line| line["signal"] == "SIGTERM").await;
    stage.gateway.signal("TERM");
    let status = tokio::task::spawn_blocking(move || stage.gateway.wait()).await.unwrap();
    assert_eq!(status.code(), Some(3));
    request.abort();
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_an_answer_that_was_under_way() {
    const LENGTH: usize = 3 * 1024 * 1024;
    let mut proxy = Proxy::start(|mut connection| async move {
        let _ = read_request(&mut connection).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        let _ = connection.write_all(head.as_bytes()).await;
        let _ = connection.write_all(&vec![b'x'; LENGTH]).await;
        let _ = connection.flush().await;
        let _ = connection.read_u8().await;
    })
    .await;
    let mut idle = proxy.client.connect("http/1.1").await;
    let mut browser = proxy.client.connect("http/1.1").await;
    browser.write_all(b"GET / HTTP/1.1\r\nHost: members.example.org\r\n\r\n").await.unwrap();
    let mut bytes = vec![0; 1024];
    browser.read_exact(&mut bytes).await.unwrap();
    proxy.gateway.signal("TERM");
    proxy.gateway.logged(|line| line["signal"] == "SIGTERM").await;
    // Idle connections are closed, and the time in which a closed one may linger passes, too.
    idle.read_to_end(&mut Vec::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    browser.read_to_end(&mut bytes).await.unwrap();
    let body = bytes.iter().filter(|byte| **byte == b'x').count();
    assert!(body >= LENGTH, "{body} of {LENGTH}");
    let status = tokio::task::spawn_blocking(move || proxy.gateway.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

/// Clients that post on their kept-alive connections just when the gateway is asked to stop.
#[tokio::test]
async fn a_request_on_an_idle_connection_is_answered_during_the_drain() {
    let received = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let shared = received.clone();
    let mut proxy = Proxy::start(move |mut connection| {
        let received = shared.clone();
        async move {
            while let Some(request) = read_request(&mut connection).await {
                if request.starts_with("POST /second") {
                    received.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole").await.unwrap();
            }
        }
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = proxy.client.connect("http/1.1").await;
        let request = b"POST /first HTTP/1.1\r\nHost: members.example.org\r\nContent-Length: 1\r\n\r\nx";
        client.write_all(request).await.unwrap();
        read_until(&mut client, "whole").await;
        clients.push(client);
    }
    proxy.gateway.signal("TERM");
    proxy.gateway.logged(|line| line["signal"] == "SIGTERM").await;
    for client in &mut clients {
        let request = b"POST /second HTTP/1.1\r\nHost: members.example.org\r\nContent-Length: 1\r\n\r\nx";
        client.write_all(request).await.unwrap();
    }
    for client in &mut clients {
        let answer = read_until(client, "whole").await.to_lowercase();
        assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
        client.read_to_end(&mut Vec::new()).await.unwrap();
    }
    assert_eq!(received.load(std::sync::atomic::Ordering::Relaxed), 40);
    let status = tokio::task::spawn_blocking(move || proxy.gateway.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

/// What is received up to and with this text.
async fn read_until(client: &mut crate::support::Browser, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(char::from(client.read_u8().await.unwrap()));
    }
    text
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_end() {
    let setup = Setup::new(Generation::Ems).edit("workers: 2", "workers: 2\ntimeouts: {drain: 300s}");
    let mut stage = Stage::with(setup).await;
    let mut silent = stage.client().connect("h2").await;
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    let _half_a_head = {
        let mut connection = stage.client().connect("http/1.1").await;
        connection.write_all(b"GET / HT").await.unwrap();
        connection
    };
    let _not_even_tls = tokio::net::TcpStream::connect(stage.gateway.https).await.unwrap();
    let mut begins_late = stage.client().connect("http/1.1").await;
    let started = std::time::Instant::now();
    stage.gateway.signal("TERM");
    stage.gateway.logged(|line| line["signal"] == "SIGTERM").await;
    // Once the connection has heard of the end.
    tokio::time::sleep(Duration::from_millis(500)).await;
    begins_late.write_all(b"GET / HT").await.unwrap();
    let status = tokio::task::spawn_blocking(move || stage.gateway.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0), "nothing was under way");
    assert!(started.elapsed() < TIMEOUT, "{:?}", started.elapsed());
}

#[tokio::test]
async fn signals_that_other_servers_use_do_not_end_the_process() {
    let stage = Stage::new().await;
    for signal in ["USR1", "USR2"] {
        stage.gateway.signal(signal);
    }
    stage
        .gateway
        .logged(|line| {
            line["message"].as_str().is_some_and(|text| text.starts_with("SIGUSR1 and SIGUSR2 are ignored"))
        })
        .await;
    assert_eq!(stage.client().get("/Default.aspx", &[]).await.status, 200);
}

#[tokio::test]
async fn a_hangup_during_the_start_does_not_end_the_process() {
    let stage = Stage::new().await;
    let text = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    std::fs::write(
        stage.folder().join("config.yaml"),
        text.replace("control: control.sock", "control: null"),
    )
    .unwrap();
    for delay in [0, 1, 2, 4, 8, 12, 16, 24] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_imis-gateway"))
            .args(["run", "--config"])
            .arg(stage.folder().join("config.yaml"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Before the process has a handler, a hang-up ends any process.
        let status = format!("/proc/{}/status", child.id());
        let handles_hangups = || {
            let status = std::fs::read_to_string(&status).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
            u64::from_str_radix(caught, 16).unwrap() & 1 == 1
        };
        let end = std::time::Instant::now() + TIMEOUT;
        while !handles_hangups() {
            assert!(std::time::Instant::now() < end && child.try_wait().unwrap().is_none());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let signal = |name: &str| {
            let sent =
                std::process::Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
            assert!(sent.unwrap().success());
        };
        signal("HUP");
        tokio::time::sleep(Duration::from_millis(300)).await;
        signal("TERM");
        assert_eq!(child.wait().unwrap().code(), Some(0), "a hang-up after {delay} ms");
    }
}
