//! Ways into somebody else's place by what iMIS, Zendesk, operators or strangers may write: each was open once.

use imis_gateway_simulators::imis::Generation;
use serde_json::{Value, json};

use crate::support::cookie_jar::Jar;
use crate::support::{SSO, Setup, Stage};
use crate::tokens::claims;

const APP: &str = "Contoso Helpdesk";

fn with_ann(mut setup: Setup, change: impl FnOnce(&mut Value)) -> Setup {
    let ann = setup.imis.people.iter_mut().find(|person| person.username == "AMUELLER").unwrap();
    change(&mut ann.party);
    setup
}

fn ems(app: &str) -> Setup {
    Setup::new(Generation::Ems).with_app(app)
}

async fn ann(stage: &Stage) -> u16 {
    stage.sso("", &stage.cookie_of("AMUELLER")).await.status.as_u16()
}

fn attribute(name: &str, value: Value) -> impl FnOnce(&mut Value) {
    let name = name.to_owned();
    move |party| {
        party["AdditionalAttributes"]["$values"]
            .as_array_mut()
            .unwrap()
            .push(json!({"Name": name, "Value": value}))
    }
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

#[tokio::test]
async fn no_error_quotes_a_persons_value() {
    let stage = Stage::with(ems("rules: [{allow: \"profile.attributes.get(profile.email) == 'x'\"}]")).await;
    assert_eq!(ann(&stage).await, 403);
    stage.gateway.logged(|line| line["message"] == "refused").await;
    let log = stage.gateway.log();
    assert!(
        !log.contains("ann.mueller@example.org"),
        "{}",
        log.lines().find(|l| l.contains("ann.mueller@")).unwrap()
    );
}

fn audited(audit: &str) -> Setup {
    Setup::new(Generation::Ems).edit("version: 1\n", &format!("version: 1\naudit: {audit}\n"))
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
async fn a_torn_line_takes_no_other_with_it() {
    let stage = Stage::with(audited("{file: audit.jsonl}")).await;
    std::fs::write(stage.folder().join("audit.jsonl"), "{\"time\":\"2026-11-27T").unwrap();
    assert_eq!(ann(&stage).await, 200);
    wait_for(&stage, "signed-in").await;
    let (_, text) = stage.run(&["audit", "show"], "").await;
    assert!(text.contains("1 decision\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_that_is_no_utf8_hides_one_line() {
    let stage = Stage::with(audited("{file: audit.jsonl}")).await;
    std::fs::write(stage.folder().join("audit.jsonl"), b"{\"time\":\"M\xc3\n").unwrap();
    assert_eq!(ann(&stage).await, 200);
    wait_for(&stage, "signed-in").await;
    let (code, text) = stage.run(&["audit", "show"], "").await;
    assert!(code == 0 && text.contains("1 decision\n"), "{code} {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_first_decision_there_are_none() {
    let stage = Stage::with(audited("{file: audit.jsonl}")).await;
    let (code, text) = stage.run(&["audit", "show"], "").await;
    assert_eq!(code, 0, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_show_refuses_nonsense() {
    let stage = Stage::with(audited("{file: audit.jsonl}")).await;
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
async fn a_file_that_was_moved_away_is_begun_anew() {
    let stage = Stage::with(audited("{file: audit.jsonl}")).await;
    assert_eq!(ann(&stage).await, 200);
    wait_for(&stage, "signed-in").await;
    std::fs::remove_file(stage.folder().join("audit.jsonl")).unwrap();
    assert_eq!(ann(&stage).await, 200);
    wait_for(&stage, "signed-in").await;
}

#[tokio::test]
async fn strangers_who_are_turned_away_push_no_record_out() {
    let limits = "limits: {sign_ins_per_network: 1000000, sign_ins_per_person: 1000000}";
    let setup = audited("{file: audit.jsonl, rotate_at: 64KiB, keep: 1}")
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

#[tokio::test]
async fn a_list_of_staff_without_an_admin_is_not_believed() {
    let setup = with_ann(
        ems("guards: {duplicate_email: off, staff_domains: [association.example]}").with_api(),
        |party| party["Emails"]["$values"][0]["Address"] = json!("sam@association.example"),
    );
    let stage = Stage::with(setup).await;
    stage.gateway.logged(|line| line["message"] == "fetched the Zendesk staff list").await;
    assert_eq!(ann(&stage).await, 403);
    stage.zendesk.edit_users(|users| {
        users.retain(|user| user.role == imis_gateway_simulators::zendesk::Role::EndUser)
    });
    let config = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    let again = crate::support::Gateway::start(stage.folder(), &config);
    let line = again
        .logged(|line| line["message"].as_str().is_some_and(|text| text.contains("Zendesk staff list")))
        .await;
    let client = crate::support::Client::new(&stage.authority, again.https);
    let reply = client.get(SSO, &[("cookie", &stage.cookie_of("AMUELLER"))]).await;
    assert!(reply.token().is_none(), "{line}");
}

// An agent whom Zendesk knows by this iMIS ID, under another address.
#[tokio::test]
async fn whoever_has_the_imis_id_of_somebody_of_the_staff_is_refused() {
    let stage = Stage::with(ems("").with_api()).await;
    stage.zendesk.edit_users(|users| {
        let sam = users.iter_mut().find(|user| user.email.starts_with("sam@")).unwrap();
        sam.external_id = Some("104019".to_owned());
    });
    let config = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    let again = crate::support::Gateway::start(stage.folder(), &config);
    again.logged(|line| line["message"] == "fetched the Zendesk staff list").await;
    let client = crate::support::Client::new(&stage.authority, again.https);
    let reply = client.get(SSO, &[("cookie", &stage.cookie_of("AMUELLER"))]).await;
    assert!(reply.token().is_none(), "becomes sam");
}

#[tokio::test]
async fn an_empty_list_takes_nothing_away() {
    let stage = Stage::with(ems(
        "claims: {organizations: \"profile.groups\", tags: \"profile.groups\"}\noverwrite: [organizations, tags]",
    ))
    .await;
    let reply = stage.sso("", &stage.cookie_of("AMUELLER")).await;
    let claims = claims(&reply.token().unwrap());
    assert!(claims.get("organizations").is_none() && claims.get("tags").is_none(), "{claims}");
}

#[tokio::test]
async fn an_organizations_name_with_a_comma_is_not_two() {
    let setup = with_ann(
        ems("claims: {organizations: \"profile.organization\"}\noverwrite: [organizations]"),
        |party| party["PrimaryOrganization"]["Name"] = json!("X Ltd.,Fabrikam\u{1b} Inc."),
    );
    let stage = Stage::with(setup).await;
    let reply = stage.sso("", &stage.cookie_of("AMUELLER")).await;
    assert!(reply.token().is_none(), "{}", claims(&reply.token().unwrap()));
}

#[tokio::test]
async fn attributes_that_cannot_be_read_open_no_deny() {
    let rules = "rules: [{deny: \"profile.attributes.get('Suspended', false)\"}, {allow: \"true\"}]";
    let stage = Stage::with(with_ann(ems(rules), attribute("Suspended", json!(true)))).await;
    assert_eq!(ann(&stage).await, 403);
    let mut odd = Vec::new();
    for (what, change) in [
        (
            "list of another form",
            Box::new(|party: &mut Value| {
                party["AdditionalAttributes"] = json!({"Suspended": true});
            }) as Box<dyn FnOnce(&mut Value)>,
        ),
        (
            "twice",
            Box::new(|party: &mut Value| {
                attribute("Suspended", json!(true))(party);
                attribute("Suspended", json!(false))(party);
            }),
        ),
        ("a value of parts", Box::new(attribute("Suspended", json!({"$type": "X", "Flag": true})))),
        ("a list", Box::new(attribute("Suspended", json!([true])))),
        ("another case", Box::new(attribute("SUSPENDED", json!(true)))),
    ] {
        let stage = Stage::with(with_ann(ems(rules), change)).await;
        odd.push((what, ann(&stage).await));
    }
    assert!(odd.iter().all(|(_, status)| *status != 200), "{odd:?}");
}

#[tokio::test]
async fn a_padded_code_escapes_no_deny() {
    let rules = "rules: [{deny: \"profile.customer_type == 'NM'\"}, {allow: \"true\"}]";
    let mut odd = Vec::new();
    for value in [json!("NM"), json!("NM   "), json!({"$type": "System.String", "$value": "NM "})] {
        let setup = with_ann(ems(rules), |party| {
            let all = party["AdditionalAttributes"]["$values"].as_array_mut().unwrap();
            all.iter_mut().find(|a| a["Name"] == "CustomerTypeCode").unwrap()["Value"] = value.clone();
        });
        let stage = Stage::with(setup).await;
        odd.push((value, ann(&stage).await));
    }
    assert!(odd.iter().all(|(_, status)| *status == 403), "{odd:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_tells_the_guards_of_whom_a_rule_refuses() {
    let stage = Stage::with(ems("rules: [{deny: \"true\"}]")).await;
    let (_, text) = stage.run(&["explain", "--app", APP, "--imis-id", "104024"], "").await;
    assert!(text.contains("guard: company_records") && text.contains("guard: inactive_records"), "{text}");
}

#[tokio::test]
async fn a_search_that_finds_not_even_the_member_is_not_believed() {
    let mut setup = with_ann(ems(""), |party| {
        party["Emails"]["$values"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"Address": "w@example.org", "EmailType": "Work"}));
    });
    let mut double = setup.imis.people.iter().find(|person| person.username == "AMUELLER").unwrap().clone();
    (double.id, double.username) = ("900003".to_owned(), "double".to_owned());
    double.party["PartyId"] = json!("900003");
    setup.imis.people.push(double);
    let stage = Stage::with(setup).await;
    assert_eq!(ann(&stage).await, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_emails_and_doctor_fail_without_the_staff() {
    let setup =
        ems("").with_api().edit("client_secret: {file: zendesk-api}", "client_secret: {file: imis-password}");
    let stage = Stage::with(setup).await;
    let (code, text) = stage.run(&["audit", "emails", "--format", "json"], "").await;
    let (doctor, said) = stage.run(&["doctor"], "").await;
    assert!(code != 0 && doctor != 0, "emails {code} {text}\ndoctor {doctor} {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_warns_of_an_audit_file_that_cannot_be() {
    let stage = Stage::with(audited("{file: no/such/audit.jsonl}")).await;
    let (code, text) = stage.run(&["check"], "").await;
    assert!(code != 0 || text.contains("audit"), "{code} {text}");
}

#[tokio::test]
async fn forged_rounds_leave_no_record() {
    let stage = Stage::with(audited("{file: audit.jsonl}")).await;
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
async fn the_record_of_a_refusal_says_whom_it_is_about() {
    let stage = Stage::with(
        audited("{file: audit.jsonl}")
            .with_app("on_behalf_of: sign_in_as_contact\nrules: [{deny: \"true\"}]"),
    )
    .await;
    let client = stage.client();
    client.get(SSO, &[("cookie", &stage.cookie_of("staff"))]).await;
    let text = wait_for(&stage, "refused").await;
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&line["imis_id"], &line["signed_in_as"]), (&json!("104019"), &json!("300001")), "{text}");
    assert_eq!(line["email"].as_str().unwrap().len(), 16, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_tells_a_wrong_question_from_a_no() {
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

#[tokio::test]
async fn the_guard_of_addresses_counts_all_who_may_enter() {
    let mut told = Vec::new();
    for (guards, change) in [
        (
            "guards: {inactive_records: off}",
            (|party| party["Status"]["PartyStatusId"] = json!("I")) as fn(&mut Value),
        ),
        ("guards: {company_records: off}", |party| {
            party["$type"] = json!("Asi.Soa.Membership.DataContracts.OrganizationData, Asi.Contracts")
        }),
    ] {
        let mut setup = ems(guards);
        for person in setup.imis.people.iter_mut().filter(|person| person.username.starts_with("twin")) {
            change(&mut person.party);
        }
        let stage = Stage::with(setup).await;
        for twin in ["twin1", "twin2"] {
            let token = stage.sso("", &stage.cookie_of(twin)).await.token();
            told.push((guards, twin, token.map(|token| claims(&token)["email"].clone())));
        }
    }
    assert!(told.iter().all(|(_, _, token)| token.is_none()), "{told:#?}");
}
