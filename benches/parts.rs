//! What single parts cost: `cargo bench --features fuzzing`. The whole is measured by `bench/run`; see
//! `docs/performance.md`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};
use imis_gateway::fuzzing::ticket_vectors::Vector;
use imis_gateway::fuzzing::{Mint, Routes, has_session, read_message, rewrite_request, rewrite_response};

/// As a browser sends them to an ASP.NET site.
fn cookies() -> String {
    format!(
        "ASP.NET_SessionId=kq1nxkz0b3hfvg5c2ws4lmtd; __RequestVerificationToken={}; Login={}; _ga=GA1.2.1234567890; theme=light",
        "Zm9vYmFyYmF6cXV4".repeat(4),
        "9F3A7C51E08B2D64".repeat(28)
    )
}

fn request() -> Vec<u8> {
    format!(
        "GET /iMIS/Contacts/ContactLayouts/AccountPage.aspx?ID=104019 HTTP/1.1\r\nHost: members.example.org\r\n\
         User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0\r\n\
         Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-GB,en;q=0.9\r\n\
         Accept-Encoding: gzip, deflate, br\r\nReferer: https://members.example.org/iMIS/Default.aspx\r\n\
         Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nConnection: keep-alive\r\nCookie: {}\r\n\r\n",
        cookies()
    )
    .into_bytes()
}

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Type: text/html; charset=utf-8\r\n\
    Content-Encoding: gzip\r\nVary: Accept-Encoding\r\nServer: Microsoft-IIS/10.0\r\nX-AspNet-Version: 4.0.30319\r\n\
    Set-Cookie: ASP.NET_SessionId=kq1nxkz0b3hfvg5c2ws4lmtd; path=/; secure; HttpOnly; SameSite=Lax\r\n\
    Set-Cookie: __RequestVerificationToken=Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6; path=/; secure; HttpOnly\r\n\
    X-Frame-Options: SAMEORIGIN\r\nX-Content-Type-Options: nosniff\r\nX-Powered-By: ASP.NET\r\n\
    Date: Wed, 25 Nov 2026 02:00:00 GMT\r\nConnection: keep-alive\r\nContent-Length: 10240\r\n\r\n";

fn heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head rewrite");
    let request = request();
    let mut out = Vec::with_capacity(8192);
    group.throughput(Throughput::Bytes(request.len() as u64));
    group.bench_function("request, 10 fields", |bencher| {
        bencher.iter(|| {
            out.clear();
            assert!(rewrite_request(black_box(&request), &mut out));
        });
    });
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("response, 14 fields", |bencher| {
        bencher.iter(|| {
            out.clear();
            assert!(rewrite_response(black_box(RESPONSE), &mut out));
        });
    });
    group.finish();
}

fn bodies(criterion: &mut Criterion) {
    let mut message = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..64 {
        message.extend_from_slice(b"400\r\n");
        message.extend_from_slice(&[b'x'; 1024]);
        message.extend_from_slice(b"\r\n");
    }
    message.extend_from_slice(b"0\r\n\r\n");
    let mut group = criterion.benchmark_group("body");
    group.throughput(Throughput::Bytes(message.len() as u64));
    group.bench_function("64 chunks of 1 KiB", |bencher| {
        bencher.iter(|| {
            assert!(read_message(black_box(&message), true, 64 * 1024).is_some_and(|read| read.whole))
        });
    });
    group.finish();
}

fn sign_in(criterion: &mut Criterion) {
    let routes = Routes::new("/sso/zendesk").expect("a path that an app can have");
    let mut group = criterion.benchmark_group("canonical path");
    for (name, path) in [
        ("a page", "/iMIS/Contacts/ContactLayouts/AccountPage.aspx"),
        ("an encoded page", "/iMIS/My%20Account/Default%20Page.aspx"),
        ("another spelling of ours", "/SSO/./%7aendesk/"),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| routes.is_ours(black_box(path))));
    }
    group.finish();

    let mut headers = HeaderMap::new();
    headers.insert(COOKIE, HeaderValue::try_from(cookies()).expect("cookies are a header value"));
    let names = ["Login".to_owned()];
    criterion.bench_function("cookie scan", |bencher| {
        bencher.iter(|| assert!(has_session(black_box(&headers), &names)));
    });

    let record =
        br#"{"$type":"Asi.Soa.Membership.DataContracts.PersonData, Asi.Contracts","PartyId":"104019",
        "PersonName":{"FirstName":"Anna","LastName":"M\u00fcller","FullName":"Anna M\u00fcller"},
        "Emails":{"$values":[{"Address":"anna@example.org","EmailType":"_Primary","IsPrimary":true}]},
        "Status":{"PartyStatusId":"A"}}"#;
    let mint = Mint::of("104019", record).expect("a record that may sign in");
    criterion.bench_function("mint", |bencher| {
        bencher.iter(|| mint.token_length(black_box(1_700_000_000), "0123456789abcdef0123456789abcdef"));
    });
}

fn tickets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forms ticket");
    for (index, ticket) in Vector::all().enumerate() {
        group.bench_function(format!("{index} {}", ticket.name()), |bencher| {
            bencher.iter(|| assert!(ticket.opens(black_box(ticket.cookie()))));
        });
    }
    group.finish();
}

criterion_group!(parts, heads, bodies, sign_in, tickets);
criterion_main!(parts);
