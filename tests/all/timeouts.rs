//! Each timeout by itself: a client or an upstream that is slow in one way is not closed for another.

use std::time::{Duration, Instant};

use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::SITE;
use crate::support::gateway::TIMEOUT;
use crate::support::http2_frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Raw, WINDOW_UPDATE, frame, request, setting,
};
use crate::support::origin::{Origin, Proxy, read_request};

/// A gateway with the given deadlines towards browsers and the upstream.
async fn proxy<F, R>(browsers: &str, upstream: &str, serve: F) -> Proxy
where
    F: Fn(crate::support::origin::Connection) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, serve).await;
    let server = format!("https://{}", origin.address);
    let timeouts = format!("timeouts: {{{browsers}}}");
    Proxy::with_timeouts(authority, &server, Some(origin), &timeouts, upstream)
}

async fn read_to_end(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut bytes = Vec::new();
    // How it ends is not the question here.
    let _ = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn within(started: Instant, from: f32, to: f32) {
    let took = started.elapsed().as_secs_f32();
    assert!((from..to).contains(&took), "{took} s");
}

async fn answers(mut connection: crate::support::origin::Connection) {
    while read_request(&mut connection).await.is_some() {
        if connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_silent_handshake_ends() {
    let proxy = proxy("handshake: 1s", "", answers).await;
    let started = Instant::now();
    let mut stream = tokio::net::TcpStream::connect(proxy.gateway.https).await.unwrap();
    read_to_end(&mut stream).await;
    within(started, 0.8, 15.0);
}

#[tokio::test]
async fn an_incomplete_head_ends_with_408_and_an_idle_connection_is_closed_silently() {
    let proxy = proxy("request_head: 1s, idle: 2s", "", answers).await;
    let started = Instant::now();
    let mut browser = proxy.client.connect("http/1.1").await;
    browser.write_all(b"GET / HT").await.unwrap();
    assert!(read_to_end(&mut browser).await.starts_with("HTTP/1.1 408"));
    within(started, 0.8, 15.0);

    let mut browser = proxy.client.connect("http/1.1").await;
    let get = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n");
    browser.write_all(get.as_bytes()).await.unwrap();
    let mut first = [0; 10];
    browser.read_exact(&mut first).await.unwrap();
    let started = Instant::now();
    let rest = read_to_end(&mut browser).await;
    assert!(rest.ends_with("ok"), "{rest}");
    within(started, 1.8, 15.0);
}

/// The client may be sending a request just when the time is over.
#[tokio::test]
async fn a_request_shortly_after_the_idle_timeout_is_the_last_one() {
    let proxy = proxy("idle: 200ms", "", answers).await;
    let mut client = proxy.client.connect("http/1.1").await;
    let get = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n");
    let mut exchange = async || {
        client.write_all(get.as_bytes()).await.unwrap();
        let mut text = String::new();
        while !text.ends_with("ok") {
            text.push(char::from(client.read_u8().await.unwrap()));
        }
        text.to_lowercase()
    };
    assert!(!exchange().await.contains("connection: close"));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(exchange().await.contains("connection: close"));
    assert_eq!(read_to_end(&mut client).await, "");
}

#[tokio::test]
async fn a_head_that_arrives_slowly_ends_with_408() {
    let proxy = proxy("request_head: 2s", "", answers).await;
    let started = Instant::now();
    let mut browser = proxy.client.connect("http/1.1").await;
    let (mut reader, mut writer) = tokio::io::split(&mut browser);
    let drip = async {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = drip => {}
        text = read_to_end(&mut reader) => assert!(text.starts_with("HTTP/1.1 408"), "{text}"),
    }
    within(started, 1.5, 15.0);
}

#[tokio::test]
async fn an_upload_that_stalls_ends_with_408() {
    let proxy = proxy("body_idle: 1s", "", answers).await;
    let started = Instant::now();
    let mut browser = proxy.client.connect("http/1.1").await;
    let head = format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 10\r\n\r\nhalf");
    browser.write_all(head.as_bytes()).await.unwrap();
    let text = read_to_end(&mut browser).await;
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    within(started, 0.8, 15.0);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_closed() {
    let proxy = proxy("body_idle: 1s", "", |mut connection| async move {
        let _ = read_request(&mut connection).await;
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 209715200\r\n\r\n").await;
        while connection.write_all(&[b'x'; 65536]).await.is_ok() {}
    })
    .await;
    let mut browser = proxy.client.connect("http/1.1").await;
    let started = Instant::now();
    browser.write_all(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n").as_bytes()).await.unwrap();
    let line = proxy.gateway.logged(|line| line["message"] == "request").await;
    assert_eq!(line["outcome"], "client_gone");
    within(started, 0.8, 15.0);
}

#[tokio::test]
async fn a_response_may_pause_between_bytes_up_to_the_timeout() {
    let proxy = proxy("", "body_idle: 2s", |mut connection| async move {
        let request = read_request(&mut connection).await.unwrap_or_default();
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n").await;
        for byte in b"hell" {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let _ = connection.write_all(&[*byte]).await;
        }
        if request.starts_with("GET /whole") {
            let _ = connection.write_all(b"o!").await;
        }
        let _ = connection.read_u8().await;
    })
    .await;
    // Longer than the timeout in total.
    let reply = proxy.client.get("/whole", &[]).await;
    assert_eq!(reply.text(), "hello!");
    let mut browser = proxy.client.connect("http/1.1").await;
    let started = Instant::now();
    browser.write_all(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n").as_bytes()).await.unwrap();
    let text = read_to_end(&mut browser).await;
    assert!(text.ends_with("hell"), "{text}");
    within(started, 4.0, 40.0);
    proxy.gateway.logged(|line| line["outcome"] == "upstream_broke").await;
}

#[tokio::test]
async fn an_upstream_that_does_not_shake_hands_is_a_504() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("https://{}", listener.local_addr().unwrap());
    let proxy = Proxy::with_timeouts(Authority::new("test CA"), &server, None, "", "tls: 1s");
    let started = Instant::now();
    assert_eq!(proxy.client.get("/", &[]).await.status, 504);
    within(started, 0.8, 15.0);
    drop(listener);
}

#[tokio::test]
async fn an_idle_upstream_connection_is_closed_before_iis_would() {
    let (closed, mut closing) = tokio::sync::mpsc::unbounded_channel();
    let proxy = proxy("", "idle: 1s", move |mut connection| {
        let closed = closed.clone();
        async move {
            let _ = read_request(&mut connection).await;
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            let _ = connection.read_u8().await;
            let _ = closed.send(Instant::now());
        }
    })
    .await;
    let started = Instant::now();
    assert_eq!(proxy.client.get("/", &[]).await.text(), "ok");
    tokio::time::timeout(TIMEOUT, closing.recv()).await.unwrap();
    within(started, 0.9, 15.0);
}

#[tokio::test]
async fn a_client_that_disconnects_cancels_its_request() {
    let (gone, mut going) = tokio::sync::mpsc::unbounded_channel();
    let (arrived, mut arriving) = tokio::sync::mpsc::unbounded_channel();
    let proxy = proxy("", "", move |mut connection| {
        let (gone, arrived) = (gone.clone(), arrived.clone());
        async move {
            let _ = read_request(&mut connection).await;
            let _ = arrived.send(());
            // A report that takes an hour, for nobody.
            let _ = connection.read_u8().await;
            let _ = gone.send(());
        }
    })
    .await;
    for (alpn, more) in
        [("http/1.1", ""), ("http/1.1", "\r\n"), ("http/1.1", "GET /next HTTP/1.1\r\n"), ("h2", "")]
    {
        let mut browser = proxy.client.connect(alpn).await;
        if alpn == "h2" {
            let io = hyper_util::rt::TokioIo::new(browser);
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
            tokio::spawn(connection);
            let request = http::Request::get(format!("https://{SITE}/")).body(String::new()).unwrap();
            let pending =
                tokio::time::timeout(Duration::from_millis(500), sender.send_request(request)).await;
            assert!(pending.is_err());
        } else {
            let request = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n{more}");
            browser.write_all(request.as_bytes()).await.unwrap();
            arriving.recv().await.unwrap();
            drop(browser);
        }
        tokio::time::timeout(TIMEOUT, going.recv()).await.expect(alpn);
    }
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_with_or_without_requests() {
    let proxy = proxy("request_head: 1s, idle: 2s", "", answers).await;
    let connected = || async {
        let io = hyper_util::rt::TokioIo::new(proxy.client.connect("h2").await);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        (sender, tokio::spawn(connection))
    };
    let started = Instant::now();
    let (_sender, connection) = connected().await;
    let _ = tokio::time::timeout(TIMEOUT, connection).await.unwrap();
    within(started, 0.8, 15.0);

    let started = Instant::now();
    let (mut sender, connection) = connected().await;
    let request = http::Request::get(format!("https://{SITE}/")).body(String::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    let _ = tokio::time::timeout(TIMEOUT, connection).await.unwrap();
    within(started, 1.8, 30.0);
}

#[tokio::test]
async fn the_last_response_of_a_connection_may_be_read_slowly() {
    const LENGTH: usize = 60_000;
    let proxy = proxy("body_idle: 60s", "", |mut connection| async move {
        let _ = read_request(&mut connection).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        let _ = connection.write_all(&[head.as_bytes(), &[b'x'; LENGTH]].concat()).await;
        let _ = connection.read_u8().await;
    })
    .await;
    let request = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
    // A client with a small receive buffer, which reads nothing for now.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(proxy.gateway.https).await.unwrap();
    let mut browser = proxy.client.over(stream, "http/1.1").await.unwrap();
    browser.write_all(request.as_bytes()).await.unwrap();
    // The gateway has written everything and closed the connection.
    proxy.gateway.logged(|line| line["message"] == "request").await;
    proxy.gateway.wait_for_metric("imis_gateway_connections 0").await;
    let mut bytes = Vec::new();
    browser.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.iter().filter(|byte| **byte == b'x').count(), LENGTH);
    let line = proxy.gateway.logged(|line| line["message"] == "request").await;
    assert_eq!(line["outcome"], "complete");
}

#[tokio::test]
async fn unread_bytes_behind_a_request_do_not_lose_the_last_response() {
    const LENGTH: usize = 300_000;
    let proxy = proxy("", "", |mut connection| async move {
        let _ = read_request(&mut connection).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        let _ = connection.write_all(&[head.as_bytes(), &vec![b'x'; LENGTH]].concat()).await;
        let _ = connection.read_u8().await;
    })
    .await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(proxy.gateway.https).await.unwrap();
    let mut browser = proxy.client.over(stream, "http/1.1").await.unwrap();
    let mut requests = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n").into_bytes();
    requests.extend_from_slice(&[b'A'; 150_000]);
    browser.write_all(&requests).await.unwrap();
    let mut bytes = Vec::new();
    // Whatever ends it, the answer has come before.
    let _ = browser.read_to_end(&mut bytes).await;
    assert_eq!(bytes.iter().filter(|byte| **byte == b'x').count(), LENGTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_waits_for_the_upstream_by_the_upstream_timeout() {
    const LENGTH: usize = 20 * 1024 * 1024;
    let slow = |upstream| {
        proxy("body_idle: 500ms", upstream, |mut connection| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = connection.read_u8().await else { return };
                head.push(byte);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (mut buffer, mut left) = (vec![0; 65536], LENGTH);
            while left > 0 {
                let Ok(count @ 1..) = connection.read(&mut buffer).await else { return };
                left -= count;
            }
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        })
    };
    for (upstream, status) in [("body_idle: 60s", 200), ("body_idle: 400ms", 504)] {
        let proxy = slow(upstream).await;
        let body = || bytes::Bytes::from(vec![b'x'; LENGTH]);
        let told = |times| proxy.gateway.logged_times(times, |line| line["message"] == "request");
        let reply = proxy.client.send(http::Method::POST, "/", &[], body()).await;
        assert_eq!(reply.status, status, "{upstream}, HTTP/1: {}", told(1).await);
        let reply = proxy.client.send_h2(http::Method::POST, "/", &[], body()).await;
        assert_eq!(reply.status, status, "{upstream}, HTTP/2: {}", told(2).await);
    }
}

/// A gateway in front of an answer that is large whatever is asked, with short deadlines.
async fn large_answers(timeout: &str) -> Proxy {
    proxy(&format!("body_idle: {timeout}"), "", |mut connection| async move {
        // Whatever body there may be, it is not waited for.
        let _ = connection.read(&mut [0; 4096]).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
        let _ = connection.write_all(&[head.as_bytes(), &vec![b'x'; LARGE]].concat()).await;
        let _ = connection.read_u8().await;
    })
    .await
}

/// More than a system takes ahead of a reader.
const LARGE: usize = 6 << 20;

/// Over HTTP/2, so many requests, in windows as wide as they can be: only the socket holds the answers back.
fn asked_h2(requests: u32) -> Vec<u8> {
    let window = frame(WINDOW_UPDATE, 0, 0, &[0x3f, 0, 0, 0]);
    let mut asked = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), setting(4, 0x3fff_ffff), window].concat();
    for number in 0..requests {
        asked.extend(frame(HEADERS, END_HEADERS | END_STREAM, number * 2 + 1, &request("GET", "/", &[])));
    }
    asked
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_steadily_is_not_closed() {
    // What a system keeps for a slow reader must not hide that he reads: with megabytes of it, he would seem silent for
    // minutes.
    let proxy = large_answers("3s").await;
    let one = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n").into_bytes();
    let read = |alpn: &'static str, asked: Vec<u8>| {
        let (client, gateway) = (&proxy.client, &proxy.gateway);
        async move {
            let mut browser = client.narrow(alpn, 8 * 1024).await;
            browser.write_all(&asked).await.unwrap();
            // 12 KiB a second, for more than twice as long as the timeout. The client's system opens its window in
            // leaps.
            let (started, mut bytes, mut piece) = (Instant::now(), 0, [0; 3072]);
            while started.elapsed() < Duration::from_secs(7) {
                let count = browser.read_exact(&mut piece).await;
                bytes +=
                    count.unwrap_or_else(|error| panic!("{alpn} after {bytes}: {error}\n{}", gateway.log()));
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            assert!(bytes < 300 * 1024, "{alpn}: it was to be slow");
            browser
        }
    };
    let browsers = tokio::join!(read("http/1.1", one), read("h2", asked_h2(1)), read("h2", asked_h2(20)));
    let log = proxy.gateway.log();
    assert!(!log.contains("client_gone"), "{log}");
    drop(browsers);
}

#[tokio::test]
async fn a_connection_whose_response_is_still_read_is_not_idle() {
    const LENGTH: usize = 400 * 1024;
    let proxy = proxy("idle: 1s", "", |mut connection| async move {
        while read_request(&mut connection).await.is_some() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
            let _ = connection.write_all(&[head.as_bytes(), &vec![b'x'; LENGTH]].concat()).await;
        }
    })
    .await;
    // The second comes when the first has been read, which takes much longer than the connection may be idle.
    let mut browser = proxy.client.narrow("h2", 8 * 1024).await;
    browser.write_all(&asked_h2(1)).await.unwrap();
    let mut bytes = vec![0; 16 * 1024];
    let mut read = 0;
    while read < LENGTH {
        tokio::time::sleep(Duration::from_millis(150)).await;
        read += browser.read(&mut bytes).await.unwrap();
    }
    let second = frame(HEADERS, END_HEADERS | END_STREAM, 3, &request("GET", "/", &[]));
    browser.write_all(&second).await.unwrap();
    let told = proxy.gateway.logged_times(2, |line| line["message"] == "request");
    let reading = async { while browser.read(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    tokio::select! {
        line = told => assert_eq!((&line["status"], &line["outcome"]), (&200.into(), &"complete".into())),
        () = reading => panic!("it has been closed: {}", proxy.gateway.log()),
    }
}

#[tokio::test]
async fn window_updates_without_reading_do_not_keep_a_connection() {
    let proxy = large_answers("2s").await;
    let mut browser = proxy.client.narrow("h2", 8 * 1024).await;
    let mut asked = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), setting(4, 1000)].concat();
    asked.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/", &[])));
    browser.write_all(&asked).await.unwrap();
    let opening = async {
        // Four times what the rate asks for, into a socket that has room for much more.
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            for stream in [0, 1] {
                let _ = browser.write_all(&frame(WINDOW_UPDATE, 0, stream, &500_u32.to_be_bytes())).await;
            }
        }
    };
    tokio::select! {
        () = opening => panic!("it goes on: {}", proxy.gateway.log()),
        line = proxy.gateway.logged(|line| line["message"] == "request") => assert_eq!(line["outcome"], "client_gone"),
    }
}

/// A client reads one stream and keeps the window of another one closed.
#[tokio::test]
async fn a_stream_that_is_never_read_times_out_while_another_is_read() {
    let proxy = large_answers("2s").await;
    let mut connection = Raw::connect(&proxy.client, &setting(4, 60_000)).await;
    connection.send(&frame(WINDOW_UPDATE, 0, 0, &[0x3f, 0, 0, 0])).await;
    for stream in [1, 3] {
        let get = request("GET", "/", &[]);
        connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &get)).await;
    }
    let (started, mut read) = (Instant::now(), 0);
    // Long enough for the unread stream to time out several times.
    let reset = loop {
        let frame_of = connection.next().await.expect("the connection stays open while a response is read");
        match (frame_of.kind, frame_of.stream) {
            (DATA, 1) => {
                read += frame_of.payload.len();
                tokio::time::sleep(Duration::from_millis(50)).await;
                let bytes = u32::try_from(frame_of.payload.len()).unwrap().to_be_bytes();
                connection.send(&frame(WINDOW_UPDATE, 0, 1, &bytes)).await;
            }
            (RST_STREAM, stream) => break stream,
            _ => {}
        }
        assert!(
            started.elapsed() < TIMEOUT,
            "the unread stream is kept; {read} bytes of the other one were read"
        );
    };
    assert_eq!(reset, 3, "{}", proxy.gateway.log());
    // The response that is read goes on to its end.
    while read < LARGE {
        let data = connection.next().await.expect("the rest of the response");
        if (data.kind, data.stream) == (DATA, 1) {
            read += data.payload.len();
            let bytes = u32::try_from(data.payload.len()).unwrap().to_be_bytes();
            connection.send(&frame(WINDOW_UPDATE, 0, 1, &bytes)).await;
        }
    }
}

#[tokio::test]
async fn a_response_that_is_not_read_times_out_even_if_the_client_sends() {
    let proxy = large_answers("1s").await;
    for (times, length, beside) in [(1, "1000000", "x"), (2, "0", "GET / HTTP/1.1\r\nX: ")] {
        let started = Instant::now();
        let mut browser = proxy.client.narrow("http/1.1", 8 * 1024).await;
        let head = format!("POST / HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: {length}\r\n\r\n");
        browser.write_all(head.as_bytes()).await.unwrap();
        // Fast enough for an upload, were it one's turn.
        let dripping = async {
            for _ in 0..300 {
                let _ = browser.write_all(beside.repeat(50).as_bytes()).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = dripping => panic!("it goes on: {beside}"),
            line = proxy.gateway.logged_times(times, |line| line["message"] == "request") => {
                assert_eq!(line["outcome"], "client_gone");
            }
        }
        within(started, 0.5, 20.0);
    }
}
