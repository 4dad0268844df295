//! Tokens for Zendesk messaging: for scripts of the site's own pages, and for whoever may enter.

use by_others::verified;
use http::Method;
use imis_gateway_simulators::imis::{Faults, Generation, PageFault};
use serde_json::{Value, json};

use crate::support::{MESSAGING_KEY, Reply, Setup, Stage};
use crate::tokens::claims;

const KEYS: &str = "messaging: {key_id: app_0123456789, secret: {file: messaging-key}}";
const OWN_SCRIPT: [(&str, &str); 3] =
    [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];

/// Checks tokens without the library that made them.
mod by_others {
    use std::process::{Command, Stdio};

    use crate::support::skip;

    const RUBY: &str = r#"
require "jwt"
secret, token = STDIN.read.split("\n")
claims, header = JWT.decode(token, secret, true, { algorithm: "HS256", verify_expiration: true })
raise header.inspect unless header == { "typ" => "JWT", "alg" => "HS256", "kid" => "app_0123456789" }
"#;

    pub(super) fn verified(secret: &str, token: &str) {
        use std::io::Write;
        let there = Command::new("ruby").args(["-e", "require 'jwt'"]).stderr(Stdio::null()).status();
        if !there.is_ok_and(|status| status.success()) {
            return skip("ruby (ruby-jwt)");
        }
        let mut child = Command::new("ruby").args(["-e", RUBY]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{secret}\n{token}\n").as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

async fn stage(app: &str) -> Stage {
    Stage::with(Setup::new(Generation::Ems).with_app(&format!("{KEYS}\n{app}"))).await
}

async fn ask(stage: &Stage, username: Option<&str>, headers: &[(&str, &str)]) -> Reply {
    let cookie = username.map(|username| stage.cookie_of(username)).unwrap_or_default();
    let mut all = headers.to_vec();
    all.push(("cookie", &cookie));
    stage.client().get("/sso/zendesk/messaging-token", &all).await
}

fn json_of(reply: &Reply) -> Value {
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.header("cache-control"), "no-store");
    serde_json::from_str(&reply.text()).unwrap()
}

#[tokio::test]
async fn a_script_of_the_site_gets_a_token_for_the_member_who_is_signed_in() {
    let stage = stage("").await;
    let reply = ask(&stage, Some("AMUELLER"), &OWN_SCRIPT).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let token = json_of(&reply)["jwt"].as_str().unwrap().to_owned();
    let mut told = claims(&token);
    #[expect(clippy::disallowed_methods, reason = "to hold the token's end against")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let exp = told.as_object_mut().unwrap().remove("exp").unwrap().as_u64().unwrap();
    assert!((now + 840..=now + 900).contains(&exp), "{exp}");
    assert_eq!(
        told,
        json!({"scope": "user", "external_id": "104019", "name": "Ann Müller", "email": "ann.mueller@example.org",
            "email_verified": true})
    );
    verified(MESSAGING_KEY, &token);
    assert!(reply.headers.get("access-control-allow-origin").is_none());
    stage.gateway.logged(|line| line["decision"] == "messaging" && line["imis_id"] == "104019").await;
    assert!(!stage.gateway.log().contains(&token));
}

#[tokio::test]
async fn other_requests_get_no_messaging_token() {
    let stage = stage("rules: [{deny: \"profile.id == '104020'\", reason: not-bob}, {allow: \"true\"}]\nreasons: {not-bob: Not Bob}").await;
    let nobody = ask(&stage, None, &OWN_SCRIPT).await;
    assert_eq!((nobody.status.as_u16(), nobody.text().as_str()), (204, ""));
    let refused = ask(&stage, Some("boconnor"), &OWN_SCRIPT).await;
    assert_eq!((refused.status.as_u16(), &json_of(&refused)["error"]), (403, &json!("refused")));
    stage.gateway.logged(|line| line["decision"] == "refused" && line["reason"] == "not-bob").await;
    let before = stage.imis.requests().len();
    for headers in [
        &[][..],
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
        &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
        &[OWN_SCRIPT[0], OWN_SCRIPT[1], OWN_SCRIPT[2], ("origin", "https://evil.example")],
    ] {
        let reply = ask(&stage, Some("AMUELLER"), headers).await;
        assert_eq!((reply.status.as_u16(), &json_of(&reply)["error"]), (403, &json!("not-same-origin")));
    }
    assert_eq!(stage.imis.requests().len(), before);
    let posted = stage.client().send(Method::POST, "/sso/zendesk/messaging-token", &[], "").await;
    assert_eq!((posted.status.as_u16(), posted.header("allow")), (405, "GET"));
    stage.imis.set_faults(Faults { pages: PageFault::Drop, ..Faults::default() });
    let broken = ask(&stage, Some("AMUELLER"), &OWN_SCRIPT).await;
    assert_eq!((broken.status.as_u16(), broken.header("retry-after")), (503, "30"));
    assert_eq!(json_of(&broken)["error"], "unavailable");
}

#[tokio::test]
async fn without_a_key_there_are_no_messaging_tokens() {
    let stage = Stage::new().await;
    let reply = ask(&stage, Some("AMUELLER"), &OWN_SCRIPT).await;
    assert_eq!((reply.status.as_u16(), &json_of(&reply)["error"]), (404, &json!("not-configured")));
    assert_eq!(stage.imis.requests().len(), 0);
}

#[tokio::test]
async fn pages_that_ask_too_often_leave_the_sign_in_alone() {
    let limits = "limits: {sign_ins_per_network: 1000000, sign_ins_per_person: 1000000}";
    let setup = Setup::new(Generation::Ems).with_app(KEYS).edit(limits, "limits: {sign_ins_per_network: 5}");
    let stage = Stage::with(setup).await;
    let mut told = Vec::new();
    for _ in 0..8 {
        told.push(ask(&stage, Some("AMUELLER"), &OWN_SCRIPT).await.status.as_u16());
    }
    assert!(told.starts_with(&[200; 5]) && told.ends_with(&[429]), "{told:?}");
    assert!(stage.sso("", &stage.cookie_of("AMUELLER")).await.token().is_some());
}
