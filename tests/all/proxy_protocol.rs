//! A load balancer's word, before TLS, on whose connection it is.

use std::io::ErrorKind;

use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::SITE;
use crate::support::origin::Proxy;

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\r\n";
const TRUSTED: &str = "trusted_proxies: [127.0.0.0/8]\nproxy_protocol: true";

/// Version 2, IPv6, with something of the load balancer's own behind the addresses.
fn binary() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x2b".to_vec();
    header.extend("2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
    header.extend([0; 16]);
    header.extend([1, 2, 3, 4, 0xe0, 0, 4, 1, 2, 3, 4]);
    header
}

/// The status of a request on a connection that begins with these pieces; none when there was no TLS to be had.
async fn status(proxy: &Proxy, pieces: &[&[u8]]) -> Option<String> {
    let mut stream = TcpStream::connect(proxy.gateway.https).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        stream.write_all(piece).await.ok()?;
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    let mut tls = proxy.client.over(stream, "http/1.1").await.ok()?;
    let request = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    match tls.read_to_end(&mut answer).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof),
    }
    Some(String::from_utf8_lossy(&answer).split(' ').nth(1)?.to_owned())
}

async fn client_of_last_request(proxy: &Proxy) -> String {
    let line = proxy.gateway.logged(|line| line["message"] == "request").await;
    line["client"].as_str().unwrap().to_owned()
}

/// Nothing stands behind it: a request of whoever is let in is answered with 502.
fn proxy(more: &str) -> Proxy {
    Proxy::to(Authority::new("test CA"), "https://127.0.0.1:1", None, more)
}

#[tokio::test]
async fn a_trusted_proxy_header_sets_the_client_address() {
    for (header, client) in [(LINE.to_vec(), "192.0.2.7"), (binary(), "2001:db8::7")] {
        let proxy = proxy(TRUSTED);
        assert_eq!(status(&proxy, &[&header]).await.as_deref(), Some("502"));
        assert_eq!(client_of_last_request(&proxy).await, client);
    }
    let proxy = proxy(TRUSTED);
    let (first, rest) = LINE.split_at(9);
    let (second, third) = rest.split_at(20);
    assert_eq!(status(&proxy, &[first, second, third]).await.as_deref(), Some("502"), "in pieces");
    assert_eq!(client_of_last_request(&proxy).await, "192.0.2.7");
}

#[tokio::test]
async fn a_local_proxy_header_keeps_the_address_of_the_proxy() {
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let proxy = proxy(TRUSTED);
        assert_eq!(status(&proxy, &[header]).await.as_deref(), Some("502"));
        assert_eq!(client_of_last_request(&proxy).await, "127.0.0.1");
    }
}

#[tokio::test]
async fn a_connection_of_a_trusted_proxy_without_the_header_is_closed_and_logged() {
    let proxy = proxy(TRUSTED);
    for header in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 not an address\r\n"] {
        assert_eq!(status(&proxy, &[header]).await, None, "{}", String::from_utf8_lossy(header));
    }
    let closed = |line: &serde_json::Value| line["message"] == "closed the connection of a trusted proxy";
    proxy.gateway.logged_times(3, closed).await;
    // The other listener, and a visitor who is not signed in to anything.
    let mut stream = TcpStream::connect(proxy.gateway.http).await.unwrap();
    stream
        .write_all(&[LINE, format!("GET /a HTTP/1.1\r\nHost: {SITE}\r\n\r\n").as_bytes()].concat())
        .await
        .unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 308");
}

#[tokio::test]
async fn a_proxy_header_of_an_untrusted_client_is_not_read() {
    for more in ["trusted_proxies: [192.0.2.1]\nproxy_protocol: true", "trusted_proxies: [127.0.0.0/8]"] {
        let proxy = proxy(more);
        assert_eq!(status(&proxy, &[]).await.as_deref(), Some("502"), "{more}");
        assert_eq!(client_of_last_request(&proxy).await, "127.0.0.1");
        assert_eq!(status(&proxy, &[LINE]).await, None, "{more}");
        assert_eq!(status(&proxy, &[&binary()]).await, None, "{more}");
    }
}

#[tokio::test]
async fn connection_limits_count_the_clients_behind_a_proxy() {
    let proxy = proxy(&format!("{TRUSTED}\nlimits: {{connections: 10, connections_per_address: 2}}"));
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(proxy.gateway.https).await.unwrap();
        stream.write_all(LINE).await.unwrap();
        held.push(proxy.client.over(stream, "http/1.1").await.unwrap());
    }
    assert_eq!(status(&proxy, &[LINE]).await, None, "a third of the same visitor");
    assert_eq!(status(&proxy, &[&binary()]).await.as_deref(), Some("502"), "another one");
    drop(held);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(status(&proxy, &[LINE]).await.as_deref(), Some("502"), "they have left");
}
