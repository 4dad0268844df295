//! Ways in which somebody was, or could have been, taken for somebody else. Each of them has been tried.

use std::time::Duration;

use http::Method;
use imis_gateway_simulators::imis::{Faults, Generation, PageFault};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::cookie_jar::Jar;
use crate::support::{Reply, SITE, SSO, Setup, Stage};
use crate::tokens::claims;

const OUT: &str = "/AsiCommon/Controls/Shared/FormsAuthentication/logout.aspx";
const POSTS_TO: &str = "/sso/zendesk/imis";
const STATE: &str = "__Host-imis-gateway-sign-in";

fn who(reply: &Reply) -> Option<String> {
    reply.token().map(|token| claims(&token)["external_id"].as_str().unwrap().to_owned())
}

fn application() -> Setup {
    let mut setup = Setup::new(Generation::Ems).recognised_by(
        "{method: client_application, page: /SingleSignOn, client_id: zendesk-gateway, client_secret: {file: client-secret}}",
    );
    setup.imis.sso_page_target = Some(POSTS_TO.to_owned());
    setup
}

/// A second session cookie that is sent with the sign-out only, by its path.
#[tokio::test]
async fn a_sign_out_with_one_more_session_cookie_is_one() {
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

/// The same with one that a sibling domain has planted for the path of the sign-out page.
#[tokio::test]
async fn a_sign_out_with_a_planted_cookie_is_one() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    assert_eq!(who(&stage.sso("", &cookie).await).as_deref(), Some("104019"));
    let out = format!("{cookie}; login=planted");
    assert_eq!(stage.client().get(OUT, &[("cookie", &out)]).await.status, 302);
    let reply = stage.sso("", &cookie).await;
    assert_eq!(who(&reply), None, "signed out of iMIS, and still let in");
}

/// Who begins to act for another is soon refused, though known from before.
#[tokio::test]
async fn acting_for_another_is_noticed_within_seconds() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    assert_eq!(who(&stage.sso("", &cookie).await).as_deref(), Some("104019"));
    let context = "{&quot;isAnonymous&quot;:false,&quot;loggedInPartyId&quot;:&quot;104019&quot;,&quot;selectedPartyId&quot;:&quot;104020&quot;}";
    let page = format!("<html><body><input id=__ClientContext value=\"{context}\"></body></html>");
    stage.imis.set_faults(Faults { pages: PageFault::Page(200, page), ..Faults::default() });
    assert_eq!(stage.sso("", &stage.cookie_of("AMUELLER")).await.status, 403, "a new session is refused");
    tokio::time::sleep(Duration::from_millis(5300)).await;
    let reply = stage.sso("", &cookie).await;
    assert_eq!(reply.status, 403, "the default is to refuse");
}

/// One byte beyond ASCII in any cookie.
#[tokio::test]
async fn a_cookie_beyond_ascii_is_somebody_elses_affair() {
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
async fn a_tab_of_another_app_that_was_given_up_changes_nothing() {
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

/// The same without the given-up tab.
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

/// The browser leaves before iMIS has answered the sign-out.
#[tokio::test]
async fn a_sign_out_whose_browser_leaves_is_one() {
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

/// A cookie without a name is all value.
#[tokio::test]
async fn a_cookie_without_a_name_is_not_told() {
    let stage = Stage::new().await;
    let cookie = format!("{}; s3cr3t-of-a-nameless-cookie", stage.cookie_of("AMUELLER"));
    stage.sso("", &cookie).await;
    stage.imis.set_faults(Faults { pages: PageFault::ErrorPage, ..Faults::default() });
    stage.sso("", &format!("{}; s3cr3t-of-a-nameless-cookie", stage.cookie_of("boconnor"))).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!stage.gateway.log().contains("s3cr3t"), "{}", stage.gateway.log());
}

/// A frame of a sibling, in a browser that says Origin and no Sec-Fetch-Site.
#[tokio::test]
async fn an_opaque_origin_alone_is_not_ours() {
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
async fn states_of_a_process_that_has_gone_do_not_pile_up() {
    let stage = Stage::with(application()).await;
    let dead: Vec<String> =
        (0..8).map(|at| format!("{STATE}-0000000{at}={}.AAAA", "A".repeat(1800))).collect();
    let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER")).with(&dead.join("; "));
    jar.get(SSO).await;
    assert!(jar.header().len() < 8000, "{}", jar.header().len());
}

async fn raw(stage: &Stage, bytes: &[u8]) -> String {
    let mut stream = stage.client().connect("http/1.1").await;
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut out = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(3), stream.read_to_end(&mut out)).await;
    String::from_utf8_lossy(&out).into_owned()
}

/// What comes behind a form is a request of its own, or nothing.
#[tokio::test]
async fn a_form_is_framed_like_any_body() {
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
        let text = raw(&stage, format!("{head}{rest}").as_bytes()).await;
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
async fn a_state_of_another_site_is_none() {
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
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut out)).await;
    let text = String::from_utf8_lossy(&out);
    assert!(!text.contains("name=\"jwt\""), "a state of members.example.org is good at www.example.org");
}

/// Two sessions whose cookies differ in bytes that are no UTF-8.
#[tokio::test]
async fn two_sessions_that_differ_in_odd_bytes_are_never_one() {
    use crate::support::origin::Proxy;
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
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut out)).await;
        let text = String::from_utf8_lossy(&out).into_owned();
        ids.push(text.contains("name=\"jwt\""));
    }
    assert_eq!(ids, [false, false], "such a session is nobody's");
}

/// A sign-out by another site's link, given up half way, and a later one.
#[tokio::test]
async fn a_crafted_sign_out_leads_no_later_one_away() {
    let app = "path: /sso/zendesk\n";
    let setup =
        Setup::new(Generation::Ems).edit(app, &format!("{app}        single_logout: {{from_imis: true}}\n"));
    let stage = Stage::with(setup).await;
    let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"));
    // Opened by another site's window, which closes it before Zendesk has answered.
    let reply = jar.get(&format!("{OUT}?returnurl=https%3A%2F%2Fevil.example%2Fzendesk-login")).await;
    assert!(reply.header("location").contains("zendesk.com/access/logout"));
    // The member comes back, works, and signs out of Zendesk.
    let mut jar = jar.with(&stage.cookie_of("AMUELLER"));
    assert!(jar.get(SSO).await.token().is_some());
    let reply = jar.get(&format!("{SSO}/signed-out?brand_id=1&external_id=104019")).await;
    assert_ne!(
        reply.header("location"),
        "https://evil.example/zendesk-login",
        "led to another site by a sign-out of Zendesk"
    );
}

/// A page that says nothing of who is signed in, and a query that has a row for the user GUEST.
#[tokio::test]
async fn the_row_of_guest_lets_nobody_in() {
    let setup = Setup::new(Generation::Ems).without_service_account().recognised_by(
        "{method: whoami_query, page: /probe, query: $/Gateway/WhoAmI, endpoint: /api/query, \
         columns: {id: ID, name: Name, email: Email, status: null, company: null}}",
    );
    let stage = Stage::with(setup).await;
    let origin = crate::support::origin::Origin::start(&stage.authority, |mut connection| async move {
        let mut buffer = [0; 8192];
        let count = connection.read(&mut buffer).await.unwrap_or(0);
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        let (kind, body) = if text.starts_with("GET /api/query") {
            ("application/json", r#"{"Items":{"$values":[{"ID":"1","Name":"Guest","Email":"web@example.org"}]},"TotalCount":1}"#)
        } else {
            ("text/html", "<input name=__RequestVerificationToken id=__RequestVerificationToken value=abc>")
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        let _ = connection.write_all(answer.as_bytes()).await;
        let _ = connection.shutdown().await;
    })
    .await;
    let yaml = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    let yaml = yaml.replace(
        &format!("servers: [\"https://{}\"]", stage.imis.address()),
        &format!("servers: [\"https://{}\"]", origin.address),
    );
    let gateway = crate::support::Gateway::start(stage.folder(), &yaml);
    let client = crate::support::Client::new(&stage.authority, gateway.https);
    let reply = client.get(SSO, &[("cookie", "Login=of-a-session-that-is-over")]).await;
    assert_eq!(who(&reply), None, "a visitor whose session is over is let in as GUEST's contact");
}

/// Everything that a log can hold.
#[tokio::test]
async fn no_secret_of_the_official_way_is_in_the_log() {
    let mut setup = application();
    setup.log_level = "trace";
    let stage = Stage::with(setup).await;
    let value = stage.imis.sign_in("AMUELLER");
    let mut jar = Jar::new(stage.client()).with(&format!("login={value}"));
    let begun = jar.get(&format!("{SSO}?return_to=%2Fhc%2Fs3cr3t")).await;
    let state = jar
        .header()
        .split("; ")
        .find(|pair| pair.starts_with(STATE))
        .unwrap()
        .split_once('=')
        .unwrap()
        .1
        .to_owned();
    let page = jar.get(begun.header("location")).await;
    let token = page.field("refresh_token").unwrap();
    let reply = jar.post(POSTS_TO, begun.header("location"), &format!("refresh_token={token}")).await;
    let jwt = reply.token().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let log = stage.gateway.log();
    let client_secret = stage.imis.options().client_application.1.clone();
    let password = stage.imis.options().service_account.1.clone();
    for (what, secret) in [
        ("session", &value),
        ("state", &state),
        ("refresh", &token),
        ("jwt", &jwt),
        ("client secret", &client_secret),
        ("password", &password),
        ("secret", &stage.secret),
    ] {
        assert!(!log.contains(secret.as_str()), "{what}");
    }
    for secret in stage.imis.tokens() {
        assert!(!log.contains(&secret), "access token");
    }
    assert!(!log.contains("example.org\"") || !log.contains("ann.mueller@"), "e-mail");
    assert!(!log.contains("s3cr3t"), "deep link");
}

/// The same state several times at once.
#[tokio::test]
async fn a_state_is_good_once_also_for_many_at_once() {
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
async fn states_are_found_in_whatever_lines_they_come() {
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
