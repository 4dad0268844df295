//! Who a session belongs to is remembered for a moment, and forgotten at once when a sign-out passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use imis_gateway_simulators::imis::{Faults, Generation};

use tokio::io::AsyncWriteExt;

use crate::support::origin::{Connection, Proxy, read_request};
use crate::support::{Reply, SSO, Setup, Stage};
use crate::tokens::claims;

fn probes(stage: &Stage) -> usize {
    stage.imis.requests().iter().filter(|request| request.target.contains("probe")).count()
}

fn profiles(stage: &Stage) -> usize {
    stage.imis.requests().iter().filter(|request| request.target.contains("/api/Party/")).count()
}

fn who(reply: &Reply) -> Option<String> {
    reply.token().map(|token| claims(&token)["external_id"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn an_identity_is_remembered_and_a_profile_is_not() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    for round in 1..=3 {
        assert_eq!(who(&stage.sso("", &cookie).await).as_deref(), Some("104019"));
        assert_eq!((probes(&stage), profiles(&stage)), (1, round));
    }
    // Other cookies do not matter, another session does.
    assert_eq!(who(&stage.sso("", &format!("{cookie}; other=1")).await).as_deref(), Some("104019"));
    assert_eq!(probes(&stage), 1);
    assert_eq!(who(&stage.sso("", &stage.cookie_of("AMUELLER")).await).as_deref(), Some("104019"));
    assert_eq!(probes(&stage), 2);
    assert_eq!(who(&stage.sso("", &stage.cookie_of("boconnor")).await).as_deref(), Some("104020"));
    assert_eq!(probes(&stage), 3);
}

#[tokio::test]
async fn it_can_be_switched_off_or_shortened() {
    for (written, wait) in [("null", 0), ("1s", 1300)] {
        let edit = format!("identity_cache: {written}\n      session_cookies: [Login]");
        let stage = Stage::with(Setup::new(Generation::Ems).edit("session_cookies: [Login]", &edit)).await;
        let cookie = stage.cookie_of("AMUELLER");
        stage.sso("", &cookie).await;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        stage.sso("", &cookie).await;
        assert_eq!(probes(&stage), 2, "{written}");
    }
}

#[tokio::test]
async fn whoever_signs_out_is_nobody_at_once_however_it_is_done() {
    for (generation, method, target) in [
        (Generation::Ems, Method::GET, "/AsiCommon/Controls/Shared/FormsAuthentication/logout.aspx"),
        (
            Generation::Ems,
            Method::GET,
            "/ASICOMMON/controls/shared/formsauthentication/LOGOUT.aspx?returnurl=%2F",
        ),
        (Generation::Ems, Method::POST, "//SessionInfo/ForceSignout"),
        (
            Generation::Imis2017,
            Method::GET,
            "/iMIS/AsiCommon/Controls/Shared/FormsAuthentication/logout.aspx",
        ),
        (Generation::Imis2017, Method::POST, "/iMIS//SessionInfo/ForceSignout"),
        // Nothing of it is known but the cookie that iMIS takes away.
        (Generation::Imis2017, Method::GET, "/AsiCommon/Controls/Shared/FormsAuthentication/logout.aspx"),
    ] {
        for h2 in [false, true] {
            let stage = Stage::with(Setup::new(generation)).await;
            let cookie = stage.cookie_of("AMUELLER");
            assert!(who(&stage.sso("", &cookie).await).is_some());
            let headers = [("cookie", cookie.as_str())];
            let client = stage.client();
            let reply = match h2 {
                false => client.send(method.clone(), target, &headers, "").await,
                true => client.send_h2(method.clone(), target, &headers, "").await,
            };
            assert!(reply.status == 302, "{target}: {}", reply.status);
            assert!(reply.header("location").starts_with('/'), "unchanged");
            assert_eq!(stage.sso("", &cookie).await.status, 302, "{target} {h2}");
            assert_eq!(probes(&stage), 2, "{target} {h2}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_was_on_its_way_when_a_sign_out_passed_is_not_kept() {
    let stage = Arc::new(Stage::new().await);
    let cookie = stage.cookie_of("AMUELLER");
    stage.imis.set_faults(Faults { delay: Some(Duration::from_millis(400)), ..Faults::default() });
    let asking = tokio::spawn({
        let (stage, cookie) = (stage.clone(), cookie.clone());
        async move { stage.sso("", &cookie).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.imis.set_faults(Faults::default());
    let out = "/AsiCommon/Controls/Shared/FormsAuthentication/logout.aspx";
    stage.client().get(out, &[("cookie", &cookie)]).await;
    asking.await.unwrap();
    assert_eq!(stage.sso("", &cookie).await.status, 302, "what had been on its way is not remembered");
}

#[tokio::test]
async fn that_somebody_is_nobody_is_remembered_for_seconds_only() {
    let stage = Stage::new().await;
    let value = stage.imis.sign_in("AMUELLER");
    stage.imis.end_session(&value);
    let cookie = format!("login={value}");
    for _ in 0..5 {
        assert_eq!(stage.sso("", &cookie).await.status, 302);
    }
    assert_eq!(probes(&stage), 1);
    tokio::time::sleep(Duration::from_millis(5300)).await;
    assert_eq!(stage.sso("", &cookie).await.status, 302);
    assert_eq!(probes(&stage), 2);
}

#[tokio::test]
async fn what_imis_could_not_say_is_not_remembered() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    let page = imis_gateway_simulators::imis::PageFault::ErrorPage;
    stage.imis.set_faults(Faults { pages: page, ..Faults::default() });
    assert_eq!(stage.sso("", &cookie).await.status, 503);
    stage.imis.set_faults(Faults::default());
    assert_eq!(who(&stage.sso("", &cookie).await).as_deref(), Some("104019"));
}

/// A cookie may stay the same when its session becomes somebody's.
#[tokio::test]
async fn whoever_has_just_signed_in_is_not_taken_for_nobody() {
    let stage = Stage::new().await;
    let value = stage.imis.sign_in("AMUELLER");
    stage.imis.end_session(&value);
    let cookie = format!("login={value}");
    assert_eq!(stage.sso("", &cookie).await.status, 302);
    stage.imis.begin_session(&value, "AMUELLER");
    let page = "/AsiCommon/Controls/Shared/FormsAuthentication/Login.aspx?ReturnUrl=%2F";
    stage.client().send(Method::POST, page, &[("cookie", &cookie)], "x=y").await;
    assert_eq!(who(&stage.sso("", &cookie).await).as_deref(), Some("104019"));
}

/// An iMIS whose session cookie belongs to a member. `/interim` deletes that cookie in an interim response, `/final` in a final one.
async fn deletes_the_session_cookie(mut connection: Connection, probes: Arc<AtomicUsize>) {
    const DELETED: &str = "Set-Cookie: Login=; expires=Thu, 01-Jan-1970 00:00:00 GMT; path=/\r\n";
    while let Some(request) = read_request(&mut connection).await {
        let (interim, more, body) = match request.split(' ').nth(1).unwrap() {
            "/interim" => (format!("HTTP/1.1 103 Early Hints\r\n{DELETED}\r\n"), "", "ok".to_owned()),
            "/final" => (String::new(), DELETED, "ok".to_owned()),
            "/imis-gateway-probe" => {
                probes.fetch_add(1, Ordering::Relaxed);
                let context = r#"{"isAnonymous":false,"loggedInPartyId":"1111"}"#;
                (
                    String::new(),
                    "Content-Type: text/html\r\n",
                    format!("<input id=__ClientContext value='{context}'>"),
                )
            }
            // The profile is not needed here.
            _ => (String::new(), "Content-Type: application/json\r\n", "{}".to_owned()),
        };
        let answer =
            format!("{interim}HTTP/1.1 200 OK\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len());
        if connection.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_final_response_that_deletes_the_session_cookie_ends_the_cached_session_and_an_interim_one_does_not()
 {
    for h2 in [false, true] {
        let probes = Arc::new(AtomicUsize::new(0));
        let counted = probes.clone();
        let proxy =
            Proxy::with_app(move |connection| deletes_the_session_cookie(connection, counted.clone())).await;
        let cookie = [("cookie", "Login=of-a-session")];
        let get = async |target: &str| match h2 {
            false => proxy.client.get(target, &cookie).await,
            true => proxy.client.send_h2(Method::GET, target, &cookie, "").await,
        };
        let signs_in = async || {
            assert_ne!(proxy.client.get(SSO, &cookie).await.status, 302, "somebody is signed in");
            probes.load(Ordering::Relaxed)
        };
        assert_eq!([signs_in().await, signs_in().await], [1, 1], "cached");
        assert_eq!(get("/interim").await.text(), "ok");
        assert_eq!(signs_in().await, 1, "still cached, h2 {h2}");
        assert_eq!(get("/final").await.text(), "ok");
        assert_eq!(signs_in().await, 2, "asked again, h2 {h2}");
    }
}
