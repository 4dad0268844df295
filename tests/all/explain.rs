//! `explain` and `claims`: the same decision as during a sign-in, shown step by step, without a signed token.

use imis_gateway_simulators::imis::{ApiFault, Faults, Generation};
use serde_json::{Value, json};

use crate::profile_values::{ann, ems, with_ann};
use crate::support::{Setup, Stage};

const APP: &str = "Contoso Helpdesk";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_shows_every_step_for_an_id_and_for_cookies() {
    let app = "rules: [{deny: \"profile.id == '104020'\", reason: not-bob}, {allow: \"profile.is_member\"}]\n\
               claims: {organization: \"profile.organization\"}";
    let stage = Stage::with(Setup::new(Generation::Ems).with_api().with_app(app)).await;
    let (code, text) = stage
        .run(&["explain", "--app", APP, "--imis-id", "104019", "--return-to", "https://evil.example/"], "")
        .await;
    assert_eq!(code, 0, "{text}");
    for told in [
        "return_to                dropped",
        "identity                 iMIS ID 104019, as given",
        "staff of Zendesk         2 people",
        "profile                  person 104019, name Ann Müller",
        "rule 1                   deny profile.id == '104020': does not hold",
        "rule 2                   allow profile.is_member: holds",
        "guard: duplicate_email   no other contact has the address",
        "guard: staff             no staff member has the address",
        "account in Zendesk       a new account",
        "may enter",
        "organization: \"Contoso Ltd.\"",
        "external_id: \"104019\"",
    ] {
        assert!(text.contains(told), "{told}\n{text}");
    }
    let cookie = stage.cookie_of("boconnor");
    let (code, text) =
        stage.run(&["explain", "--app", "/sso/zendesk", "--cookies", "--format", "json"], &cookie).await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &told["may_enter"], &told["claims"]), (1, &Value::Bool(false), &Value::Null));
    assert!(told["decision"].as_str().unwrap().starts_with("refused: not-bob"), "{told}");
    let steps = told["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["outcome"] == "iMIS ID 104020"), "{told}");
    assert!(!text.contains(cookie.split("login=").nth(1).unwrap().split(';').next().unwrap()));
    assert_eq!(stage.zendesk.posted_tokens().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_decision_is_the_one_of_the_sign_in() {
    let stage = Stage::new().await;
    for person in stage.imis.options().people.clone() {
        let reply = stage.sso("", &stage.cookie_of(&person.username)).await;
        let (code, text) =
            stage.run(&["explain", "--app", APP, "--cookies"], &stage.cookie_of(&person.username)).await;
        assert_eq!(code == 0, reply.token().is_some(), "{}: {text}", person.username);
        if let Some(token) = reply.token() {
            let mut claims = crate::tokens::claims(&token);
            for of_each in ["iat", "jti"] {
                claims.as_object_mut().unwrap().remove(of_each);
            }
            let (code, text) = stage.run(&["claims", "--app", APP, "--imis-id", &person.id], "").await;
            assert_eq!((code, serde_json::from_str::<Value>(&text).unwrap()), (0, claims));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_what_it_cannot_determine() {
    let stage = Stage::new().await;
    let (code, text) = stage.run(&["explain", "--app", "No Such", "--imis-id", "1"], "").await;
    assert!(code == 2 && text.contains("there is no app `No Such`; there is Contoso Helpdesk"), "{text}");
    let (code, text) = stage.run(&["explain", "--app", APP, "--imis-id", "../1"], "").await;
    assert!(code == 2 && text.contains("is not an iMIS ID"), "{text}");
    let (code, text) = stage.run(&["explain", "--app", APP, "--cookies"], "a=b").await;
    assert!(
        code == 1
            && text.contains("none of the cookies is a session cookie")
            && text.contains("nobody is signed in"),
        "{text}"
    );
    let (code, _) = stage.run(&["explain", "--app", APP], "").await;
    assert_eq!(code, 2);
    stage.imis.set_faults(Faults { api: ApiFault::Status(500), ..Faults::default() });
    let (code, text) = stage.run(&["explain", "--app", APP, "--imis-id", "104019"], "").await;
    assert!(code == 1 && text.contains("broken: cannot read the profile from iMIS"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_emails_lists_addresses_that_would_be_refused() {
    let mut setup = Setup::new(Generation::Ems);
    setup.imis.people[0].party["Emails"]["$values"][0]["Address"] = Value::from("olga@association.example");
    let stage = Stage::with(setup.with_api()).await;
    let (code, text) = stage.run(&["audit", "emails"], "").await;
    assert_eq!(code, 0, "{text}");
    for told in [
        "duplicate-email",
        "twins@example.org",
        "104024, 104025",
        "company-with-credentials",
        "200001",
        "9 of 9 contacts",
        "4 found",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert!(
        text.lines().any(|line| line.starts_with("staff-address")
            && line.contains("olga@association.example")
            && line.contains("104019")),
        "{text}"
    );
    let (_, text) = stage.run(&["audit", "emails", "--format", "csv"], "").await;
    assert!(text.contains("members.example.org,duplicate-email,twins@example.org,104024 104025"), "{text}");
    let (_, text) = stage.run(&["audit", "emails", "--format", "json"], "").await;
    let json: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(json["findings"].as_array().unwrap().len(), 4);
    stage.imis.set_faults(Faults { api: ApiFault::Status(500), ..Faults::default() });
    let (code, text) = stage.run(&["audit", "emails"], "").await;
    assert!(code == 1 && text.contains("status 500"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_refuses_a_token_that_would_be_too_long() {
    let stage = Stage::with(ems("claims: {user_fields: {long: \"'x' * 5000\"}}")).await;
    let status = ann(&stage).await;
    let (code, text) = stage.run(&["explain", "--app", APP, "--imis-id", "104019"], "").await;
    assert_eq!((status, code), (503, 1), "{}", &text[..text.len().min(1500)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_writes_control_characters_out() {
    let stage = Stage::with(with_ann(ems("rules: [{deny: \"true\"}]"), |party| {
        party["PersonName"]["FullName"] = json!("Ann\u{1b}[2J\n\nmay enter\n  role: \"admin\"");
    }))
    .await;
    let (_, text) = stage.run(&["explain", "--app", APP, "--imis-id", "104019"], "").await;
    assert!(!text.contains('\u{1b}') && !text.lines().any(|line| line == "may enter"), "{text:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_shows_the_guards_of_a_member_whom_a_rule_refuses() {
    let stage = Stage::with(ems("rules: [{deny: \"true\"}]")).await;
    let (_, text) = stage.run(&["explain", "--app", APP, "--imis-id", "104024"], "").await;
    assert!(text.contains("guard: company_records") && text.contains("guard: inactive_records"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_distinguishes_usage_errors_from_refusals() {
    let stage = Stage::with(ems("rules: [{deny: \"true\"}]")).await;
    let mut codes = Vec::new();
    for arguments in [
        vec!["explain", "--app", "Typo", "--imis-id", "104019"],
        vec!["explain", "--app", APP, "--imis-id", "999"],
        vec!["explain", "--app", APP, "--imis-id", "104019"],
        vec!["explain", "--app", APP, "--imis-id", "x y"],
    ] {
        let (code, text) = stage.run(&arguments, "").await;
        codes.push((arguments, code, text));
    }
    let got: Vec<i32> = codes.iter().map(|(_, code, _)| *code).collect();
    assert_eq!(got, [2, 1, 1, 2], "{codes:#?}");
}
