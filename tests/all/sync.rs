//! `imis-gateway sync`: what it plans and writes, and what it leaves alone.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use imis_gateway_simulators::imis::{Generation, ListFaults, PageFailure};
use imis_gateway_simulators::members::Member;
use imis_gateway_simulators::zendesk::{Edge, Fate, FieldKind, Pace, Role, User, UserField, WriteKind};
use serde_json::Value;

use crate::support::{Setup, Stage};

/// An app with a sync of all contacts. `keys`: more keys of the section.
fn setup(keys: &str) -> Setup {
    let sync = format!("sync: {{source: {{party: \"\"}}, folder: sync{keys}}}");
    Setup::new(Generation::Ems).with_api().with_app(&sync)
}

async fn json(stage: &Stage, arguments: &[&str]) -> (i32, Value) {
    let (code, text) = stage.run(&[arguments, &["--format", "json"]].concat(), "").await;
    let start = text.find("[{").unwrap_or_else(|| panic!("{text}"));
    let json = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>().next().unwrap();
    (code, json.unwrap_or_else(|error| panic!("{error}: {text}"))[0].clone())
}

#[tokio::test]
async fn a_plan_writes_nothing_and_a_second_run_has_nothing_to_write() {
    let stage = Stage::with(setup(", max_change_percent: 100")).await;
    stage.zendesk.set_bulk_enabled(true);
    let (code, plan) = json(&stage, &["sync", "plan", "--details"]).await;
    assert_eq!(code, 0, "{plan:#}");
    assert!(stage.zendesk.journal().is_empty());
    let created = plan["counts"]["create"].as_u64().unwrap();
    assert!(created > 0, "{plan:#}");
    let (code, result) = json(&stage, &["sync", "apply"]).await;
    assert_eq!((code, &result["written"]), (0, &created.into()), "{result:#}");
    assert_eq!(stage.zendesk.writes(WriteKind::CreateUser) as u64, created);
    assert!(stage.zendesk.journal().iter().all(|write| !write.verification_email));
    stage.zendesk.clear_journal();
    let (code, result) = json(&stage, &["sync", "apply"]).await;
    assert_eq!(
        (code, &result["written"], &result["counts"]["unchanged"]),
        (0, &0.into(), &created.into()),
        "{result:#}"
    );
    assert!(stage.zendesk.journal().is_empty());
}

/// Ann's user in Zendesk, before a sync.
fn add_user(stage: &Stage, email: &str, external_id: Option<&str>, edit: impl FnOnce(&mut User)) {
    let mut user = imis_gateway_simulators::zendesk::staff(1).remove(0);
    user.id = 77;
    user.role = Role::EndUser;
    user.name = "Ann of Zendesk".to_owned();
    user.email = email.to_owned();
    user.external_id = external_id.map(str::to_owned);
    edit(&mut user);
    stage.zendesk.add_user(user);
}

fn line<'a>(plan: &'a Value, imis_id: &str) -> &'a Value {
    let lines = plan["lines"].as_array().unwrap();
    lines.iter().find(|line| line["imis_id"] == imis_id).unwrap_or_else(|| panic!("no {imis_id}: {plan:#}"))
}

const ANN: &str = "104019";
const ANNS_ADDRESS: &str = "ann.mueller@example.org";

#[tokio::test]
async fn a_user_with_the_address_gets_the_imis_id_and_one_with_another_id_is_a_conflict() {
    let stage = Stage::with(setup("")).await;
    add_user(&stage, ANNS_ADDRESS, None, |_| {});
    let (_, plan) = json(&stage, &["sync", "plan", "--details"]).await;
    assert_eq!(line(&plan, ANN)["kind"], "link", "{plan:#}");
    let (code, _) = json(&stage, &["sync", "apply", "--only", ANN, "--max-change", "100"]).await;
    assert_eq!(code, 0);
    assert_eq!(stage.zendesk.user(ANN).unwrap().id, 77);
    stage.zendesk.edit_user(ANN, |user| user.external_id = Some("999".to_owned()));
    let (_, plan) = json(&stage, &["sync", "plan", "--details"]).await;
    assert_eq!((&line(&plan, ANN)["kind"], &line(&plan, ANN)["user_id"]), (&"conflict".into(), &77.into()));
}

#[tokio::test]
async fn fields_are_written_by_their_policies() {
    let stage = Stage::with(setup(", fields: {name: never, phone: if_empty}")).await;
    add_user(&stage, ANNS_ADDRESS, Some(ANN), |user| user.phone = Some("+15125550100".to_owned()));
    let (_, plan) = json(&stage, &["sync", "plan", "--details"]).await;
    assert_eq!(line(&plan, ANN)["kind"], "unchanged", "{plan:#}");
    stage.zendesk.edit_user(ANN, |user| user.phone = None);
    let (_, plan) = json(&stage, &["sync", "plan", "--details"]).await;
    assert_eq!(line(&plan, ANN)["fields"][0]["field"], "phone", "{plan:#}");
    // A new user gets a name in any case.
    let created = plan["lines"].as_array().unwrap().iter().find(|line| line["kind"] == "create").unwrap();
    assert!(
        created["fields"].as_array().unwrap().iter().any(|field| field["field"] == "name"),
        "{created:#}"
    );
}

#[tokio::test]
async fn a_changed_address_is_added_and_the_old_one_kept() {
    for includes_identities in [true, false] {
        let mut setup = setup("");
        setup.includes_identities = includes_identities;
        let stage = Stage::with(setup).await;
        add_user(&stage, "old@example.org", Some(ANN), |_| {});
        let (code, _) = json(&stage, &["sync", "apply", "--only", ANN, "--max-change", "100"]).await;
        assert_eq!(code, 0);
        let ann = stage.zendesk.user(ANN).unwrap();
        assert_eq!(
            (ann.email.as_str(), &ann.other_emails[..]),
            ("old@example.org", &[ANNS_ADDRESS.to_owned()][..])
        );
        let (_, plan) = json(&stage, &["sync", "plan", "--details"]).await;
        assert_eq!(line(&plan, ANN)["kind"], "unchanged", "{includes_identities}: {plan:#}");
    }
}

#[tokio::test]
async fn values_that_do_not_fit_a_field_are_reported_and_not_written() {
    let claims =
        "claims:\n  user_fields: {chapter: \"'South'\", nothing: \"'x'\", count: \"profile.customer_type\"}";
    let stage = Stage::with(setup("").with_app(claims)).await;
    stage.zendesk.edit_fields(|fields| fields.push(UserField::new("count", FieldKind::Integer)));
    add_user(&stage, ANNS_ADDRESS, Some(ANN), |_| {});
    let (_, plan) = json(&stage, &["sync", "plan", "--details"]).await;
    let problems: Vec<&str> = line(&plan, ANN)["fields"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|field| !field["problem"].is_null())
        .map(|field| field["field"].as_str().unwrap())
        .collect();
    assert_eq!(problems, ["user_fields.chapter", "user_fields.count", "user_fields.nothing"], "{plan:#}");
    let (code, _) = json(&stage, &["sync", "apply", "--only", ANN, "--max-change", "100"]).await;
    assert_eq!(code, 0);
    let fields = stage.zendesk.journal().iter().flat_map(|write| write.sent.clone()).collect::<Vec<_>>();
    assert!(!fields.iter().any(|field| field.starts_with("user_fields")), "{fields:?}");
}

#[tokio::test]
async fn agents_are_left_alone_unless_they_are_listed() {
    let staff = |keys: &str| setup(keys).with_app("guards: {staff: \"off\", duplicate_email: \"off\"}");
    let stage = Stage::with(staff("")).await;
    add_user(&stage, ANNS_ADDRESS, Some(ANN), |user| user.role = Role::Agent);
    let (_, plan) = json(&stage, &["sync", "plan", "--details"]).await;
    assert_eq!(line(&plan, ANN)["kind"], "staff", "{plan:#}");
    json(&stage, &["sync", "apply", "--max-change", "100"]).await;
    assert!(stage.zendesk.journal().iter().all(|write| write.external_id.as_deref() != Some(ANN)));
    let stage = Stage::with(staff(&format!(", staff: [\"{ANN}\"]"))).await;
    add_user(&stage, ANNS_ADDRESS, Some(ANN), |user| user.role = Role::Agent);
    json(&stage, &["sync", "apply", "--max-change", "100"]).await;
    assert_eq!(stage.zendesk.user(ANN).unwrap().role, Role::Agent);
    assert!(stage.zendesk.journal().iter().any(|write| write.external_id.as_deref() == Some(ANN)));
}

#[tokio::test]
async fn too_many_changes_stop_a_run_before_its_first_write() {
    let stage = Stage::with(setup("")).await;
    for (number, person) in stage.imis.options().people.iter().enumerate() {
        add_user(&stage, &format!("{number}@example.com"), Some(&person.id), |user| {
            user.id = 1000 + number as u64
        });
    }
    let (code, text) = stage.run(&["sync", "apply"], "").await;
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("nothing was written") && text.contains("members would change"), "{text}");
    assert!(stage.zendesk.journal().is_empty());
    let (code, text) = stage.run(&["sync", "apply", "--limit", "1"], "").await;
    assert_eq!((code, stage.zendesk.journal().len()), (0, 1), "{text}");
    let (code, text) = stage.run(&["sync", "apply", "--max-change", "100", "--dry-run"], "").await;
    assert_eq!((code, stage.zendesk.journal().len()), (0, 1), "{text}");
}

/// How jobs can go wrong, with and without effect. Every member is written once.
#[tokio::test]
async fn jobs_that_fail_or_vanish_are_verified_by_reading() {
    for (fate, is_repeated) in [
        (Fate::FailsAfter { items: 1, with_results: false }, true),
        (Fate::Vanishes { carried_out: true }, false),
        (Fate::Vanishes { carried_out: false }, true),
    ] {
        let stage = Stage::with(setup("")).await;
        stage.zendesk.set_bulk_enabled(true);
        stage.zendesk.set_next_jobs([fate]);
        let (code, result) = json(&stage, &["sync", "apply"]).await;
        assert_eq!((code, &result["failed"]), (0, &0.into()), "{fate:?}: {result:#}");
        let created = result["counts"]["create"].as_u64().unwrap() as usize;
        assert_eq!(stage.zendesk.writes(WriteKind::CreateUser), created, "{fate:?}");
        assert_eq!(stage.zendesk.writes(WriteKind::UpdateUser), 0, "{fate:?}");
        let jobs: std::collections::HashSet<_> =
            stage.zendesk.journal().into_iter().map(|write| write.job).collect();
        assert_eq!(
            jobs.len() > 1,
            is_repeated && fate != (Fate::Vanishes { carried_out: false }),
            "{fate:?}"
        );
    }
}

#[tokio::test]
async fn errors_of_single_members_are_listed_and_the_others_are_written() {
    // Results of jobs as they are documented, and as they have been seen.
    for (bulk, as_seen) in [(true, false), (true, true), (false, false)] {
        let stage = Stage::with(setup("")).await;
        stage.zendesk.set_bulk_enabled(bulk);
        stage.zendesk.set_observed_results(as_seen);
        stage.zendesk.refuse(ANN, "DuplicateValue", 9);
        let (code, result) = json(&stage, &["sync", "apply"]).await;
        assert_eq!((code, &result["failed"]), (1, &1.into()), "{bulk}: {result:#}");
        assert_eq!(result["failures"][0]["imis_id"], ANN);
        let code = if bulk { "UserUpdateError" } else { "DuplicateValue" };
        assert!(result["failures"][0]["outcome"].as_str().unwrap().contains(code), "{result:#}");
        assert_eq!(
            result["counts"]["create"].as_u64().unwrap() as usize - 1,
            stage.zendesk.writes(WriteKind::CreateUser)
        );
        stage.gateway.wait_for_metric("imis_gateway_sync_failing{app=\"Contoso Helpdesk\"} 1").await;
    }
}

#[tokio::test]
async fn an_api_token_is_rejected_with_the_reason() {
    let stage = Stage::with(setup("")).await;
    stage.edit(
        "client_id: gateway, client_secret: {file: zendesk-api}",
        "email: a@example.org, token: {file: zendesk-api}",
    );
    let (code, text) = stage.run(&["sync", "plan"], "").await;
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("sync needs an OAuth client") && text.contains("2027-04-30"), "{text}");
}

#[tokio::test]
async fn a_plan_has_a_table_a_csv_file_and_a_page() {
    let stage = Stage::with(setup("")).await;
    add_user(&stage, ANNS_ADDRESS, Some(ANN), |user| user.name = "=cmd<b>".to_owned());
    let (code, table) = stage.run(&["sync", "plan", "--max-change", "100"], "").await;
    assert_eq!(code, 0, "{table}");
    assert!(table.contains("users with changed properties") && !table.contains("=cmd"), "{table}");
    let (_, table) = stage.run(&["sync", "plan", "--details", "--max-change", "100"], "").await;
    assert!(table.contains("name: =cmd<b> ->"), "{table}");
    let (_, csv) = stage.run(&["sync", "plan", "--format", "csv", "--max-change", "100"], "").await;
    assert!(csv.contains("app,kind,imis_id") && csv.contains(",'=cmd<b>,"), "{csv}");
    let page = stage.folder().join("plan.html");
    let arguments =
        ["sync", "plan", "--format", "html", "--max-change", "100", "--output", page.to_str().unwrap()];
    assert_eq!(stage.run(&arguments, "").await.0, 0);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<del>=cmd&lt;b&gt;</del>") && page.ends_with("</html>\n"), "{page}");
    assert!(!page.contains("<script") && !page.contains("http"), "{page}");
}

/// `count` members in iMIS, without the usual people.
fn fill(stage: &Stage, count: usize) {
    stage.imis.fill(count);
    stage.imis.edit_population(|population| population.without_people());
}

#[tokio::test]
async fn leavers_are_reported_or_lose_their_sessions_once_or_are_suspended_and_restored() {
    for policy in ["report", "end_sessions", "suspend"] {
        let stage = Stage::with(setup(&format!(", leavers: {policy}, max_change_percent: 50"))).await;
        stage.zendesk.set_bulk_enabled(true);
        fill(&stage, 20);
        stage.zendesk.fill(0..20);
        let [gone, inactive, outside] = [3, 4, 5].map(Member::id_of);
        stage.imis.edit_population(|population| {
            population.remove(&gone);
            population.edit(&inactive, |member| member.status = "I".to_owned());
        });
        let (code, result) = json(&stage, &["sync", "apply", "--details"]).await;
        assert_eq!(code, 0, "{policy}: {result:#}");
        let kind = if policy == "report" { "leaver" } else { policy };
        for id in [&gone, &inactive] {
            assert_eq!(line(&result, id)["kind"], kind, "{policy}: {result:#}");
        }
        assert_eq!(line(&result, &outside)["kind"], "unchanged");
        let sessions = stage.zendesk.writes(WriteKind::EndSessions);
        assert_eq!(sessions, if policy == "end_sessions" { 2 } else { 0 }, "{policy}");
        assert_eq!(stage.zendesk.user(&gone).unwrap().suspended, policy == "suspend");
        stage.zendesk.clear_journal();
        let (_, result) = json(&stage, &["sync", "apply"]).await;
        assert!(stage.zendesk.journal().is_empty(), "{policy}: {result:#}");
        stage.imis.edit_population(|population| {
            population.edit(&inactive, |member| member.status = "A".to_owned())
        });
        let (_, result) = json(&stage, &["sync", "apply", "--details"]).await;
        let back = if policy == "suspend" { "restore" } else { "unchanged" };
        assert_eq!(line(&result, &inactive)["kind"], back, "{policy}: {result:#}");
        assert!(!stage.zendesk.user(&inactive).unwrap().suspended);
    }
}

#[tokio::test]
async fn a_source_that_is_not_read_completely_has_no_leavers() {
    let faults = [
        ListFaults { ends_early_at: Some(400), ..ListFaults::default() },
        ListFaults { repeats_at: Some(400), ..ListFaults::default() },
        ListFaults { total_count: Some(700), ..ListFaults::default() },
    ];
    for fault in faults {
        let stage = Stage::with(setup(", leavers: suspend, max_change_percent: 100")).await;
        fill(&stage, 600);
        stage.zendesk.fill(0..600);
        stage.imis.set_list_faults(fault.clone());
        let (code, text) = stage.run(&["sync", "plan"], "").await;
        assert_eq!(code, 1, "{fault:?}: {text}");
        assert!(text.contains("leavers were not looked for"), "{fault:?}: {text}");
        assert!(!text.contains("suspend"), "{fault:?}: {text}");
    }
}

#[tokio::test]
async fn pages_that_fail_for_a_moment_are_read_again() {
    let stage = Stage::with(setup("")).await;
    fill(&stage, 600);
    let failures = vec![(0, PageFailure::Status(503)), (200, PageFailure::Html), (400, PageFailure::Drop)];
    stage.imis.set_list_faults(ListFaults { failures, ..ListFaults::default() });
    let (code, plan) = json(&stage, &["sync", "plan"]).await;
    assert_eq!(
        (code, &plan["members"], &plan["counts"]["create"]),
        (0, &600.into(), &600.into()),
        "{plan:#}"
    );
}

#[tokio::test]
async fn members_of_a_group_and_rows_of_a_query_are_sources_too() {
    let columns = "columns: {id: ID, name: Full Name, email: Email, phone: Mobile Phone, status: Member Status, company: Is Company}";
    for source in [
        "group: CHAPTER".to_owned(),
        "query: $/Gateway/AllMembers".to_owned(),
        format!("query: $/Gateway/AllMembers, {columns}"),
    ] {
        let stage = Stage::with(setup("").edit("{party: \"\"}", &format!("{{{source}}}"))).await;
        fill(&stage, 30);
        stage.imis.edit_population(|population| {
            for number in 0..30 {
                population.edit(&Member::id_of(number), |member| member.groups.push("CHAPTER".to_owned()));
            }
        });
        let (code, plan) = json(&stage, &["sync", "plan"]).await;
        assert_eq!((code, &plan["counts"]["create"]), (0, &30.into()), "{source}: {plan:#}");
    }
}

#[tokio::test]
async fn organizations_are_found_created_and_left() {
    let sync = ", organizations: {create: true}, writes: single, max_change_percent: 100";
    let claims = "claims: {organizations: \"profile.organization\"}\noverwrite: [organizations]";
    let stage = Stage::with(setup(sync).with_app(claims)).await;
    fill(&stage, 1);
    stage.zendesk.fill(0..1);
    let id = Member::id_of(0);
    let names = |stage: &Stage| {
        let users = stage.zendesk.snapshot();
        let user = users.iter().find(|user| user["external_id"] == *id).unwrap();
        user["organizations"].clone()
    };
    let (code, result) = json(&stage, &["sync", "apply", "--details"]).await;
    assert_eq!((code, names(&stage)), (0, serde_json::json!(["Company 0"])), "{result:#}");
    stage.imis.edit_population(|population| {
        population.edit(&Member::id_of(0), |member| {
            member.company = Some(("9".to_owned(), "Other Ltd".to_owned()))
        });
    });
    let (code, _) = json(&stage, &["sync", "apply"]).await;
    assert_eq!((code, names(&stage)), (0, serde_json::json!(["Other Ltd"])));
    stage.zendesk.clear_journal();
    let (code, _) = json(&stage, &["sync", "apply"]).await;
    assert_eq!((code, stage.zendesk.journal().len()), (0, 0));
}

#[tokio::test]
async fn staff_get_the_imis_ids_of_their_contacts() {
    let stage = Stage::with(setup("")).await;
    let (code, text) = stage.run(&["staff", "match", "--format", "csv"], "").await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("sam@association.example,agent,no,,300001,matched"), "{text}");
    assert!(text.contains("olga@association.example,admin,no,,,missing"), "{text}");
    let file = stage.folder().join("staff.csv");
    std::fs::write(&file, &text).unwrap();
    let arguments = ["staff", "apply", "--csv", file.to_str().unwrap()];
    let (code, text) = stage.run(&[&arguments[..], &["--dry-run"]].concat(), "").await;
    assert!(code == 0 && text.contains("would be written"), "{text}");
    assert!(stage.zendesk.journal().is_empty());
    let (code, text) = stage.run(&arguments, "").await;
    assert!(code == 0 && text.contains("300001       written"), "{text}");
    assert_eq!(stage.zendesk.user("300001").unwrap().email, "sam@association.example");
    let (code, text) = stage.run(&arguments, "").await;
    assert!(code == 0 && text.contains("unchanged"), "{text}");
    std::fs::write(&file, "user_id,imis_id\n1,300001\n2,104019\n").unwrap();
    let (code, text) = stage.run(&arguments, "").await;
    assert!(code == 1 && text.matches("failed").count() == 2, "{text}");
}

#[tokio::test]
async fn runs_exclude_each_other() {
    let stage = Stage::with(setup("")).await;
    stage.imis.set_list_faults(ListFaults { delay: Some(Duration::from_secs(2)), ..ListFaults::default() });
    let first = stage.run(&["sync", "plan"], "");
    let second = async {
        let lock = || std::fs::read_dir(stage.folder().join("sync")).is_ok_and(|files| files.count() > 1);
        while !lock() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stage.run(&["sync", "plan"], "").await
    };
    let ((first, _), (second, text)) = tokio::join!(first, second);
    assert_eq!((first, second), (0, 1), "{text}");
    assert!(text.contains("another sync of this app is in progress"), "{text}");
}

/// Twenty kills at random moments of one run, ten times.
#[tokio::test]
async fn a_run_that_is_killed_again_and_again_loses_and_repeats_nothing() {
    const MEMBERS: usize = 1_000;
    let prepared = &|| async {
        let stage = Stage::with(setup(", max_change_percent: 100")).await;
        stage.zendesk.set_bulk_enabled(true);
        stage.zendesk.set_job_pace(Pace::Time(Duration::from_millis(60)));
        fill(&stage, MEMBERS);
        // A third is to be created, a third to be changed, and a third is as it should be.
        stage.zendesk.fill_with(0..MEMBERS * 2 / 3, |number, user| {
            if number % 2 == 0 {
                user.name = "Old Name".to_owned();
            }
        });
        stage
    };
    let undisturbed = prepared().await;
    let (code, text) = undisturbed.run(&["sync", "apply"], "").await;
    assert_eq!(code, 0, "{text}");
    let (expected, writes) = (&undisturbed.zendesk.snapshot(), undisturbed.zendesk.journal().len());
    let started = Instant::now();
    let rounds = (0..10).map(|round| async move {
        let stage = prepared().await;
        let mut kills = 0;
        while kills < 20 {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_imis-gateway"));
            command.args(["sync", "apply", "--config"]).arg(stage.folder().join("config.yaml"));
            let output = std::process::Stdio::null;
            let mut child = command.stdin(output()).stdout(output()).stderr(output()).spawn().unwrap();
            // Most of a run is reading; writing takes longer with each job.
            let moment = started.elapsed().subsec_nanos() % 900;
            tokio::time::sleep(Duration::from_millis(20 + u64::from(moment))).await;
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
        let (code, text) = stage.run(&["sync", "apply"], "").await;
        assert_eq!(code, 0, "{round}: {text}");
        assert!(stage.zendesk.snapshot() == *expected, "{round}: another result than undisturbed");
        let journal = stage.zendesk.journal();
        assert!(journal.iter().all(|write| !write.changes.is_empty()), "{round}: a change was repeated");
        assert_eq!(journal.len(), writes, "{round}");
    });
    // A few at a time: each needs a gateway of its own.
    let rounds: Vec<_> = rounds.collect();
    futures_util::stream::iter(rounds).buffer_unordered(4).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn every_member_with_a_bad_record_has_a_line_with_the_reason() {
    let claims = "claims:\n  user_fields: {chapter: \"profile.attributes.get('Chapter')\", paid_through: \"profile.paid_through\"}";
    let source = "{query: $/Gateway/AllMembers, columns: {id: ID, name: Full Name, email: Email, phone: Mobile Phone, status: Member Status, company: Is Company}}";
    let stage = Stage::with(setup("").with_app(claims).edit("{party: \"\"}", source)).await;
    stage.zendesk.set_bulk_enabled(true);
    fill(&stage, 3);
    stage.imis.edit_population(|population| {
        Member::odd().into_iter().for_each(|(_, member)| population.add(member));
        // Not an iMIS ID, twice.
        for name in ["First", "Second"] {
            population.add(Member {
                id: "?!".to_owned(),
                last: name.to_owned(),
                ..Member::generated(950_000)
            });
        }
    });
    let (code, plan) = json(&stage, &["sync", "plan", "--details"]).await;
    assert_eq!(code, 0, "{plan:#}");
    assert_eq!(plan["lines"].as_array().unwrap().len(), 3 + 13 + 2, "{plan:#}");
    for (what, member) in Member::odd() {
        let line = line(&plan, &member.id);
        let reason = line["reason"].as_str().unwrap_or_default();
        let (kind, expected) = match what {
            "no address" | "blank address" => ("refused", "no-email"),
            "same address" => ("conflict", "same e-mail address"),
            "not an address" | "long address" => ("refused", "bad-email"),
            "blank name" => ("refused", "no-name"),
            "inactive" => ("refused", "inactive"),
            // As in a sign-in, whose token would be too long.
            "long text" => ("refused", "claims"),
            "unknown dropdown option" => ("create", "some fields cannot be written"),
            _ => ("create", ""),
        };
        assert_eq!(line["kind"], kind, "{what}: {line:#}");
        assert!(reason.contains(expected), "{what}: {line:#}");
    }
    let nameless = plan["lines"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["imis_id"].as_str().unwrap().starts_with("row "));
    assert_eq!(nameless.count(), 2, "{plan:#}");
    let (code, result) = json(&stage, &["sync", "apply"]).await;
    assert_eq!((code, &result["failed"]), (0, &0.into()), "{result:#}");
    stage.zendesk.clear_journal();
    let (_, result) = json(&stage, &["sync", "apply"]).await;
    assert!(stage.zendesk.journal().is_empty(), "a second run writes again: {result:#}");
}

#[tokio::test]
async fn limits_conflicts_and_expired_tokens_are_waited_out() {
    let stage = Stage::with(setup(", writes: single")).await;
    fill(&stage, 4);
    stage.zendesk.limit_updates();
    stage.zendesk.edit_limits(|limits| {
        limits.edge = Some((Edge::HtmlWithDate(1), 5));
        limits.requests_per_token = Some(3);
    });
    stage.zendesk.refuse(&Member::id_of(0), "DatabaseConflict", 1);
    let (code, result) = json(&stage, &["sync", "apply"]).await;
    assert_eq!((code, &result["written"]), (0, &4.into()), "{result:#}");
    assert_eq!(stage.zendesk.writes(WriteKind::CreateUser), 4);
    assert!(stage.zendesk.refused_by("edge") > 0);
    assert_eq!(stage.zendesk.refused_by("update"), 0, "faster than one update per second");
}

#[tokio::test]
async fn a_later_run_reads_only_what_has_changed_unless_all_is_asked_for() {
    let source = "{party: \"\", changed_since: UpdatedOn}";
    let stage = Stage::with(setup("").edit("{party: \"\"}", source)).await;
    stage.zendesk.set_bulk_enabled(true);
    fill(&stage, 20);
    let (code, first) = json(&stage, &["sync", "apply"]).await;
    assert_eq!((code, &first["members"]), (0, &20.into()), "{first:#}");
    stage.imis.edit_population(|population| {
        population.edit(&Member::id_of(7), |member| {
            member.last = "Changed".to_owned();
            member.updated_on = "2099-01-01T00:00:00".to_owned();
        });
    });
    let (code, second) = json(&stage, &["sync", "apply", "--max-change", "100"]).await;
    assert_eq!((code, &second["members"], &second["written"]), (0, &1.into(), &1.into()), "{second:#}");
    let (_, all) = json(&stage, &["sync", "plan", "--full"]).await;
    assert_eq!(all["members"], 20, "{all:#}");
}
