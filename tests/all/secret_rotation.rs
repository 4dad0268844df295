//! From one shared secret to the next, while members sign in.

use imis_gateway_simulators::imis::Generation;
use imis_gateway_simulators::imis::people::PASSWORD;
use imis_gateway_simulators::zendesk::Faults as ZendeskFaults;
use serde_json::Value;

use crate::reload::is_signed_with;
use crate::sign_in::{form_of, post_to_zendesk};
use crate::support::chromium::{Browser, Scripts};
use crate::support::cookie_jar::Jar;
use crate::support::{Reply, SITE, SSO, Setup, Stage, ZENDESK};

const NEW: &str = "the-new-secret-of-the-account-long-enough";
const BOTH: &str = "shared_secret: {current: {file: zendesk-jwt}, next: {file: zendesk-next}}";
const ONE: &str = "shared_secret: {file: zendesk-jwt}";
const WANTED: &str = "?return_to=%2Fhc%2Fen-us%2Frequests%2F42";

/// With both secrets, as before Zendesk has the new one.
async fn stage() -> Stage {
    let stage = Stage::new().await;
    std::fs::write(stage.folder().join("zendesk-next"), NEW).unwrap();
    change(&stage, ONE, BOTH).await;
    stage
}

async fn change(stage: &Stage, from: &str, to: &str) {
    stage.edit(from, to);
    let (code, said) = stage.run(&["reload"], "").await;
    assert_eq!(code, 0, "{said}");
}

fn member(stage: &Stage) -> Jar {
    Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"))
}

/// Posts the token of a page of ours, and tells where Zendesk leads.
async fn handed_on(stage: &Stage, page: &Reply) -> String {
    let token = page.token().unwrap_or_else(|| panic!("{} {}", page.status, page.text()));
    let return_to = page.field("return_to").unwrap_or_default();
    post_to_zendesk(stage, form_of(&[("jwt", &token), ("return_to", &return_to)])).await
}

/// The path of an address on the site.
fn own(location: &str) -> &str {
    location
        .strip_prefix(&format!("https://{SITE}"))
        .unwrap_or_else(|| panic!("{location} is not the site's"))
}

#[tokio::test]
async fn no_sign_in_is_lost_whenever_zendesk_and_the_gateway_change() {
    let stage = stage().await;
    let mut jar = member(&stage);
    let page = jar.get(&format!("{SSO}{WANTED}")).await;
    assert!(
        is_signed_with(&page.token().unwrap(), &stage.secret),
        "as long as Zendesk has it, the current one"
    );
    assert!(handed_on(&stage, &page).await.contains("/hc/en-us/requests/42"));

    // Zendesk has changed, the gateway has not.
    stage.zendesk.reset_secret(NEW);
    let mut jar = member(&stage);
    let page = jar.get(&format!("{SSO}{WANTED}")).await;
    let refused = handed_on(&stage, &page).await;
    assert!(refused.contains("kind=error"), "{refused}");
    let once_more = jar.get(own(&refused)).await;
    assert_eq!(once_more.status, 302, "{}", once_more.text());
    assert_eq!(once_more.header("location"), format!("{SSO}{WANTED}"));
    let page = jar.get(once_more.header("location")).await;
    assert!(is_signed_with(&page.token().unwrap(), NEW));
    assert!(handed_on(&stage, &page).await.contains("/hc/en-us/requests/42"), "and on the page asked for");

    // The gateway changes while a token of the old one is on its way.
    let mut late = member(&stage);
    let page = late.get(&format!("{SSO}{WANTED}")).await;
    assert!(is_signed_with(&page.token().unwrap(), &stage.secret));
    std::fs::write(stage.folder().join("zendesk-jwt"), NEW).unwrap();
    change(&stage, BOTH, ONE).await;
    let refused = handed_on(&stage, &page).await;
    let once_more = late.get(own(&refused)).await;
    let page = late.get(once_more.header("location")).await;
    assert!(handed_on(&stage, &page).await.contains("/hc/en-us/requests/42"));

    let page = member(&stage).get(&format!("{SSO}{WANTED}")).await;
    assert!(is_signed_with(&page.token().unwrap(), NEW));
    let metrics = stage.gateway.metrics().await;
    for (secret, count) in [("current", 5), ("next", 1)] {
        let line =
            format!("imis_gateway_tokens_total{{app=\"Contoso Helpdesk\",secret=\"{secret}\"}} {count}");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
}

/// Zendesk's messages may be in the language of the account.
#[tokio::test]
async fn a_refusal_in_another_language_is_retried_with_the_other_secret() {
    for language in ["es", "de", "pt-BR"] {
        let stage = stage().await;
        stage.zendesk.reset_secret(NEW);
        let faults = ZendeskFaults { language: Some(language), ..ZendeskFaults::default() };
        stage.zendesk.set_faults(faults);
        let mut jar = member(&stage);
        let page = jar.get(&format!("{SSO}{WANTED}")).await;
        let once_more = jar.get(own(&handed_on(&stage, &page).await)).await;
        assert_eq!(once_more.status, 302, "{language}: {}", once_more.text());
        let page = jar.get(once_more.header("location")).await;
        assert!(handed_on(&stage, &page).await.contains("/hc/en-us/requests/42"), "{language}");
        // Once only, when the reason is another one.
        stage.zendesk.set_faults(ZendeskFaults {
            clock_offset: 3600,
            language: Some(language),
            ..ZendeskFaults::default()
        });
        let mut jar = member(&stage);
        let page = jar.get(&format!("{SSO}{WANTED}")).await;
        let once_more = jar.get(own(&handed_on(&stage, &page).await)).await;
        let page = jar.get(once_more.header("location")).await;
        let end = jar.get(own(&handed_on(&stage, &page).await)).await;
        assert_eq!(end.status, 200, "{language}");
        assert!(end.text().contains("return_to=%2Fhc%2Fen-us%2Frequests%2F42"), "{language}: {}", end.text());
    }
}

#[tokio::test]
async fn when_zendesk_accepts_neither_secret_a_page_ends_the_sign_in() {
    let stage = stage().await;
    stage.zendesk.reset_secret("a-third-secret-that-nobody-has-told-us-of");
    let mut jar = member(&stage);
    let page = jar.get(&format!("{SSO}{WANTED}")).await;
    let once_more = jar.get(own(&handed_on(&stage, &page).await)).await;
    let page = jar.get(once_more.header("location")).await;
    let end = jar.get(own(&handed_on(&stage, &page).await)).await;
    assert_eq!(end.status, 200);
    assert!(
        end.text().contains("could not sign you in") && end.text().contains("signature"),
        "{}",
        end.text()
    );
    assert!(end.text().contains("return_to=%2Fhc%2Fen-us%2Frequests%2F42"), "trying again still leads there");
    assert_eq!(jar.names("__Host-imis-gateway-signed"), 0);
}

#[tokio::test]
async fn tabs_that_sign_in_together_all_arrive() {
    let stage = stage().await;
    stage.zendesk.reset_secret(NEW);
    let mut jar = member(&stage);
    let places = ["/hc/a", "/hc/b", "/hc/c"];
    let mut pages = Vec::new();
    for place in places {
        pages.push(jar.get(&format!("{SSO}?return_to={}", place.replace('/', "%2F"))).await);
    }
    let mut arrived = Vec::new();
    let mut second = Vec::new();
    for page in &pages {
        let refused = handed_on(&stage, page).await;
        let once_more = jar.get(own(&refused)).await;
        assert_eq!(once_more.status, 302, "{}", once_more.text());
        second.push(jar.get(once_more.header("location")).await);
    }
    for page in &second {
        let location = handed_on(&stage, page).await;
        arrived.push(
            places.into_iter().find(|place| location.contains(place)).unwrap_or_else(|| panic!("{location}")),
        );
    }
    arrived.sort_unstable();
    assert_eq!(arrived, places, "each place is reached, in one tab or another");
    // And the next sign-in goes straight to the secret that is known to work.
    let page = jar.get(SSO).await;
    assert!(is_signed_with(&page.token().unwrap(), NEW));
}

#[tokio::test]
async fn a_second_sign_in_within_a_minute_is_not_a_loop() {
    let stage = stage().await;
    stage.zendesk.reset_secret(NEW);
    for _ in 0..4 {
        let mut jar = member(&stage);
        for _ in 0..2 {
            let mut page = jar.get(&format!("{SSO}{WANTED}")).await;
            let mut location = handed_on(&stage, &page).await;
            if location.contains("kind=error") {
                let once_more = jar.get(own(&location)).await;
                page = jar.get(once_more.header("location")).await;
                location = handed_on(&stage, &page).await;
            }
            assert!(location.contains("/hc/en-us/requests/42"), "{location}");
        }
    }
}

#[tokio::test]
async fn a_forged_error_causes_a_retry_and_the_sign_in_succeeds() {
    let stage = stage().await;
    let mut jar = jar_with_a_sign_in(&stage).await;
    let forged = jar.get(&format!("{SSO}/signed-out?kind=error&message=invalid+signature")).await;
    assert_eq!(forged.status, 302);
    // Now it is the next one's turn, which Zendesk does not have yet.
    let page = jar.get(forged.header("location")).await;
    let refused = handed_on(&stage, &page).await;
    assert!(refused.contains("kind=error"));
    let end = jar.get(own(&refused)).await;
    assert_eq!(end.status, 200, "it says so, and that one can try again");
    let page = jar.get(SSO).await;
    assert!(!handed_on(&stage, &page).await.contains("kind=error"));
}

#[tokio::test]
async fn forged_errors_have_no_effect() {
    let stage = stage().await;
    let forged =
        format!("{SSO}/signed-out?kind=error&message=invalid+signature&return_to=https%3A%2F%2Fevil.example");
    for cookie in [None, Some("-.00000000.aHR0cHM6Ly9ldmlsLmV4YW1wbGUv"), Some("-.x./"), Some("a.b.c.d")] {
        let mut jar = member(&stage);
        // Its name as it is used: from a sign-in of another browser.
        let mut other = member(&stage);
        other.get(SSO).await;
        let name = other.header().split("; ").find_map(|pair| {
            let (name, _) = pair.split_once('=')?;
            name.starts_with("__Host-imis-gateway-signed").then(|| name.to_owned())
        });
        if let Some(value) = cookie {
            jar = jar.with(&format!("{}={value}", name.unwrap()));
        }
        let reply = jar.get(&forged).await;
        assert!(!reply.header("location").contains("evil"), "{cookie:?}: {}", reply.header("location"));
        assert!(!reply.text().contains("evil.example"), "{cookie:?}");
        if reply.status == 302 {
            assert!(reply.header("location").starts_with(SSO));
        }
        let page = member(&stage).get(SSO).await;
        assert!(is_signed_with(&page.token().unwrap(), &stage.secret), "others get what they got");
    }
    let other_error = jar_with_a_sign_in(&stage)
        .await
        .get(&format!("{SSO}/signed-out?kind=error&message=jti+reused"))
        .await;
    assert_eq!(other_error.status, 200, "only a signature is a matter of secrets");
}

async fn jar_with_a_sign_in(stage: &Stage) -> Jar {
    let mut jar = member(stage);
    assert!(jar.get(SSO).await.token().is_some());
    jar
}

#[tokio::test]
async fn only_fingerprints_are_shown() {
    let stage = stage().await;
    jar_with_a_sign_in(&stage).await;
    let mut all = stage.gateway.metrics().await;
    for command in
        [&["check"][..], &["check", "--format", "json"], &["status"], &["status", "--format", "json"]]
    {
        let (code, said) = stage.run(command, "").await;
        assert_eq!(code, 0, "{said}");
        all += &said;
    }
    all += &stage.gateway.log();
    for secret in [NEW, stage.secret.as_str()] {
        for part in [&secret[..8], &secret[secret.len() - 8..]] {
            assert!(!all.contains(part), "{part}");
        }
    }
    let (_, status) = stage.run(&["status", "--format", "json"], "").await;
    let status: Value = serde_json::from_str(&status).unwrap();
    let secrets = status["sites"][0]["apps"][0]["secrets"].as_array().unwrap();
    let names: Vec<&str> = secrets.iter().map(|secret| secret["secret"].as_str().unwrap()).collect();
    assert_eq!(names, ["shared_secret.current", "shared_secret.next"]);
    for secret in secrets {
        let print = secret["fingerprint"].as_str().unwrap();
        assert!(print.len() == 8 && all.matches(print).count() >= 4, "{print}");
        assert!(secret["age_seconds"].as_u64().unwrap() < 300);
    }
    let file = std::fs::File::options().write(true).open(stage.folder().join("zendesk-jwt")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000)).unwrap();
    change(&stage, "version: 1\n", "version: 1\n# once more\n").await;
    let metrics = stage.gateway.metrics().await;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("imis_gateway_secret_age_seconds") && line.contains("current"));
    let age: u64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    // Since November 2023.
    assert!(age > 90_000_000, "{age}");
}

#[tokio::test]
async fn check_refuses_two_identical_secrets() {
    let stage = stage().await;
    std::fs::write(stage.folder().join("zendesk-next"), format!("{}\n", stage.secret)).unwrap();
    let (code, said) = stage.run(&["check"], "").await;
    assert_eq!(code, 78);
    assert!(said.contains("shared_secret.next: it is the same as `current`"), "{said}");
    stage.edit("current: {file: zendesk-jwt}, ", "");
    let (code, said) = stage.run(&["check"], "").await;
    assert_eq!(code, 78);
    assert!(said.contains("shared_secret.current: required, but missing"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_in_a_real_browser_does_not_notice() {
    let stage = Stage::with(Setup::new(Generation::Ems)).await;
    std::fs::write(stage.folder().join("zendesk-next"), NEW).unwrap();
    change(&stage, ONE, BOTH).await;
    let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
    stage.zendesk.reset_secret(NEW);
    browser.go(&format!("{ZENDESK}/hc/en-us/requests/42")).await;
    browser.sign_in("AMUELLER", PASSWORD).await;
    assert_eq!(browser.text_of("#who").await, "Ann Müller");
    assert_eq!(browser.url().await, format!("{ZENDESK}/hc/en-us/requests/42"));
    assert_eq!(stage.zendesk.posted_tokens().len(), 2);
}
