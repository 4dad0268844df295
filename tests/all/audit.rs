//! Every decision about a sign-in leaves a record, in the log and in a file that is only appended to.

use std::process::Command;

use imis_gateway_simulators::imis::{ApiFault, Faults, Generation};
use serde_json::{Value, json};

use crate::profile_values::{ann, ems};
use crate::support::cookie_jar::Jar;
use crate::support::{SSO, Setup, Stage};

fn setup(audit: &str) -> Setup {
    Setup::new(Generation::Ems).edit("version: 1\n", &format!("version: 1\naudit: {audit}\n"))
}

/// The records, once there are so many.
async fn records(stage: &Stage, count: usize) -> Vec<Value> {
    let file = stage.folder().join("audit.jsonl");
    for _ in 0..200 {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if text.lines().count() >= count {
            return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{:?}", std::fs::read_to_string(&file));
}

#[tokio::test]
async fn every_sign_in_is_recorded_with_its_outcome() {
    let stage =
        Stage::with(setup("{file: audit.jsonl}").with_app("rules: [{allow: \"profile.id != '104020'\"}]"))
            .await;
    for username in ["AMUELLER", "boconnor", "staff", "twin1"] {
        stage.sso("", &stage.cookie_of(username)).await;
    }
    stage.imis.set_faults(Faults { api: ApiFault::Status(500), ..Faults::default() });
    stage.sso("", &stage.cookie_of("AMUELLER")).await;
    stage.sso("", "a=b").await;
    let all = records(&stage, 5).await;
    let told: Vec<(&str, &str, &str)> = all
        .iter()
        .map(|record| {
            let text = |name: &str| record[name].as_str().unwrap_or("-");
            (text("decision"), text("reason"), text("signed_in_as"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("signed-in", "-", "104019"),
            ("refused", "no-rule", "104020"),
            ("refused", "on-behalf-of", "300001"),
            ("refused", "duplicate-email", "104024"),
            ("broken", "-", "104019"),
        ],
        "whoever goes to the sign-in page has not been decided about"
    );
    let first = &all[0];
    assert_eq!((&first["rule"], &first["zendesk"]), (&Value::from(1), &Value::from("contoso.zendesk.com")));
    assert_eq!(first["client"], "127.0.0.1");
    assert_eq!(first["email"].as_str().unwrap().len(), 16, "a hash");
    assert!(
        first["time"].as_str().unwrap().ends_with('Z') && first["config_hash"].as_str().unwrap().len() == 16
    );
    let text = std::fs::read_to_string(stage.folder().join("audit.jsonl")).unwrap();
    assert!(!text.contains("example.org\"") && !text.contains("ann.mueller"), "{text}");
    let logged = stage.gateway.logged(|line| line["target"] == "imis_gateway::audit").await;
    assert_eq!((&logged["request_id"], &logged["email"]), (&first["request_id"], &first["email"]));

    let config = stage.folder().join("config.yaml");
    let show = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_imis-gateway"))
            .args(["audit", "show", "--config"])
            .arg(&config)
            .args(arguments)
            .output();
        let output = output.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = show(&["--decision", "refused"]);
    assert!(code == 0 && text.contains("duplicate-email") && text.contains("3 decisions"), "{text}");
    let (_, text) = show(&["--imis-id", "104019", "--format", "json"]);
    assert_eq!(
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|r| r["signed_in_as"] == "104019")
            .count(),
        2
    );
    let (_, text) = show(&["--since", "2999-01-01"]);
    assert!(text.contains("0 decisions"), "{text}");
    let (_, text) = show(&["--incident", first["request_id"].as_str().unwrap()]);
    assert!(text.contains("1 decision\n"), "{text}");
}

#[tokio::test]
async fn addresses_are_recorded_as_configured() {
    for (emails, shown) in [("plain", Some("ann.mueller@example.org")), ("none", None)] {
        let stage = Stage::with(setup(&format!("{{file: audit.jsonl, emails: {emails}}}"))).await;
        stage.sso("", &stage.cookie_of("AMUELLER")).await;
        assert_eq!(records(&stage, 1).await[0]["email"].as_str(), shown);
    }
}

#[tokio::test]
async fn an_audit_file_that_cannot_be_written_does_not_stop_sign_ins() {
    let stage = Stage::with(setup("{file: no/such/folder/audit.jsonl}")).await;
    let reply = stage.sso("", &stage.cookie_of("AMUELLER")).await;
    assert!(reply.token().is_some());
    stage
        .gateway
        .logged(|line| {
            line["message"].as_str().is_some_and(|text| text.contains("audit file cannot be written"))
        })
        .await;
    stage.gateway.logged(|line| line["target"] == "imis_gateway::audit").await;
    let show = Command::new(env!("CARGO_BIN_EXE_imis-gateway"))
        .args(["audit", "show", "--config"])
        .arg(stage.folder().join("config.yaml"))
        .output()
        .unwrap();
    assert_eq!(show.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_emails_writes_control_characters_out() {
    let mut setup = ems("");
    for person in &mut setup.imis.people {
        if person.username.starts_with("twin") {
            person.party["Emails"]["$values"][0]["Address"] = json!("x\u{1b}]0;evil\u{7}@example.org");
        }
    }
    let stage = Stage::with(setup).await;
    let (_, text) = stage.run(&["audit", "emails"], "").await;
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

async fn wait_for(stage: &Stage, what: &str) -> String {
    let file = stage.folder().join("audit.jsonl");
    for _ in 0..150 {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
        if text.contains(what) {
            return text;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{:?}", std::fs::read(&file));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incomplete_line_does_not_hide_others() {
    let stage = Stage::with(setup("{file: audit.jsonl}")).await;
    std::fs::write(stage.folder().join("audit.jsonl"), "{\"time\":\"2026-11-27T").unwrap();
    assert_eq!(ann(&stage).await, 200);
    wait_for(&stage, "signed-in").await;
    let (_, text) = stage.run(&["audit", "show"], "").await;
    assert!(text.contains("1 decision\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_outside_utf8_does_not_hide_others() {
    let stage = Stage::with(setup("{file: audit.jsonl}")).await;
    std::fs::write(stage.folder().join("audit.jsonl"), b"{\"time\":\"M\xc3\n").unwrap();
    assert_eq!(ann(&stage).await, 200);
    wait_for(&stage, "signed-in").await;
    let (code, text) = stage.run(&["audit", "show"], "").await;
    assert!(code == 0 && text.contains("1 decision\n"), "{code} {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_show_works_before_the_first_decision() {
    let stage = Stage::with(setup("{file: audit.jsonl}")).await;
    let (code, text) = stage.run(&["audit", "show"], "").await;
    assert_eq!(code, 0, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_show_rejects_invalid_filters() {
    let stage = Stage::with(setup("{file: audit.jsonl}")).await;
    assert_eq!(ann(&stage).await, 200);
    wait_for(&stage, "signed-in").await;
    let mut all = Vec::new();
    for wrong in [
        ["--decision", "signedin"],
        ["--since", "yesterday"],
        ["--since", "27.11.2026"],
        ["--app", "Contoso"],
    ] {
        let (code, text) = stage.run(&["audit", "show", wrong[0], wrong[1]], "").await;
        all.push((wrong, code, text));
    }
    assert!(all.iter().all(|(_, code, _)| *code != 0), "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_file_that_was_moved_away_is_created_again() {
    let stage = Stage::with(setup("{file: audit.jsonl}")).await;
    assert_eq!(ann(&stage).await, 200);
    wait_for(&stage, "signed-in").await;
    std::fs::remove_file(stage.folder().join("audit.jsonl")).unwrap();
    assert_eq!(ann(&stage).await, 200);
    wait_for(&stage, "signed-in").await;
}

#[tokio::test]
async fn rate_limited_clients_do_not_rotate_records_away() {
    let limits = "limits: {sign_ins_per_network: 1000000, sign_ins_per_person: 1000000}";
    let setup = setup("{file: audit.jsonl, rotate_at: 64KiB, keep: 1}")
        .edit(limits, "limits: {sign_ins_per_network: 5}");
    let stage = Stage::with(setup).await;
    assert_eq!(ann(&stage).await, 200);
    wait_for(&stage, "signed-in").await;
    let client = stage.client();
    for _ in 0..700 {
        client.get(SSO, &[("cookie", "a=b")]).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let read = |name: &str| std::fs::read_to_string(stage.folder().join(name)).unwrap_or_default();
    let text = read("audit.jsonl") + &read("audit.jsonl.1");
    let rates = text.lines().filter(|line| line.contains("\"rate\"")).count();
    assert!(text.contains("signed-in"), "gone; {rates} lines of rate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_rejects_an_audit_file_in_a_missing_folder() {
    let stage = Stage::with(setup("{file: no/such/audit.jsonl}")).await;
    let (code, text) = stage.run(&["check"], "").await;
    assert!(code != 0 || text.contains("audit"), "{code} {text}");
}

#[tokio::test]
async fn forged_loop_cookies_leave_no_record() {
    let stage = Stage::with(setup("{file: audit.jsonl}")).await;
    let client = stage.client();
    let mut jar = Jar::new(stage.client());
    jar.get(SSO).await;
    let header = jar.header().replace("=1-0-0", "=9-0-0");
    for _ in 0..3 {
        assert_eq!(client.get(SSO, &[("cookie", &header)]).await.status, 403);
    }
    assert_eq!(ann(&stage).await, 200);
    let text = wait_for(&stage, "signed-in").await;
    assert!(text.lines().count() == 1 && !text.contains("loop"), "{text}");
}

#[tokio::test]
async fn the_record_of_a_refusal_names_the_member_and_the_staff_account() {
    let stage = Stage::with(
        setup("{file: audit.jsonl}").with_app("on_behalf_of: sign_in_as_contact\nrules: [{deny: \"true\"}]"),
    )
    .await;
    let client = stage.client();
    client.get(SSO, &[("cookie", &stage.cookie_of("staff"))]).await;
    let text = wait_for(&stage, "refused").await;
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&line["imis_id"], &line["signed_in_as"]), (&json!("104019"), &json!("300001")), "{text}");
    assert_eq!(line["email"].as_str().unwrap().len(), 16, "{text}");
}
