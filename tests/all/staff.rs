//! The guard of the Zendesk staff: an iMIS account with the address or the ID of an agent does not sign in as that
//! agent.

use std::time::Duration;

use imis_gateway_simulators::imis::Generation;
use imis_gateway_simulators::zendesk::{self, Faults as ZendeskFaults, Role};
use serde_json::{Value, json};

use crate::profile_values::{ann, ems, with_ann};
use crate::support::{SITE, SSO, Setup, Stage};

/// Ann's record with another address.
fn with_address(mut setup: Setup, address: &str) -> Setup {
    let ann = setup.imis.people.iter_mut().find(|person| person.username == "AMUELLER").unwrap();
    ann.party["Emails"]["$values"][0]["Address"] = json!(address);
    setup
}

fn setup(app: &str) -> Setup {
    Setup::new(Generation::Ems).with_api().with_app(app)
}

async fn known(stage: &Stage) {
    stage.gateway.logged(|line| line["message"] == "fetched the Zendesk staff list").await;
}

async fn status(stage: &Stage, username: &str) -> u16 {
    let reply = stage.sso("", &stage.cookie_of(username)).await;
    assert_eq!(reply.token().is_some(), reply.status == 200);
    reply.status.as_u16()
}

#[tokio::test]
async fn metrics_show_the_size_and_age_of_the_staff_list() {
    let stage = Stage::with(setup("")).await;
    known(&stage).await;
    let metrics = stage.gateway.metrics().await;
    let number = |name: &str| -> usize {
        let start = format!("imis_gateway_{name}{{app=\"Contoso Helpdesk\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{name}: {metrics}")).parse().unwrap()
    };
    let mut staff = 0;
    stage.zendesk.edit_users(|users| staff = users.iter().filter(|user| user.role != Role::EndUser).count());
    assert_eq!(number("zendesk_staff"), staff);
    assert!(number("zendesk_staff_age_seconds") < 60);
}

#[tokio::test]
async fn an_account_with_an_agents_address_is_refused() {
    for address in ["sam@association.example", "Olga@Association.EXAMPLE"] {
        let stage = Stage::with(with_address(
            setup("on_behalf_of: sign_in_as_staff\nguards: {duplicate_email: off}"),
            address,
        ))
        .await;
        known(&stage).await;
        let reply = stage.sso("", &stage.cookie_of("AMUELLER")).await;
        assert_eq!((reply.status.as_u16(), reply.token()), (403, None), "{address}");
        assert!(
            reply.text().contains("of the help desk")
                && !reply.text().to_lowercase().contains("association.example")
        );
        stage.gateway.logged(|line| line["reason"] == "staff-address").await;
        assert_eq!(status(&stage, "boconnor").await, 200, "everybody else enters");
        // Sam's own account of iMIS, as long as Zendesk does not know that it is his.
        assert_eq!(status(&stage, "staff").await, 403);
    }
}

#[tokio::test]
async fn an_agent_with_the_same_imis_id_is_admitted() {
    let stage = Stage::with(setup("on_behalf_of: sign_in_as_staff")).await;
    stage.zendesk.edit_users(|users| {
        let sam = users.iter_mut().find(|user| user.email.starts_with("sam@")).unwrap();
        assert_eq!(sam.role, Role::Agent);
        sam.external_id = Some("300001".to_owned());
    });
    // The list may have been fetched before.
    let stage2 = crate::support::Gateway::start(
        stage.folder(),
        &std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap(),
    );
    stage2.logged(|line| line["message"] == "fetched the Zendesk staff list").await;
    let client = crate::support::Client::new(&stage.authority, stage2.https);
    let cookie = stage.cookie_of("staff");
    let reply = client.get("/sso/zendesk", &[("cookie", &cookie)]).await;
    assert!(reply.token().is_some(), "{}", reply.text());
}

#[tokio::test]
async fn a_configured_rule_decides_who_is_staff() {
    let app = "on_behalf_of: sign_in_as_staff\nguards: {duplicate_email: off, is_staff: \"'Staff' in profile.groups\"}";
    let stage = Stage::with(setup(app)).await;
    known(&stage).await;
    assert_eq!(status(&stage, "staff").await, 200);
    let stage = Stage::with(with_address(setup(app), "sam@association.example")).await;
    known(&stage).await;
    assert_eq!(status(&stage, "AMUELLER").await, 403, "Ann is not in the group");
    let failing = "guards: {duplicate_email: off, is_staff: \"profile.attributes.Nothing == 'x'\"}";
    let stage = Stage::with(with_address(setup(failing), "sam@association.example")).await;
    known(&stage).await;
    assert_eq!(status(&stage, "AMUELLER").await, 403);
    stage.gateway.logged(|line| line["reason"] == "staff-failed").await;
}

#[tokio::test]
async fn without_a_staff_list_members_are_refused() {
    let down = "client_secret: {file: zendesk-api}";
    let wrong = "client_secret: {file: imis-password}";
    // No list, no domains: nobody enters.
    let stage = Stage::with(setup("").edit(down, wrong)).await;
    stage
        .gateway
        .logged(|line| line["error"].as_str().is_some_and(|text| text.contains("rejected the OAuth client")))
        .await;
    assert_eq!(status(&stage, "AMUELLER").await, 503);
    stage
        .gateway
        .logged(|line| {
            line["error"]
                .as_str()
                .is_some_and(|text| text.contains("list of Zendesk staff has not been fetched yet"))
        })
        .await;
    // No list, but domains: those are refused, others enter.
    let app = "guards: {staff_domains: [association.example]}\non_behalf_of: sign_in_as_staff";
    let stage = Stage::with(setup(app).edit(down, wrong)).await;
    assert_eq!(status(&stage, "AMUELLER").await, 200);
    assert_eq!(status(&stage, "staff").await, 403);
    // Domains alone, without any API.
    let stage = Stage::with(Setup::new(Generation::Ems).with_app(app)).await;
    assert_eq!(status(&stage, "AMUELLER").await, 200);
    assert_eq!(status(&stage, "staff").await, 403);
    let off = Stage::with(
        Setup::new(Generation::Ems).with_app(&app.replace("staff_domains", "staff: off, staff_domains")),
    )
    .await;
    assert_eq!(status(&off, "staff").await, 200);
}

#[tokio::test]
async fn a_list_is_kept_when_zendesk_fails_afterwards() {
    let stage =
        Stage::with(with_address(setup("guards: {duplicate_email: off}"), "sam@association.example")).await;
    known(&stage).await;
    stage.zendesk.set_faults(ZendeskFaults { drop: true, ..ZendeskFaults::default() });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(status(&stage, "AMUELLER").await, 403);
    assert_eq!(status(&stage, "boconnor").await, 200);
}

#[tokio::test]
async fn more_staff_than_a_page_holds_is_fetched_whole() {
    let stage = Stage::with(with_address(setup(""), "agent199@association.example")).await;
    let first = stage.gateway.logged(|line| line["message"] == "fetched the Zendesk staff list").await;
    assert_eq!(first["staff_count"], 2);
    stage.zendesk.edit_users(|users| {
        let sam = users.iter().find(|user| user.email.starts_with("sam@")).unwrap().clone();
        for number in 0..200 {
            let mut agent = sam.clone();
            (agent.id, agent.email) = (1000 + number, format!("agent{number}@association.example"));
            users.push(agent);
        }
    });
    let config = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    let again = crate::support::Gateway::start(stage.folder(), &config);
    let line = again.logged(|line: &Value| line["message"] == "fetched the Zendesk staff list").await;
    assert_eq!(line["staff_count"], 202);
    let client = crate::support::Client::new(&stage.authority, again.https);
    let cookie = stage.cookie_of("AMUELLER");
    assert_eq!(client.get("/sso/zendesk", &[("cookie", &cookie)]).await.status, 403);
}

async fn is_known(stage: &Stage, times: usize) {
    stage.gateway.logged_times(times, |line| line["message"] == "fetched the Zendesk staff list").await;
}

#[tokio::test]
async fn external_ids_of_staff_are_compared_without_case() {
    let mut setup = Setup::new(Generation::Ems).with_api().with_app("guards: {duplicate_email: off}");
    let ann = setup.imis.people.iter_mut().find(|person| person.username == "AMUELLER").unwrap();
    ann.party = serde_json::from_str(&ann.party.to_string().replace("104019", "ann1")).unwrap();
    ann.id = "ann1".to_owned();
    let stage = Stage::with(setup).await;
    is_known(&stage, 1).await;
    let cookie = stage.cookie_of("AMUELLER");
    assert_eq!(stage.sso("", &cookie).await.status, 200);
    stage.zendesk.edit_users(|users| {
        let sam = users.iter_mut().find(|user| user.email.starts_with("sam@")).unwrap();
        sam.external_id = Some("ANN1".to_owned());
    });
    // Another name of the app: its list is fetched anew.
    stage.edit("name: Contoso Helpdesk", "name: Renamed");
    assert_eq!(stage.run(&["reload"], "").await.0, 0);
    is_known(&stage, 2).await;
    let reply = stage.sso("", &cookie).await;
    assert_eq!((reply.status.as_u16(), reply.token()), (403, None));
}

#[tokio::test]
async fn a_reload_keeps_the_staff_list_of_an_account_and_only_of_that_account() {
    let stage = Stage::with(Setup::new(Generation::Ems).with_api()).await;
    is_known(&stage, 1).await;
    let cookie = stage.cookie_of("AMUELLER");
    stage.zendesk.set_faults(ZendeskFaults { drop: true, ..ZendeskFaults::default() });
    stage
        .authority
        .issue(&[SITE, "www.example.org", "new.example.org"])
        .write(stage.folder(), "members")
        .unwrap();
    stage.edit(
        &format!("hosts: [{SITE}, www.example.org]"),
        &format!("hosts: [new.example.org, www.example.org, {SITE}]"),
    );
    stage.edit("path: /sso/zendesk", "path: /sso/zendesk\n        on_behalf_of: sign_in_as_staff");
    assert_eq!(stage.run(&["reload"], "").await.0, 0);
    assert_eq!(stage.sso("", &cookie).await.status, 200, "under another first host");
    stage.edit("name: Contoso Helpdesk", "name: Renamed");
    assert_eq!(stage.run(&["reload"], "").await.0, 0);
    assert_eq!(stage.sso("", &cookie).await.status, 200, "under another name of the app");
    let metrics = stage.gateway.metrics().await;
    assert!(
        metrics.contains("zendesk_staff{app=\"Renamed\"}")
            && !metrics.contains("zendesk_staff{app=\"Contoso"),
        "{metrics}"
    );
    // Another account has another list, which is not known yet.
    let address = stage.zendesk.address().to_string();
    stage.edit(&format!("url: https://{address}"), "url: https://127.0.0.1:9");
    assert_eq!(stage.run(&["reload"], "").await.0, 0);
    assert_eq!(stage.sso("", &cookie).await.status, 503);
}

#[tokio::test]
async fn an_account_that_a_reload_corrects_is_asked_once_and_reloads_do_not_ask_again() {
    let right = "client_secret: {file: zendesk-api}";
    let setup = Setup::new(Generation::Ems).with_api().edit(right, "client_secret: {file: imis-password}");
    let stage = Stage::with(setup).await;
    stage.gateway.logged(|line| line["message"] == "cannot fetch the Zendesk staff list").await;
    stage.edit("client_secret: {file: imis-password}", right);
    stage.edit("name: Contoso Helpdesk", "name: Renamed");
    assert_eq!(stage.run(&["reload"], "").await.0, 0);
    is_known(&stage, 1).await;
    // A list that is needed as before is not fetched once more.
    for round in 0..10 {
        stage.edit("version: 1\n", &format!("version: 1\n# {round}\n"));
        assert!(
            crate::control_socket::control(stage.folder(), "POST", "/reload")
                .await
                .starts_with("HTTP/1.1 200")
        );
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let known =
        stage.gateway.log().lines().filter(|line| line.contains("fetched the Zendesk staff list")).count();
    assert_eq!(known, 1);
}

#[tokio::test]
async fn a_staff_list_without_an_admin_is_rejected() {
    let setup = with_ann(
        ems("guards: {duplicate_email: off, staff_domains: [association.example]}").with_api(),
        |party| party["Emails"]["$values"][0]["Address"] = json!("sam@association.example"),
    );
    let stage = Stage::with(setup).await;
    stage.gateway.logged(|line| line["message"] == "fetched the Zendesk staff list").await;
    assert_eq!(ann(&stage).await, 403);
    stage.zendesk.edit_users(|users| users.retain(|user| user.role == Role::EndUser));
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
async fn a_member_with_the_imis_id_of_an_agent_is_refused() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_emails_and_doctor_fail_without_the_staff() {
    let setup =
        ems("").with_api().edit("client_secret: {file: zendesk-api}", "client_secret: {file: imis-password}");
    let stage = Stage::with(setup).await;
    let (code, text) = stage.run(&["audit", "emails", "--format", "json"], "").await;
    let (doctor, said) = stage.run(&["doctor"], "").await;
    assert!(code != 0 && doctor != 0, "emails {code} {text}\ndoctor {doctor} {said}");
}

/// An account with this many agents and admins.
fn account(staff: u64) -> Setup {
    let mut setup = setup("guards: {duplicate_email: off}");
    // Beside the owner and Sam.
    setup.agents = zendesk::staff(staff - 2);
    setup.agents[0].other_emails = vec!["Agent.Home@example.org".to_owned()];
    setup
}

fn api_requests(stage: &Stage) -> Vec<String> {
    stage.zendesk.arrivals().into_iter().filter(|arrival| arrival.contains("/api/")).collect()
}

#[tokio::test]
async fn a_thousand_staff_with_all_their_addresses_take_ten_requests() {
    let stage = Stage::with(with_address(account(1000), "agent.home@example.org")).await;
    known(&stage).await;
    assert_eq!(api_requests(&stage).len(), 10, "{:?}", api_requests(&stage));
    assert_eq!(status(&stage, "AMUELLER").await, 403, "another address of an agent");
    assert_eq!(status(&stage, "boconnor").await, 200);
}

/// Zendesk's documents do not say that lists of users include identities for every account.
#[tokio::test]
async fn addresses_that_a_list_does_not_include_are_fetched_one_by_one() {
    let mut setup = with_address(account(40), "agent.home@example.org");
    setup.includes_identities = false;
    let stage = Stage::with(setup).await;
    known(&stage).await;
    assert_eq!(api_requests(&stage).len(), 1 + 40);
    assert_eq!(status(&stage, "AMUELLER").await, 403, "another address of an agent");
    assert_eq!(status(&stage, "boconnor").await, 200);
}

#[tokio::test]
async fn the_list_is_there_at_once_after_a_restart() {
    let setup =
        with_address(account(40), "agent.home@example.org").edit("staff_folder: null", "staff_folder: saved");
    let stage = Stage::with(setup).await;
    known(&stage).await;
    let folder = stage.folder().join("saved");
    let end = std::time::Instant::now() + crate::support::gateway::TIMEOUT;
    while !std::fs::read_dir(&folder).is_ok_and(|files| files.count() == 1) {
        assert!(std::time::Instant::now() < end, "no file: {}", stage.gateway.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.zendesk.set_faults(ZendeskFaults { drop: true, ..ZendeskFaults::default() });
    let yaml = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    let again = crate::support::Gateway::start(stage.folder(), &yaml);
    let client = crate::support::Client::new(&stage.authority, again.https);
    for (username, status) in [("boconnor", 200), ("AMUELLER", 403)] {
        let cookie = stage.cookie_of(username);
        assert_eq!(client.get(SSO, &[("cookie", &cookie)]).await.status, status, "{username}");
    }
    // Commands use it as well, and ask Zendesk for nothing that it holds.
    let before = stage.zendesk.arrivals().len();
    let (_, said) = stage.run(&["explain", "--app", SSO, "--imis-id", "104019"], "").await;
    assert!(
        said.contains("42 agents and admins") || said.contains("another staff member has the address"),
        "{said}"
    );
    assert_eq!(stage.zendesk.arrivals().len(), before, "{said}");
    // Without a file and without Zendesk, sign-ins are refused with a reason.
    std::fs::remove_dir_all(folder).unwrap();
    drop(again);
    let again = crate::support::Gateway::start(stage.folder(), &yaml);
    let client = crate::support::Client::new(&stage.authority, again.https);
    let cookie = stage.cookie_of("boconnor");
    assert_eq!(client.get(SSO, &[("cookie", &cookie)]).await.status, 503);
    again.logged(|line| line["error"].as_str().is_some_and(|error| error.contains("none was saved"))).await;
}

#[tokio::test]
async fn old_addresses_of_a_file_are_fetched_again_before_the_list_counts_as_new() {
    let mut setup = account(40);
    setup.agents[0].other_emails.clear();
    setup.agents.last_mut().unwrap().other_emails = vec!["Agent.Home@example.org".to_owned()];
    let mut setup =
        with_address(setup, "agent.home@example.org").edit("staff_folder: null", "staff_folder: saved");
    setup.includes_identities = false;
    let stage = Stage::with(setup).await;
    known(&stage).await;
    let folder = stage.folder().join("saved");
    let end = std::time::Instant::now() + crate::support::gateway::TIMEOUT;
    let file = loop {
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|file| file.path());
        let files: Vec<_> = files.filter(|file| file.extension().is_none_or(|end| end != "new")).collect();
        if let [file] = &files[..] {
            break file.clone();
        }
        assert!(std::time::Instant::now() < end, "no file: {}", stage.gateway.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // The list of six days ago. The agent with two addresses had none then, and has not changed for Zendesk since.
    let mut list: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let days = 6 * 24 * 3600;
    list["fetched"] = (list["fetched"].as_u64().unwrap() - days).into();
    for person in list["people"].as_array_mut().unwrap() {
        person["checked"] = (person["checked"].as_u64().unwrap() - days).into();
        if person["addresses"].as_array().unwrap().len() == 2 {
            person["addresses"] = serde_json::json!([]);
        }
    }
    std::fs::write(&file, list.to_string()).unwrap();
    let yaml = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    let again = crate::support::Gateway::start(stage.folder(), &yaml);
    again.logged(|line| line["message"] == "fetched the Zendesk staff list").await;
    let client = crate::support::Client::new(&stage.authority, again.https);
    let cookie = stage.cookie_of("AMUELLER");
    let reply = client.get(SSO, &[("cookie", &cookie)]).await;
    assert_eq!(reply.status, 403, "another address of an agent; token: {}", reply.token().is_some());
}
