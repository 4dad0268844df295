//! Upgrades: only to WebSocket and only if iMIS agrees; then bytes pass both ways.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::support::SITE;
use crate::support::origin::{Connection, Origin, Proxy, read_request};

const ASK: &str = "GET /chat?room=1 HTTP/1.1\r\nHost: members.example.org\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// What iMIS says to it.
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// Reads up to the end of a head.
async fn head<R: AsyncReadExt + Unpin>(stream: &mut R) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

/// Agrees and echoes.
async fn echo(mut connection: Connection) {
    let Some(request) = read_request(&mut connection).await else { return };
    let request = request.to_lowercase();
    assert!(request.contains("upgrade: websocket") && request.contains("connection: upgrade"), "{request}");
    assert!(request.contains("sec-websocket-key: dghlihnhbxbszsbub25jzq=="));
    let agreed = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    connection.write_all(agreed.as_bytes()).await.unwrap();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = connection.read(&mut buffer).await {
        connection.write_all(&buffer[..count]).await.unwrap();
    }
}

#[tokio::test]
async fn a_websocket_passes_bytes_both_ways() {
    let proxy = Proxy::start(echo).await;
    let mut browser = proxy.client.connect("http/1.1").await;
    browser.write_all(ASK.as_bytes()).await.unwrap();
    let head = head(&mut browser).await.to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(
        head.contains("upgrade: websocket")
            && head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=")
    );
    for message in [&b"\x81\x05hello"[..], b"\x82\x7e\x01\x00", &[7; 256], b"\x88\x02\x03\xe8"] {
        browser.write_all(message).await.unwrap();
        let mut back = vec![0; message.len()];
        browser.read_exact(&mut back).await.unwrap();
        assert_eq!(back, message);
    }
}

#[tokio::test]
async fn after_the_drain_timeout_both_sides_get_a_close_frame_between_frames() {
    let authority = Authority::new("test CA");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let drain_is_over = Arc::new(Semaphore::new(0));
    let (kept, may_go_on) = (seen.clone(), drain_is_over.clone());
    let origin = Origin::start(&authority, move |mut connection| {
        let (kept, may_go_on) = (kept.clone(), may_go_on.clone());
        async move {
            let _ = read_request(&mut connection).await;
            connection.write_all(AGREED.as_bytes()).await.unwrap();
            // A frame of ten bytes, five of them after the drain timeout.
            connection.write_all(b"\x82\x0ahalf ").await.unwrap();
            let _permit = may_go_on.acquire().await;
            connection.write_all(b"whole\x82\x05never").await.unwrap();
            let mut bytes = Vec::new();
            let _ = connection.read_to_end(&mut bytes).await;
            kept.lock().unwrap().extend(bytes);
        }
    })
    .await;
    let server = format!("https://{}", origin.address);
    let mut proxy = Proxy::to(authority, &server, Some(origin), "timeouts: {drain: 300ms}");
    let mut browser = proxy.client.connect("http/1.1").await;
    browser.write_all(ASK.as_bytes()).await.unwrap();
    assert!(head(&mut browser).await.starts_with("HTTP/1.1 101"));
    proxy.gateway.signal("TERM");
    proxy.gateway.logged(|line| line["signal"] == "SIGTERM").await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    drain_is_over.add_permits(1);
    let mut frames = [0; 16];
    browser.read_exact(&mut frames).await.unwrap();
    assert_eq!(&frames[..12], b"\x82\x0ahalf whole");
    assert_eq!(&frames[12..], [0x88, 2, 3, 0xe9], "1001, going away");
    // A client answers with a close frame of its own, masked.
    browser.write_all(&[0x88, 0x82, 0, 0, 0, 0, 3, 0xe9]).await.unwrap();
    let mut rest = Vec::new();
    browser.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
    assert_eq!(proxy.gateway.wait().code(), Some(0), "closed, not cut");
    for _ in 0..500 {
        // The process has ended; what it sent is still to arrive.
        if !seen.lock().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seen = seen.lock().unwrap();
    let [0x88, 0x82, a, b, _, _, code, rest] = seen[..] else { panic!("iMIS got {seen:?}") };
    assert_eq!([code ^ a, rest ^ b], [3, 0xe9]);
}

#[tokio::test]
async fn a_websocket_in_an_endless_frame_is_cut_and_that_is_logged() {
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, |mut connection| async move {
        let _ = read_request(&mut connection).await;
        connection.write_all(AGREED.as_bytes()).await.unwrap();
        connection.write_all(b"\x82\x0ahalf").await.unwrap();
        let _ = connection.read_u8().await;
    })
    .await;
    let server = format!("https://{}", origin.address);
    let mut proxy = Proxy::to(authority, &server, Some(origin), "timeouts: {drain: 1s}");
    let mut browser = proxy.client.connect("http/1.1").await;
    browser.write_all(ASK.as_bytes()).await.unwrap();
    assert!(head(&mut browser).await.starts_with("HTTP/1.1 101"));
    proxy.gateway.signal("TERM");
    assert_eq!(proxy.gateway.wait().code(), Some(3));
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let (proxy, heads) = Proxy::answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let mut browser = proxy.client.connect("http/1.1").await;
    browser.write_all(ASK.as_bytes()).await.unwrap();
    let head = head(&mut browser).await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert_eq!(heads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn other_protocols_are_not_upgraded_to() {
    let (proxy, heads) = Proxy::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let reply = proxy
        .client
        .get(
            "/",
            &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")],
        )
        .await;
    assert_eq!(reply.status, 200);
    let head = heads.lock().unwrap()[0].to_lowercase();
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
    assert!(head.contains(&format!("host: {SITE}")));
}

#[tokio::test]
async fn a_switch_to_another_protocol_than_asked_for_is_a_502() {
    let (proxy, _) =
        Proxy::answering(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n")
            .await;
    let mut browser = proxy.client.connect("http/1.1").await;
    browser.write_all(ASK.as_bytes()).await.unwrap();
    let head = head(&mut browser).await;
    assert!(head.starts_with("HTTP/1.1 502"), "{head}");
}

#[tokio::test]
async fn a_websocket_client_that_does_not_read_is_closed_and_a_silent_one_is_not() {
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, |mut connection| async move {
        let request = read_request(&mut connection).await.unwrap_or_default();
        let _ = connection.write_all(AGREED.as_bytes()).await;
        if request.contains("room=1") {
            while connection.write_all(&[7; 16 * 1024]).await.is_ok() {}
        } else {
            let _ = connection.read_u8().await;
            let _ = connection.write_all(b"!").await;
        }
    })
    .await;
    let server = format!("https://{}", origin.address);
    let proxy =
        Proxy::with_timeouts(authority, &server, Some(origin), "timeouts: {body_idle: 1s}", "body_idle: 60s");
    let mut silent = proxy.client.connect("http/1.1").await;
    silent.write_all(ASK.replace("room=1", "room=2").as_bytes()).await.unwrap();
    assert!(head(&mut silent).await.starts_with("HTTP/1.1 101"));
    let mut deaf = proxy.client.connect("http/1.1").await;
    deaf.write_all(ASK.as_bytes()).await.unwrap();
    proxy.gateway.logged(|line| line["error"] == "the browser takes nothing").await;
    // The other has been silent for longer than this one was given.
    silent.write_all(b"?").await.unwrap();
    assert_eq!(silent.read_u8().await.unwrap(), b'!');
}
