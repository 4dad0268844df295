//! When iMIS fails: honest pages, no token, and proxying that goes on.

use std::time::Duration;

use http::Method;
use imis_gateway_simulators::certificates::Authority;
use imis_gateway_simulators::imis::{ApiFault, Faults, Generation, PageFault, TokenFault};

use crate::sign_in::assert_strict_page;
use crate::support::origin::Proxy;
use crate::support::{SITE, Setup, Stage};

const DEEP: &str = "?return_to=https%3A%2F%2Fcontoso.zendesk.com%2Fhc%2Fen-us%2Frequests%2F7";

#[tokio::test]
async fn a_failing_api_is_said_honestly_keeps_the_deep_link_and_leaves_proxying_alone() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    let token = |token| Faults { token, ..Faults::default() };
    let api = |api| Faults { api, ..Faults::default() };
    for faults in [
        token(TokenFault::Down),
        token(TokenFault::Refuses),
        token(TokenFault::Html),
        token(TokenFault::Drop),
        api(ApiFault::Status(500)),
        api(ApiFault::Status(404)),
        api(ApiFault::Status(429)),
        api(ApiFault::Unauthorized(9)),
        api(ApiFault::Html),
        api(ApiFault::AnotherParty("104020".to_owned())),
        api(ApiFault::Drop),
    ] {
        stage.imis.set_faults(faults.clone());
        let reply = stage.sso(DEEP, &cookie).await;
        assert_eq!(reply.status, 503, "{faults:?}");
        assert_eq!(reply.header("retry-after"), "30");
        assert_eq!(reply.token(), None);
        assert_strict_page(&reply);
        let text = reply.text();
        let normal = "https://contoso.zendesk.com/access/normal?return_to=https%3A%2F%2Fcontoso.zendesk.com%2Fhc%2Fen-us%2Frequests%2F7";
        assert!(text.contains(normal), "{text}");
        assert!(text.contains(
            "/sso/zendesk?return_to=https%3A%2F%2Fcontoso.zendesk.com%2Fhc%2Fen-us%2Frequests%2F7"
        ));
        let page = stage.client().get("/Default.aspx", &[("cookie", &cookie)]).await;
        assert!(page.text().contains("Signed in as"), "proxying goes on");
    }
    stage.imis.set_faults(Faults::default());
    assert!(stage.sso(DEEP, &cookie).await.token().is_some(), "and signing in, once iMIS is well again");
}

#[tokio::test]
async fn a_token_refused_before_its_end_is_replaced_once() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    stage.imis.set_faults(Faults { api: ApiFault::Unauthorized(1), ..Faults::default() });
    assert!(stage.sso("", &cookie).await.token().is_some());
    assert_eq!(stage.imis.tokens_given(), 2);
    assert!(stage.sso("", &cookie).await.token().is_some());
    assert_eq!(stage.imis.tokens_given(), 2, "the new one is kept");
}

#[tokio::test]
async fn a_token_is_not_used_to_its_end() {
    let mut setup = Setup::new(Generation::Ems);
    // A life of no time at all: each sign-in finds the token of the one before too old.
    setup.imis.token_seconds = 0;
    let stage = Stage::with(setup.with_app("guards: {duplicate_email: off}")).await;
    let cookie = stage.cookie_of("AMUELLER");
    for count in 1..=3 {
        assert!(stage.sso("", &cookie).await.token().is_some());
        assert_eq!(stage.imis.tokens_given(), count);
    }
}

#[tokio::test]
async fn a_life_of_a_token_that_cannot_be_is_taken_as_a_day() {
    let mut setup = Setup::new(Generation::Ems);
    setup.imis.token_seconds = u64::MAX;
    let stage = Stage::with(setup).await;
    for _ in 0..2 {
        assert!(stage.sso("", &stage.cookie_of("AMUELLER")).await.token().is_some());
    }
    assert_eq!(stage.imis.tokens_given(), 1);
}

/// Sign-ins of many at once while iMIS hangs: what each got, and how long all of it took.
async fn sign_ins_at_once(stage: &Stage, count: usize) -> (Vec<crate::support::Reply>, Duration) {
    let cookie = stage.cookie_of("AMUELLER");
    let client = stage.client();
    let started = std::time::Instant::now();
    let headers = [("cookie", cookie.as_str())];
    let asked = (0..count).map(|_| client.get("/sso/zendesk", &headers));
    (futures_util::future::join_all(asked).await, started.elapsed())
}

#[tokio::test]
async fn an_imis_that_hangs_holds_nobody_up_for_longer_than_anybody() {
    let stage = Stage::new().await;
    stage.imis.set_faults(Faults { delay: Some(Duration::from_secs(60)), ..Faults::default() });
    let client = stage.client();
    let ((replies, waited), good_bye) =
        tokio::join!(sign_ins_at_once(&stage, 5), client.get("/sso/zendesk/signed-out", &[]));
    assert_eq!(good_bye.status, 200);
    assert!(replies.iter().all(|reply| reply.status == 503 && reply.token().is_none()));
    assert!(waited > Duration::from_secs(9) && waited < Duration::from_secs(20), "{waited:?}");
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_is_waited_for_once_and_not_in_turn() {
    let stage = Stage::new().await;
    stage.imis.set_faults(Faults { token: TokenFault::Hangs, ..Faults::default() });
    let (replies, waited) = sign_ins_at_once(&stage, 5).await;
    assert!(replies.iter().all(|reply| reply.status == 503 && reply.token().is_none()));
    assert!(waited < Duration::from_secs(18), "{waited:?}");
    let asked = stage.imis.requests().iter().filter(|request| request.target == "/token").count();
    assert_eq!(asked, 1, "one attempt for all of them");
}

#[tokio::test]
async fn more_sign_ins_than_there_are_places_are_told_to_come_back_and_leaving_frees_a_place() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    stage.imis.set_faults(Faults { delay: Some(Duration::from_secs(60)), ..Faults::default() });
    let client = stage.client();
    // Each with a session of its own: tabs of one would wait together.
    let sessions: Vec<String> = (0..64).map(|_| stage.cookie_of("boconnor")).collect();
    let waiting = sessions.iter().map(|cookie| {
        let client = &client;
        async move { client.get("/sso/zendesk", &[("cookie", cookie.as_str())]).await }
    });
    let waiting = futures_util::future::join_all(waiting);
    let one_more = async {
        while stage.imis.requests().len() < 64 {
            tokio::task::yield_now().await;
        }
        // Who has no session cookie need not wait for iMIS.
        assert_eq!(client.get("/sso/zendesk", &[]).await.status, 302);
        client.get("/sso/zendesk", &[("cookie", &cookie)]).await
    };
    // Whoever comes too many is answered at once, and with that the others are dropped: their browsers leave.
    let reply = tokio::select! {
        reply = one_more => reply,
        _ = waiting => panic!("the places were answered first"),
    };
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("retry-after"), "30");
    stage
        .gateway
        .logged(|line| {
            line["error"].as_str().is_some_and(|text| text.contains("too many concurrent sign-ins"))
        })
        .await;
    stage.imis.set_faults(Faults::default());
    // Long before iMIS's time for an answer would be over.
    let end = std::time::Instant::now() + Duration::from_secs(3);
    while stage.sso("", &cookie).await.token().is_none() {
        assert!(std::time::Instant::now() < end, "the places of those who left are still taken");
    }
}

#[tokio::test]
async fn a_page_that_is_lost_identifies_nobody() {
    let stage = Stage::new().await;
    stage.imis.set_faults(Faults { pages: PageFault::Drop, ..Faults::default() });
    assert_eq!(stage.sso("", &stage.cookie_of("AMUELLER")).await.status, 503);
}

#[tokio::test]
async fn an_unreachable_imis_is_a_502_with_a_page_of_ours() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let proxy = Proxy::to(Authority::new("test CA"), &format!("https://127.0.0.1:{port}"), None, "");
    for method in [Method::GET, Method::POST] {
        let reply = proxy.client.send(method, "/iMIS/Default.aspx", &[], "").await;
        assert_eq!(reply.status, 502);
        assert!(reply.text().contains("The site cannot be reached"));
        assert_strict_page(&reply);
    }
    let line = proxy
        .gateway
        .logged(|line| line["error"].as_str().is_some_and(|text| text.contains("no upstream server")))
        .await;
    assert!(line["request_id"].is_string());
}

#[tokio::test]
async fn an_imis_that_accepts_and_says_nothing_is_a_504() {
    let proxy = Proxy::start(|mut connection| async move {
        while crate::support::origin::read_request(&mut connection).await.is_some() {}
    })
    .await;
    let reply = proxy.client.get("/", &[]).await;
    assert_eq!(reply.status, 504);
    assert_strict_page(&reply);
}

#[tokio::test]
async fn a_certificate_that_is_not_vouched_for_is_not_talked_to() {
    let other = Authority::new("another CA");
    let origin = crate::support::origin::Origin::start(&other, |_| async {}).await;
    let proxy =
        Proxy::to(Authority::new("test CA"), &format!("https://{}", origin.address), Some(origin), "");
    assert_eq!(proxy.client.get("/", &[]).await.status, 502);
    proxy.gateway.logged(|line| line["error"].as_str().is_some_and(|text| text.contains("TLS"))).await;
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_a_502() {
    let (proxy, _) = Proxy::answering(b"220 mail.example.org ESMTP\r\n\r\n").await;
    assert_eq!(proxy.client.get("/", &[]).await.status, 502);
}

#[tokio::test]
async fn a_switch_of_protocols_that_nobody_asked_for_is_a_502() {
    let (proxy, _) =
        Proxy::answering(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
            .await;
    assert_eq!(proxy.client.get("/", &[]).await.status, 502);
}

#[tokio::test]
async fn an_answer_that_ends_in_two_ways_is_a_502() {
    let answer =
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (proxy, _) = Proxy::answering(answer).await;
    assert_eq!(proxy.client.get("/", &[]).await.status, 502);
    assert_eq!(proxy.client.send_h2(Method::GET, "/", &[], "").await.status, 502);
}

#[tokio::test]
async fn a_cut_off_body_is_never_shown_as_whole() {
    let proxy = Proxy::start(|mut connection| async move {
        use tokio::io::AsyncWriteExt;
        let _ = crate::support::origin::read_request(&mut connection).await;
        let _ = connection
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nhalf")
            .await;
        let _ = connection.shutdown().await;
    })
    .await;
    use http_body_util::BodyExt;
    let io = hyper_util::rt::TokioIo::new(proxy.client.connect("http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/").header("host", SITE).body(String::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    proxy.gateway.logged(|line| line["outcome"] == "upstream_broke").await;
}

#[tokio::test]
async fn a_setup_without_apps_needs_no_imis() {
    let (proxy, _) = Proxy::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(proxy.client.get("/sso/zendesk", &[]).await.text(), "hi");
}
