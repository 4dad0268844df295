//! The state cookie of a sign-in through the Single Sign-On page of iMIS: it is valid once, for one site, in one
//! client, and the form that iMIS has the client post is read like any request body.

use std::time::Duration;

use http::Method;
use imis_gateway_simulators::imis::Generation;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::cookie_jar::Jar;
use crate::support::gateway::TIMEOUT;
use crate::support::{Reply, SITE, SSO, Setup, Stage};
use crate::tokens::claims;

pub(crate) const POSTS_TO: &str = "/sso/zendesk/imis";
pub(crate) const STATE: &str = "__Host-imis-gateway-sign-in";

fn who(reply: &Reply) -> Option<String> {
    reply.token().map(|token| claims(&token)["external_id"].as_str().unwrap().to_owned())
}

pub(crate) fn application() -> Setup {
    let mut setup = Setup::new(Generation::Ems).recognised_by(
        "{method: client_application, page: /SingleSignOn, client_id: zendesk-gateway, client_secret: {file: client-secret}}",
    );
    setup.imis.sso_page_target = Some(POSTS_TO.to_owned());
    setup
}

/// One byte beyond ASCII in any cookie.
#[tokio::test]
async fn another_cookie_outside_ascii_does_not_disturb_a_sign_in() {
    let stage = Stage::with(application()).await;
    let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"));
    let begun = jar.get(SSO).await;
    let page = jar.get(begun.header("location")).await;
    let form = format!("refresh_token={}", page.field("refresh_token").unwrap());
    let mut planted = jar.with("lang=fran\u{e7}ais");
    let reply = planted.post(POSTS_TO, begun.header("location"), &form).await;
    assert_eq!(who(&reply).as_deref(), Some("104019"), "{}", reply.status);
}

/// Two apps, one Single Sign-On page.
#[tokio::test]
async fn an_abandoned_tab_of_another_app_does_not_disturb_a_sign_in() {
    let app = "    apps:\n";
    let more = "    apps:\n      - name: Staff Desk\n        path: /sso/staff\n        \
                zendesk: {subdomain: contoso-staff, shared_secret: {file: zendesk-jwt}}\n";
    let stage = Stage::with(application().edit(app, more)).await;
    let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"));
    // A tab of the first app that was given up.
    jar.get(SSO).await;
    let begun = jar.get("/sso/staff").await;
    let page = jar.get(begun.header("location")).await;
    let form = format!("refresh_token={}", page.field("refresh_token").unwrap());
    let reply = jar.post(POSTS_TO, begun.header("location"), &form).await;
    let text = reply.text();
    assert!(text.contains("contoso-staff"), "{} wanted Staff Desk: {text}", reply.status);
}

/// The form of the Single Sign-On page is posted to the path of the first app, and the state says which app it is for.
#[tokio::test]
async fn one_single_sign_on_page_serves_every_app() {
    let app = "    apps:\n";
    let more = "    apps:\n      - name: Staff Desk\n        path: /sso/staff\n        \
                zendesk: {subdomain: contoso-staff, shared_secret: {file: zendesk-jwt}}\n";
    let stage = Stage::with(application().edit(app, more)).await;
    let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"));
    let begun = jar.get("/sso/staff").await;
    let page = jar.get(begun.header("location")).await;
    let form = format!("refresh_token={}", page.field("refresh_token").unwrap());
    let reply = jar.post(POSTS_TO, begun.header("location"), &form).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// A frame of a sibling, in a browser that says Origin and no Sec-Fetch-Site.
#[tokio::test]
async fn a_post_with_an_opaque_origin_is_refused() {
    let stage = Stage::with(application()).await;
    let mut victim = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"));
    victim.get(SSO).await;
    let form = format!("refresh_token={}", stage.imis.refresh_token("boconnor"));
    let headers = victim.header();
    let reply =
        stage.client().send(Method::POST, POSTS_TO, &[("cookie", &headers), ("origin", "null")], form).await;
    assert_eq!(who(&reply), None, "signed in as the attacker");
}

/// States of a process that has gone.
#[tokio::test]
async fn state_cookies_of_an_ended_process_do_not_accumulate() {
    let stage = Stage::with(application()).await;
    let dead: Vec<String> =
        (0..8).map(|at| format!("{STATE}-0000000{at}={}.AAAA", "A".repeat(1800))).collect();
    let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER")).with(&dead.join("; "));
    jar.get(SSO).await;
    assert!(jar.header().len() < 8000, "{}", jar.header().len());
}

/// What the gateway answers until it closes the connection, or within this time.
async fn raw(stage: &Stage, bytes: &[u8], within: Duration) -> String {
    let mut stream = stage.client().connect("http/1.1").await;
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut out = Vec::new();
    let _ = tokio::time::timeout(within, stream.read_to_end(&mut out)).await;
    String::from_utf8_lossy(&out).into_owned()
}

/// What comes behind a form is a request of its own, or nothing.
#[tokio::test]
async fn the_form_is_framed_like_any_request_body() {
    let stage = Stage::with(application()).await;
    let next = format!("GET /next HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
    let head = format!("POST {POSTS_TO} HTTP/1.1\r\nHost: {SITE}\r\n");
    for (name, rest) in [
        ("length", format!("Content-Length: 3\r\n\r\na=b{next}")),
        ("chunked", format!("Transfer-Encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n{next}")),
        ("trailers", format!("Transfer-Encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\nX: y\r\n\r\n{next}")),
        (
            "both",
            format!("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n{next}"),
        ),
        ("two lengths", format!("Content-Length: 3\r\nContent-Length: 4\r\n\r\na=b{next}")),
        ("none", format!("\r\n{next}")),
        ("expect", format!("Expect: 100-continue\r\nContent-Length: 3\r\n\r\na=b{next}")),
        ("expect, nothing", format!("Expect: 100-continue\r\nContent-Length: 0\r\n\r\n{next}")),
        ("large", format!("Content-Length: 20000\r\n\r\n{}{next}", "x".repeat(20000))),
        (
            "large chunked",
            format!("Transfer-Encoding: chunked\r\n\r\n4e20\r\n{}\r\n0\r\n\r\n{next}", "x".repeat(20000)),
        ),
        ("huge chunk", format!("Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n{next}")),
        ("bad chunk", format!("Transfer-Encoding: chunked\r\n\r\nzz\r\n{next}")),
    ] {
        let before = stage.imis.requests().len();
        // The rest of a huge chunk is waited for.
        let within = if name == "huge chunk" { Duration::from_millis(500) } else { TIMEOUT };
        let text = raw(&stage, format!("{head}{rest}").as_bytes(), within).await;
        let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|rest| &rest[..3]).collect();
        let seen: Vec<String> =
            stage.imis.requests()[before..].iter().map(|r| format!("{} {}", r.method, r.target)).collect();
        // The form is answered, and then the next request, unless the connection was closed over it.
        match (statuses.as_slice(), seen.as_slice()) {
            (["403", "404"] | ["100", "403", "404"], [next]) => assert_eq!(next, "GET /next", "{name}"),
            // All of it was here when it turned out to be too much.
            (["413", "404"], [next]) => assert_eq!((next.as_str(), name), ("GET /next", "large chunked")),
            // It is still waited for.
            ([], []) => assert_eq!(name, "huge chunk"),
            (["400" | "413"], []) => {
                let odd = name.contains("large")
                    || name.contains("chunk")
                    || name == "both"
                    || name == "two lengths";
                assert!(odd, "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let log = stage.gateway.log();
    assert!(!log.contains("ended abnormally"), "{log}");
}

/// A state of one site shown to another site of the gateway that has an app on the same path.
#[tokio::test]
async fn a_state_cookie_of_another_site_is_not_accepted() {
    let stage = Stage::with(application()).await;
    let yaml = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    let (before, site) = yaml.split_once("sites:\n").unwrap();
    let one = site.replace("[members.example.org, www.example.org]", "[members.example.org]");
    let two = site
        .replace("[members.example.org, www.example.org]", "[www.example.org]")
        .replace("subdomain: contoso\n", "subdomain: other\n");
    let gateway = crate::support::Gateway::start(stage.folder(), &format!("{before}sites:\n{one}{two}"));
    let client = crate::support::Client::new(&stage.authority, gateway.https);
    let cookie = stage.cookie_of("AMUELLER");
    let begun = client.get(SSO, &[("cookie", &cookie)]).await;
    let state = begun.header("set-cookie").split(';').next().unwrap().to_owned();
    let form = format!("refresh_token={}", stage.imis.refresh_token("boconnor"));
    let request = format!(
        "POST {POSTS_TO} HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\nCookie: {cookie}; {state}\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    let mut stream = client.connect_as("http/1.1", "www.example.org").await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut out = Vec::new();
    let _ = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut out)).await;
    let text = String::from_utf8_lossy(&out);
    assert!(!text.contains("name=\"jwt\""), "a state of members.example.org is good at www.example.org");
}

/// The same state several times at once.
#[tokio::test]
async fn a_state_cookie_is_valid_once_even_for_concurrent_posts() {
    let stage = Stage::with(application()).await;
    let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"));
    jar.get(SSO).await;
    let cookie = jar.header();
    let posts = (0..8).map(|at| {
        let form = format!("refresh_token={}", stage.imis.refresh_token("AMUELLER"));
        let (client, cookie) = (stage.client(), cookie.clone());
        tokio::spawn(async move {
            let headers = [("cookie", cookie.as_str())];
            if at % 2 == 0 {
                client.send(Method::POST, POSTS_TO, &headers, form).await
            } else {
                client.send_h2(Method::POST, POSTS_TO, &headers, form).await
            }
        })
    });
    let mut admitted = 0;
    for post in posts.collect::<Vec<_>>() {
        admitted += usize::from(post.await.unwrap().token().is_some());
    }
    assert_eq!(admitted, 1);
}

/// States in several Cookie lines, among junk, over both protocols; and a post that waits to be told to go on.
#[tokio::test]
async fn state_cookies_are_found_in_any_cookie_line() {
    let stage = Stage::with(application()).await;
    for h2 in [false, true] {
        let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"));
        jar.get(SSO).await;
        let own: Vec<String> = jar.header().split("; ").map(str::to_owned).collect();
        let junk = format!("junk={}; ;=;a;=b;c=", "x".repeat(3000));
        let mut headers = vec![("cookie", junk.as_str())];
        headers.extend(own.iter().map(|pair| ("cookie", pair.as_str())));
        headers.push(("expect", "100-continue"));
        let form = format!("refresh_token={}", stage.imis.refresh_token("AMUELLER"));
        let client = stage.client();
        let reply = if h2 {
            client.send_h2(Method::POST, POSTS_TO, &headers, form).await
        } else {
            client.send(Method::POST, POSTS_TO, &headers, form).await
        };
        assert_eq!(who(&reply).as_deref(), Some("104019"), "h2 {h2} {}", reply.status);
    }
}
