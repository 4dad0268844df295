//! What the log contains, and which secrets it never contains.

use std::time::Duration;

use http::Method;
use imis_gateway_simulators::imis::{ApiFault, Faults, Generation, PageFault, TokenFault};

use crate::state_cookie::{POSTS_TO, STATE, application};
use crate::support::cookie_jar::Jar;
use crate::support::{SSO, Setup, Stage};

#[tokio::test]
async fn at_trace_level_no_cookie_token_secret_or_address_is_logged() {
    let mut setup = Setup::new(Generation::Ems);
    setup.log_level = "trace";
    let stage = Stage::with(setup).await;
    let client = stage.client();
    let mut forbidden = vec![
        stage.secret.clone(),
        stage.imis.options().service_account.1.clone(),
        "ann.mueller@example.org".to_owned(),
        "somebody@example.org".to_owned(),
        "bea@@example.org".to_owned(),
        "q-s3cret".to_owned(),
    ];
    for username in ["AMUELLER", "boconnor", "badmail", "nomail"] {
        let value = stage.imis.sign_in(username);
        let cookie = format!("login={value}");
        forbidden.push(value);
        let reply = stage.sso("?return_to=%2Fhc%2Fq-s3cret", &cookie).await;
        forbidden.extend(reply.token());
        client.send_h2(Method::GET, "/Default.aspx?token=q-s3cret", &[("cookie", &cookie)], "").await;
        client.send(Method::POST, "/upload", &[("cookie", &cookie)], "q-s3cret").await;
        client
            .get("/unsubscribe/somebody@example.org/x?e=somebody%40example.org", &[("cookie", &cookie)])
            .await;
    }
    let cookie = stage.cookie_of("AMUELLER");
    for faults in [
        Faults { pages: PageFault::Page(200, "q-s3cret".to_owned()), ..Faults::default() },
        Faults { token: TokenFault::Refuses, api: ApiFault::Unauthorized(5), ..Faults::default() },
        Faults { api: ApiFault::Drop, ..Faults::default() },
    ] {
        stage.imis.set_faults(faults);
        stage.sso("?return_to=https%3A%2F%2Fq-s3cret.example", &cookie).await;
    }
    let error = "?kind=error&message=Users+with+the+email+address+somebody%40example.org+are+not+allowed+to+sign+up&email=somebody%40example.org";
    client.get(&format!("{SSO}/signed-out{error}"), &[]).await;
    forbidden.extend(stage.imis.tokens());
    forbidden.push(cookie.split("login=").nth(1).unwrap().split(';').next().unwrap().to_owned());

    // The last line of the last request: all others are written.
    stage
        .gateway
        .logged(|line| line["path"] == format!("{SSO}/signed-out") && line["message"] == "request")
        .await;
    let log = stage.gateway.log();
    assert!(log.contains("\"signed in\""), "the log is there");
    for secret in &forbidden {
        assert!(!log.contains(secret.as_str()), "{secret} is in the log");
        assert!(!log.contains(&secret.replace('@', "%40")), "{secret} is in the log, encoded");
    }
}

#[tokio::test]
async fn every_request_has_one_line_with_the_request_id_of_imis_and_the_page() {
    let stage = Stage::new().await;
    let refused = stage.sso("", &stage.cookie_of("nomail")).await.text();
    let incident = refused.split("<code>").nth(1).unwrap().split("</code>").next().unwrap().to_owned();
    let line =
        stage.gateway.logged(|line| line["request_id"] == *incident && line["message"] == "request").await;
    assert_eq!(
        (line["method"].as_str(), line["path"].as_str(), line["status"].as_u64()),
        (Some("GET"), Some(SSO), Some(403))
    );
    assert_eq!(line["outcome"], "complete");
    assert!(line["timestamp"].is_string() && line["level"] == "INFO");
    let why =
        stage.gateway.logged(|line| line["request_id"] == *incident && line["message"] == "refused").await;
    assert_eq!(why["reason"], "no-email");

    stage.client().get("/Default.aspx?x=1", &[]).await;
    let at_imis = stage.imis.requests().pop().unwrap();
    let number = at_imis.header("x-request-id").unwrap().to_owned();
    let line =
        stage.gateway.logged(|line| line["request_id"] == *number && line["message"] == "request").await;
    assert_eq!(line["path"], "/Default.aspx", "without the query");
    assert!(line["body_bytes_sent"].as_u64().unwrap() > 100);
}

#[tokio::test]
async fn a_host_that_could_be_an_address_is_not_logged_and_head_is_complete() {
    let stage = Stage::new().await;
    stage.client().get("/", &[("host", "somebody@example.org")]).await;
    let line = stage.gateway.logged(|line| line["message"] == "request").await;
    assert_eq!((line["host"].as_str(), line["status"].as_u64()), (Some("*"), Some(400)));
    stage.client().send(Method::HEAD, "/SSO/zendesk", &[], "").await;
    let line = stage.gateway.logged(|line| line["method"] == "HEAD").await;
    assert_eq!(line["outcome"], "complete");
}

#[tokio::test]
async fn the_access_log_can_be_turned_off() {
    let stage =
        Stage::with(Setup::new(Generation::Ems).edit("level: debug", "level: debug, access: false")).await;
    stage.client().get("/Default.aspx", &[]).await;
    stage.sso("", &stage.cookie_of("nomail")).await;
    stage.gateway.logged(|line| line["message"] == "refused").await;
    assert!(!stage.gateway.log().contains("\"request\""));
}

/// A cookie without a name is all value.
#[tokio::test]
async fn a_cookie_without_a_name_is_not_logged() {
    let stage = Stage::new().await;
    let cookie = format!("{}; s3cr3t-of-a-nameless-cookie", stage.cookie_of("AMUELLER"));
    stage.sso("", &cookie).await;
    stage.imis.set_faults(Faults { pages: PageFault::ErrorPage, ..Faults::default() });
    stage.sso("", &format!("{}; s3cr3t-of-a-nameless-cookie", stage.cookie_of("boconnor"))).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!stage.gateway.log().contains("s3cr3t"), "{}", stage.gateway.log());
}

/// Everything that a log can hold.
#[tokio::test]
async fn no_secret_of_a_client_application_sign_in_is_logged() {
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
