//! NTLM and Negotiate sign a connection in, not a request: such a connection serves one client only and ends with it.

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::proxying::read_until;
use crate::support::SITE;
use crate::support::gateway::TIMEOUT;
use crate::support::origin::{Connection, Proxy, read_request};

#[tokio::test]
async fn windows_authentication_survives_a_reload_that_leaves_the_servers_unchanged() {
    let proxy = Proxy::start(|mut connection: Connection| async move {
        let mut signed_in = false;
        while let Some(request) = read_request(&mut connection).await {
            signed_in |= request.to_lowercase().contains("authorization: ntlm");
            let answer: &[u8] = if signed_in {
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nmine!"
            } else {
                b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 5\r\n\r\nwho??"
            };
            if connection.write_all(answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let mut browser = proxy.client.connect("http/1.1").await;
    let mut ask = async |more: &str| {
        browser.write_all(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n{more}\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        while !(text.ends_with("mine!") || text.ends_with("who??")) {
            text.push(char::from(browser.read_u8().await.unwrap()));
        }
        text.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(ask("").await, "401");
    assert_eq!(ask("Authorization: NTLM TlRMTVNTUAADAAAA\r\n").await, "200");
    proxy.reload("workers: 1", "workers: 1\n# only a comment").await;
    assert_eq!(ask("").await, "200");
    proxy.reload("idle: 60s", "idle: 50s").await;
    assert_eq!(ask("").await, "401", "to servers that are used in another way it goes anew");
}

/// An upstream that asks for NTLM and then takes the connection for the person's.
async fn signs_connections_in(mut connection: Connection) {
    let mut person = "nobody".to_owned();
    while let Some(request) = read_request(&mut connection).await {
        if let Some(name) = request
            .split("Authorization: NTLM ")
            .nth(1)
            .or_else(|| request.split("authorization: NTLM ").nth(1))
        {
            name.lines().next().unwrap().clone_into(&mut person);
        }
        let (status, challenge) = match person.as_str() {
            "nobody" if request.contains("/staff") => ("401 Unauthorized", "WWW-Authenticate: NTLM\r\n"),
            _ => ("200 OK", ""),
        };
        let answer =
            format!("HTTP/1.1 {status}\r\n{challenge}Content-Length: {}\r\n\r\n{person}", person.len());
        if connection.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_connection_signed_in_by_windows_authentication_serves_only_its_client() {
    let proxy = Proxy::start(signs_connections_in).await;
    let mut ann = proxy.client.connect("http/1.1").await;
    let ask = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\n{more}\r\n");
    for (request, answer) in [
        (ask("/staff", ""), "nobody"),
        (ask("/staff", "Authorization: NTLM ann\r\n"), "ann"),
        (ask("/staff", ""), "ann"),
    ] {
        ann.write_all(request.as_bytes()).await.unwrap();
        let reply = read_until(&mut ann, answer).await;
        assert!(answer != "nobody" || reply.contains("WWW-Authenticate: NTLM"), "{reply}");
    }
    for _ in 0..3 {
        assert_eq!(proxy.client.get("/", &[]).await.text(), "nobody", "while Ann's connection is open");
        assert_eq!(proxy.client.send_h2(Method::GET, "/", &[], "").await.text(), "nobody");
    }
    drop(ann);
    for _ in 0..3 {
        assert_eq!(proxy.client.get("/", &[]).await.text(), "nobody", "and when it is closed");
    }
    // A client that signs in without being asked, over HTTP/2 (which has no connection of its own to keep it in), too.
    assert_eq!(
        proxy.client.send_h2(Method::GET, "/", &[("authorization", "NTLM bob")], "").await.text(),
        "bob"
    );
    for _ in 0..3 {
        assert_eq!(proxy.client.get("/", &[]).await.text(), "nobody");
    }
}

#[tokio::test]
async fn a_signed_in_connection_is_closed_with_its_client() {
    let (closed, mut closing) = tokio::sync::mpsc::unbounded_channel();
    let proxy = Proxy::start(move |connection| {
        let closed = closed.clone();
        async move {
            signs_connections_in(connection).await;
            let _ = closed.send(());
        }
    })
    .await;
    let mut ann = proxy.client.connect("http/1.1").await;
    let request = format!("GET /staff HTTP/1.1\r\nHost: {SITE}\r\nAuthorization: Negotiate ann\r\n\r\n");
    ann.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut ann, "nobody").await;
    assert!(closing.try_recv().is_err(), "as long as she stays");
    drop(ann);
    tokio::time::timeout(TIMEOUT, closing.recv()).await.unwrap();
}
