//! Recognition by `__ClientContext` over real sockets: what is sent to iMIS, and what each of its answers means.

use imis_gateway_simulators::imis::{Faults, Generation, PageFault};

use crate::support::{SITE, SSO, Setup, Stage};

#[tokio::test]
async fn the_probe_carries_the_visitors_own_headers_and_extends_no_session() {
    for generation in [Generation::Ems, Generation::Imis2017] {
        let stage = Stage::with(Setup::new(generation)).await;
        let value = stage.imis.sign_in("AMUELLER");
        // A name that stands twice, a value that is no text, odd spacing: all of it goes through as it is.
        let cookie = format!("a=1;b=\"2\";  LOGIN={value}; a=3; q=%E4");
        let headers = [
            ("cookie", cookie.as_str()),
            ("user-agent", "Mozilla/5.0 (Test)"),
            ("accept-language", "fr-CA, en;q=0.5"),
            ("x-forwarded-for", "6.6.6.6"),
            ("authorization", "Basic eDp5"),
        ];
        let reply = stage.client().get(SSO, &headers).await;
        assert!(reply.token().is_some(), "{}", reply.text());

        let requests = stage.imis.requests();
        let probes: Vec<_> =
            requests.iter().filter(|request| request.target.ends_with("imis-gateway-probe")).collect();
        assert_eq!(probes.len(), 1, "one GET");
        let probe = probes[0];
        assert_eq!(probe.method, "GET");
        assert_eq!(probe.header("cookie"), Some(cookie.as_str()));
        assert_eq!(probe.header("x-norefreshsession"), Some("true"));
        assert_eq!(probe.header("user-agent"), Some("Mozilla/5.0 (Test)"));
        assert_eq!(probe.header("accept-language"), Some("fr-CA, en;q=0.5"));
        assert_eq!(probe.header("host"), Some(SITE));
        assert_eq!(
            probe.header("x-forwarded-for"),
            Some("127.0.0.1"),
            "the visitor's address, not what was claimed"
        );
        assert_eq!(probe.header("authorization"), None);
        assert_eq!(stage.imis.renewals(&value), 0, "the sliding session was not extended");
    }
}

#[tokio::test]
async fn redirects_of_the_probe_are_classified_and_not_followed() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    for (fault, says) in [(PageFault::ErrorPage, "error page"), (PageFault::Missing, "404")] {
        stage.imis.set_faults(Faults { pages: fault, ..Faults::default() });
        let before = stage.imis.requests().len();
        let reply = stage.sso("", &cookie).await;
        assert_eq!(reply.status, 503);
        assert_eq!(reply.token(), None);
        assert_eq!(stage.imis.requests().len(), before + 1, "not followed");
        stage.gateway.logged(|line| line["error"].as_str().is_some_and(|text| text.contains(says))).await;
    }
}

#[tokio::test]
async fn an_ended_session_is_anonymous() {
    let stage = Stage::new().await;
    let reply = stage.sso("", "login=0123456789").await;
    assert_eq!(reply.status, 302);
    assert!(reply.header("location").contains("Login.aspx?ReturnUrl="));
    assert_eq!(stage.imis.requests().len(), 1, "asked once");
}

#[tokio::test]
async fn a_redirect_to_the_sign_in_page_means_anonymous() {
    let setup = Setup::new(Generation::Ems).edit("page: /imis-gateway-probe", "page: /Members/Benefits.aspx");
    let stage = Stage::with(setup).await;
    assert_eq!(stage.sso("", "login=0123456789").await.status, 302);
    assert!(stage.sso("", &stage.cookie_of("AMUELLER")).await.token().is_some());
}

#[tokio::test]
async fn a_sign_in_path_with_a_slash_at_the_end_is_recognised() {
    let base = "base_path: /";
    let setup = Setup::new(Generation::Ems).edit(base, &format!("sign_in: /Members/Entrance/\n      {base}"));
    let stage = Stage::with(setup).await;
    for (location, status) in [
        ("/Members/Entrance/?ReturnUrl=%2F", 302),
        ("https://members.example.org/members/entrance", 302),
        ("https://evil.example/Login.aspx", 503),
        ("/Members/Elsewhere.aspx", 503),
    ] {
        stage
            .imis
            .set_faults(Faults { pages: PageFault::Redirect(location.to_owned()), ..Faults::default() });
        assert_eq!(stage.sso("", &stage.cookie_of("AMUELLER")).await.status, status, "{location}");
    }
}

#[tokio::test]
async fn a_page_that_is_not_from_imis_identifies_no_member() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    let field = "<input id=\"__ClientContext\" value=\"{&quot;isAnonymous&quot;:false,&quot;loggedInPartyId&quot;:&quot;104019&quot;}\">";
    for fault in [
        PageFault::Firewall(403),
        PageFault::Firewall(200),
        PageFault::Page(500, field.to_owned()),
        PageFault::Page(200, format!("{field}{field}")),
        PageFault::Page(200, format!("<!-- {field} -->")),
        PageFault::Page(200, field.replace("104019", "../104019")),
        PageFault::Page(200, String::new()),
        PageFault::Typed("application/json", field.to_owned()),
        PageFault::Typed("text/plain", field.to_owned()),
        PageFault::Huge,
        PageFault::Drop,
    ] {
        stage.imis.set_faults(Faults { pages: fault.clone(), ..Faults::default() });
        let reply = stage.sso("", &cookie).await;
        assert_eq!(reply.status, 503, "{fault:?}");
        assert_eq!(reply.token(), None);
    }
    stage.imis.set_faults(Faults { pages: PageFault::Page(200, field.to_owned()), ..Faults::default() });
    assert!(stage.sso("", &cookie).await.token().is_some(), "the same field, once, in a page of its own");
}

#[tokio::test]
async fn two_different_session_cookies_are_anonymous() {
    let stage = Stage::new().await;
    let cookie =
        format!("login={}; Login={}", stage.imis.sign_in("AMUELLER"), stage.imis.sign_in("boconnor"));
    assert_eq!(stage.sso("", &cookie).await.status, 302);
    assert_eq!(stage.imis.requests().len(), 0);
}
