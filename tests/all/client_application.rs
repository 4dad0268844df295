//! The official way: iMIS's Single Sign-On page posts a refresh token, and only a browser that was sent there may bring
//! one.

use http::Method;
use imis_gateway_simulators::imis::{ApiFault, Faults, Generation, TokenFault};

use crate::support::cookie_jar::Jar;
use crate::support::{Reply, SSO, Setup, Stage};
use crate::tokens::claims;

const POSTS_TO: &str = "/sso/zendesk/imis";
const STATE: &str = "__Host-imis-gateway-sign-in";

fn setup(generation: Generation) -> Setup {
    let page = match generation {
        Generation::Ems => "/SingleSignOn",
        Generation::Imis2017 => "/iMIS/SingleSignOn",
    };
    let mut setup = Setup::new(generation).recognised_by(&format!(
        "{{method: client_application, page: {page}, client_id: zendesk-gateway, client_secret: {{file: client-secret}}}}"
    ));
    setup.imis.sso_page_target = Some(POSTS_TO.to_owned());
    setup
}

fn browser(stage: &Stage, username: &str) -> Jar {
    Jar::new(stage.client()).with(&stage.cookie_of(username))
}

fn who(reply: &Reply) -> String {
    let token = reply.token().unwrap_or_else(|| panic!("{} {}", reply.status, reply.text()));
    claims(&token)["external_id"].as_str().unwrap().to_owned()
}

/// The Single Sign-On page, and what its form holds.
async fn page(jar: &mut Jar, begun: &Reply) -> (String, String) {
    assert_eq!(begun.status, 302, "{}", begun.text());
    let at = begun.header("location").to_owned();
    let page = jar.get(&at).await;
    let token = page.field("refresh_token").unwrap_or_else(|| panic!("{at}: {}", page.text()));
    (at, format!("refresh_token={token}"))
}

#[tokio::test]
async fn a_member_comes_through_the_page_with_the_deep_link() {
    for generation in [Generation::Ems, Generation::Imis2017] {
        for service_account in [true, false] {
            let setup = setup(generation);
            let setup = if service_account { setup } else { setup.without_service_account() };
            let stage = Stage::with(setup).await;
            let mut jar = browser(&stage, "AMUELLER");
            let begun =
                jar.get(&format!("{SSO}?brand_id=42&return_to=%2Fhc%2Fen-us%2Frequests%3Fpage%3D2")).await;
            assert!(!begun.header("location").contains("return_to"));
            let (at, form) = page(&mut jar, &begun).await;
            let reply = jar.post(POSTS_TO, &at, &form).await;
            assert_eq!(who(&reply), "104019");
            assert_eq!(reply.field("return_to").as_deref(), Some("/hc/en-us/requests?page=2"));
            crate::sign_in::assert_strict_page(&reply);
            assert_eq!(jar.names(STATE), 0, "used up");
            let again = jar.post(POSTS_TO, &at, &form).await;
            assert_eq!((again.status.as_u16(), again.token()), (403, None), "nothing left to show");
            let log = stage.gateway.log();
            assert!(!log.contains(form.split_once('=').unwrap().1), "the refresh token is in no log");
        }
    }
}

#[tokio::test]
async fn a_sign_in_that_has_begun_ends_after_a_reload_and_only_once() {
    let stage = Stage::with(setup(Generation::Ems)).await;
    let mut jar = browser(&stage, "AMUELLER");
    let begun = jar.get(SSO).await;
    let (at, form) = page(&mut jar, &begun).await;
    let as_it_was = jar.header();
    let reload = async |round: u32| {
        stage.edit("version: 1\n", &format!("version: 1\n# {round}\n"));
        assert_eq!(stage.run(&["reload"], "").await.0, 0);
    };
    reload(1).await;
    assert_eq!(who(&jar.post(POSTS_TO, &at, &form).await), "104019");
    reload(2).await;
    let mut thief = Jar::new(stage.client()).with(&as_it_was);
    let again = thief.post(POSTS_TO, &at, &form).await;
    assert_eq!(again.token(), None, "{}", again.text());
}

#[tokio::test]
async fn over_http_2_too() {
    let stage = Stage::with(setup(Generation::Ems)).await;
    let cookie = stage.cookie_of("boconnor");
    let begun = stage.client().send_h2(Method::GET, SSO, &[("cookie", &cookie)], "").await;
    let state = begun.header("set-cookie").split(';').next().unwrap().to_owned();
    let form = format!("refresh_token={}", stage.imis.refresh_token("boconnor"));
    let cookie = format!("{cookie}; {state}");
    let reply = stage.client().send_h2(Method::POST, POSTS_TO, &[("cookie", &cookie)], form).await;
    assert_eq!(who(&reply), "104020");
    for (length, status) in [(17_000, 413), (15_000, 303)] {
        let form = format!("refresh_token={}", "x".repeat(length));
        let reply =
            stage.client().send_h2(Method::POST, POSTS_TO, &[("cookie", &cookie)], form.clone()).await;
        assert_eq!(reply.status, status, "{length}");
        let reply = stage.client().send(Method::POST, POSTS_TO, &[("cookie", &cookie)], form).await;
        assert_eq!(reply.status, status, "{length}");
    }
}

/// Login CSRF: a post of the attacker's own token signs the victim in as nobody, whatever the victim's browser holds.
#[tokio::test]
async fn a_forged_post_is_refused() {
    let stage = Stage::with(setup(Generation::Ems)).await;
    let form = || format!("refresh_token={}", stage.imis.refresh_token("boconnor"));
    let refused = |reply: &Reply| {
        assert_eq!((reply.status.as_u16(), reply.token()), (403, None), "{}", reply.text());
        crate::sign_in::assert_strict_page(reply);
    };
    let mut victim = browser(&stage, "AMUELLER");
    refused(&victim.post(POSTS_TO, "/SingleSignOn", &form()).await);
    // The attacker has the victim's browser begin, and posts before the page does.
    let begun = victim.get(SSO).await;
    assert_eq!(victim.names(STATE), 1);
    let evil = |more: &'static [(&'static str, &'static str)]| more;
    for headers in [
        evil(&[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")]),
        evil(&[("sec-fetch-site", "same-site")]),
        evil(&[("sec-fetch-site", "none")]),
        evil(&[("origin", "https://evil.example")]),
        evil(&[("origin", "https://www.example.org")]),
        evil(&[("origin", "null"), ("sec-fetch-site", "cross-site")]),
    ] {
        refused(&victim.send(Method::POST, POSTS_TO, headers, &form()).await);
    }
    let script = [("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];
    let cookie = victim.header();
    let headers = [&script[..], &[("cookie", cookie.as_str())]].concat();
    refused(&stage.client().send(Method::POST, POSTS_TO, &headers, form()).await);
    // The attacker's own state, planted or not, is not the victim's to use with another app; and a forged one is none.
    for planted in ["x", "AAAA.BBBB", ""] {
        let cookie = format!("{STATE}-00000000={planted}");
        refused(&stage.client().send(Method::POST, POSTS_TO, &[("cookie", &cookie)], form()).await);
    }
    // And the victim's own way still works.
    let (at, own) = page(&mut victim, &begun).await;
    assert_eq!(who(&victim.post(POSTS_TO, &at, &own).await), "104019");
    assert_eq!(stage.imis.tokens_given(), 2, "no token of the attacker's was ever exchanged");
}

#[tokio::test]
async fn without_a_session_the_sign_in_page_comes_first() {
    let stage = Stage::with(setup(Generation::Ems)).await;
    let mut jar = Jar::new(stage.client());
    let reply = jar.get(&format!("{SSO}?return_to=%2Fhc")).await;
    assert_eq!(reply.status, 302);
    assert!(
        reply.header("location").contains("Login.aspx?ReturnUrl=%2Fsso%2Fzendesk%3Freturn_to"),
        "{:?}",
        reply.headers
    );
    assert_eq!(jar.names(STATE), 0, "a sign-in page may be left open for as long as one likes");
}

/// A session that has ended meanwhile: the page sends to the sign-in page, where somebody takes hours.
#[tokio::test]
async fn a_slow_human_still_gets_to_the_page_asked_for() {
    let stage = Stage::with(setup(Generation::Ems)).await;
    let mut jar = Jar::new(stage.client()).with("login=a-session-that-is-over");
    let begun = jar.get(&format!("{SSO}?return_to=%2Fhc%2Fmine")).await;
    let at = begun.header("location").to_owned();
    let reply = jar.get(&at).await;
    let to = reply.header("location").to_owned();
    assert!(to.contains("Login.aspx?ReturnUrl=%2FSingleSignOn%3Fimis%2Dgateway%3D"), "{to}");
    jar.lose("login");
    let mut jar = jar.with(&stage.cookie_of("AMUELLER"));
    let (at, form) = page(&mut jar, &begun).await;
    let reply = jar.post(POSTS_TO, &at, &form).await;
    assert_eq!((who(&reply).as_str(), reply.field("return_to").as_deref()), ("104019", Some("/hc/mine")));
    // The same once more with a state that has been used: as with one whose time is over, it begins anew by itself.
    let mut jar = browser(&stage, "AMUELLER");
    let begun = jar.get(&format!("{SSO}?return_to=%2Fhc%2Fmine")).await;
    let kept = jar.header();
    let (at, form) = page(&mut jar, &begun).await;
    assert_eq!(who(&jar.post(POSTS_TO, &at, &form).await), "104019");
    let mut late = Jar::new(stage.client()).with(&kept);
    let (_, form) = page(&mut late, &begun).await;
    let reply = late.post(POSTS_TO, &at, &form).await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("location")),
        (303, "/sso/zendesk?return_to=%2Fhc%2Fmine")
    );
    assert_eq!(late.names(STATE), 0);
    let begun = late.get(reply.header("location")).await;
    let (at, form) = page(&mut late, &begun).await;
    let reply = late.post(POSTS_TO, &at, &form).await;
    assert_eq!((who(&reply).as_str(), reply.field("return_to").as_deref()), ("104019", Some("/hc/mine")));
}

#[tokio::test]
async fn ten_tabs_at_once_each_end_where_they_wanted_to() {
    let stage = Stage::with(setup(Generation::Ems)).await;
    let mut jar = browser(&stage, "AMUELLER");
    let mut tabs = Vec::new();
    for tab in 0..10 {
        tabs.push((tab, jar.get(&format!("{SSO}?return_to=%2Fhc%2F{tab}")).await));
    }
    assert_eq!(jar.names(STATE), 10);
    // Not in the order in which they began.
    tabs.reverse();
    for (tab, begun) in tabs {
        let (at, form) = page(&mut jar, &begun).await;
        let reply = jar.post(POSTS_TO, &at, &form).await;
        assert_eq!(
            (who(&reply), reply.field("return_to")),
            ("104019".to_owned(), Some(format!("/hc/{tab}")))
        );
    }
    assert_eq!(jar.names(STATE), 0);
}

#[tokio::test]
async fn abandoned_tabs_do_not_accumulate_cookies() {
    let stage = Stage::with(setup(Generation::Ems)).await;
    let mut jar = browser(&stage, "AMUELLER");
    for tab in 0..60 {
        let begun = jar.get(&format!("{SSO}?return_to=%2Fhc%2F{tab}%2F{}", "x".repeat(300))).await;
        assert_eq!(begun.status, 302);
    }
    assert!(jar.header().len() < 7000, "{}", jar.header().len());
    let begun = jar.get(&format!("{SSO}?return_to=%2Fhc%2Flast")).await;
    let (at, form) = page(&mut jar, &begun).await;
    assert_eq!(jar.post(POSTS_TO, &at, &form).await.field("return_to").as_deref(), Some("/hc/last"));
}

#[tokio::test]
async fn lost_cookies_end_on_a_page_and_not_in_a_redirect_loop() {
    let stage = Stage::with(setup(Generation::Ems)).await;
    let mut jar = browser(&stage, "AMUELLER");
    let begun = jar.get(SSO).await;
    let (at, form) = page(&mut jar, &begun).await;
    jar.lose(STATE);
    let reply = jar.post(POSTS_TO, &at, &form).await;
    assert_eq!((reply.status.as_u16(), reply.token()), (403, None));
    assert!(reply.text().contains("accepts cookies") && reply.text().contains("href=\"/sso/zendesk\""));
}

#[tokio::test]
async fn posts_without_a_valid_token_sign_no_member_in() {
    let stage = Stage::with(setup(Generation::Ems)).await;
    let mut jar = browser(&stage, "AMUELLER");
    for form in ["refresh_token=0123456789", "refresh_token=", "x=y", "refresh_token=a&refresh_token=b", ""] {
        jar.lose("__Host-imis-gateway-rounds");
        jar.get(SSO).await;
        let reply = jar.post(POSTS_TO, "/SingleSignOn", form).await;
        assert_eq!((reply.status.as_u16(), reply.token()), (403, None), "{form}");
    }
    let faults = [
        Faults { token: TokenFault::Down, ..Faults::default() },
        Faults { token: TokenFault::Html, ..Faults::default() },
        Faults { token: TokenFault::Drop, ..Faults::default() },
        Faults { api: ApiFault::Status(500), ..Faults::default() },
        Faults { api: ApiFault::Html, ..Faults::default() },
        Faults { refresh_is_of: Some("nobody-of-this-name".to_owned()), ..Faults::default() },
        Faults { refresh_is_of: Some(String::new()), ..Faults::default() },
    ];
    for fault in faults {
        jar.lose("__Host-imis-gateway-rounds");
        let begun = jar.get(SSO).await;
        let (at, form) = page(&mut jar, &begun).await;
        stage.imis.set_faults(fault.clone());
        let reply = jar.post(POSTS_TO, &at, &form).await;
        assert_eq!((reply.status.as_u16(), reply.token()), (503, None), "{fault:?}");
        stage.imis.set_faults(Faults::default());
    }
    for username in ["contoso", "lapsed", "nomail"] {
        let mut jar = browser(&stage, username);
        let begun = jar.get(SSO).await;
        let (at, form) = page(&mut jar, &begun).await;
        assert_eq!(jar.post(POSTS_TO, &at, &form).await.status, 403, "{username}");
    }
}

#[tokio::test]
async fn the_path_takes_a_post_and_nothing_else_and_is_not_forwarded() {
    let stage = Stage::with(setup(Generation::Ems)).await;
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
        let reply = stage.client().send(method.clone(), POSTS_TO, &[], "").await;
        assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, "POST"), "{method}");
    }
    for path in ["/SSO/zendesk/imis", "/sso/zendesk/imis/", "/sso/zendesk//imis", "/sso/zendesk/%69mis"] {
        assert_eq!(stage.client().send(Method::POST, path, &[], "").await.status, 400, "{path}");
    }
    assert_eq!(stage.imis.requests().len(), 0);
    let other = Stage::new().await;
    assert_eq!(other.client().send(Method::POST, POSTS_TO, &[], "refresh_token=x").await.status, 404);
    assert_eq!(other.imis.requests().len(), 0);
}

#[tokio::test]
async fn it_can_be_the_last_of_several() {
    let mut setup = Setup::new(Generation::Ems).recognised_by(
        "[{method: client_context, page: /imis-gateway-probe}, {method: client_application, page: /SingleSignOn, \
          client_id: zendesk-gateway, client_secret: {file: client-secret}}]",
    );
    setup.imis.sso_page_target = Some(POSTS_TO.to_owned());
    let stage = Stage::with(setup).await;
    let mut jar = browser(&stage, "AMUELLER");
    assert_eq!(who(&jar.get(SSO).await), "104019", "the first one can say");
    let mut jar = browser(&stage, "boconnor");
    stage.imis.set_faults(Faults {
        pages: imis_gateway_simulators::imis::PageFault::Firewall(403),
        ..Faults::default()
    });
    let begun = jar.get(SSO).await;
    let (at, form) = page(&mut jar, &begun).await;
    assert_eq!(who(&jar.post(POSTS_TO, &at, &form).await), "104020");
}
