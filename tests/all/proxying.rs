//! Everything that is not ours goes through, unchanged but for what the documentation names.

use std::time::Duration;

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::gateway::TIMEOUT;
use crate::support::origin::{Proxy, read_request};
use imis_gateway_simulators::imis::Generation;

use crate::support::{Client, SITE, Setup, Stage};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn request_targets_arrive_byte_for_byte() {
    let (proxy, heads) = Proxy::answering(OK).await;
    for target in [
        "/",
        "/iMIS//SessionInfo/GetSessionInfoFromCookie",
        "/iMIS/(S(abc))/Default.aspx",
        "/a%2fb/%2e%2e/c/../d/./e",
        "/api/query?QueryName=$/Folder/My%20Query&x=a+b",
        "/ScriptResource.axd?d=AbC-_1&t=ffffffff",
        "/Mixed/CASE.aspx?A=b&a=B&&=",
        "/x?y=http://z/?q=%C3%A9",
        "/%E2%98%83;p=1,2:3@4!'()*~",
        "/a?b?c/../d",
    ] {
        for h2 in [false, true] {
            let reply = match h2 {
                true => proxy.client.send_h2(Method::GET, target, &[], "").await,
                false => proxy.client.get(target, &[]).await,
            };
            assert_eq!(reply.status, 200, "{target}");
            let head = heads.lock().unwrap().pop().unwrap();
            assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{target}: {head}");
        }
    }
}

#[tokio::test]
async fn the_clients_forwarding_and_hop_by_hop_headers_stop_here() {
    let (proxy, heads) = Proxy::answering(OK).await;
    let sent = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X_Forwarded_For", "6.6.6.6"),
        ("x-forwarded-proto", "http"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-Original-URL", "/evil-6.6.6.6"),
        ("X-Rewrite-URL", "/evil-6.6.6.6"),
        ("X-Request-Id", "evil-6.6.6.6"),
        ("Connection", "x-hop"),
        ("Connection", "X-Hop-Too"),
        ("X-Hop", "6.6.6.6"),
        ("X-Hop-Too", "6.6.6.6"),
        ("Keep-Alive", "timeout=6.6.6.6"),
        ("TE", "trailers"),
        ("X-Kept", "one"),
        ("X-Kept", "two"),
        ("X-MicrosoftAjax", "Delta=true"),
    ];
    proxy.client.get("/", &sent).await;
    let head = heads.lock().unwrap()[0].clone();
    assert!(!head.contains("6.6.6.6"), "{head}");
    let lower = head.to_lowercase();
    for line in [
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: https",
        "x-forwarded-host: members.example.org",
        "host: members.example.org",
    ] {
        let line = format!("\r\n{line}\r\n");
        assert_eq!(lower.matches(&line).count(), 1, "{line} in {head}");
    }
    assert_eq!(lower.matches("\r\nx-request-id: ").count(), 1);
    assert!(lower.contains("x-kept: one\r\n") && lower.contains("x-kept: two\r\n"), "{head}");
    assert!(lower.contains("x-microsoftajax: delta=true\r\n"));
    for gone in ["\r\nvia:", "\r\nte:", "\r\nkeep-alive:", "\r\nconnection:", "\r\nforwarded:"] {
        assert!(!lower.contains(gone), "{gone} in {head}");
    }
}

#[tokio::test]
async fn headers_of_a_trusted_proxy_are_extended() {
    let heads = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let authority = imis_gateway_simulators::certificates::Authority::new("test CA");
    let shared = heads.clone();
    let origin = crate::support::origin::Origin::start(&authority, move |mut connection| {
        let heads = shared.clone();
        async move {
            while let Some(request) = read_request(&mut connection).await {
                heads.lock().unwrap().push(request);
                connection.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    let server = format!("https://{}", origin.address);
    let proxy = Proxy::to(authority, &server, Some(origin), "trusted_proxies: [127.0.0.0/8]");
    // What is left of the visitor's address, the visitor may have written.
    for (number, (header, chain)) in [
        ("x-forwarded-for: 6.6.6.6, 192.0.2.7, 127.0.0.9", "192.0.2.7, 127.0.0.9"),
        ("x-forwarded-for: 203.0.113.7:51008", "203.0.113.7"),
        ("x-forwarded-for: 198.51.100.9, 203.0.113.7:443", "203.0.113.7"),
        ("x-forwarded-for: 203.0.113.7:51008, 127.0.0.1", "203.0.113.7, 127.0.0.1"),
        ("x-forwarded-for: [2001:db8::1]:4711", "2001:db8::1"),
        ("x-forwarded-for: 2001:db8::1", "2001:db8::1"),
        ("forwarded: for=\"203.0.113.7:51008\";ext=\"a, for=6.6.6.6\"", "203.0.113.7"),
    ]
    .into_iter()
    .enumerate()
    {
        proxy.client.get(&format!("/{number}"), &[header.split_once(": ").unwrap()]).await;
        let head = heads.lock().unwrap().pop().unwrap().to_lowercase();
        let expected = format!("x-forwarded-for: {chain}, 127.0.0.1\r\n");
        assert!(head.contains(&expected), "{header}: {head}");
        let line = proxy.gateway.logged(|line| line["path"] == format!("/{number}")).await;
        assert_eq!(line["client"], chain.split(',').next().unwrap(), "{header}");
    }
}

#[tokio::test]
async fn a_connection_header_cannot_take_the_cookie_away() {
    let (proxy, heads) = Proxy::answering(OK).await;
    for name in ["cookie", "Host", "authorization"] {
        let fields = [("connection", name), ("cookie", "a=b"), ("authorization", "Basic eDp5")];
        assert_eq!(proxy.client.get("/", &fields).await.status, 200, "{name}");
        let head = heads.lock().unwrap().pop().unwrap().to_lowercase();
        for kept in ["\r\ncookie: a=b\r\n", "\r\nhost: members.example.org\r\n", "\r\nauthorization: basic"] {
            assert!(head.contains(kept), "{name}: {head}");
        }
        assert!(!head.contains("\r\nconnection:"), "{head}");
    }
}

#[tokio::test]
async fn a_host_may_end_with_a_dot() {
    let (proxy, heads) = Proxy::answering(OK).await;
    let host = format!("{SITE}.");
    assert_eq!(proxy.client.get("/", &[("host", &host)]).await.status, 200);
    assert!(heads.lock().unwrap()[0].to_lowercase().contains(&format!("\r\nhost: {host}\r\n")), "unchanged");
    let answer =
        plain(&proxy.gateway, &format!("GET /a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
    assert!(answer.to_lowercase().contains(&format!("location: https://{SITE}/a\r\n")), "{answer}");
    assert_eq!(proxy.client.get("/", &[("host", &format!("{host}."))]).await.status, 421);
}

/// What the plain port answers.
async fn plain(gateway: &crate::support::Gateway, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(gateway.http).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn hsts_is_added_where_imis_does_not_say_it() {
    let hosts = format!("  - hosts: [{SITE}, www.example.org]\n");
    let setup = Setup::new(Generation::Ems).edit(&hosts, &format!("{hosts}    hsts: 31536000\n"));
    let stage = Stage::with(setup).await;
    let client = stage.client();
    for path in ["/Default.aspx", "/sso/zendesk", "/sso/zendesk/signed-out", "/sso%2fzendesk"] {
        assert_eq!(
            client.get(path, &[]).await.header("strict-transport-security"),
            "max-age=31536000",
            "{path}"
        );
        let reply = client.send_h2(Method::GET, path, &[], "").await;
        assert_eq!(reply.header("strict-transport-security"), "max-age=31536000", "{path} over HTTP/2");
    }
    let request = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
    assert!(
        !plain(&stage.gateway, &request).await.to_lowercase().contains("strict-transport"),
        "RFC 6797 section 7.2"
    );

    let own = b"HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 2\r\n\r\nok";
    let (proxy, _) = Proxy::answering(own).await;
    proxy.reload(&hosts, &format!("{hosts}    hsts: 2\n")).await;
    for reply in [proxy.client.get("/", &[]).await, proxy.client.send_h2(Method::GET, "/", &[], "").await] {
        let all: Vec<_> = reply.headers.get_all("strict-transport-security").iter().collect();
        assert_eq!(all, ["max-age=1"]);
    }
}

#[tokio::test]
async fn cookie_crumbs_of_http_2_arrive_as_one_header() {
    let (proxy, heads) = Proxy::answering(OK).await;
    proxy
        .client
        .send_h2(Method::GET, "/", &[("cookie", "a=1"), ("cookie", "Login=x"), ("cookie", "a=2")], "")
        .await;
    let head = heads.lock().unwrap()[0].to_lowercase();
    assert_eq!(head.matches("\r\ncookie: ").count(), 1, "{head}");
    assert!(head.contains("\r\ncookie: a=1; login=x; a=2\r\n"), "{head}");
    assert!(head.contains("\r\nhost: members.example.org\r\n"));
}

#[tokio::test]
async fn bodies_have_one_framing() {
    let (proxy, heads) = Proxy::answering(OK).await;
    proxy.client.send(Method::POST, "/a", &[], "hello").await;
    proxy.client.send_h2(Method::POST, "/a", &[], "hello").await;
    proxy.client.send(Method::POST, "/empty", &[("content-length", "0")], "").await;
    for (request, length) in heads.lock().unwrap().iter().zip([5, 5, 0]) {
        let lower = request.to_lowercase();
        assert_eq!(lower.matches(&format!("content-length: {length}\r\n")).count(), 1, "{request}");
        assert!(!lower.contains("transfer-encoding"), "{request}");
        assert!(request.ends_with(if length == 5 { "\r\n\r\nhello" } else { "\r\n\r\n" }), "{request}");
    }
    heads.lock().unwrap().clear();

    let mut browser = proxy.client.connect("http/1.1").await;
    let chunked = format!(
        "POST /b HTTP/1.1\r\nHost: {SITE}\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"
    );
    browser.write_all(chunked.as_bytes()).await.unwrap();
    read_until(&mut browser, "ok").await;
    let head = heads.lock().unwrap()[0].to_lowercase();
    assert_eq!(head.matches("transfer-encoding: chunked\r\n").count(), 1, "{head}");
    assert!(!head.contains("content-length") && !head.contains("x-t"), "{head}");
    assert!(head.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{head}");
}

pub(crate) async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).ends_with(end) {
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn response_heads_pass_untouched_but_for_hop_by_hop() {
    let answer = b"HTTP/1.1 299 Something Odd\r\nDate: Wed, 25 Nov 2026 02:00:00 GMT\r\nServer: Microsoft-IIS/10.0\r\nX-Powered-By: ASP.NET\r\nSet-Cookie: a=1; path=/\r\n\
        Set-Cookie: Login=x; HttpOnly\r\nETag: W/\"1\"\r\nCache-Control: private\r\nWWW-Authenticate: Negotiate\r\nX-Hop: 1\r\n\
        Connection: x-hop\r\nKeep-Alive: timeout=5\r\nContent-Disposition: attachment; filename=\"\xe9.pdf\"\r\nContent-Length: 2\r\n\r\nok";
    let (proxy, _) = Proxy::answering(answer).await;
    let mut browser = proxy.client.connect("http/1.1").await;
    browser.write_all(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\nok") {
        bytes.push(browser.read_u8().await.unwrap());
    }
    let expected = b"HTTP/1.1 299 Something Odd\r\nDate: Wed, 25 Nov 2026 02:00:00 GMT\r\nServer: Microsoft-IIS/10.0\r\nX-Powered-By: ASP.NET\r\nSet-Cookie: a=1; path=/\r\n\
        Set-Cookie: Login=x; HttpOnly\r\nETag: W/\"1\"\r\nCache-Control: private\r\nWWW-Authenticate: Negotiate\r\n\
        Content-Disposition: attachment; filename=\"\xe9.pdf\"\r\nContent-Length: 2\r\n\r\nok";
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(shown(&bytes), shown(expected));
}

#[tokio::test]
async fn how_far_an_options_goes_is_counted_and_at_its_end_answered_here() {
    let (proxy, heads) = Proxy::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    for (hops, seen) in [("0", None), ("1", Some("max-forwards: 0\r\n")), ("10", Some("max-forwards: 9\r\n"))]
    {
        for h2 in [false, true] {
            heads.lock().unwrap().clear();
            let fields = [("max-forwards", hops)];
            let reply = if h2 {
                proxy.client.send_h2(Method::OPTIONS, "/a", &fields, "").await
            } else {
                proxy.client.send(Method::OPTIONS, "/a", &fields, "").await
            };
            let heads = heads.lock().unwrap().join("").to_lowercase();
            match seen {
                None => {
                    assert_eq!((reply.status.as_u16(), &*heads), (204, ""));
                    assert!(reply.header("allow").contains("OPTIONS"));
                }
                Some(seen) => {
                    assert!(heads.contains(seen) && heads.matches("max-forwards").count() == 1, "{heads}")
                }
            }
        }
    }
}

#[tokio::test]
async fn tunnels_and_echoes_are_refused_and_nothing_behind_them_is_read() {
    let (proxy, heads) = Proxy::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    for line in ["CONNECT evil.example:443", "CONNECT /", "TRACE /", "TRACE *"] {
        let mut browser = proxy.client.connect("http/1.1").await;
        let behind = format!("GET /smuggled HTTP/1.1\r\nHost: {SITE}\r\n\r\n");
        let request = format!("{line} HTTP/1.1\r\nHost: {SITE}\r\n\r\n{behind}");
        browser.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = browser.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 501 ") && answer.matches("HTTP/1.1").count() == 1, "{answer}");
        assert!(answer.contains("Connection: close\r\n"), "{answer}");
    }
    assert_eq!(*heads.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_head_that_is_malformed_gets_no_body() {
    let (proxy, _) = Proxy::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    for rest in ["HTTP/1.2\r\nHost: x", "HTTP/1.1\r\nHost: x\r\n fold", "HTTP/1.1\r\nX: \u{1}"] {
        let mut browser = proxy.client.connect("http/1.1").await;
        browser.write_all(format!("HEAD / {rest}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = browser.read_to_string(&mut answer).await;
        assert!(answer.ends_with("\r\n\r\n") && answer.contains("content-length: "), "{answer}");
    }
}

#[tokio::test]
async fn answers_without_a_body_stay_without_one() {
    let (proxy, _) =
        Proxy::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: \"x\"\r\n\r\n").await;
    let reply = proxy.client.send(Method::HEAD, "/", &[], "").await;
    assert_eq!((reply.header("content-length"), reply.body.len()), ("12345", 0));
    let (proxy, _) = Proxy::answering(b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n").await;
    let reply = proxy.client.get("/", &[("if-none-match", "\"x\"")]).await;
    assert_eq!((reply.status.as_u16(), reply.header("etag"), reply.body.len()), (304, "\"x\"", 0));
}

#[tokio::test]
async fn a_response_streams_as_it_is_made() {
    let proxy = Proxy::start(|mut connection| async move {
        let _ = read_request(&mut connection).await;
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
        connection.write_all(head).await.unwrap();
        // The rest comes only once the first event has arrived: whoever buffers, waits for ever.
        let _ = connection.read_u8().await;
    })
    .await;
    for alpn in ["http/1.1", "h2"] {
        let first = tokio::time::timeout(TIMEOUT, first_frame(&proxy.client, alpn)).await.unwrap();
        assert_eq!(first, "data: 1\n\n", "{alpn}");
    }
}

async fn first_frame(client: &Client, alpn: &str) -> String {
    use http_body_util::BodyExt;
    let io = hyper_util::rt::TokioIo::new(client.connect(alpn).await);
    let request =
        http::Request::get(format!("https://{SITE}/")).header("host", SITE).body(String::new()).unwrap();
    let mut response = if alpn == "h2" {
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let frame = response.body_mut().frame().await.unwrap().unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_body_streams_as_it_comes() {
    let proxy = Proxy::start(|mut connection| async move {
        // Answers after the first part, while the rest is still to come.
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains("first part") {
            let count = connection.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0);
            seen.extend_from_slice(&buffer[..count]);
        }
        connection.write_all(OK).await.unwrap();
        let _ = connection.read(&mut buffer).await;
    })
    .await;
    let mut browser = proxy.client.connect("http/1.1").await;
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
    );
    browser.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut browser, "HTTP/1.1 100 Continue\r\n\r\n").await;
    browser.write_all(b"first part").await.unwrap();
    let head = tokio::time::timeout(TIMEOUT, read_until(&mut browser, "\r\n\r\n")).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[tokio::test]
async fn an_upload_may_take_longer_than_the_answer_to_it() {
    let (proxy, _) = Proxy::answering(OK).await;
    let mut browser = proxy.client.connect("http/1.1").await;
    browser
        .write_all(format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 6\r\n\r\n").as_bytes())
        .await
        .unwrap();
    // Three seconds in all; the head of the answer has two, from the end of the upload.
    for byte in b"upload" {
        tokio::time::sleep(Duration::from_millis(500)).await;
        browser.write_all(&[*byte]).await.unwrap();
    }
    let head = read_until(&mut browser, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[tokio::test]
async fn ten_megabytes_go_up_and_come_down() {
    let stage = Stage::new().await;
    let body = vec![b'x'; 10 * 1024 * 1024];
    for h2 in [false, true] {
        let reply = match h2 {
            true => stage.client().send_h2(Method::POST, "/upload", &[], body.clone()).await,
            false => stage.client().send(Method::POST, "/upload", &[], body.clone()).await,
        };
        assert_eq!(reply.text(), r#"{"received":10485760}"#);
    }
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced() {
    let proxy = Proxy::start(|mut connection| async move {
        // One answer a connection, then it is gone without notice.
        let _ = read_request(&mut connection).await;
        connection.write_all(OK).await.unwrap();
        let _ = connection.shutdown().await;
    })
    .await;
    for _ in 0..5 {
        let reply = proxy.client.send(Method::POST, "/", &[], "body").await;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "ok"));
    }
}

#[tokio::test]
async fn a_safe_request_is_retried_once_when_its_connection_breaks() {
    let proxy = Proxy::start(|mut connection| async move {
        // The second request on a connection finds it closing, however it is timed.
        let _ = read_request(&mut connection).await;
        connection.write_all(OK).await.unwrap();
        let _ = read_request(&mut connection).await;
    })
    .await;
    for _ in 0..6 {
        assert_eq!(proxy.client.get("/", &[]).await.status, 200);
    }
    // What could change something is not sent twice.
    assert_eq!(proxy.client.send(Method::POST, "/", &[], "pay").await.status, 502);
}

#[tokio::test]
async fn a_request_that_could_have_a_body_and_has_none_says_so() {
    let (proxy, heads) = Proxy::answering(OK).await;
    proxy.client.send_h2(Method::POST, "/", &[], "").await;
    let mut browser = proxy.client.connect("http/1.1").await;
    browser.write_all(format!("POST / HTTP/1.1\r\nHost: {SITE}\r\n\r\n").as_bytes()).await.unwrap();
    read_until(&mut browser, "ok").await;
    proxy.client.get("/", &[]).await;
    let lengths: Vec<usize> = heads
        .lock()
        .unwrap()
        .iter()
        .map(|head| head.to_lowercase().matches("content-length: 0\r\n").count())
        .collect();
    assert_eq!(lengths, [1, 1, 0], "http.sys answers 411 to a POST that says nothing");
}

#[tokio::test]
async fn an_interrupted_upload_is_not_an_upstream_failure() {
    let (proxy, heads) = Proxy::answering(OK).await;
    let mut browser = proxy.client.connect("http/1.1").await;
    let malformed = format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    browser.write_all(malformed.as_bytes()).await.unwrap();
    let head = read_until(&mut browser, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let line = proxy
        .gateway
        .logged(|line| line["error"].as_str().is_some_and(|text| text.contains("broke off")))
        .await;
    assert_eq!(line["level"], "DEBUG");
    assert!(heads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn plain_http_is_sent_to_https_with_its_target_as_it_is() {
    let stage = Stage::new().await;
    let ask = |request: String| {
        let address = stage.gateway.http;
        async move {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    };
    // A port mapping may hide the gateway's own ports: they are named only to a client that has used one.
    let port = stage.gateway.https.port();
    for (host, location) in
        [(SITE.to_owned(), SITE.to_owned()), (format!("{SITE}:8080"), format!("{SITE}:{port}"))]
    {
        let request = format!("GET /a//b%2f?c=$/d HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = ask(request).await;
        assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
        let location = format!("location: https://{location}/a//b%2f?c=$/d\r\n");
        assert!(answer.to_lowercase().contains(&location), "{host}: {answer}");
    }
    let answer = ask("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_owned()).await;
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    assert!(!answer.to_lowercase().contains("location:"));
    assert_eq!(stage.imis.requests().len(), 0);
    for (host, status) in [(SITE, 308), ("evil.example", 421)] {
        let line = stage.gateway.logged(|line| line["message"] == "request" && line["host"] == host).await;
        assert_eq!(line["status"], status, "a line for these, too");
    }
}

#[tokio::test]
async fn plain_http_is_sent_to_the_public_port() {
    for (port, shown) in [(8443, ":8443"), (443, "")] {
        let hosts = format!("  - hosts: [{SITE}, www.example.org]\n");
        let setup = Setup::new(Generation::Ems).edit(&hosts, &format!("{hosts}    public_port: {port}\n"));
        let stage = Stage::with(setup).await;
        for host in [SITE.to_owned(), format!("{SITE}:8080")] {
            let mut stream = tokio::net::TcpStream::connect(stage.gateway.http).await.unwrap();
            let request = format!("GET /a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.to_lowercase().contains(&format!("location: https://{SITE}{shown}/a\r\n")),
                "{answer}"
            );
        }
    }
}

#[tokio::test]
async fn unknown_hosts_get_a_421() {
    let stage = Stage::new().await;
    let client = stage.client();
    assert!(client.connect_as("http/1.1", "other.example").await.is_err(), "in the handshake");
    let reply = client.get("/", &[("host", "other.example")]).await;
    assert_eq!(reply.status, 421);
    assert_eq!(stage.imis.requests().len(), 0);
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_with_either_http() {
    let stage = Stage::new().await;
    for alpn in ["h2", "http/1.1"] {
        let stream = stage.client().connect(alpn).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
    }
    for version in ["1.2", "1.3"] {
        let port = stage.gateway.https.port();
        let mut curl = std::process::Command::new("curl");
        curl.args([
            "-sk",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &format!("--tlsv{version}"),
            "--tls-max",
            version,
        ])
        .args([
            "--resolve",
            &format!("{SITE}:{port}:127.0.0.1"),
            &format!("https://{SITE}:{port}/"),
        ]);
        let output = tokio::task::spawn_blocking(move || curl.output()).await.unwrap();
        match output {
            Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "TLS {version}"),
            Err(_) => crate::support::skip("curl"),
        }
    }
}

#[tokio::test]
async fn each_site_has_its_own_certificate_and_upstream() {
    let authority = imis_gateway_simulators::certificates::Authority::new("test CA");
    let answering = |answer: &'static [u8]| {
        crate::support::origin::Origin::start(&authority, move |mut connection| async move {
            while read_request(&mut connection).await.is_some() {
                connection.write_all(answer).await.unwrap();
            }
        })
    };
    let one = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none").await;
    let two = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), authority.certificate_pem()).unwrap();
    let mut yaml =
        "version: 1\nlisten: {https: ['127.0.0.1:0'], http: ['127.0.0.1:0'], admin: '127.0.0.1:0'}\nsites:\n"
            .to_owned();
    for (name, origin) in [("one.example.org", &one), ("two.example.org", &two)] {
        authority.issue(&[name]).write(folder.path(), name).unwrap();
        // The origins' certificate names the test's usual site: said by `host`.
        yaml.push_str(&format!(
            "  - hosts: [{name}]\n    certificate: {{chain: {name}.pem, key: {name}.key}}\n    \
             upstream: {{servers: ['https://{}'], ca_file: ca.pem, host: {SITE}}}\n",
            origin.address
        ));
    }
    let gateway = crate::support::Gateway::start(folder.path(), &yaml);
    let client = Client::new(&authority, gateway.https);
    for (name, text) in [("one.example.org", "one"), ("two.example.org", "two")] {
        // The client verifies the certificate against the name.
        let mut stream = client.connect_as("http/1.1", name).await.unwrap();
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes()).await.unwrap();
        assert!(read_until(&mut stream, text).await.starts_with("HTTP/1.1 200"));
        // One site's connection is not the way to another.
        let other = if name.starts_with("one") { "two" } else { "one" };
        stream
            .write_all(format!("GET / HTTP/1.1\r\nHost: {other}.example.org\r\n\r\n").as_bytes())
            .await
            .unwrap();
        assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 421"));
    }
}
