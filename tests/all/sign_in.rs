//! The sign-in over real sockets: from Zendesk's question to a page there, and who gets how far.

use http::Method;
use imis_gateway_simulators::imis::Generation;

use crate::support::cookie_jar::Jar;
use crate::support::{MAPPED, SSO, Setup, Stage, ZENDESK};

const FROM_ZENDESK: &str = "?brand_id=360001&locale_id=1&return_to=https%3A%2F%2Fsupport.contoso.org%2Fhc%2Fen-us%2Frequests%3Fpage%3D2&timestamp=1700000000";

#[tokio::test]
async fn without_a_session_the_sign_in_page_comes_first_and_the_deep_link_is_kept() {
    let stage = Stage::new().await;
    let reply = stage.sso(FROM_ZENDESK, "ASP.NET_SessionId=abc").await;
    assert_eq!(reply.status, 302);
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(
        reply.header("location"),
        "/AsiCommon/Controls/Shared/FormsAuthentication/Login.aspx?ReturnUrl=%2Fsso%2Fzendesk%3Fbrand_id%3D360001%26\
         locale_id%3D1%26return_to%3Dhttps%253A%252F%252Fsupport.contoso.org%252Fhc%252Fen-us%252Frequests%253Fpage%253D2"
    );
    assert_eq!(stage.imis.requests().len(), 0, "without a session cookie iMIS is not asked");
    assert_eq!(reply.token(), None);
}

#[tokio::test]
async fn a_member_gets_a_page_that_posts_a_token_and_lands_where_the_question_came_from() {
    for generation in [Generation::Ems, Generation::Imis2017] {
        let stage = Stage::with(Setup::new(generation)).await;
        let reply = stage.sso(FROM_ZENDESK, &stage.cookie_of("AMUELLER")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.text().contains("action=\"https://contoso.zendesk.com/access/jwt\""));
        assert_eq!(
            reply.field("return_to").as_deref(),
            Some("https://support.contoso.org/hc/en-us/requests?page=2")
        );
        let policy = reply.header("content-security-policy").to_owned();
        let form_action = policy.split("form-action ").nth(1).unwrap();
        for origin in
            [ZENDESK, MAPPED, "https://contoso-events.zendesk.com", "'self'", "https://members.example.org"]
        {
            assert!(form_action.split(' ').any(|item| item == origin), "{origin} in {form_action}");
        }

        let form =
            form_of(&[("jwt", &reply.token().unwrap()), ("return_to", &reply.field("return_to").unwrap())]);
        let landed = post_to_zendesk(&stage, form).await;
        assert!(landed.starts_with("https://support.contoso.org/access/transfer?"), "{landed}");
        let users = stage.zendesk.users();
        let ann = users.iter().find(|user| user.external_id.as_deref() == Some("104019")).unwrap();
        assert_eq!((ann.name.as_str(), ann.email.as_str()), ("Ann Müller", "ann.mueller@example.org"));
        assert_eq!(ann.phone.as_deref(), Some("+15124741234"));
    }
}

/// Posts to Zendesk's own address and tells where it redirects.
pub(crate) async fn post_to_zendesk(stage: &Stage, form: String) -> String {
    let client = crate::support::Client::new(&stage.authority, stage.zendesk.address());
    let tls = client.connect_as("http/1.1", "contoso.zendesk.com").await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let request =
        http::Request::post("/access/jwt").header("host", "contoso.zendesk.com").body(form).unwrap();
    let response = sender.send_request(request).await.unwrap();
    response.headers()["location"].to_str().unwrap().to_owned()
}

pub(crate) fn form_of(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

#[tokio::test]
async fn a_return_to_that_leads_elsewhere_is_dropped_and_the_sign_in_goes_on() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    for hostile in
        ["https%3A%2F%2Fevil.example%2F", "%2F%2Fevil.example", "javascript%3Aalert(1)", "%2F%5Cevil.example"]
    {
        let reply = stage.sso(&format!("?return_to={hostile}"), &cookie).await;
        assert!(reply.token().is_some());
        assert_eq!(reply.field("return_to"), None, "{hostile}");
        assert!(!reply.text().contains("evil.example"));
    }
    stage
        .gateway
        .logged(|line| line["message"].as_str().is_some_and(|text| text.contains("return_to")))
        .await;
}

#[tokio::test]
async fn a_return_to_too_long_for_iis_is_left_out_of_the_sign_in_redirect() {
    let stage = Stage::new().await;
    let long = format!("?return_to=%2Fhc%2F{}", "%3F".repeat(600));
    let location = stage.sso(&long, "").await.header("location").to_owned();
    assert!(location.ends_with("Login.aspx?ReturnUrl=%2Fsso%2Fzendesk"), "{location}");
    let reply = stage.sso(&long, &stage.cookie_of("AMUELLER")).await;
    assert_eq!(reply.field("return_to").map(|text| text.len()), Some(4 + 600), "who is signed in keeps it");
}

#[tokio::test]
async fn a_refused_member_gets_a_page_with_advice_and_no_token() {
    let stage = Stage::new().await;
    for (username, words) in [
        ("nomail", "needs an e-mail address"),
        ("badmail", "needs an e-mail address"),
        ("contoso", "belongs to an organization"),
        ("lapsed", "is not active"),
    ] {
        let reply = stage.sso("", &stage.cookie_of(username)).await;
        assert_eq!(reply.status, 403, "{username}");
        assert!(reply.text().contains(words), "{username}: {}", reply.text());
        assert!(reply.text().contains("Incident number"));
        assert_eq!(reply.token(), None);
        assert_strict_page(&reply);
    }
}

#[tokio::test]
async fn staff_on_behalf_of_a_member_enters_as_staff() {
    let app = "path: /sso/zendesk\n";
    let setup =
        Setup::new(Generation::Ems).edit(app, &format!("{app}        on_behalf_of: sign_in_as_staff\n"));
    let stage = Stage::with(setup).await;
    let reply = stage.sso("", &stage.cookie_of("staff")).await;
    let landed = post_to_zendesk(&stage, form_of(&[("jwt", &reply.token().unwrap())])).await;
    assert!(landed.ends_with("/agent"), "Zendesk knows Sam as an agent: {landed}");
    assert!(!stage.zendesk.users().iter().any(|user| user.external_id.as_deref() == Some("104019")));
}

#[tokio::test]
async fn only_a_top_level_get_can_mint() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    let client = stage.client();
    for (mode, dest) in [("cors", "empty"), ("no-cors", "script"), ("navigate", "iframe")] {
        let headers = [("cookie", cookie.as_str()), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
        let reply = client.get(SSO, &headers).await;
        assert_eq!(reply.status, 403, "{mode} {dest}");
        assert_eq!(reply.token(), None);
        assert_strict_page(&reply);
    }
    assert_eq!(stage.imis.requests().len(), 0, "iMIS is not even asked");
    for method in [Method::POST, Method::PUT, Method::OPTIONS, Method::DELETE] {
        for path in [SSO.to_owned(), format!("{SSO}/signed-out")] {
            let reply = client.send(method.clone(), &path, &[("cookie", &cookie)], "").await;
            assert_eq!(reply.status, 405, "{method} {path}");
            assert_eq!(reply.header("allow"), "GET, HEAD");
            assert_eq!(reply.token(), None);
        }
    }
    let head = client.send(Method::HEAD, &format!("{SSO}/signed-out"), &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(stage.imis.requests().len(), 0, "iMIS is not even asked");
    let headers =
        [("cookie", cookie.as_str()), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    assert!(client.get(SSO, &headers).await.token().is_some());
}

#[tokio::test]
async fn a_head_request_has_the_status_of_a_get_and_changes_nothing() {
    let stage = Stage::new().await;
    let client = stage.client();
    for (username, status) in [(Some("AMUELLER"), 200), (Some("contoso"), 403), (None, 302)] {
        let cookie = username.map_or_else(|| "a=b".to_owned(), |username| stage.cookie_of(username));
        let path = format!("{SSO}?return_to=%2Fhc%2F42");
        let head = client.send(Method::HEAD, &path, &[("cookie", &cookie)], "").await;
        assert_eq!((head.status.as_u16(), head.body.len()), (status, 0), "{username:?}");
        assert_eq!(head.headers.get_all("set-cookie").iter().count(), 0, "{username:?}");
        let get = client.get(&path, &[("cookie", &cookie)]).await;
        assert_eq!(get.status, status, "{username:?}");
        assert_eq!(get.header("location"), head.header("location"), "{username:?}");
    }
    let metrics = stage.gateway.metrics().await;
    let decisions = metrics
        .lines()
        .filter(|line| line.starts_with("imis_gateway_decisions_total") && line.ends_with(" 1"));
    assert_eq!(decisions.count(), 2, "those of the GETs: {metrics}");
}

#[tokio::test]
async fn every_page_leads_back_to_the_site_and_to_the_page_asked_for() {
    let stage = Stage::with(Setup::new(Generation::Imis2017)).await;
    let client = stage.client();
    let home = "href=\"/iMIS/\"";
    // Who has the wrong account can sign out of iMIS, and comes back to the page asked for.
    let reply = stage.sso("?return_to=%2Fhc%2F42", &stage.cookie_of("contoso")).await;
    let out = "/iMIS/AsiCommon/Controls/Shared/FormsAuthentication/logout.aspx?returnurl=%2Fsso%2Fzendesk%3Freturn_to%3D%252Fhc%252F42";
    assert_eq!(reply.status, 403);
    assert!(
        reply.text().contains(&format!("href=\"{out}\"")) && reply.text().contains(home),
        "{}",
        reply.text()
    );
    let cookie = stage.cookie_of("contoso");
    let signed_out = client.get(out, &[("cookie", &cookie)]).await;
    assert_eq!(signed_out.header("location"), "/sso/zendesk?return_to=%2Fhc%2F42");
    let reply = client.send(Method::POST, SSO, &[], "").await;
    assert!(reply.status == 405 && reply.text().contains(home), "{}", reply.text());
    let reply = client.get(&format!("{SSO}/signed-out"), &[]).await;
    assert!(reply.text().contains(home), "{}", reply.text());
}

#[tokio::test]
async fn over_http_2_the_crumbs_of_a_cookie_are_one_cookie() {
    let stage = Stage::new().await;
    let session = stage.cookie_of("AMUELLER");
    let crumbs: Vec<(&str, &str)> = session.split("; ").map(|crumb| ("cookie", crumb)).collect();
    assert_eq!(crumbs.len(), 3);
    let reply = stage.client().send_h2(Method::GET, SSO, &crumbs, "").await;
    assert!(reply.token().is_some(), "{}", reply.text());
    let probe = stage.imis.requests().into_iter().find(|request| request.target.contains("probe")).unwrap();
    assert_eq!(probe.header("cookie"), Some(session.as_str()));
}

#[tokio::test]
async fn a_sign_in_with_the_second_host_comes_back_to_that_host() {
    let stage = Stage::new().await;
    let headers = [("host", "www.example.org"), ("cookie", "x=y")];
    // One certificate for both names: HTTP/2 browsers coalesce, so the name may differ from SNI's within the site.
    let reply = stage.client().get(SSO, &headers).await;
    assert!(
        reply.header("location").starts_with("/AsiCommon/"),
        "relative, so it stays on the host it was asked on"
    );
}

#[tokio::test]
async fn after_a_sign_out_of_zendesk_a_page_confirms_it() {
    let stage = Stage::new().await;
    let path =
        format!("{SSO}/signed-out?brand_id=1&email=ann%40example.org&external_id=104019&return_to=%2Fhc");
    let reply = stage.client().get(&path, &[]).await;
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("You are signed out of Contoso Helpdesk"));
    assert!(reply.text().contains("/sso/zendesk?brand_id=1&amp;return_to=%2Fhc"), "{}", reply.text());
    assert!(!reply.text().contains("ann@example.org"));
    assert_strict_page(&reply);
}

#[tokio::test]
async fn errors_of_zendesk_are_explained_and_escaped_and_keep_the_session() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    for (message, words) in [
        ("JWT+signature+invalid.+The+signature+cannot+be+verified", "shared secret"),
        (
            "Invalid+iat+parameter.+more+than+3+minutes+off%2C+check+your+server+clock.",
            "time synchronisation",
        ),
        ("%3Cscript%3Ealert(1)%3C%2Fscript%3E", "did not accept the sign-in"),
    ] {
        let path = format!("{SSO}/signed-out?kind=error&message={message}");
        let reply = stage.client().get(&path, &[("cookie", &cookie)]).await;
        assert_eq!(reply.status, 200);
        assert!(reply.text().contains(words), "{words} in {}", reply.text());
        assert!(!reply.text().contains("<script>alert"));
        assert!(reply.text().contains("Try again"));
        for cookie in reply.headers.get_all("set-cookie") {
            assert!(
                cookie.to_str().unwrap().starts_with("__Host-imis-gateway-"),
                "no session of anybody's: {cookie:?}"
            );
        }
        assert!(!reply.headers.contains_key("location"));
        assert_strict_page(&reply);
    }
    assert_eq!(stage.imis.requests().len(), 0);
    assert!(stage.sso("", &cookie).await.token().is_some(), "the iMIS session is as it was");
}

/// Anybody can write such an address and send it to a member.
#[tokio::test]
async fn a_text_from_the_address_is_shown_only_during_a_sign_in() {
    let stage = Stage::new().await;
    let spoof = |message: &str| format!("{SSO}/signed-out?kind=error&message={message}");
    let known = "JWT+signature+invalid.+The+signature+cannot+be+verified%2C+check+that+your+tokens+match.";
    for (message, words, is_shown) in [
        ("Your+account+is+locked.+Call+1-800-555-0199", "1-800-555-0199", false),
        ("JWT+signature+invalid.+Call+1-800-555-0199", "1-800-555-0199", false),
        (known, "JWT signature invalid. The signature cannot be verified", true),
    ] {
        let reply = stage.client().get(&spoof(message), &[]).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text().contains(words)),
            (200, is_shown),
            "{}",
            reply.text()
        );
    }
    let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"));
    assert!(jar.get(&format!("{SSO}?return_to=%2Fhc%2F42")).await.token().is_some());
    let reply = jar.get(&spoof("Etwas+ging+schief+%3Cscript%3Ealert(1)")).await;
    assert!(reply.text().contains("Etwas ging schief &lt;script&gt;alert(1)"), "{}", reply.text());
    assert!(reply.text().contains("return_to=%2Fhc%2F42"), "trying again leads to the page asked for");
    // The next one has no sign-in that it could be about.
    assert!(!jar.get(&spoof("Etwas+anderes")).await.text().contains("Etwas anderes"));
}

#[tokio::test]
async fn another_spelling_of_the_sso_path_reaches_neither_the_sign_in_nor_imis() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    for path in [
        "/SSO/zendesk",
        "/sso/zendesk/",
        "//sso/zendesk",
        "/sso/%7Aendesk",
        "/x/../sso/zendesk",
        "/sso/zendesk;a",
    ] {
        let reply = stage.client().get(&format!("{path}?return_to=%2Fhc"), &[("cookie", &cookie)]).await;
        assert_eq!(reply.status, 400, "{path}");
        assert_eq!(reply.token(), None);
        assert!(
            reply.text().contains("href=\"/sso/zendesk?return_to=%2Fhc\""),
            "the deep link is kept: {}",
            reply.text()
        );
    }
    assert_eq!(stage.imis.requests().len(), 0);
}

pub(crate) fn assert_strict_page(reply: &crate::support::Reply) {
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("referrer-policy"), "no-referrer");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert!(reply.header("content-security-policy").contains("frame-ancestors 'none'"));
    assert!(reply.header("content-security-policy").contains("nonce-"));
}

#[tokio::test]
async fn many_members_at_once_each_get_their_own_token() {
    let stage = std::sync::Arc::new(
        Stage::with(Setup::new(Generation::Ems).with_app("guards: {duplicate_email: off}")).await,
    );
    let mut tasks = tokio::task::JoinSet::new();
    for round in 0..20 {
        for (username, id) in
            [("AMUELLER", "104019"), ("boconnor", "104020"), ("twin1", "104024"), ("twin2", "104025")]
        {
            let stage = stage.clone();
            tasks.spawn(async move {
                let reply = stage.sso(&format!("?brand_id={round}"), &stage.cookie_of(username)).await;
                assert_eq!(crate::tokens::claims(&reply.token().unwrap())["external_id"], id);
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(
        stage.imis.tokens_given(),
        1,
        "one access token for all: it is fetched by one caller at a time"
    );
}
