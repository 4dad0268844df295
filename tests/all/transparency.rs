//! Forwarding changes only the documented headers: each message is sent directly and through the gateway, and what the
//! upstream and the client got is compared byte by byte.

use std::sync::{Arc, Mutex};

use http::Method;
use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::origin::{Origin, Proxy};
use crate::support::{Client, SITE};

/// A request without its Host, and what the upstream answers.
struct Shape {
    /// Method and target.
    line: &'static str,
    /// Lines, each with its CR LF.
    headers: String,
    body: Vec<u8>,
    answer: Vec<u8>,
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn requests() -> Vec<Shape> {
    let plain = |line, headers: &str| Shape {
        line,
        headers: headers.to_owned(),
        body: Vec::new(),
        answer: OK.to_vec(),
    };
    let with_body = |line, headers: &str, body: &[u8]| Shape {
        line,
        headers: format!("{headers}Content-Length: {}\r\n", body.len()),
        body: body.to_vec(),
        answer: OK.to_vec(),
    };
    let chunked = |line, body: &[u8]| Shape {
        line,
        headers: "Transfer-Encoding: chunked\r\n".to_owned(),
        body: body.to_vec(),
        answer: OK.to_vec(),
    };
    let many: String = (0..100).map(|number| format!("X-Many-{number}: {number}\r\n")).collect();
    let repeated = "X-A: 1\r\nX-B: 2\r\nX-A: 3\r\nx-a: 4\r\nX-B: 5\r\n";
    vec![
        plain("GET /", ""),
        plain("GET /iMIS//SessionInfo/GetSessionInfoFromCookie", ""),
        plain("GET /iMIS/(S(abc))/Default.aspx", ""),
        plain("GET /a%2fb/%2e%2e/c/../d/./e", ""),
        plain("GET /api/query?QueryName=$/Folder/My%20Query&x=a+b", ""),
        plain("GET /ScriptResource.axd?d=AbC-_1&t=ffffffff", ""),
        plain("GET /Mixed/CASE.aspx?A=b&a=B&&=", ""),
        plain("GET /x?y=http://z/?q=%C3%A9", ""),
        plain("GET /%E2%98%83;p=1,2:3@4!'()*~", ""),
        plain("GET /a?b?c/../d", ""),
        plain("GET //", ""),
        plain("GET /%", ""),
        plain("GET /con", ""),
        plain("GET /Telerik.Web.UI.WebResource.axd?type=rau", "X-Requested-With: XMLHttpRequest\r\n"),
        plain("OPTIONS /", "Access-Control-Request-Method: PUT\r\nOrigin: https://x.example\r\n"),
        plain("DELETE /x", ""),
        plain("PROPFIND /dav", "Depth: 1\r\n"),
        plain("GET /", repeated),
        plain("GET /", "x-LOWER-upper: Mixed CASE value\r\nACCEPT: */*\r\n"),
        plain("GET /", "X-Empty:\r\nX-Blank: \r\nX-Spaces:   a  b   \r\nX-Tight:c\r\nX-Tab:\td\r\n"),
        plain("GET /", "Cookie: ASP.NET_SessionId=abc; Login=ABC; theme=\"a b\"; odd=a=b=c\r\n"),
        plain("GET /", &format!("Cookie: big={}\r\n", "x".repeat(12_000))),
        plain("GET /", &many),
        plain(
            "GET /",
            "Cookie: BIGipServerpool=1677787402.20480.0000; ARRAffinity=abc; ARRAffinitySameSite=abc\r\n",
        ),
        plain("GET /", "Range: bytes=0-99\r\nIf-Range: \"e\"\r\n"),
        plain(
            "GET /",
            "If-None-Match: W/\"1\", \"2\"\r\nIf-Modified-Since: Wed, 25 Nov 2026 00:00:00 GMT\r\n",
        ),
        plain(
            "GET /",
            "Accept-Encoding: gzip, deflate, br\r\nAccept-Language: de-CH, en;q=0.5\r\nAccept: */*\r\n",
        ),
        plain("GET /", "Authorization: Basic eDp5\r\n"),
        plain(
            "GET /",
            "User-Agent: Mozilla/5.0 (X; Y)\r\nReferer: https://members.example.org/a?b=c\r\nDNT: 1\r\n",
        ),
        plain(
            "GET /",
            "X-MicrosoftAjax: Delta=true\r\nSOAPAction: \"urn:x\"\r\nRequestVerificationToken: a:b\r\n",
        ),
        plain("GET /", "Cache-Control: no-cache\r\nPragma: no-cache\r\nSec-Fetch-Mode: navigate\r\n"),
        with_body("POST /form", "Content-Type: application/x-www-form-urlencoded\r\n", b"a=1&b=2"),
        with_body("POST /empty", "", b""),
        with_body("PUT /x", "Content-Type: text/plain\r\n", b"\r\n\r\n"),
        with_body("PATCH /x", "", b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        with_body("POST /bin", "", &(0..=255).collect::<Vec<u8>>()),
        with_body("POST /large", "Content-Type: multipart/form-data; boundary=x\r\n", &vec![b'x'; 300_000]),
        with_body("DELETE /x", "", b"why"),
        chunked("POST /chunked", b"hello world"),
        chunked("POST /chunked-large", &vec![b'y'; 200_000]),
        chunked("POST /chunked-empty", b""),
    ]
}

fn answers() -> Vec<Shape> {
    let to = |line, answer: &[u8]| Shape {
        line,
        headers: String::new(),
        body: Vec::new(),
        answer: answer.to_vec(),
    };
    let get = |answer: &[u8]| to("GET /", answer);
    let sized = |headers: &str, body: &[u8]| {
        let mut answer =
            format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend_from_slice(body);
        answer
    };
    let gzip = [
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0, 0x86, 0xa6, 0x10, 0x36, 5, 0,
        0, 0,
    ];
    let big_head = format!("HTTP/1.1 200 OK\r\nX-Big: {}\r\nContent-Length: 0\r\n\r\n", "h".repeat(60_000));
    vec![
        get(&sized("Content-Type: text/html; charset=utf-8\r\nServer: Microsoft-IIS/10.0\r\nX-Powered-By: ASP.NET\r\n", b"<html>")),
        get(&sized("Set-Cookie: a=1; path=/\r\nX-A: 1\r\nSet-Cookie: Login=x; HttpOnly; SameSite=Lax\r\nx-a: 2\r\n", b"x")),
        get(&sized("Set-Cookie: ARRAffinity=a;Path=/;HttpOnly\r\nSet-Cookie: BIGipServerpool=1.2.3; path=/\r\n", b"x")),
        get(&sized("Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n", &gzip)),
        get(&sized("ETag: W/\"1\"\r\nLast-Modified: Wed, 25 Nov 2026 00:00:00 GMT\r\nCache-Control: private, max-age=0\r\n", b"x")),
        get(&sized("Content-Disposition: attachment; filename=\"résumé.pdf\"\r\nAccept-Ranges: bytes\r\n", b"%PDF")),
        get(&sized("Content-Type: text/plain; charset=utf-8\r\n", b"12|updatePanel|x|<b>|3|error|500|y|")),
        get(&sized("", &(0..=255).cycle().take(300_000).collect::<Vec<u8>>())),
        get(&sized("X-Empty:\r\nX-Wide:    x   \r\nx-tight:y\r\n", b"")),
        get(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/10\r\nContent-Length: 4\r\n\r\n0123"),
        get(b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"),
        get(b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nContent-Length: 1234\r\n\r\n"),
        get(b"HTTP/1.1 302 Found\r\nLocation: /Login.aspx?ReturnUrl=%2fa%3fb\r\nContent-Length: 0\r\n\r\n"),
        get(b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://members.example.org//x\r\nContent-Length: 0\r\n\r\n"),
        get(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"),
        get(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nerr"),
        get(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n"),
        get(b"HTTP/1.1 299 Something Odd\r\nContent-Length: 0\r\n\r\n"),
        get(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"),
        get(big_head.as_bytes()),
        get(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
        get(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        get(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;ext=1\r\nx\r\n0\r\nX-Trailer: 1\r\n\r\n"),
        get(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end"),
        get(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold"),
        to("HEAD /", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: \"x\"\r\n\r\n"),
        to("HEAD /", b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\n"),
        // A POST without a length gets one from us: that is documented, and tested elsewhere.
        Shape {
            headers: "Content-Length: 0\r\n".to_owned(),
            ..to("POST /", b"HTTP/1.1 303 See Other\r\nLocation: /done\r\nContent-Length: 0\r\n\r\n")
        },
    ]
}

/// The upstream: records what it got, answers as the shape says, and closes.
async fn upstream(authority: &Authority, shared: Arc<Mutex<(Vec<u8>, Vec<u8>)>>) -> Origin {
    Origin::start(authority, move |mut connection| {
        let shared = shared.clone();
        async move {
            let mut bytes = Vec::new();
            let mut buffer = [0; 16 * 1024];
            while !is_whole(&bytes) {
                match connection.read(&mut buffer).await {
                    Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
                    Ok(0) | Err(_) => return,
                }
            }
            let answer = {
                let mut shared = shared.lock().unwrap();
                shared.1 = bytes;
                shared.0.clone()
            };
            let _ = connection.write_all(&answer).await;
            let _ = connection.shutdown().await;
            // The client's end, so that nothing is cut off under it.
            while let Ok(1..) = connection.read(&mut buffer).await {}
        }
    })
    .await
}

fn is_whole(message: &[u8]) -> bool {
    let Some((head, body)) = split(message) else { return false };
    let lower = head.to_ascii_lowercase();
    match lower.split("\r\n").find_map(|line| line.strip_prefix("content-length:")) {
        Some(length) => body.len() >= length.trim().parse().unwrap(),
        None if lower.contains("transfer-encoding: chunked") => body.ends_with(b"0\r\n\r\n"),
        None => true,
    }
}

/// Head (every byte a character) and the rest.
fn split(message: &[u8]) -> Option<(String, &[u8])> {
    let at = message.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((message[..at + 2].iter().map(|byte| char::from(*byte)).collect(), &message[at + 4..]))
}

/// First line, other lines but for those that the documentation names, and the body without its framing.
fn comparable(message: &[u8], is_response_to_head: bool) -> (String, Vec<String>, Vec<u8>) {
    let (head, body) = split(message).unwrap();
    let mut lines = head.split_terminator("\r\n").map(str::to_owned);
    let first = lines.next().unwrap();
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let documented = |line: &String| {
        let name = line.split(':').next().unwrap().to_ascii_lowercase();
        let ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"];
        let hop = ["connection", "transfer-encoding", "keep-alive"];
        !ours.contains(&&*name) && !hop.contains(&&*name)
    };
    let body = if is_chunked && !is_response_to_head { dechunked(body) } else { body.to_vec() };
    (first, lines.filter(documented).collect(), body)
}

fn dechunked(mut body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let line = body.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = std::str::from_utf8(&body[..line]).unwrap().split(';').next().unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return data;
        }
        data.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 2 + size + 2..];
    }
}

fn on_the_wire(shape: &Shape) -> Vec<u8> {
    let mut bytes =
        format!("{} HTTP/1.1\r\nHost: {SITE}\r\n{}Connection: close\r\n\r\n", shape.line, shape.headers)
            .into_bytes();
    if shape.headers.contains("chunked") {
        for chunk in shape.body.chunks(70_000) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    } else {
        bytes.extend_from_slice(&shape.body);
    }
    bytes
}

async fn exchange(client: &Client, request: &[u8]) -> Vec<u8> {
    let mut stream = client.connect("http/1.1").await;
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn sixty_shapes_differ_from_a_direct_connection_by_the_documented_headers_only() {
    let authority = Authority::new("test CA");
    let shared = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let origin = upstream(&authority, shared.clone()).await;
    let direct = Client::new(&authority, origin.address);
    let server = format!("https://{}", origin.address);
    let proxy = Proxy::to(authority, &server, Some(origin), "");
    let shapes: Vec<Shape> = requests().into_iter().chain(answers()).collect();
    assert!(shapes.len() >= 60, "{}", shapes.len());
    for shape in &shapes {
        shared.lock().unwrap().0 = shape.answer.clone();
        let request = on_the_wire(shape);
        let to_head = shape.line.starts_with("HEAD");
        let shown = format!(
            "{} {} -> {:?}",
            shape.line,
            shape.headers,
            String::from_utf8_lossy(&shape.answer[..60.min(shape.answer.len())])
        );

        let got_directly = exchange(&direct, &request).await;
        let seen_directly = shared.lock().unwrap().1.clone();
        let got = exchange(&proxy.client, &request).await;
        let dated = |bytes: &[u8]| bytes.windows(8).any(|window| window.eq_ignore_ascii_case(b"\r\nDate: "));
        // What comes without a date gets the one of its coming (RFC 9110 section 6.6.1).
        assert!(dated(&got), "{shown}");
        let got = if dated(&got_directly) { got } else { undated(&got) };
        let seen = shared.lock().unwrap().1.clone();

        // Requests: all bytes, with ours behind them.
        assert_eq!(comparable(&seen, false), comparable(&seen_directly, false), "what iMIS saw: {shown}");
        let (mut first, lines, body) = comparable(&got_directly, to_head);
        // The version of a message is its sender's (RFC 9110 section 6.2).
        first = first.replace("HTTP/1.0", "HTTP/1.1");
        assert_eq!(comparable(&got, to_head), (first, lines, body), "what the browser saw: {shown}");

        over_h2(&proxy, shape, &got_directly, &seen_directly, &shared).await;
    }
}

/// Without its one line that says the date.
fn undated(message: &[u8]) -> Vec<u8> {
    let begin = message.windows(8).position(|window| window == b"\r\nDate: ").unwrap();
    let length = message[begin + 2..].windows(2).position(|window| window == b"\r\n").unwrap() + 2;
    [&message[..begin], &message[begin + length..]].concat()
}

/// The same over HTTP/2, where names are lower-case, values have no white space around them, and repeated headers stand
/// together.
async fn over_h2(
    proxy: &Proxy,
    shape: &Shape,
    got_directly: &[u8],
    seen_directly: &[u8],
    shared: &Mutex<(Vec<u8>, Vec<u8>)>,
) {
    let (method, target) = shape.line.split_once(' ').unwrap();
    let headers: Vec<(String, String)> = shape
        .headers
        .split_terminator("\r\n")
        .map(|line| line.split_once(':').unwrap())
        .filter(|(name, _)| *name != "Transfer-Encoding")
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let reply = proxy.client.send_h2(method, target, &headers, shape.body.clone()).await;
    let seen = shared.lock().unwrap().1.clone();

    let normal = |message: &[u8], to_head: bool, without: &[&str]| {
        let (first, lines, body) = comparable(message, to_head);
        let mut lines: Vec<(String, String)> = lines
            .iter()
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .filter(|(name, _)| !without.contains(&&**name))
            .collect();
        lines.sort_by(|one, other| one.0.cmp(&other.0));
        (first, lines, body)
    };
    // Framing is each connection's own: hyper's client says no length of an empty body, and chunks have none in HTTP/2.
    let without = ["content-length", "host"];
    let shown = (shape.line, &shape.headers);
    assert_eq!(
        normal(&seen, false, &without),
        normal(seen_directly, false, &without),
        "h2, what iMIS saw: {shown:?}"
    );

    let to_head = shape.line.starts_with("HEAD");
    let (first, lines, body) = normal(got_directly, to_head, &[]);
    assert_eq!(first.split(' ').nth(1).unwrap(), reply.status.as_str(), "{shown:?}");
    let mut got: Vec<(String, String)> = reply
        .headers
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), value.as_bytes().iter().map(|byte| char::from(*byte)).collect())
        })
        // A length that was not said may be said, since HTTP/2 can.
        .filter(|(name, _)| {
            !matches!(&**name, "content-length" | "date") || lines.iter().any(|(other, _)| other == name)
        })
        .collect();
    got.sort_by(|one: &(String, String), other| one.0.cmp(&other.0));
    assert_eq!(got, lines, "h2, what the browser saw: {shown:?}");
    assert_eq!(reply.body, body, "{shown:?}");
}
