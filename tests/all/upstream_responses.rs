//! Valid and invalid responses of an upstream, byte by byte. An invalid one is a 502 or a truncated body over both
//! protocols, and its connection is not used again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Method;
use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::SITE;
use crate::support::gateway::TIMEOUT;
use crate::support::http2_frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, Raw, SETTINGS, block, frame, request,
};
use crate::support::origin::{Proxy, read_request};

/// What to say, and whether to hang up after it.
type Say = (Vec<u8>, bool);

/// An upstream that says what the test wants next, and how many connections it has seen.
async fn scripted() -> (Proxy, Arc<Mutex<Say>>, Arc<AtomicUsize>) {
    let (proxy, say, connections, _) = recorded().await;
    (proxy, say, connections)
}

/// The same, with the requests that it has seen.
async fn recorded() -> (Proxy, Arc<Mutex<Say>>, Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let say = Arc::new(Mutex::new((Vec::new(), false)));
    let connections = Arc::new(AtomicUsize::new(0));
    let (script, count) = (say.clone(), connections.clone());
    let proxy = Proxy::start(move |mut connection| {
        let (script, seen) = (script.clone(), seen.clone());
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            while let Some(request) = read_request(&mut connection).await {
                seen.lock().unwrap().push(request);
                let (bytes, hang_up) = script.lock().unwrap().clone();
                if connection.write_all(&bytes).await.is_err() || hang_up {
                    let _ = connection.shutdown().await;
                    return;
                }
            }
        }
    })
    .await;
    (proxy, say, connections, heads)
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
async fn invalid_responses_are_a_502_and_their_connection_is_not_reused() {
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
async fn a_truncated_body_is_never_shown_as_complete_over_either_protocol() {
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
    proxy.gateway.logged(|line| line["outcome"] == "upstream_broke").await;
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
async fn bytes_behind_a_response_are_not_taken_for_the_next_one() {
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
async fn interim_responses_are_forwarded_to_clients_that_support_them() {
    let (proxy, say, _) = scripted().await;
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 2\r\n\r\nok";
    *say.lock().unwrap() = (answer.to_vec(), false);
    let close = GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let (text, _) = raw(&proxy, &close).await;
    let expected = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    assert_eq!(text, expected, "100 is ours to ask for");
    let (text, _) = raw(&proxy, &close.replace("HTTP/1.1", "HTTP/1.0")).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "HTTP/1.0 knows none: {text}");
    assert_eq!(proxy.client.send_h2(Method::GET, "/", &[], "").await.text(), "ok");
}

#[tokio::test]
async fn at_most_sixteen_interim_responses_are_forwarded() {
    let (proxy, say, _) = scripted().await;
    for (count, status) in [(16, "HTTP/1.1 200"), (17, "HTTP/1.1 502")] {
        let mut answer = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count);
        answer.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        *say.lock().unwrap() = (answer, false);
        let (text, _) = raw(&proxy, &GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
        assert!(text.split("\r\n\r\n").any(|head| head.starts_with(status)), "{count}: {text}");
        let reply = proxy.client.send_h2(Method::GET, "/", &[], "").await;
        assert_eq!(reply.status.as_str(), &status[9..], "{count} over HTTP/2");
    }
}

/// Answers before the body has come, and reads none of it.
async fn answering_early() -> Proxy {
    Proxy::start(|mut connection| async move {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            let Ok(byte) = connection.read_u8().await else { return };
            seen.push(byte);
        }
        let _ = connection.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge").await;
        let _ = connection.shutdown().await;
    })
    .await
}

#[tokio::test]
async fn an_early_response_ends_an_upload_and_its_connection() {
    let proxy = answering_early().await;
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

/// Clients that get a reset right behind a response may drop the response (RFC 9113 section 8.1 warns of that).
#[tokio::test]
async fn over_http2_an_early_response_is_not_followed_by_a_reset_at_once() {
    let proxy = answering_early().await;
    // From the upstream, and our own: a path that is refused (400), a method (405), a host of no site (421).
    for (method, path, host) in [
        ("POST", "/", SITE),
        ("POST", "/a%2f..%2fsso%2fzendesk%00", SITE),
        ("TRACE", "/", SITE),
        ("POST", "/", "www.example.org"),
    ] {
        let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        let head = block(&[(":method", method), (":scheme", "https"), (":authority", host), (":path", path)]);
        raw.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
        raw.send(&frame(DATA, 0, 1, &[b'x'; 1000])).await;
        let mut answered = None;
        let mut reset = None;
        while reset.is_none() {
            let Some(frame) = raw.next().await else { break };
            if frame.stream == 1 && frame.flags & END_STREAM != 0 {
                answered = Some(Instant::now());
            }
            if frame.kind == RST_STREAM {
                assert_eq!(frame.payload, [0, 0, 0, 0], "NO_ERROR");
                reset = Some(Instant::now());
            }
        }
        let between = reset.unwrap() - answered.expect("a whole response first");
        assert!(between > Duration::from_secs(1), "{method} {path}: {between:?}");
    }
    // When the upload ends, no reset is needed.
    let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]))).await;
    while let Some(frame) = raw.next().await
        && (frame.stream != 1 || frame.flags & END_STREAM == 0)
    {}
    raw.send(&frame(DATA, END_STREAM, 1, b"x")).await;
    raw.send(&frame(PING, 0, 0, b"finished")).await;
    loop {
        let frame = raw.next().await.unwrap();
        assert_ne!(frame.kind, RST_STREAM);
        if frame.kind == PING {
            break;
        }
    }
}

#[tokio::test]
async fn curl_gets_early_responses_to_uploads() {
    let proxy = answering_early().await;
    let port = proxy.gateway.https.port();
    let folder = tempfile::tempdir().unwrap();
    for (size, times) in [(20_000, 6), (1_000_000, 6), (20_000_000, 3)] {
        let file = folder.path().join("upload");
        std::fs::write(&file, vec![b'x'; size]).unwrap();
        for _ in 0..times {
            let mut curl = std::process::Command::new("curl");
            curl.args(["-sk", "--http2", "-m", "30", "-w", " %{http_code} %{http_version}"])
                .args(["--resolve", &format!("{SITE}:{port}:127.0.0.1"), "--data-binary"])
                .arg(format!("@{}", file.display()))
                .arg(format!("https://{SITE}:{port}/"));
            let Ok(output) = tokio::task::spawn_blocking(move || curl.output()).await.unwrap() else {
                return crate::support::skip("curl");
            };
            assert_eq!(String::from_utf8_lossy(&output.stdout), "large 413 2", "{size} bytes: {output:?}");
        }
    }
}

#[tokio::test]
async fn what_came_of_a_response_that_breaks_off_reaches_the_client_over_http2() {
    let (proxy, say, _) = scripted().await;
    for size in [10, 40_000] {
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n".to_vec();
        answer.extend(vec![b'x'; size]);
        *say.lock().unwrap() = (answer, true);
        let mut raw = Raw::connect(&proxy.client, &frame(SETTINGS, 0, 0, &[])).await;
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/", &[]))).await;
        let mut received = 0;
        loop {
            let frame = raw.next().await.unwrap();
            if frame.kind == DATA {
                received += frame.payload.len();
                assert_eq!(frame.flags & END_STREAM, 0);
            }
            if frame.kind == RST_STREAM {
                assert_eq!(frame.payload, [0, 0, 0, 2], "INTERNAL_ERROR");
                break;
            }
        }
        assert_eq!(received, size);
    }
}

#[tokio::test]
async fn http_1_0_gets_no_chunks() {
    let (proxy, say, _, heads) = recorded().await;
    *say.lock().unwrap() =
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(), false);
    for more in ["", "Connection: keep-alive\r\n"] {
        let request = format!("GET / HTTP/1.0\r\nHost: {SITE}\r\n{more}\r\n");
        let (text, properly) = raw(&proxy, &request).await;
        assert!(properly && text.ends_with("\r\n\r\nhello") && !text.contains("chunked"), "{text}");
    }
    *say.lock().unwrap() = (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), false);
    for target in ["/", "http://members.example.org/"] {
        let (text, _) = raw(&proxy, &format!("GET {target} HTTP/1.0\r\n\r\n")).await;
        assert!(text.ends_with("ok"), "without a Host, too: {text}");
        let seen = heads.lock().unwrap().last().unwrap().to_lowercase();
        assert_eq!(
            seen.matches("\r\nhost: members.example.org\r\n").count(),
            1,
            "what goes on has one: {seen}"
        );
    }
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

/// A plain-HTTP upstream, each of whose connections is given to a function.
async fn plain<F, R>(more: &str, serve: F) -> Proxy
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    Proxy::to(Authority::new("test CA"), &server, None, more)
}

async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(bytes).unwrap())
}

#[tokio::test]
async fn a_reset_is_not_the_end_of_a_body_delimited_by_close() {
    let proxy = plain("", |mut stream| async move {
        let _ = head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let _ = stream.write_all(&[b'x'; 20_000]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = stream.write_all(&[b'y'; 20_000]).await;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    for _ in 0..8 {
        let (text, properly) = raw(&proxy, &GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(!properly && !text.ends_with("0\r\n\r\n"), "{}", text.len());
        assert!(broken_over_h2(&proxy).await);
    }
}

#[tokio::test]
async fn a_kept_connection_with_unsolicited_bytes_is_not_reused() {
    let (spoke, mut speaking) = tokio::sync::mpsc::unbounded_channel();
    let proxy = plain("", move |mut stream| {
        let spoke = spoke.clone();
        async move {
            while head(&mut stream).await.is_some() {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh").await;
                // Behind the answer, not in one piece with it.
                tokio::time::sleep(Duration::from_millis(5)).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nSTALE").await;
                let _ = spoke.send(());
            }
        }
    })
    .await;
    // tokio gives a task 128 operations before it makes everything look not ready.
    for count in (100..140).chain([0, 1]) {
        assert_eq!(proxy.client.get("/", &[]).await.text(), "fresh");
        // What is said unasked is there before the next request; later, nobody could tell it from an answer.
        speaking.recv().await.unwrap();
        // Answered here.
        let asked = format!("OPTIONS * HTTP/1.1\r\nHost: {SITE}\r\nMax-Forwards: 0\r\n\r\n").repeat(count);
        let last = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
        let (text, _) = raw(&proxy, &(asked + &last)).await;
        assert!(text.ends_with("fresh") && !text.contains("STALE"), "{count}");
        speaking.recv().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_over_http2_releases_its_upstream_connection() {
    let (gone, mut going) = tokio::sync::mpsc::unbounded_channel();
    let proxy = plain("timeouts: {body_idle: 1s}", move |mut stream| {
        let gone = gone.clone();
        async move {
            let _ = head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 209715200\r\n\r\n").await;
            while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
            let _ = gone.send(());
        }
    })
    .await;
    let io = hyper_util::rt::TokioIo::new(proxy.client.connect("h2").await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("https://{SITE}/")).body(String::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), going.recv()).await.unwrap();
    use http_body_util::BodyExt;
    assert!(response.into_body().collect().await.is_err(), "what is missing is not shown as whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_while_its_answer_waits_to_be_read() {
    const UP: usize = 6 * 1024 * 1024;
    const DOWN: usize = 12 * 1024 * 1024;
    let (arrived, mut arriving) = tokio::sync::mpsc::unbounded_channel();
    let proxy = plain("", move |mut stream| {
        let arrived = arrived.clone();
        async move {
            let _ = head(&mut stream).await;
            let (mut reader, mut writer) = stream.split();
            let down = async {
                let _ = writer.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                let _ = writer.write_all(&vec![b'z'; DOWN]).await;
            };
            let up = async {
                let mut buffer = vec![0; 65536];
                let mut got = 0;
                while got < UP {
                    match reader.read(&mut buffer).await {
                        Ok(count @ 1..) => got += count,
                        Ok(0) | Err(_) => break,
                    }
                }
                let _ = arrived.send(got);
            };
            tokio::join!(down, up);
        }
    })
    .await;
    let mut browser = proxy.client.connect("http/1.1").await;
    // On a busy machine the upload may be over before the answer is looked at, and the connection then good for another
    // request.
    let head =
        format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\nContent-Length: {UP}\r\n\r\n");
    browser.write_all(head.as_bytes()).await.unwrap();
    tokio::time::timeout(TIMEOUT, browser.write_all(&vec![b'u'; UP])).await.unwrap().unwrap();
    browser.flush().await.unwrap();
    assert_eq!(tokio::time::timeout(TIMEOUT, arriving.recv()).await.unwrap(), Some(UP));
    let mut answer = Vec::new();
    tokio::time::timeout(TIMEOUT, browser.read_to_end(&mut answer)).await.unwrap().unwrap();
    // A letter that stands neither in the head nor in the size of a chunk.
    assert_eq!(answer.iter().filter(|byte| **byte == b'z').count(), DOWN);

    let io = hyper_util::rt::TokioIo::new(proxy.client.connect("h2").await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let body = http_body_util::Full::new(bytes::Bytes::from(vec![b'u'; UP]));
    let request = http::Request::post(format!("https://{SITE}/")).body(body).unwrap();
    // The answer is not read, and its window is soon full.
    let _response = tokio::time::timeout(TIMEOUT, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(tokio::time::timeout(TIMEOUT, arriving.recv()).await.unwrap(), Some(UP), "over HTTP/2");
}
