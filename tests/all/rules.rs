//! Who may enter, and what Zendesk is told: rules, claims, and the guard against addresses that two people have.

use imis_gateway_simulators::imis::{ApiFault, Faults, Generation};
use serde_json::{Value, json};

use crate::support::{Reply, SSO, Setup, Stage};
use crate::tokens::claims;

async fn stage(app: &str) -> Stage {
    Stage::with(Setup::new(Generation::Ems).with_app(app)).await
}

async fn enters(stage: &Stage, username: &str) -> Reply {
    stage.sso("", &stage.cookie_of(username)).await
}

fn asked(stage: &Stage, what: &str) -> usize {
    stage.imis.requests().iter().filter(|request| request.target.contains(what)).count()
}

#[tokio::test]
async fn the_first_rule_that_matches_decides_and_none_refuses() {
    let stage = stage(
        "rules: [{deny: \"profile.id == '104020'\", reason: not-bob}, {allow: \"profile.email_domain == 'example.org'\"}]\n\
         reasons: {not-bob: {en: Not you Bob., fr: Pas vous.}}",
    )
    .await;
    assert!(enters(&stage, "AMUELLER").await.token().is_some());
    let line = stage.gateway.logged(|line| line["message"] == "signed in").await;
    assert_eq!(line["rule"], 2);
    let bob = enters(&stage, "boconnor").await;
    assert_eq!((bob.status.as_u16(), bob.token()), (403, None));
    assert!(
        bob.text().contains("This account cannot be used here") && bob.text().contains("Not you Bob."),
        "{}",
        bob.text()
    );
    let cookie = stage.cookie_of("boconnor");
    let french =
        stage.client().get(SSO, &[("cookie", &cookie), ("accept-language", "fr-CA, en;q=0.5")]).await;
    assert!(french.text().contains("Pas vous."), "{}", french.text());
    let line = stage.gateway.logged(|line| line["message"] == "refused").await;
    assert_eq!((&line["reason"], &line["rule"]), (&json!("not-bob"), &json!(1)));
    // Sam is of another domain.
    let app = "rules: [{allow: \"profile.email_domain == 'example.org'\"}]\non_behalf_of: sign_in_as_staff";
    let stage = self::stage(app).await;
    let sam = enters(&stage, "staff").await;
    assert_eq!(sam.status, 403);
    assert!(sam.text().contains("not open to every account"));
    stage.gateway.logged(|line| line["reason"] == "no-rule").await;
}

#[tokio::test]
async fn a_rule_that_cannot_be_evaluated_refuses_and_is_logged() {
    let stage = stage("rules: [{allow: \"profile.attributes.Chapter != 'North'\"}, {allow: \"true\"}]").await;
    let reply = enters(&stage, "AMUELLER").await;
    assert_eq!((reply.status.as_u16(), reply.token()), (403, None));
    let line =
        stage.gateway.logged(|line| line["message"] == "refused" && line["reason"] == "rule-failed").await;
    assert_eq!(line["rule"], 1);
    assert!(line["error"].as_str().unwrap().contains("no attribute `Chapter`"), "{line}");
}

#[tokio::test]
async fn groups_are_read_only_when_a_rule_or_claim_uses_them() {
    let rules = "rules: [{allow: \"'Staff' in profile.groups\"}]\non_behalf_of: sign_in_as_staff";
    let all_at_once = stage(rules).await;
    assert!(enters(&all_at_once, "staff").await.token().is_some());
    assert_eq!(enters(&all_at_once, "AMUELLER").await.status, 403);
    assert_eq!(asked(&all_at_once, "/api/GroupMember?PartyId=eq:"), 2);
    let cookies = "session_cookies: [Login]";
    let setup =
        Setup::new(Generation::Ems).edit(cookies, &format!("{cookies}\n      groups: [Board, Staff]"));
    let one_by_one = Stage::with(setup.with_app(rules)).await;
    assert!(enters(&one_by_one, "staff").await.token().is_some());
    assert_eq!(asked(&one_by_one, "/api/GroupMember?GroupId=eq:Board&PartyId=eq:300001"), 1);
    assert_eq!(asked(&one_by_one, "/api/GroupMember?GroupId=eq:Staff&PartyId=eq:300001"), 1);
    let none = Stage::new().await;
    assert!(enters(&none, "AMUELLER").await.token().is_some());
    assert_eq!(asked(&none, "GroupMember"), 0);
    let claims = stage("claims: {user_fields: {groups: \"profile.groups|join(' ')\"}}").await;
    assert!(enters(&claims, "AMUELLER").await.token().is_some());
    assert_eq!(asked(&claims, "GroupMember"), 1);
}

#[tokio::test]
async fn without_groups_no_member_is_admitted() {
    let stage = stage("rules: [{deny: \"'Suspended' in profile.groups\"}, {allow: \"true\"}]").await;
    let cookie = stage.cookie_of("AMUELLER");
    assert!(stage.sso("", &cookie).await.token().is_some());
    for fault in [ApiFault::Status(500), ApiFault::Html, ApiFault::Drop] {
        stage.imis.set_faults(Faults { api: fault.clone(), ..Faults::default() });
        let reply = stage.sso("", &cookie).await;
        assert_eq!((reply.status.as_u16(), reply.token()), (503, None), "{fault:?}");
    }
}

#[tokio::test]
async fn claims_are_what_the_file_says_each_of_its_kind() {
    let stage = stage(
        "claims:\n  organization: \"profile.organization\"\n  organization_id: 7\n  tags: \"[profile.customer_type, 'imis']\"\n  \
         phone: \"'+442079460018'\"\n  locale: \"'en-GB'\"\n  remote_photo_url: \"'https://example.org/' ~ profile.id\"\n  \
         user_fields:\n    paid_through: \"profile.paid_through\"\n    member: \"profile.is_member\"\n    gone: null\n    number: 5\n\
         overwrite: [tags]",
    )
    .await;
    let claims = claims(&enters(&stage, "AMUELLER").await.token().unwrap());
    let expected = json!({
        "organization": "Contoso Ltd.", "organization_id": 7, "tags": ["M", "imis"], "phone": "+442079460018", "locale": "en-GB",
        "remote_photo_url": "https://example.org/104019",
        "user_fields": {"paid_through": "2027-12-31", "member": true, "gone": null, "number": 5},
        "external_id": "104019", "email": "ann.mueller@example.org", "name": "Ann Müller",
    });
    let mut own = claims.clone();
    for of_each_token in ["iat", "jti"] {
        own.as_object_mut().unwrap().remove(of_each_token);
    }
    assert_eq!(own, expected);
    // What comes to nothing is left out: a company has no organization of its own, and Ann no phone of this kind.
    let stage = self::stage(
        "claims: {organization: \"profile.attributes.get('None', '')\", phone: \"profile.phone\"}",
    )
    .await;
    let claims = self::claims(&enters(&stage, "boconnor").await.token().unwrap());
    assert_eq!((claims.get("organization"), claims.get("phone")), (None, None));
}

#[tokio::test]
async fn a_claim_of_the_wrong_type_mints_no_token() {
    for (app, says) in [
        ("claims: {organization_id: \"profile.name\"}", "`organization_id`: has to be a whole number"),
        ("claims: {organization: \"profile.attributes.Chapter\"}", "no attribute `Chapter`"),
        ("claims: {phone: \"profile.name\"}", "has to be a phone number"),
        ("claims: {user_fields: {groups: \"profile.groups\"}}", "`user_fields.groups`"),
        ("claims: {custom_role_id: 5}", "goes only with role: agent"),
        ("claims: {user_fields: {long: \"'x' * 5000\"}}", "Zendesk accepts at most 4000"),
    ] {
        let stage = stage(app).await;
        let reply = enters(&stage, "AMUELLER").await;
        assert_eq!((reply.status.as_u16(), reply.token()), (503, None), "{app}");
        let told = |line: &Value| line["error"].as_str().is_some_and(|error| error.contains(says));
        stage.gateway.logged(told).await;
    }
}

#[tokio::test]
async fn an_address_that_two_people_have_lets_neither_in() {
    let stage = Stage::new().await;
    for username in ["twin1", "twin2"] {
        let reply = enters(&stage, username).await;
        assert_eq!((reply.status.as_u16(), reply.token()), (403, None));
        assert!(reply.text().contains("Your e-mail address is used twice"), "{}", reply.text());
        assert!(!reply.text().contains("twins@"), "whose address it is, is nobody's business");
    }
    stage.gateway.logged(|line| line["reason"] == "duplicate-email").await;
    assert!(enters(&stage, "AMUELLER").await.token().is_some());
    let warns = self::stage("guards: {duplicate_email: warn}").await;
    assert!(enters(&warns, "twin1").await.token().is_some());
    warns
        .gateway
        .logged(|line| line["message"].as_str().is_some_and(|text| text.contains("same primary e-mail")))
        .await;
    let off = self::stage("guards: {duplicate_email: off}").await;
    assert!(enters(&off, "twin1").await.token().is_some());
    assert_eq!(asked(&off, "/api/Party?email"), 0);
}

#[tokio::test]
async fn only_active_people_with_the_same_primary_address_count() {
    let mut setup = Setup::new(Generation::Ems);
    let ann = setup.imis.people.iter().find(|person| person.username == "AMUELLER").unwrap().clone();
    let mut other = |id: &str, change: &dyn Fn(&mut Value)| {
        let mut person = ann.clone();
        (person.id, person.username) = (id.to_owned(), format!("other{id}"));
        person.party["PartyId"] = json!(id);
        change(&mut person.party);
        setup.imis.people.push(person);
    };
    other("900001", &|party| party["Status"]["PartyStatusId"] = json!("I"));
    other("900002", &|party| {
        party["$type"] = json!("Asi.Soa.Membership.DataContracts.OrganizationData, Asi.Contracts")
    });
    let stage = Stage::with(setup).await;
    assert!(enters(&stage, "AMUELLER").await.token().is_some());
    let mut setup = Setup::new(Generation::Ems);
    let mut double = ann.clone();
    (double.id, double.username) = ("900003".to_owned(), "double".to_owned());
    double.party["PartyId"] = json!("900003");
    double.party["Emails"]["$values"][0]["Address"] = json!("Ann.Mueller@EXAMPLE.org");
    setup.imis.people.push(double);
    let stage = Stage::with(setup).await;
    assert_eq!(enters(&stage, "AMUELLER").await.status, 403, "whatever its case");
}

#[tokio::test]
async fn rules_and_claims_cannot_change_the_identity() {
    let stage = stage("rules: [{allow: \"true\"}]\nclaims: {organization: \"'x'\"}").await;
    for username in ["contoso", "lapsed", "nomail", "badmail", "staff", "twin1"] {
        let reply = enters(&stage, username).await;
        assert_eq!((reply.status.as_u16(), reply.token()), (403, None), "{username}");
    }
    let open = self::stage("guards: {company_records: off, inactive_records: off, duplicate_email: off}\non_behalf_of: sign_in_as_staff").await;
    for username in ["contoso", "lapsed", "staff", "twin1"] {
        assert!(enters(&open, username).await.token().is_some(), "{username}");
    }
}

#[tokio::test]
async fn sign_ins_are_rate_limited_per_network_and_per_member() {
    let limits = "limits: {sign_ins_per_network: 1000000, sign_ins_per_person: 1000000}";
    let few = |limits_now: &str| Setup::new(Generation::Ems).edit(limits, limits_now);
    let stage = Stage::with(few("limits: {sign_ins_per_person: 3}")).await;
    for _ in 0..3 {
        assert!(enters(&stage, "AMUELLER").await.token().is_some());
    }
    let reply = enters(&stage, "AMUELLER").await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after"), reply.token()), (429, "30", None));
    assert!(reply.text().contains("Too many sign-ins"));
    assert!(enters(&stage, "boconnor").await.token().is_some(), "others are not concerned");
    stage.gateway.logged(|line| line["limit"] == "limits.sign_ins_per_person").await;
    let stage = Stage::with(few("limits: {sign_ins_per_network: 3}")).await;
    for username in ["AMUELLER", "boconnor", "AMUELLER"] {
        assert!(enters(&stage, username).await.token().is_some());
    }
    let asked = stage.imis.requests().len();
    assert_eq!(enters(&stage, "boconnor").await.status, 429);
    assert_eq!(stage.sso("", "a=b").await.status, 429);
    assert_eq!(stage.imis.requests().len(), asked, "iMIS is not asked");
    assert_eq!(stage.client().get("/", &[]).await.status, 200, "the site itself is not limited");
}
