//! When the API of iMIS fails during a sign-in: an error page that says so, no token, and other pages still pass
//! through.

use std::time::{Duration, Instant};

use imis_gateway_simulators::imis::{ApiFault, Faults, Generation, PageFault, TokenFault};

use crate::sign_in::assert_strict_page;
use crate::support::origin::Proxy;
use crate::support::{Reply, Setup, Stage};

/// The time that the gateway waits for a response of iMIS during a sign-in.
const IMIS_TIMEOUT: Duration = Duration::from_secs(10);

const DEEP: &str = "?return_to=https%3A%2F%2Fcontoso.zendesk.com%2Fhc%2Fen-us%2Frequests%2F7";

#[tokio::test]
async fn a_failing_api_gives_a_503_that_keeps_the_deep_link_while_pages_pass() {
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
async fn a_token_refused_before_it_expires_is_replaced_once() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    stage.imis.set_faults(Faults { api: ApiFault::Unauthorized(1), ..Faults::default() });
    assert!(stage.sso("", &cookie).await.token().is_some());
    assert_eq!(stage.imis.tokens_given(), 2);
    assert!(stage.sso("", &cookie).await.token().is_some());
    assert_eq!(stage.imis.tokens_given(), 2, "the new one is kept");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
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
async fn an_absurd_token_lifetime_is_capped_at_a_day() {
    let mut setup = Setup::new(Generation::Ems);
    setup.imis.token_seconds = u64::MAX;
    let stage = Stage::with(setup).await;
    for _ in 0..2 {
        assert!(stage.sso("", &stage.cookie_of("AMUELLER")).await.token().is_some());
    }
    assert_eq!(stage.imis.tokens_given(), 1);
}

/// Several sign-ins at once while iMIS hangs.
async fn concurrent_sign_ins(stage: &Stage, count: usize) -> Vec<Reply> {
    let cookie = stage.cookie_of("AMUELLER");
    let client = stage.client();
    let headers = [("cookie", cookie.as_str())];
    futures_util::future::join_all((0..count).map(|_| client.get("/sso/zendesk", &headers))).await
}

fn requests_for(stage: &Stage, target: &str) -> usize {
    stage.imis.requests().iter().filter(|request| request.target.contains(target)).count()
}

#[tokio::test]
async fn while_imis_hangs_sign_ins_fail_together_and_other_pages_are_served() {
    let stage = Stage::new().await;
    stage.imis.set_faults(Faults { delay: Some(Duration::from_secs(60)), ..Faults::default() });
    let client = stage.client();
    let (replies, good_bye) =
        tokio::join!(concurrent_sign_ins(&stage, 5), client.get("/sso/zendesk/signed-out", &[]));
    assert_eq!(good_bye.status, 200);
    assert!(replies.iter().all(|reply| reply.status == 503 && reply.token().is_none()));
    assert_eq!(requests_for(&stage, "probe"), 1, "they share one attempt, and none waits for its own");
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_is_waited_for_once_and_not_in_turn() {
    let stage = Stage::new().await;
    stage.imis.set_faults(Faults { token: TokenFault::Hangs, ..Faults::default() });
    let replies = concurrent_sign_ins(&stage, 5).await;
    assert!(replies.iter().all(|reply| reply.status == 503 && reply.token().is_none()));
    assert_eq!(requests_for(&stage, "/token"), 1, "one attempt for all of them");
}

#[tokio::test]
async fn too_many_concurrent_sign_ins_get_a_503_and_a_client_that_leaves_frees_its_slot() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    stage.imis.set_faults(Faults { delay: Some(Duration::from_secs(60)), ..Faults::default() });
    let client = stage.client();
    // Each with a session of its own: tabs of one would wait together.
    let sessions: Vec<String> = (0..64).map(|_| stage.cookie_of("boconnor")).collect();
    let waiting_since = Instant::now();
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
    stage.gateway.wait_for_metric("imis_gateway_connections 0").await;
    let asked_after = waiting_since.elapsed();
    assert!(stage.sso("", &cookie).await.token().is_some(), "the slots of those who left are free");
    // Slots that were still taken would become free by the timeout for iMIS.
    let took = waiting_since.elapsed();
    assert!(asked_after > IMIS_TIMEOUT || took < IMIS_TIMEOUT, "{asked_after:?} {took:?}");
}

#[tokio::test]
async fn a_lost_probe_response_is_a_503() {
    let stage = Stage::new().await;
    stage.imis.set_faults(Faults { pages: PageFault::Drop, ..Faults::default() });
    assert_eq!(stage.sso("", &stage.cookie_of("AMUELLER")).await.status, 503);
}

#[tokio::test]
async fn without_apps_nothing_is_asked_of_imis() {
    let (proxy, _) = Proxy::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(proxy.client.get("/sso/zendesk", &[]).await.text(), "hi");
}
