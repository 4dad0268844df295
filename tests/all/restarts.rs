//! One process after the other on a socket that stays open, as behind a `.socket` unit of systemd: whoever connects
//! meanwhile waits, and no request is lost.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::gateway::TIMEOUT;
use crate::support::origin::{Connection, Origin, read_request};
use crate::support::{Browser, Client, Gateway, SITE, lay_out_certificates};

const RESTARTS: usize = 50;

/// Answers now and then after a moment, so that there always is something under way.
async fn serve(mut connection: Connection) {
    while let Some(request) = read_request(&mut connection).await {
        if request.contains(" /slow ") {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole";
        if connection.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A client that keeps its connection for as long as it may, and posts on it. None of its requests may be lost: it
/// could not know whether one that was not answered has been carried out.
async fn keeps(client: &Client, over: &AtomicBool, answered: &AtomicUsize) {
    let mut kept: Option<Browser> = None;
    while !over.load(Ordering::Relaxed) {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => within("connecting", client.connect("http/1.1")).await,
        };
        let request = format!("POST /slow HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        while !text.ends_with("whole") {
            text.push(char::from(within("an answer", stream.read_u8()).await.unwrap()));
        }
        answered.fetch_add(1, Ordering::Relaxed);
        if !text.to_lowercase().contains("connection: close") {
            kept = Some(stream);
        }
    }
}

/// Over HTTP/2, with a new connection when the old one says that it ends.
async fn multiplexes(client: &Client, over: &AtomicBool, answered: &AtomicUsize) {
    while !over.load(Ordering::Relaxed) {
        let io = TokioIo::new(within("connecting", client.connect("h2")).await);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
        let (mut sender, connection) = within("the handshake", handshake).await.unwrap();
        tokio::spawn(connection);
        let mut used = false;
        while !over.load(Ordering::Relaxed) && within("the turn", sender.ready()).await.is_ok() {
            let request = Request::get(format!("https://{SITE}/slow")).body(Full::new(Bytes::new())).unwrap();
            let response = match within("the answer", sender.send_request(request)).await {
                Ok(response) => response,
                // It came too late for this connection, and is sent anew by browsers: the peer says which requests were
                // not taken up (RFC 9113 sections 6.8 and 8.7).
                Err(error) if is_not_accepted(&error) || (used && error.is_canceled()) => break,
                Err(error) => panic!("lost: {error:?}"),
            };
            let body = within("the body", response.into_body().collect()).await;
            assert_eq!(body.unwrap().to_bytes(), "whole");
            answered.fetch_add(1, Ordering::Relaxed);
            used = true;
        }
    }
}

/// Nothing here takes longer.
async fn within<T>(what: &str, something: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(TIMEOUT, something).await;
    waited.unwrap_or_else(|_| panic!("{what} does not come"))
}

fn is_not_accepted(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let reason = error.reason();
            return reason == Some(h2::Reason::REFUSED_STREAM)
                || (error.is_go_away() && reason == Some(h2::Reason::NO_ERROR));
        }
        cause = error.source();
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_restarts_behind_a_socket_that_stays_lose_no_request() {
    let authority = Authority::new("test CA");
    let folder = tempfile::tempdir().unwrap();
    lay_out_certificates(&authority, folder.path());
    let origin = Origin::start(&authority, serve).await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let yaml = format!(
        r#"version: 1
listen: {{https: ["{address}"], http: ["127.0.0.1:0"], admin: 127.0.0.1:0, control: control.sock}}
workers: 2
sites:
  - hosts: [{SITE}]
    certificate: {{chain: members.pem, key: members.key}}
    upstream: {{servers: ["https://{}"], ca_file: ca.pem}}
"#,
        origin.address
    );
    std::fs::write(folder.path().join("config.yaml"), yaml).unwrap();
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut gateway = Gateway::start_on(&socket, folder.path());
    assert_eq!(gateway.https, address);
    let mut clients = Vec::new();
    for kind in 0..4 {
        let client = Client::new(&authority, address);
        let (over, answered) = (over.clone(), answered.clone());
        clients.push(tokio::spawn(async move {
            match kind {
                0 => keeps(&client, &over, &answered).await,
                1 => multiplexes(&client, &over, &answered).await,
                _ => {
                    // Each on a connection of its own, of which none may be lost.
                    while !over.load(Ordering::Relaxed) {
                        let path = if kind == 2 { "/" } else { "/slow" };
                        assert_eq!(within("a page", client.get(path, &[])).await.text(), "whole");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }));
    }
    for restart in 0..RESTARTS {
        let before = answered.load(Ordering::Relaxed);
        for _ in 0..2000 {
            if answered.load(Ordering::Relaxed) >= before + 8 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(
            answered.load(Ordering::Relaxed) >= before + 8,
            "nothing is answered after {restart} restarts"
        );
        assert!(clients.iter().all(|client| !client.is_finished()), "a client has lost something");
        gateway.signal("TERM");
        let ended = within("the end", tokio::task::spawn_blocking(move || gateway.wait())).await.unwrap();
        assert_eq!(ended.code(), Some(0), "nothing was cut off");
        let (passed, at) = (socket.try_clone().unwrap(), folder.path().to_owned());
        gateway = tokio::task::spawn_blocking(move || Gateway::start_on(&passed, &at)).await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn a_gateway_without_file_descriptors_still_ends() {
    use crate::support::origin::Proxy;
    if std::process::Command::new("prlimit")
        .arg("--version")
        .stdout(std::process::Stdio::null())
        .status()
        .is_err()
    {
        return crate::support::skip("prlimit (package util-linux)");
    }
    let mut proxy = Proxy::start(serve).await;
    // One that stays, so that there is something to wait for.
    let mut kept = proxy.client.connect("http/1.1").await;
    kept.write_all(format!("GET /slow HTTP/1.1\r\nHost: {SITE}\r\n\r\n").as_bytes()).await.unwrap();
    kept.read_u8().await.unwrap();
    let pid = proxy.gateway.pid().to_string();
    let limited = std::process::Command::new("prlimit").args(["--pid", &pid, "--nofile=5:5"]).status();
    assert!(limited.unwrap().success());
    let mut waiting = Vec::new();
    for _ in 0..60 {
        waiting.push(tokio::net::TcpStream::connect(proxy.gateway.https).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.gateway.signal("TERM");
    let ended = tokio::task::spawn_blocking(move || proxy.gateway.wait());
    let ended = tokio::time::timeout(TIMEOUT, ended).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(0));
}
