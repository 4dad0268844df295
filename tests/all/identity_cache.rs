//! The identity of a session is cached for a moment, by all session cookies of a request, and forgotten at once when a
//! sign-out passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use imis_gateway_simulators::imis::{Faults, Generation, PageFault};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::gateway::TIMEOUT;
use crate::support::origin::{Connection, Proxy, read_request};
use crate::support::{Reply, SSO, Setup, Stage};
use crate::tokens::claims;

const OUT: &str = "/AsiCommon/Controls/Shared/FormsAuthentication/logout.aspx";

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
async fn an_identity_is_cached_and_a_profile_is_not() {
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
async fn the_cache_can_be_disabled_or_shortened() {
    for (written, wait) in [("null", 0), ("300ms", 400)] {
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
async fn every_kind_of_sign_out_ends_the_cached_session_at_once() {
    for (generation, method, target) in [
        (Generation::Ems, Method::GET, OUT),
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
        (Generation::Imis2017, Method::GET, OUT),
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
async fn an_answer_under_way_during_a_sign_out_is_not_cached() {
    let stage = Arc::new(Stage::new().await);
    let cookie = stage.cookie_of("AMUELLER");
    stage.imis.set_faults(Faults { delay: Some(Duration::from_millis(400)), ..Faults::default() });
    let asking = tokio::spawn({
        let (stage, cookie) = (stage.clone(), cookie.clone());
        async move { stage.sso("", &cookie).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.imis.set_faults(Faults::default());
    stage.client().get(OUT, &[("cookie", &cookie)]).await;
    asking.await.unwrap();
    assert_eq!(stage.sso("", &cookie).await.status, 302, "what had been on its way is not remembered");
}

#[tokio::test]
async fn an_ended_session_is_cached_too() {
    let stage = Stage::new().await;
    let value = stage.imis.sign_in("AMUELLER");
    stage.imis.end_session(&value);
    let cookie = format!("login={value}");
    for _ in 0..5 {
        assert_eq!(stage.sso("", &cookie).await.status, 302);
    }
    assert_eq!(probes(&stage), 1);
}

#[tokio::test]
async fn a_failed_recognition_is_not_cached() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    let page = PageFault::ErrorPage;
    stage.imis.set_faults(Faults { pages: page, ..Faults::default() });
    assert_eq!(stage.sso("", &cookie).await.status, 503);
    stage.imis.set_faults(Faults::default());
    assert_eq!(who(&stage.sso("", &cookie).await).as_deref(), Some("104019"));
}

/// A cookie may stay the same when its session becomes somebody's.
#[tokio::test]
async fn a_sign_in_ends_the_cached_anonymous_session() {
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

/// A second session cookie that is sent with the sign-out only, by its path.
#[tokio::test]
async fn a_sign_out_with_an_additional_session_cookie_ends_the_cached_session() {
    let setup =
        Setup::new(Generation::Ems).edit("session_cookies: [Login]", "session_cookies: [Login, .ASPXAUTH]");
    let stage = Stage::with(setup).await;
    let cookie = stage.cookie_of("AMUELLER");
    assert_eq!(who(&stage.sso("", &cookie).await).as_deref(), Some("104019"));
    let out = format!("{cookie}; .ASPXAUTH=x");
    assert_eq!(stage.client().get(OUT, &[("cookie", &out)]).await.status, 302);
    let reply = stage.sso("", &cookie).await;
    assert_eq!(who(&reply), None, "signed out of iMIS, and still let in");
}

/// A second session cookie that a sibling domain has planted for the path of the sign-out page.
#[tokio::test]
async fn a_sign_out_with_a_planted_session_cookie_ends_the_cached_session() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    assert_eq!(who(&stage.sso("", &cookie).await).as_deref(), Some("104019"));
    let out = format!("{cookie}; login=planted");
    assert_eq!(stage.client().get(OUT, &[("cookie", &out)]).await.status, 302);
    let reply = stage.sso("", &cookie).await;
    assert_eq!(who(&reply), None, "signed out of iMIS, and still let in");
}

/// The browser leaves before iMIS has answered the sign-out.
#[tokio::test]
async fn a_sign_out_that_the_client_abandons_ends_the_cached_session() {
    for h2 in [true, false] {
        let stage = Stage::new().await;
        let value = stage.imis.sign_in("AMUELLER");
        let cookie = format!("login={value}");
        // A sign-out that iMIS takes its time for.
        stage.imis.set_faults(Faults { delay: Some(Duration::from_millis(800)), ..Faults::default() });
        let client = stage.client();
        let leaving = {
            let cookie = cookie.clone();
            tokio::spawn(async move {
                let headers = [("cookie", cookie.as_str())];
                if h2 {
                    client.send_h2(Method::GET, OUT, &headers, "").await
                } else {
                    client.get(OUT, &headers).await
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(300)).await;
        stage.imis.set_faults(Faults::default());
        // Another tab, in the meantime.
        assert_eq!(who(&stage.sso("", &cookie).await).as_deref(), Some("104019"));
        leaving.abort();
        tokio::time::sleep(Duration::from_millis(300)).await;
        // IIS finishes what it has begun, whoever has left.
        stage.imis.end_session(&value);
        let reply = stage.sso("", &cookie).await;
        assert_eq!(who(&reply), None, "h2 {h2}: signed out, and still let in");
    }
}

/// A member who begins to act for another contact is refused as soon as the cached identity has expired.
#[tokio::test]
async fn acting_for_another_is_noticed_when_the_cached_identity_has_expired() {
    let edit = "identity_cache: 500ms\n      session_cookies: [Login]";
    let stage = Stage::with(Setup::new(Generation::Ems).edit("session_cookies: [Login]", edit)).await;
    let cookie = stage.cookie_of("AMUELLER");
    assert_eq!(who(&stage.sso("", &cookie).await).as_deref(), Some("104019"));
    let context = "{&quot;isAnonymous&quot;:false,&quot;loggedInPartyId&quot;:&quot;104019&quot;,&quot;selectedPartyId&quot;:&quot;104020&quot;}";
    let page = format!("<html><body><input id=__ClientContext value=\"{context}\"></body></html>");
    stage.imis.set_faults(Faults { pages: PageFault::Page(200, page), ..Faults::default() });
    assert_eq!(stage.sso("", &stage.cookie_of("AMUELLER")).await.status, 403, "a new session is refused");
    tokio::time::sleep(Duration::from_millis(600)).await;
    let reply = stage.sso("", &cookie).await;
    assert_eq!(reply.status, 403, "the default is to refuse");
}

/// Two sessions whose cookies differ in bytes that are no UTF-8.
#[tokio::test]
async fn sessions_that_differ_in_bytes_outside_utf8_are_not_mixed_up() {
    let proxy = Proxy::with_app(|mut connection| async move {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
            match connection.read(&mut buffer).await {
                Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
        let has = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
        let (kind, body) = if has(b"POST /token") {
            ("application/json", r#"{"access_token":"t","expires_in":1199,"userName":"svc-gateway"}"#.to_owned())
        } else if has(b"/api/Party/") {
            let id = if has(b"/api/Party/1111") { "1111" } else { "2222" };
            ("application/json", format!("{{\"$type\":\"a.PersonData, b\",\"PartyId\":\"{id}\",\"Name\":\"N {id}\",\"Emails\":{{\"$values\":[{{\"Address\":\"a{id}@example.org\",\"IsPrimary\":true}}]}}}}"))
        } else {
            let id = if has(b"Login=a\xffb") { "1111" } else { "2222" };
            ("text/html", format!("<input id=__ClientContext value='{{\"isAnonymous\":false,\"loggedInPartyId\":\"{id}\"}}'>"))
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        let _ = connection.write_all(answer.as_bytes()).await;
        let _ = connection.shutdown().await;
    })
    .await;
    let mut ids = Vec::new();
    for value in [&b"a\xffb"[..], b"a\xfeb"] {
        let mut stream = proxy.client.connect("http/1.1").await;
        let head = [
            b"GET /sso/zendesk HTTP/1.1\r\nHost: members.example.org\r\nConnection: close\r\nCookie: Login=",
            value,
            b"\r\n\r\n",
        ]
        .concat();
        stream.write_all(&head).await.unwrap();
        let mut out = Vec::new();
        let _ = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut out)).await;
        let text = String::from_utf8_lossy(&out).into_owned();
        ids.push(text.contains("name=\"jwt\""));
    }
    assert_eq!(ids, [false, false], "such a session is nobody's");
}

/// An iMIS whose session cookie belongs to a member. `/interim` deletes that cookie in an interim response, `/final` in
/// a final one.
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
