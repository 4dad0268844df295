//! Every recognition method with both generations of iMIS: which member it recognises, who is anonymous, and when it
//! fails.

use imis_gateway_simulators::imis::ticket::MachineKey;
use imis_gateway_simulators::imis::{ApiFault, Faults, Generation, PageFault, QueryFault};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Reply, SSO, Setup, Stage};
use crate::tokens::claims;

const COLUMNS: &str = "{id: ID, name: Full Name, email: Email, phone: Mobile Phone, status: Member Status, company: Is Company}";

fn base(generation: Generation) -> &'static str {
    match generation {
        Generation::Ems => "/",
        Generation::Imis2017 => "/iMIS/",
    }
}

fn query(generation: Generation, endpoint: &str, columns: &str) -> Setup {
    let base = base(generation);
    // The simulator's REST of 2017 is below the scheduler's path; a site's own is below its base.
    let endpoint = match generation {
        Generation::Ems => format!("/api/{endpoint}"),
        Generation::Imis2017 => format!("/Asi.Scheduler_iMIS/api/{endpoint}"),
    };
    Setup::new(generation).recognised_by(&format!(
        "{{method: whoami_query, page: {base}imis-gateway-probe, query: $/Gateway/WhoAmI, endpoint: {endpoint}, columns: {columns}}}"
    ))
}

fn login_status() -> Setup {
    Setup::new(Generation::Imis2017).recognised_by("{method: login_status_redirect}")
}

fn ticket(framework_45: bool) -> Setup {
    let mode = if framework_45 { "Framework45" } else { "Framework20SP2" };
    let mut setup = Setup::new(Generation::Imis2017).recognised_by(&format!(
        "{{method: forms_ticket, validation_key: {{file: validation-key}}, decryption_key: {{file: decryption-key}}, \
         validation: HMACSHA256, compatibility_mode: {mode}}}"
    ));
    setup.imis.machine_key = MachineKey::random(framework_45);
    setup
}

/// One for each method that asks by itself, with everything that may differ in it.
fn setups() -> Vec<(&'static str, Setup)> {
    let context = |generation| Setup::new(generation);
    let (ems, old) = (Generation::Ems, Generation::Imis2017);
    vec![
        ("client_context, EMS", context(ems)),
        ("client_context, 2017", context(old)),
        ("query, EMS", query(ems, "query", COLUMNS).without_service_account()),
        ("iqa, EMS", query(ems, "iqa", COLUMNS).without_service_account()),
        ("query, 2017", query(old, "query", COLUMNS).without_service_account()),
        ("iqa, 2017, profile by REST", query(old, "iqa", "{id: ID}")),
        ("login_status_redirect", login_status()),
        ("forms_ticket", ticket(false)),
        ("forms_ticket, 4.5", ticket(true)),
    ]
}

fn who(reply: &Reply) -> String {
    let token = reply.token().unwrap_or_else(|| panic!("{} {}", reply.status, reply.text()));
    claims(&token)["external_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_method_recognises_every_member_correctly() {
    for (name, setup) in setups() {
        let stage = Stage::with(setup).await;
        let (ann, bob) = (stage.cookie_of("AMUELLER"), stage.cookie_of("boconnor"));
        // Two at once, again and again.
        for _ in 0..4 {
            let (one, two) = tokio::join!(stage.sso("", &ann), stage.sso("", &bob));
            assert_eq!((who(&one).as_str(), who(&two).as_str()), ("104019", "104020"), "{name}");
        }
        let claims = claims(&stage.sso("", &ann).await.token().unwrap());
        assert_eq!(claims["name"], "Ann Müller", "{name}");
        assert_eq!(claims["email"], "ann.mueller@example.org", "{name}");
        assert_eq!(claims["phone"], "+15124741234", "{name}");
    }
}

#[tokio::test]
async fn no_method_lets_a_refused_member_in() {
    for (name, setup) in setups() {
        let stage = Stage::with(setup).await;
        for username in ["contoso", "lapsed", "nomail", "badmail"] {
            let reply = stage.sso("", &stage.cookie_of(username)).await;
            assert_eq!((reply.status.as_u16(), reply.token()), (403, None), "{name}: {username}");
        }
    }
}

#[tokio::test]
async fn every_method_treats_an_ended_session_as_anonymous() {
    for (name, setup) in setups() {
        let stage = Stage::with(setup).await;
        let cookie = stage.cookie_of("AMUELLER");
        let value = cookie.split("ogin=").nth(1).unwrap().split(';').next().unwrap();
        stage.imis.end_session(value);
        for cookie in [cookie.as_str(), "Login=0123456789ABCDEF", "Login=x", "ASP.NET_SessionId=1"] {
            let reply = stage.sso("", cookie).await;
            assert_eq!(reply.status, 302, "{name}: {cookie}: {}", reply.text());
            assert!(reply.header("location").contains("Login.aspx?ReturnUrl="), "{name}");
        }
    }
}

#[tokio::test]
async fn a_probe_extends_no_session_and_names_no_member_in_the_log() {
    for (name, setup) in setups() {
        let stage = Stage::with(setup).await;
        let value = stage.imis.sign_in("AMUELLER");
        let cookie = format!("{}={value}", stage.imis.options().cookie);
        assert_eq!(who(&stage.sso("", &cookie).await), "104019", "{name}");
        assert_eq!(stage.imis.renewals(&value), 0, "{name}");
        let seen = stage.gateway.logged(|line| line["message"] == "recognition").await;
        let text = seen["observed"].as_str().unwrap();
        assert!(text.starts_with("cookies: ") && text.to_lowercase().contains("login"), "{name}: {text}");
        let log = stage.gateway.log();
        for secret in [value.as_str(), "ann.mueller", "Müller"] {
            assert!(!log.contains(secret), "{name}: {secret}");
        }
        let metrics = stage.gateway.metrics().await;
        assert!(metrics.contains("imis_gateway_recognitions_total{"), "{metrics}");
        assert!(metrics.contains("result=\"person\"} 1"), "{metrics}");
    }
}

/// What each method does not take for an answer.
#[tokio::test]
async fn without_a_clear_answer_of_imis_no_member_is_signed_in() {
    let pages = [
        PageFault::ErrorPage,
        PageFault::Missing,
        PageFault::Firewall(403),
        PageFault::Firewall(200),
        PageFault::Drop,
    ];
    for (name, setup) in setups() {
        let by_page = !name.starts_with("login") && !name.starts_with("forms");
        let rest_only = name.starts_with("login") || name.starts_with("forms");
        let stage = Stage::with(setup).await;
        let mut faults: Vec<Faults> = Vec::new();
        if by_page {
            faults.extend(pages.iter().map(|page| Faults { pages: page.clone(), ..Faults::default() }));
        }
        if rest_only || name.contains("query") || name.contains("iqa") {
            for api in [ApiFault::Status(500), ApiFault::Html, ApiFault::Drop, ApiFault::Status(403)] {
                faults.push(Faults { api, ..Faults::default() });
            }
        }
        if name.contains("query") || name.contains("iqa") {
            for query in
                [QueryFault::Unfiltered, QueryFault::FirstOfAll, QueryFault::Empty, QueryFault::Without("ID")]
            {
                faults.push(Faults { query, ..Faults::default() });
            }
        }
        if name.starts_with("login") {
            for location in [
                "{RETURL}?ID=104019",
                "{RETURL}?ID=104019&QKEY=0123456789abcdef0123456789abcdef",
                "{RETURL}?ID=104019&ID=104020&QKEY={QKEY}",
                "https://evil.example/imis-gateway-login-status?ID=104019&QKEY={QKEY}",
                "/Error.aspx?item=1",
                "/iMIS/Somewhere.aspx",
            ] {
                faults.push(Faults { login_status: Some(location.to_owned()), ..Faults::default() });
            }
        }
        if name.starts_with("forms") {
            for answer in [(500, "null"), (200, "{}"), (200, "true"), (404, "null"), (200, "<html>")] {
                faults.push(Faults { session_info: Some(answer), ..Faults::default() });
            }
        }
        for fault in faults {
            stage.imis.set_faults(fault.clone());
            // Not Ann: the first of all contacts must not be who is asked about.
            let reply = stage.sso("", &stage.cookie_of("boconnor")).await;
            assert_eq!(
                (reply.status.as_u16(), reply.token()),
                (503, None),
                "{name}: {fault:?} {}",
                reply.text()
            );
        }
        stage.imis.set_faults(Faults::default());
        assert_eq!(who(&stage.sso("", &stage.cookie_of("boconnor")).await), "104020", "{name}");
    }
}

#[tokio::test]
async fn a_profile_from_query_columns_needs_those_columns() {
    let stage = Stage::with(query(Generation::Ems, "query", COLUMNS).without_service_account()).await;
    for (column, status) in [
        ("Member Status", 503),
        ("Is Company", 503),
        ("Email", 403),
        ("Full Name", 403),
        ("Mobile Phone", 200),
    ] {
        stage.imis.set_faults(Faults { query: QueryFault::Without(column), ..Faults::default() });
        assert_eq!(stage.sso("", &stage.cookie_of("AMUELLER")).await.status, status, "{column}");
    }
    stage
        .gateway
        .logged(|line| line["error"].as_str().is_some_and(|text| text.contains("no column `Is Company`")))
        .await;
}

#[tokio::test]
async fn the_user_guest_is_anonymous() {
    let stage = Stage::with(query(Generation::Ems, "query", COLUMNS).without_service_account()).await;
    let (ann, bob) = (stage.cookie_of("AMUELLER"), stage.cookie_of("boconnor"));
    stage.imis.set_faults(Faults { query: QueryFault::Guest, ..Faults::default() });
    assert_eq!(who(&stage.sso("", &ann).await), "104019");
    let reply = stage.sso("", "Login=ended").await;
    assert!(reply.header("location").contains("Login.aspx?ReturnUrl="), "{} {}", reply.status, reply.text());
    for id in ["GUEST", "guest", "Guest"] {
        stage.imis.set_faults(Faults { query: QueryFault::AlwaysGuest(id), ..Faults::default() });
        let reply = stage.sso("", &bob).await;
        assert!(reply.header("location").contains("Login.aspx?ReturnUrl="), "{id}: {}", reply.text());
    }
    for page in [r#"{"isAnonymous":false,"loggedInPartyId":"GUEST"}"#, r#"{"loggedInPartyId":"guest"}"#] {
        let stage = Stage::with(Setup::new(Generation::Ems)).await;
        let page = format!("<form><input id=__ClientContext value='{page}'></form>");
        stage.imis.set_faults(Faults { pages: PageFault::Page(200, page), ..Faults::default() });
        let reply = stage.sso("", &stage.cookie_of("AMUELLER")).await;
        assert!(reply.header("location").contains("Login.aspx?ReturnUrl="), "{}", reply.text());
    }
}

#[tokio::test]
async fn a_ticket_of_other_keys_or_an_old_one_leads_to_the_sign_in_page() {
    let mut setup = ticket(false);
    setup.imis.ticket_seconds = -1;
    let stage = Stage::with(setup).await;
    assert_eq!(stage.sso("", &stage.cookie_of("AMUELLER")).await.status, 302, "its time is over");
    let stage = Stage::with(ticket(false)).await;
    let forged = MachineKey::random(false).ticket("AMUELLER", 3600);
    assert_eq!(stage.sso("", &format!("Login={forged}")).await.status, 302);
    stage
        .gateway
        .logged(|line| line["error"].as_str().is_some_and(|text| text.contains("not signed with these keys")))
        .await;
    // A sign-out revokes no ticket: iMIS is asked whether the session lives.
    let cookie = stage.cookie_of("AMUELLER");
    stage.imis.set_faults(Faults { session_info: Some((200, "null")), ..Faults::default() });
    assert_eq!(stage.sso("", &cookie).await.status, 302);
    stage
        .imis
        .set_faults(Faults { session_info: Some((200, "{\"StillGoodSeconds\":0}")), ..Faults::default() });
    assert_eq!(stage.sso("", &stage.cookie_of("AMUELLER")).await.status, 302);
}

const LIST: &str = "[{method: forms_ticket, validation_key: {file: validation-key}, decryption_key: {file: decryption-key}ON_ERROR}, \
                     {method: client_context, page: /iMIS/imis-gateway-probe}]";

#[tokio::test]
async fn if_a_method_fails_the_next_one_is_tried_unless_configured_to_stop() {
    let stage =
        Stage::with(Setup::new(Generation::Imis2017).recognised_by(&LIST.replace("ON_ERROR", ""))).await;
    let asked_for = |stage: &Stage, what: &str| {
        stage.imis.requests().iter().filter(|request| request.target.contains(what)).count()
    };
    assert_eq!(who(&stage.sso("", &stage.cookie_of("AMUELLER")).await), "104019");
    assert_eq!(asked_for(&stage, "probe"), 0, "the first one can say");
    stage.imis.set_faults(Faults { session_info: Some((500, "")), ..Faults::default() });
    assert_eq!(who(&stage.sso("", &stage.cookie_of("boconnor")).await), "104020");
    assert_eq!(asked_for(&stage, "probe"), 1);
    // Nobody, said by a method that works, is the last word.
    stage.imis.set_faults(Faults { session_info: Some((200, "null")), ..Faults::default() });
    assert_eq!(stage.sso("", &stage.cookie_of("twin1")).await.status, 302);
    assert_eq!(asked_for(&stage, "probe"), 1);
    // Broken, and broken.
    let broken = Faults { session_info: Some((500, "")), pages: PageFault::ErrorPage, ..Faults::default() };
    stage.imis.set_faults(broken);
    assert_eq!(stage.sso("", &stage.cookie_of("twin2")).await.status, 503);

    let stop = LIST.replace("ON_ERROR", ", on_error: stop");
    let stage = Stage::with(Setup::new(Generation::Imis2017).recognised_by(&stop)).await;
    stage.imis.set_faults(Faults { session_info: Some((500, "")), ..Faults::default() });
    assert_eq!(stage.sso("", &stage.cookie_of("AMUELLER")).await.status, 503);
    assert_eq!(asked_for(&stage, "probe"), 0);
}

#[tokio::test]
async fn acting_for_another_contact_is_refused_by_default() {
    for (methods, generation) in [(None, Generation::Ems), (Some(()), Generation::Ems)] {
        let setup = || match methods {
            None => Setup::new(generation),
            Some(()) => query(generation, "query", COLUMNS),
        };
        let stage = Stage::with(setup()).await;
        let reply = stage.sso("", &stage.cookie_of("staff")).await;
        assert_eq!((reply.status.as_u16(), reply.token()), (403, None));
        assert!(reply.text().contains("on behalf of somebody else"), "{}", reply.text());
        for (policy, id) in [("sign_in_as_staff", "300001"), ("sign_in_as_contact", "104019")] {
            let app = "path: /sso/zendesk\n";
            let setup = setup().edit(app, &format!("{app}        on_behalf_of: {policy}\n"));
            let stage = Stage::with(setup).await;
            assert_eq!(who(&stage.sso("", &stage.cookie_of("staff")).await), id);
            let line = stage.gateway.logged(|line| line["message"] == "signed in").await;
            assert_eq!((&line["signed_in_as"], &line["on_behalf_of"]), (&"300001".into(), &"104019".into()));
            assert_eq!(
                who(&stage.sso("", &stage.cookie_of("AMUELLER")).await),
                "104019",
                "nobody else is concerned"
            );
        }
    }
}

#[tokio::test]
async fn the_log_distinguishes_the_causes_of_failures() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    for (fault, says) in [
        (PageFault::Firewall(200), "page 200 text/html; no iMIS markup in the page"),
        (PageFault::Firewall(403), "page 403 text/html"),
        (PageFault::ErrorPage, "to the error page"),
        (PageFault::Redirect("https://elsewhere.example/".to_owned()), "to elsewhere"),
    ] {
        stage.imis.set_faults(Faults { pages: fault, ..Faults::default() });
        assert_eq!(stage.sso("", &cookie).await.status, 503);
        let told =
            |line: &serde_json::Value| line["observed"].as_str().is_some_and(|seen| seen.contains(says));
        let line = stage.gateway.logged(told).await;
        assert_eq!(line["recognition_method"], "client_context");
        assert!(
            line["observed"].as_str().unwrap().starts_with("cookies: ASP.NET_SessionId, login, ARRAffinity"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn ten_concurrent_tabs_share_one_probe() {
    for (name, setup) in setups() {
        let stage = std::sync::Arc::new(Stage::with(setup).await);
        stage
            .imis
            .set_faults(Faults { delay: Some(std::time::Duration::from_millis(100)), ..Faults::default() });
        let cookie = stage.cookie_of("AMUELLER");
        let mut tabs = tokio::task::JoinSet::new();
        for tab in 0..10 {
            let (stage, cookie) = (stage.clone(), cookie.clone());
            tabs.spawn(async move {
                let reply = stage.sso(&format!("?return_to=%2Fhc%2F{tab}"), &cookie).await;
                assert_eq!(reply.field("return_to"), Some(format!("/hc/{tab}")));
                who(&reply)
            });
        }
        while let Some(id) = tabs.join_next().await {
            assert_eq!(id.unwrap(), "104019", "{name}");
        }
        let probes = stage
            .imis
            .requests()
            .iter()
            .filter(|request| request.header("x-norefreshsession").is_some())
            .count();
        assert!(probes <= 2, "{name}: {probes}");
    }
}

#[tokio::test]
async fn scripts_do_not_probe_imis_and_head_has_the_status_of_get() {
    for (name, setup) in setups() {
        let stage = Stage::with(setup).await;
        let cookie = stage.cookie_of("AMUELLER");
        let script = [("cookie", cookie.as_str()), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];
        assert_eq!(stage.client().get(SSO, &script).await.status, 403, "{name}");
        assert_eq!(stage.imis.requests().len(), 0, "{name}");
        let head = stage.client().send(http::Method::HEAD, SSO, &[("cookie", &cookie)], "").await;
        let get = stage.client().get(SSO, &[("cookie", &cookie)]).await;
        assert_eq!((head.status, head.token()), (get.status, None), "{name}");
    }
}

/// A page that says nothing of who is signed in, and a query that has a row for the user GUEST.
#[tokio::test]
async fn the_query_row_of_the_guest_user_is_anonymous() {
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
    assert_eq!(reply.token(), None, "a visitor whose session is over is let in as GUEST's contact");
}
