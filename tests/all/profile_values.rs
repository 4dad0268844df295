//! Unusual values in a profile (missing, repeated, padded, of another type) never let a member in whom the rules or
//! guards refuse.

use imis_gateway_simulators::imis::{ApiFault, Faults, Generation};
use serde_json::{Value, json};

use crate::support::{Setup, Stage};
use crate::tokens::claims;

pub(crate) fn with_ann(mut setup: Setup, change: impl FnOnce(&mut Value)) -> Setup {
    let ann = setup.imis.people.iter_mut().find(|person| person.username == "AMUELLER").unwrap();
    change(&mut ann.party);
    setup
}

pub(crate) fn ems(app: &str) -> Setup {
    Setup::new(Generation::Ems).with_app(app)
}

pub(crate) async fn ann(stage: &Stage) -> u16 {
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

#[tokio::test]
async fn errors_do_not_quote_profile_values() {
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

#[tokio::test]
async fn an_empty_list_omits_the_claim() {
    let stage = Stage::with(ems(
        "claims: {organizations: \"profile.groups\", tags: \"profile.groups\"}\noverwrite: [organizations, tags]",
    ))
    .await;
    let reply = stage.sso("", &stage.cookie_of("AMUELLER")).await;
    let claims = claims(&reply.token().unwrap());
    assert!(claims.get("organizations").is_none() && claims.get("tags").is_none(), "{claims}");
}

#[tokio::test]
async fn an_organization_name_with_a_comma_is_refused() {
    let setup = with_ann(
        ems("claims: {organizations: \"profile.organization\"}\noverwrite: [organizations]"),
        |party| party["PrimaryOrganization"]["Name"] = json!("X Ltd.,Fabrikam\u{1b} Inc."),
    );
    let stage = Stage::with(setup).await;
    let reply = stage.sso("", &stage.cookie_of("AMUELLER")).await;
    assert!(reply.token().is_none(), "{}", claims(&reply.token().unwrap()));
}

#[tokio::test]
async fn unreadable_attributes_do_not_bypass_a_deny_rule() {
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
async fn padded_codes_do_not_bypass_a_deny_rule() {
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

#[tokio::test]
async fn an_address_search_that_misses_the_member_is_an_error() {
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

#[tokio::test]
async fn the_duplicate_email_guard_counts_everyone_who_may_sign_in() {
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

/// What iMIS has as `FullName`, as it stands in the JSON, and the `name` claim.
#[tokio::test]
async fn names_keep_their_spaces_and_joiners() {
    let stage = Stage::with(ems("")).await;
    let cookie = stage.cookie_of("AMUELLER");
    for (name, expected) in [
        (r"Ann\tSmith", "Ann Smith"),
        (r"Ann\r\nSmith", "Ann Smith"),
        (r"Ann\u2028Smith", "Ann Smith"),
        (r"\u0639\u0644\u06cc\u200c\u0631\u0636\u0627", "\u{639}\u{644}\u{6cc}\u{200c}\u{631}\u{636}\u{627}"),
        (r"\ud83d\udc68\u200d\ud83d\udc69 Family", "\u{1f468}\u{200d}\u{1f469} Family"),
        (r"\u202eAnn", "Ann"),
        (r"Ann\u200bSmith", "AnnSmith"),
        // Lone surrogates, which no UTF-8 text can contain.
        (r"Ann\ud83d", "Ann\u{fffd}"),
        (r"\udc68Ann \ud83dSmith", "\u{fffd}Ann \u{fffd}Smith"),
        (r"\\ud83d", r"\ud83d"),
    ] {
        let api = ApiFault::Replaced("\"FullName\":\"Ann Müller\"", name_json(name));
        stage.imis.set_faults(Faults { api, ..Faults::default() });
        let reply = stage.sso("", &cookie).await;
        let token = reply.token().unwrap_or_else(|| panic!("{name}: {}", reply.text()));
        assert_eq!(claims(&token)["name"], expected, "{name}");
    }
}

/// The key with this value. The simulator's faults live as long as the program.
fn name_json(value: &str) -> &'static str {
    format!("\"FullName\":\"{value}\"").leak()
}
