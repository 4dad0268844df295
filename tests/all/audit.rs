//! Every decision about a sign-in leaves a record, in the log and in a file that is only appended to.

use std::process::Command;

use imis_gateway_simulators::imis::{ApiFault, Faults, Generation};
use serde_json::Value;

use crate::support::{Setup, Stage};

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
async fn who_entered_who_did_not_and_what_broke_is_recorded() {
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
async fn addresses_are_shown_as_the_operator_wants_them() {
    for (emails, shown) in [("plain", Some("ann.mueller@example.org")), ("none", None)] {
        let stage = Stage::with(setup(&format!("{{file: audit.jsonl, emails: {emails}}}"))).await;
        stage.sso("", &stage.cookie_of("AMUELLER")).await;
        assert_eq!(records(&stage, 1).await[0]["email"].as_str(), shown);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_written_keeps_nobody_out() {
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
