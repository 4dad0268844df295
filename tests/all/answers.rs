//! What an upstream may answer and what it may not, byte by byte. A faulty answer is a 502 or a broken-off body, over
//! either protocol, and its connection is never used again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::SITE;
use crate::support::origin::{Proxy, read_request};

/// What to say, and whether to hang up after it.
type Say = (Vec<u8>, bool);

/// An upstream that says what the test wants next, and how many connections it has seen.
async fn scripted() -> (Proxy, Arc<Mutex<Say>>, Arc<AtomicUsize>) {
    let say = Arc::new(Mutex::new((Vec::new(), false)));
    let connections = Arc::new(AtomicUsize::new(0));
    let (script, count) = (say.clone(), connections.clone());
    let proxy = Proxy::start(move |mut connection| {
        let script = script.clone();
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            while read_request(&mut connection).await.is_some() {
                let (bytes, hang_up) = script.lock().unwrap().clone();
                if connection.write_all(&bytes).await.is_err() || hang_up {
                    let _ = connection.shutdown().await;
                    return;
                }
            }
        }
    })
    .await;
    (proxy, say, connections)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: members.example.org\r\n\r\n";

/// The raw answer over HTTP/1, and whether its end was a proper one.
async fn raw(proxy: &Proxy, request: &str) -> (String, bool) {
    let mut browser = proxy.client.connect("http/1.1").await;
    browser.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let closed = browser.read_to_end(&mut bytes).await.is_ok();
    (String::from_utf8_lossy(&bytes).into_owned(), closed)
}

#[tokio::test]
async fn answers_that_are_none_are_a_502_and_their_connection_is_not_used_again() {
    let (proxy, say, connections) = scripted().await;
    let endless = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(50);
    let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(300));
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    for answer in [
        &b"220 mail.example.org ESMTP\r\n\r\n"[..],
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 OK 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 1\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a size\r\n",
        fields.as_bytes(),
        large.as_bytes(),
        &endless,
    ] {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
        *say.lock().unwrap() = (answer.to_vec(), false);
        assert_eq!(proxy.client.get("/", &[]).await.status, 502, "{shown:?}");
        let before = connections.load(Ordering::SeqCst);
        let status = proxy.client.send_h2(Method::GET, "/", &[], "").await.status;
        assert_eq!(status, 502, "over HTTP/2: {shown:?}");
        assert_eq!(connections.load(Ordering::SeqCst), before + 1, "a new connection after {shown:?}");
    }
    // And the next request is served as if nothing had been.
    *say.lock().unwrap() = (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), false);
    assert_eq!(proxy.client.get("/", &[]).await.text(), "ok");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_shown_as_whole_over_either_protocol() {
    let (proxy, say, _) = scripted().await;
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    ] {
        let shown = String::from_utf8_lossy(answer);
        *say.lock().unwrap() = (answer.to_vec(), true);
        let (text, properly) = raw(&proxy, GET).await;
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("half"), "{shown:?}: {text}");
        assert!(!properly && !text.ends_with("0\r\n\r\n"), "{shown:?}: {text}");
        assert!(broken_over_h2(&proxy).await, "{shown:?}");
    }
    // Malformed behind good data is no end either.
    let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec();
    *say.lock().unwrap() = ([answer, vec![b'z'; 100]].concat(), false);
    assert!(broken_over_h2(&proxy).await);
    let (text, properly) = raw(&proxy, &GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
    assert!(!properly || text.starts_with("HTTP/1.1 502"), "{text}");
    proxy.gateway.logged(|line| line["end"] == "upstream_broke").await;
}

/// Whether the body, if there is one at all, ends in an error.
async fn broken_over_h2(proxy: &Proxy) -> bool {
    use http_body_util::BodyExt;
    let io = hyper_util::rt::TokioIo::new(proxy.client.connect("h2").await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("https://{SITE}/")).body(String::new()).unwrap();
    match sender.send_request(request).await {
        Ok(response) if response.status() == 502 => true,
        Ok(response) => response.into_body().collect().await.is_err(),
        Err(_) => true,
    }
}

#[tokio::test]
async fn what_comes_behind_an_answer_is_not_taken_for_the_next() {
    let (proxy, say, connections) = scripted().await;
    *say.lock().unwrap() = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
            .to_vec(),
        false,
    );
    for _ in 0..5 {
        assert_eq!(proxy.client.get("/", &[]).await.text(), "ok");
        assert_eq!(proxy.client.send_h2(Method::GET, "/", &[], "").await.text(), "ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 10, "none of them was kept");
    *say.lock().unwrap() = (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), false);
    for _ in 0..5 {
        assert_eq!(proxy.client.get("/", &[]).await.text(), "ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 11, "and now one serves all");
}

#[tokio::test]
async fn interim_answers_are_passed_on_to_whoever_knows_them() {
    let (proxy, say, _) = scripted().await;
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    *say.lock().unwrap() = (answer.to_vec(), false);
    let close = GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let (text, _) = raw(&proxy, &close).await;
    let expected = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    assert_eq!(text, expected, "100 is ours to ask for");
    let (text, _) = raw(&proxy, &close.replace("HTTP/1.1", "HTTP/1.0")).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "HTTP/1.0 knows none: {text}");
    assert_eq!(proxy.client.send_h2(Method::GET, "/", &[], "").await.text(), "ok");
}

#[tokio::test]
async fn an_early_answer_ends_an_upload_and_leaves_nothing_behind() {
    let proxy = Proxy::start(|mut connection| async move {
        // Answers before the body has come, and reads none of it.
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            let Ok(byte) = connection.read_u8().await else { return };
            seen.push(byte);
        }
        let _ = connection.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge").await;
        let _ = connection.shutdown().await;
    })
    .await;
    let body = vec![b'x'; 5 * 1024 * 1024];
    for _ in 0..3 {
        let mut browser = proxy.client.connect("http/1.1").await;
        let head = format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: {}\r\n\r\n", body.len());
        let (mut reader, mut writer) = tokio::io::split(&mut browser);
        let upload = async {
            let _ = writer.write_all(head.as_bytes()).await;
            // It is cut off at some time, which is the point.
            let _ = writer.write_all(&body).await;
        };
        let answer = async {
            let mut bytes = Vec::new();
            let _ = reader.read_to_end(&mut bytes).await;
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let ((), text) = tokio::join!(upload, answer);
        assert!(text.starts_with("HTTP/1.1 413") && text.ends_with("large"), "{text}");
        assert!(text.contains("Connection: close"), "{text}");
        assert_eq!(proxy.client.send_h2(Method::POST, "/", &[], body.clone()).await.status, 413);
    }
}

#[tokio::test]
async fn http_1_0_gets_no_chunks() {
    let (proxy, say, _) = scripted().await;
    *say.lock().unwrap() =
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(), false);
    for more in ["", "Connection: keep-alive\r\n"] {
        let request = format!("GET / HTTP/1.0\r\nHost: {SITE}\r\n{more}\r\n");
        let (text, properly) = raw(&proxy, &request).await;
        assert!(properly && text.ends_with("\r\n\r\nhello") && !text.contains("chunked"), "{text}");
    }
    *say.lock().unwrap() = (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), false);
    let (text, _) = raw(&proxy, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(text.ends_with("ok"), "without a Host, too: {text}");
    let twice = format!(
        "GET / HTTP/1.0\r\nHost: {SITE}\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\nHost: {SITE}\r\n\r\n"
    );
    let (text, _) = raw(&proxy, &twice).await;
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    assert_eq!(text.to_lowercase().matches("connection: keep-alive").count(), 1, "{text}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let proxy = Proxy::start(|mut connection| async move {
        while let Some(request) = read_request(&mut connection).await {
            let path = request.split(' ').nth(1).unwrap().to_owned();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
            if connection.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let mut requests = String::from("\r\n");
    for number in 0..20 {
        let close = if number == 19 { "Connection: close\r\n" } else { "" };
        let body = if number % 3 == 0 { "Content-Length: 3\r\n{}abc" } else { "{}" };
        let body = body.replace("{}", &format!("{close}\r\n"));
        requests.push_str(&format!("POST /{number} HTTP/1.1\r\nHost: {SITE}\r\n{body}"));
    }
    let (text, properly) = raw(&proxy, &requests).await;
    assert!(properly);
    let order: Vec<&str> =
        text.split("\r\n\r\n").skip(1).map(|part| part.split("HTTP/").next().unwrap()).collect();
    assert_eq!(order, (0..20).map(|number| format!("/{number}")).collect::<Vec<_>>());
}
