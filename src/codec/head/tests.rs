//! Tables of valid and invalid heads.

use crate::codec::head::*;

/// Parses a request head.
fn request(head: &str) -> Result<(String, Option<String>, Length, bool), HeadError> {
    let bytes = head.as_bytes();
    match Scanner::default().find_end(bytes, 64 * 1024)? {
        Some(length) => assert_eq!(length, bytes.len()),
        None => return Err(HeadError::Malformed("incomplete")),
    }
    let mut slots = header_slots();
    let parsed_head = ParsedHead::parse(bytes, &mut slots)?;
    let request = Request::of(&parsed_head)?;
    let authority = request.authority.map(|authority| authority.text.to_owned());
    Ok((request.target.into_owned(), authority, request.length, request.keep_alive))
}

fn response(head: &str, to_head: bool) -> Result<(u16, Length, bool), HeadError> {
    let bytes = head.as_bytes();
    match Scanner::default().find_end(bytes, 128 * 1024)? {
        Some(length) => assert_eq!(length, bytes.len()),
        None => return Err(HeadError::Malformed("incomplete")),
    }
    let mut slots = header_slots();
    let response = Response::parse(bytes, &mut slots, to_head)?;
    Ok((response.status, response.length, response.keep_alive))
}

const HOST: &str = "Host: h.example\r\n";

#[test]
fn valid_requests_are_parsed() {
    for (head, target, length, keep_alive) in [
        ("GET / HTTP/1.1\r\n{H}\r\n", "/", Length::Known(0), true),
        (
            "GET //a/%2f(S(x))/$/?q=<>|\"{}^` HTTP/1.1\r\n{H}\r\n",
            "//a/%2f(S(x))/$/?q=<>|\"{}^`",
            Length::Known(0),
            true,
        ),
        ("OPTIONS * HTTP/1.1\r\n{H}\r\n", "*", Length::Known(0), true),
        ("GET https://h.example/a?b HTTP/1.1\r\n{H}\r\n", "/a?b", Length::Known(0), true),
        ("GET http://H.EXAMPLE HTTP/1.1\r\n{H}\r\n", "/", Length::Known(0), true),
        ("GET https://h.example:443?a/b HTTP/1.1\r\n{H}\r\n", "/?a/b", Length::Known(0), true),
        ("POST /a HTTP/1.1\r\n{H}Content-Length: 5\r\n\r\n", "/a", Length::Known(5), true),
        ("POST /a HTTP/1.1\r\n{H}content-length:0005\r\n\r\n", "/a", Length::Known(5), true),
        (
            "POST /a HTTP/1.1\r\n{H}Content-Length: 9223372036854775807\r\n\r\n",
            "/a",
            Length::Known(i64::MAX as u64),
            true,
        ),
        ("POST /a HTTP/1.1\r\n{H}Transfer-Encoding:\tChunked \r\n\r\n", "/a", Length::Chunked, true),
        ("POST /a HTTP/1.1\r\n{H}Transfer-Encoding: ,chunked ,\r\n\r\n", "/a", Length::Chunked, true),
        ("POST /a HTTP/1.1\r\n{H}Expect: 100-continue, x=\"y\"\r\n\r\n", "/a", Length::Known(0), true),
        ("GET / HTTP/1.1\r\n{H}Connection: foo, Close\r\n\r\n", "/", Length::Known(0), false),
        ("GET / HTTP/1.0\r\n{H}\r\n", "/", Length::Known(0), false),
        ("GET / HTTP/1.0\r\n{H}Connection: keep-alive\r\n\r\n", "/", Length::Known(0), true),
        ("GET / HTTP/1.0\r\n{H}Connection: keep-alive, close\r\n\r\n", "/", Length::Known(0), false),
        ("M-SEARCH /x HTTP/1.1\r\n{H}X:\r\nY: \t\r\nZ: a\tb \r\n\r\n", "/x", Length::Known(0), true),
    ] {
        let head = head.replace("{H}", HOST);
        let (read_target, authority, read_length, read_keep_alive) =
            request(&head).unwrap_or_else(|error| panic!("{head:?}: {error}"));
        assert_eq!((&*read_target, read_length, read_keep_alive), (target, length, keep_alive), "{head:?}");
        assert!(authority.is_some_and(|text| text.to_ascii_lowercase().starts_with("h.example")));
    }
    assert_eq!(request("GET / HTTP/1.0\r\n\r\n").unwrap().1, None, "HTTP/1.0 has no Host");
}

#[test]
fn ambiguous_requests_are_refused() {
    for head in [
        // The end of the body.
        "POST / HTTP/1.1\r\n{H}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Content-Length: 5, 5\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Content-Length: +5\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Content-Length: -5\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Content-Length: 0x5\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Content-Length: 5 5\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Content-Length: 5_0\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Content-Length:\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Content-Length: 9223372036854775808\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Content-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.0\r\n{H}Transfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: identity\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: xchunked\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding:\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked, gzip\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: ,\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: gzip,\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked, gzip, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked;q=1\r\n\r\n",
        // The end of a line.
        "GET / HTTP/1.1\n{H}\r\n",
        "GET / HTTP/1.1\r\nHost: h.example\n\r\n",
        "GET / HTTP/1.1\r\n{H}X: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\n{H}X: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\n X: a\r\n{H}\r\n",
        "GET / HTTP/1.1\r\n\tHost: h.example\r\n\r\n",
        "GET / HTTP/1.1\r\n{H}X: a\0b\r\n\r\n",
        // Names and values.
        "GET / HTTP/1.1\r\n{H}Content-Length : 5\r\n\r\n",
        "GET / HTTP/1.1\r\n{H}: x\r\n\r\n",
        "GET / HTTP/1.1\r\n{H}X Y: x\r\n\r\n",
        "GET / HTTP/1.1\r\n{H}X(: x\r\n\r\n",
        "GET / HTTP/1.1\r\n{H}X\r\n\r\n",
        "GET / HTTP/1.1\r\n{H}\u{e9}: x\r\n\r\n",
        "GET / HTTP/1.1\r\n{H}X: \u{7f}\r\n\r\n",
        // The authority.
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\n{H}{H}\r\n",
        "GET / HTTP/1.1\r\nHost: h.example, h.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@h.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h.example/x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h.example:x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h.example:443:443\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET https://other.example/ HTTP/1.1\r\n{H}\r\n",
        "GET https://a@h.example/ HTTP/1.1\r\n{H}\r\n",
        "GET ftp://h.example/ HTTP/1.1\r\n{H}\r\n",
        "GET https:///a HTTP/1.1\r\n{H}\r\n",
        // The request target.
        "GET /a#b HTTP/1.1\r\n{H}\r\n",
        "GET a HTTP/1.1\r\n{H}\r\n",
        "GET * HTTP/1.1\r\n{H}\r\n",
        "GET /\u{e9} HTTP/1.1\r\n{H}\r\n",
        "GET /a b HTTP/1.1\r\n{H}\r\n",
        "GET  / HTTP/1.1\r\n{H}\r\n",
        "GET\t/ HTTP/1.1\r\n{H}\r\n",
        "GET /  HTTP/1.1\r\n{H}\r\n",
        " GET / HTTP/1.1\r\n{H}\r\n",
        "G(T / HTTP/1.1\r\n{H}\r\n",
        "GET /\r\n{H}\r\n",
        "GET / http/1.1\r\n{H}\r\n",
        "GET / HTTP/1.1 \r\n{H}\r\n",
        "GET / HTTP/11\r\n{H}\r\n",
    ] {
        let head = head.replace("{H}", HOST);
        assert!(matches!(request(&head), Err(HeadError::Malformed(_))), "{head:?}: {:?}", request(&head));
    }
}

#[test]
fn other_refusals_have_their_own_errors() {
    for (head, error) in [
        ("GET / HTTP/2.0\r\n{H}\r\n", HeadError::Version),
        ("GET / HTTP/1.2\r\n{H}\r\n", HeadError::Version),
        ("GET / HTTP/0.9\r\n{H}\r\n", HeadError::Version),
        ("POST / HTTP/1.1\r\n{H}Transfer-Encoding: gzip, chunked\r\n\r\n", HeadError::Coding),
        ("CONNECT h.example:443 HTTP/1.1\r\n{H}\r\n", HeadError::Method),
        ("TRACE / HTTP/1.1\r\n{H}\r\n", HeadError::Method),
    ] {
        assert_eq!(request(&head.replace("{H}", HOST)), Err(error), "{head:?}");
    }
    let many = format!("GET / HTTP/1.1\r\n{HOST}{}\r\n", "X: 1\r\n".repeat(MAX_FIELDS));
    assert_eq!(request(&many), Err(HeadError::TooLarge));
    let large = format!("GET / HTTP/1.1\r\n{HOST}X: {}\r\n\r\n", "x".repeat(64 * 1024));
    assert_eq!(request(&large), Err(HeadError::TooLarge));
    let long = "GET /".to_owned() + &"x".repeat(64 * 1024);
    assert_eq!(request(&long), Err(HeadError::TargetTooLong));
}

#[test]
fn the_end_of_a_head_is_found_in_pieces_of_any_size() {
    let head = format!("GET / HTTP/1.1\r\n{HOST}X: 1\r\n\r\n");
    let more = format!("{head}GET /next");
    let mut scanner = Scanner::default();
    for end in 0..more.len() {
        let found = scanner.find_end(&more.as_bytes()[..end], 1024).unwrap();
        if end >= head.len() {
            assert_eq!(found, Some(head.len()));
            break;
        }
        assert_eq!(found, None);
    }
}

#[test]
fn valid_responses_are_parsed() {
    for (head, to_head, status, length, keep_alive) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, 200, Length::Known(5), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, 200, Length::Known(0), true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, 200, Length::Chunked, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true, 200, Length::Known(0), true),
        ("HTTP/1.1 200 OK\r\n\r\n", false, 200, Length::UntilClose, false),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n",
            false,
            200,
            Length::Known(5),
            false,
        ),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", false, 200, Length::Known(5), false),
        (
            "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\n",
            false,
            200,
            Length::Known(5),
            true,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", false, 204, Length::Known(0), true),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", false, 204, Length::Known(0), true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n", false, 304, Length::Known(0), true),
        (
            "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
            304,
            Length::Known(0),
            true,
        ),
        ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", false, 103, Length::Known(0), true),
        ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", false, 200, Length::Known(0), true),
        ("HTTP/1.1 299 Caf\u{e9}\r\nContent-Length: 0\r\n\r\n", false, 299, Length::Known(0), true),
        ("HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n", false, 999, Length::Known(0), true),
    ] {
        assert_eq!(response(head, to_head), Ok((status, length, keep_alive)), "{head:?}");
    }
}

#[test]
fn ambiguous_responses_are_refused() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        "HTTP/1.1 99 No\r\n\r\n",
        "HTTP/1.1 2000 No\r\n\r\n",
        "HTTP/1.1 20x No\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/3.0 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "220 mail.example.org ESMTP\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        assert!(response(head, false).is_err(), "{head:?}: {:?}", response(head, false));
    }
}
