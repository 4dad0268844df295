//! A redirect loop during a sign-in ends on a page that explains it. Frequent sign-ins are not a loop.

use imis_gateway_simulators::imis::Generation;

use crate::support::cookie_jar::Jar;
use crate::support::{SSO, Setup, Stage};

const DEEP: &str = "/sso/zendesk?return_to=%2Fhc%2Fen-us%2Frequests";

#[tokio::test]
async fn the_third_redirect_ends_on_a_page_that_explains_the_loop() {
    // Zendesk does not keep its own cookie, so that it sends the browser back each time.
    let stage = Stage::new().await;
    let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"));
    for _ in 0..2 {
        assert!(jar.get(DEEP).await.token().is_some());
    }
    let page = jar.get(DEEP).await;
    assert_eq!((page.status.as_u16(), page.token()), (403, None));
    let text = page.text();
    for words in [
        "We could not finish signing you in",
        "You are signed in to this site, and were sent to the help desk.",
        "ASP.NET_SessionId, login, ARRAffinity",
        "Incident number",
        "https://contoso.zendesk.com/access/normal?return_to=",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    crate::sign_in::assert_strict_page(&page);
    let line = stage
        .gateway
        .logged(|line| line["message"].as_str().is_some_and(|text| text.contains("redirect loop")))
        .await;
    assert!(line["observed"].as_str().unwrap().contains("login"));
    assert!(jar.get(DEEP).await.token().is_some(), "whoever tries again may");
}

#[tokio::test]
async fn the_page_says_that_the_session_cookie_is_missing() {
    let cookies = "session_cookies: [Login]";
    let stage = Stage::with(Setup::new(Generation::Ems).edit(cookies, "session_cookies: [NoSuchName]")).await;
    let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"));
    for _ in 0..2 {
        assert_eq!(jar.get(DEEP).await.status, 302);
    }
    let page = jar.get(DEEP).await;
    assert_eq!(page.status, 403);
    assert!(
        page.text().contains("You are not signed in to this site, or your session cookie"),
        "{}",
        page.text()
    );
    assert_eq!(stage.imis.requests().len(), 0);
}

#[tokio::test]
async fn concurrent_tabs_and_other_pages_are_not_a_loop() {
    let stage = Stage::new().await;
    let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"));
    for page in 0..6 {
        assert!(jar.get(&format!("{SSO}?return_to=%2Fhc%2F{page}")).await.token().is_some());
    }
    // Together: each was asked for before any was answered.
    let cookie = stage.cookie_of("boconnor");
    for _ in 0..10 {
        assert!(stage.sso("?return_to=%2Fhc", &cookie).await.token().is_some());
    }
}
