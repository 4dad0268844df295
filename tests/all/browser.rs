//! The journeys of members in a real browser.

use imis_gateway_simulators::imis::people::PASSWORD;
use imis_gateway_simulators::imis::{ApiFault, Faults, Generation, SignInForm, SsoPage};
use imis_gateway_simulators::zendesk::Faults as ZendeskFaults;

use crate::support::chromium::{Browser, Scripts};
use crate::support::gateway::TIMEOUT;
use crate::support::{MAPPED, SITE, Setup, Stage, ZENDESK};

const WANTED: &str = "/hc/en-us/requests/42?page=2&filter=a%20b";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_out_member_ends_on_the_page_asked_for_first() {
    for generation in [Generation::Ems, Generation::Imis2017] {
        let stage = Stage::with(Setup::new(generation)).await;
        let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
        browser.go(&format!("{ZENDESK}{WANTED}")).await;
        assert!(
            browser.url().await.starts_with(&format!("https://{SITE}{}AsiCommon/", stage.imis.base_path()))
        );
        browser.sign_in("AMUELLER", PASSWORD).await;
        assert_eq!(browser.text_of("#who").await, "Ann Müller");
        assert_eq!(browser.url().await, format!("{ZENDESK}{WANTED}"));
        assert_eq!(stage.zendesk.posted_tokens().len(), 1);
        let asked = stage.zendesk.arrivals();
        assert!(!asked.iter().any(|arrival| arrival.contains("jwt=")), "a token is never in a URL");
    }
}

/// The widget posts several times, and a directory posts back from another site: the page asked for survives both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sign_in_widget_leads_to_the_page_asked_for() {
    for form in [SignInForm::EmailFirst, SignInForm::Directory] {
        let mut setup = Setup::new(Generation::Ems);
        setup.imis.sign_in_form = form;
        let stage = Stage::with(setup).await;
        let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
        browser.go(&format!("{ZENDESK}{WANTED}")).await;
        browser.type_into("#OpenIdUserName", "AMUELLER").await;
        browser.click("#OpenIdSubmitButton").await;
        if form == SignInForm::EmailFirst {
            browser.click("#ImisPasswordButton").await;
            browser.type_into("#OpenIdPassword", PASSWORD).await;
            browser.click("#ReservedUserSubmitButton").await;
        }
        assert_eq!(browser.text_of("#email").await, "ann.mueller@example.org", "{form:?}");
        assert_eq!(browser.url().await, format!("{ZENDESK}{WANTED}"), "{form:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_in_member_reaches_every_brand_without_a_click() {
    let stage = Stage::new().await;
    let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
    browser.go(&format!("https://{SITE}/SignIn")).await;
    browser.sign_in("boconnor", PASSWORD).await;
    assert!(browser.text_of("#who").await.starts_with("Bob"));
    // The host-mapped brand first: after the form there is a redirect to another host, which the policy must allow.
    for origin in [MAPPED, "https://contoso-events.zendesk.com", ZENDESK] {
        browser.go(&format!("{origin}{WANTED}")).await;
        assert_eq!(browser.text_of("#who").await, "Bob \"Bobby\" O'Connor <Jr.>");
        assert_eq!(browser.url().await, format!("{origin}{WANTED}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_back_does_not_post_again() {
    let stage = Stage::new().await;
    let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
    browser.go(&format!("https://{SITE}/SignIn")).await;
    browser.sign_in("AMUELLER", PASSWORD).await;
    browser.text_of("#who").await;
    browser.go(&format!("https://{SITE}/sso/zendesk?return_to=%2Fhc%2Fen-us")).await;
    browser.text_of("#email").await;
    assert_eq!(stage.zendesk.posted_tokens().len(), 1);
    // The page gave its place in the history away; coming back leads to the one before it.
    browser.page.back().await.unwrap();
    assert_eq!(browser.text_of("#who").await, "Ann Müller");
    assert!(browser.url().await.starts_with(&format!("https://{SITE}/")));
    assert_eq!(stage.zendesk.posted_tokens().len(), 1);
}

/// The page stays in the history when its post has not led anywhere yet: here the connection to Zendesk is dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_back_to_the_hand_off_page_shows_a_link_and_posts_nothing() {
    let stage = Stage::new().await;
    let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
    browser.go(&format!("https://{SITE}/SignIn")).await;
    browser.sign_in("AMUELLER", PASSWORD).await;
    browser.text_of("#who").await;
    stage.zendesk.set_faults(ZendeskFaults { jwt_status: Some(204), ..ZendeskFaults::default() });
    browser.go(&format!("https://{SITE}/sso/zendesk?return_to=%2Fhc%2Fen-us")).await;
    // 204: the browser stays where it is.
    browser.text_of("#hand-off").await;
    let end = std::time::Instant::now() + TIMEOUT;
    while jwt_posts(&stage) == 0 {
        assert!(std::time::Instant::now() < end, "the page has not posted");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    stage.zendesk.set_faults(ZendeskFaults::default());
    browser.go(&format!("https://{SITE}/Default.aspx")).await;
    browser.text_of("#who").await;
    let posted = jwt_posts(&stage);
    assert_eq!(posted, 1);
    browser.page.back().await.unwrap();
    assert_eq!(browser.text_of("#again a").await, "Continue to Contoso Helpdesk");
    assert!(!browser.has("#hand-off").await, "the form with the token is gone");
    assert_eq!(jwt_posts(&stage), posted);
    browser.click("#again a").await;
    assert_eq!(browser.text_of("#who").await, "Ann Müller", "the link asks for a new token");
    assert_eq!(browser.url().await, format!("{ZENDESK}/hc/en-us"));
}

fn jwt_posts(stage: &Stage) -> usize {
    stage.zendesk.arrivals().iter().filter(|arrival| arrival.contains("/access/jwt")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_scripts_off_a_visible_focused_button_does_it() {
    let stage = Stage::new().await;
    let Some(browser) = Browser::open(&stage, Scripts::Off).await else { return };
    browser.go(&format!("{ZENDESK}{WANTED}")).await;
    browser.sign_in("AMUELLER", PASSWORD).await;
    assert_eq!(browser.text_of("button").await, "Continue to Contoso Helpdesk");
    assert_eq!(stage.zendesk.posted_tokens().len(), 0, "nothing happened by itself");
    let button = browser.page.find(fantoccini::Locator::Css("button")).await.unwrap();
    assert!(button.is_displayed().await.unwrap());
    let focused = browser.page.active_element().await.unwrap();
    assert_eq!(focused.text().await.unwrap(), "Continue to Contoso Helpdesk");
    screenshot(&browser, "hand-off").await;
    focused.send_keys("\u{e007}").await.unwrap();
    assert_eq!(browser.text_of("#who").await, "Ann Müller");
    assert_eq!(browser.url().await, format!("{ZENDESK}{WANTED}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_zendesk_is_shown_and_the_member_stays_signed_in() {
    let stage = Stage::new().await;
    let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
    stage.zendesk.reset_secret("another-secret-that-the-gateway-does-not-know");
    browser.go(&format!("{ZENDESK}{WANTED}")).await;
    browser.sign_in("AMUELLER", PASSWORD).await;
    // The redirect to the error page is part of the chain after the form, so the policy must allow our own origin.
    assert_eq!(browser.text_of("h1").await, "Contoso Helpdesk could not sign you in");
    assert!(browser.url().await.starts_with(&format!("https://{SITE}/sso/zendesk/signed-out?kind=error")));
    screenshot(&browser, "zendesk-error").await;
    stage.zendesk.reset_secret(&stage.secret);
    browser.click("a.button").await;
    assert_eq!(browser.text_of("#who").await, "Ann Müller", "trying again needs no second sign-in to iMIS");
    assert_eq!(browser.url().await, format!("{ZENDESK}{WANTED}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deep_link_survives_an_outage_of_the_api() {
    let stage = Stage::new().await;
    let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
    stage.imis.set_faults(Faults { api: ApiFault::Status(500), ..Faults::default() });
    browser.go(&format!("{ZENDESK}{WANTED}")).await;
    browser.sign_in("AMUELLER", PASSWORD).await;
    assert_eq!(browser.text_of("h1").await, "We cannot sign you in right now");
    screenshot(&browser, "unavailable").await;
    stage.imis.set_faults(Faults::default());
    browser.click("a.button").await;
    assert_eq!(browser.text_of("#who").await, "Ann Müller");
    assert_eq!(browser.url().await, format!("{ZENDESK}{WANTED}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_who_is_refused_can_change_the_account() {
    let stage = Stage::new().await;
    let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
    browser.go(&format!("{ZENDESK}{WANTED}")).await;
    browser.sign_in("contoso", PASSWORD).await;
    assert_eq!(browser.text_of("h1").await, "This account belongs to an organization");
    screenshot(&browser, "refused").await;
    browser
        .page
        .find(fantoccini::Locator::LinkText("Sign out, to use another account"))
        .await
        .unwrap()
        .click()
        .await
        .unwrap();
    browser.sign_in("AMUELLER", PASSWORD).await;
    assert_eq!(browser.text_of("#who").await, "Ann Müller");
    assert_eq!(browser.url().await, format!("{ZENDESK}{WANTED}"), "the page asked for first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_or_a_script_on_another_site_gets_no_token() {
    let stage = Stage::new().await;
    let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
    browser.go(&format!("https://{SITE}/SignIn")).await;
    browser.sign_in("AMUELLER", PASSWORD).await;
    browser.text_of("#who").await;
    let script =
        "const done = arguments[0]; fetch('/sso/zendesk').then(async r => done([r.status, await r.text()]));";
    let answer = browser.page.execute_async(script, Vec::new()).await.unwrap();
    assert_eq!(answer[0], 403);
    assert!(!answer[1].as_str().unwrap().contains("name=\"jwt\""));
    let frame = "const f = document.createElement('iframe'); f.src = '/sso/zendesk?brand_id=7'; document.body.append(f);";
    browser.page.execute(frame, Vec::new()).await.unwrap();
    // Both reached the gateway, and both were refused.
    stage.gateway.logged_times(2, |line| line["path"] == "/sso/zendesk" && line["status"] == 403).await;
    assert!(!stage.gateway.log().contains("\"signed in\""));
    assert_eq!(stage.zendesk.posted_tokens().len(), 0);
}

/// Keeps a picture of the window below `target/`, for people to look at.
async fn screenshot(browser: &Browser, name: &str) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{name}.png")), browser.page.screenshot().await.unwrap()).unwrap();
}

/// Places that somebody could want a member to be sent to: ways to write them, around hosts of the account and of
/// others.
fn targets() -> Vec<String> {
    let hosts = [
        "evil.example",
        "contoso.zendesk.com",
        "support.contoso.org",
        "contoso.zendesk.com.evil.example",
        "contoso.zendesk.com@evil.example",
        "evil.example#contoso.zendesk.com",
        "evil.example\\@contoso.zendesk.com",
        "contoso.zendesk.com:443@evil.example",
        "contoso.zendesk.com%2eevil.example",
        "evil.example%00.contoso.zendesk.com",
        "contoso。zendesk。com",
        "ⓒontoso.zendesk.com",
        "contoso.zendesk.com\u{ad}",
        "2130706433",
        "[::1]",
        "other.zendesk.com",
    ];
    let ways = [
        "https://",
        "HTTPS://",
        "http://",
        "https:/",
        "https:",
        "https:///",
        "https:\\\\",
        "https:\t//",
        "\thttps://",
        "ht\ntps://",
        "//",
        "///",
        "/\\",
        "\\\\",
        "/\t/",
        "/\r\n/",
        "/%2f",
        "/%5c",
        "/%09/",
        "/.//",
        "/..//",
        "/./\\",
        "/hc/..//",
        "/%2e%2e//",
        "/;@",
        "/:@",
        "@",
        ".",
        "javascript://",
        "javascript:alert(1)//",
        "data:text/html,",
        "/redirect?to=//",
        "/hc?x=https://",
        "/hc#//",
        "//%2f",
        "/\u{2215}",
        "/\u{ff0f}",
        "/https://",
        "ftp://",
        "blob:https://",
        "view-source:https://",
        "//google.com/%2f..",
        "/\u{0}/",
        "x:",
        "https://evil.example/https://",
    ];
    let both = ways.iter().flat_map(|way| hosts.iter().map(move |host| format!("{way}{host}/hc")));
    both.chain(hosts.iter().map(|host| (*host).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_return_to_leads_to_the_account_by_the_rules_of_browsers() {
    let stage = Stage::new().await;
    let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
    let (cookie, client) = (stage.cookie_of("AMUELLER"), stage.client());
    let mut taken = Vec::new();
    let targets = targets();
    for target in &targets {
        let query: String =
            url::form_urlencoded::Serializer::new(String::new()).append_pair("return_to", target).finish();
        let reply = client.get(&format!("/sso/zendesk?{query}"), &[("cookie", &cookie)]).await;
        assert!(reply.token().is_some(), "{target}: the sign-in itself goes on");
        if let Some(taken_as) = reply.field("return_to") {
            taken.push((target.clone(), taken_as));
        }
    }
    browser.go(&format!("{ZENDESK}/hc")).await;
    let script = "return arguments[0].map(text => { try { return new URL(text, arguments[1]).origin } catch { return 'none' } })";
    let allowed = [ZENDESK, MAPPED, "https://contoso-events.zendesk.com"];
    // Both as it was written and as it is handed on.
    for texts in
        [taken.iter().map(|(text, _)| text).collect::<Vec<_>>(), taken.iter().map(|(_, text)| text).collect()]
    {
        let arguments = vec![serde_json::json!(texts), serde_json::json!(ZENDESK)];
        let origins = browser.page.execute(script, arguments).await.unwrap();
        for (text, origin) in texts.iter().zip(origins.as_array().unwrap()) {
            assert!(allowed.contains(&origin.as_str().unwrap()), "{text:?} leads to {origin}");
        }
    }
    assert!((4..60).contains(&taken.len()), "{taken:?}");
    // The list is worth something: the browser would go elsewhere for most of it.
    let arguments = vec![serde_json::json!(targets), serde_json::json!(ZENDESK)];
    let origins = browser.page.execute(script, arguments).await.unwrap();
    let elsewhere =
        origins.as_array().unwrap().iter().filter(|origin| !allowed.contains(&origin.as_str().unwrap()));
    assert!(elsewhere.count() > 250);
}

/// iMIS's own Single Sign-On page posts by itself, in a browser that holds cookies as browsers do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_single_sign_on_page_of_imis_leads_to_the_page_asked_for() {
    for (generation, markup) in [
        (Generation::Ems, SsoPage::Onload),
        (Generation::Ems, SsoPage::UpperCase),
        (Generation::Ems, SsoPage::InsidePage),
        (Generation::Imis2017, SsoPage::Script),
    ] {
        let page = if generation == Generation::Ems { "/SingleSignOn" } else { "/iMIS/SingleSignOn" };
        let mut setup = Setup::new(generation).recognised_by(&format!(
            "{{method: client_application, page: {page}, client_id: zendesk-gateway, client_secret: {{file: client-secret}}}}"
        ));
        setup.imis.sso_page_target = Some("/sso/zendesk/imis".to_owned());
        setup.imis.sso_page = markup;
        let stage = Stage::with(setup).await;
        let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
        browser.go(&format!("{ZENDESK}{WANTED}")).await;
        browser.sign_in("AMUELLER", PASSWORD).await;
        assert_eq!(browser.text_of("#email").await, "ann.mueller@example.org");
        assert_eq!(browser.url().await, format!("{ZENDESK}{WANTED}"));
        // Once more, signed in to iMIS and not to this brand.
        browser.go(&format!("{MAPPED}{WANTED}")).await;
        assert_eq!(browser.text_of("#email").await, "ann.mueller@example.org");
        assert_eq!(browser.url().await, format!("{MAPPED}{WANTED}"));
        let cookies = browser.page.get_all_cookies().await.unwrap();
        assert!(!cookies.iter().any(|cookie| cookie.name().starts_with("__Host-")), "none is left");
    }
}

/// A page of an attacker's posts a token of his own into the browser of a member who is on her way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_of_another_site_does_not_sign_a_member_in() {
    let mut setup = Setup::new(Generation::Ems).recognised_by(
        "{method: client_application, page: /SingleSignOn, client_id: zendesk-gateway, client_secret: {file: client-secret}}",
    );
    // The page does not post by itself, so that the attacker is first.
    setup.imis.sso_page_target = Some("/nowhere".to_owned());
    let stage = Stage::with(setup).await;
    let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
    browser.go(&format!("https://{SITE}/SignIn")).await;
    browser.sign_in("AMUELLER", PASSWORD).await;
    browser.text_of("#who").await;
    browser.go(&format!("https://{SITE}/sso/zendesk")).await;
    let cookies = browser.page.get_all_cookies().await.unwrap();
    assert!(cookies.iter().any(|cookie| cookie.name().starts_with("__Host-imis-gateway-sign-in-")));
    let token = stage.imis.refresh_token("boconnor");
    let form = format!(
        "const f = document.createElement('form'); f.method = 'post'; f.action = 'https://{SITE}/sso/zendesk/imis'; \
         const i = document.createElement('input'); i.name = 'refresh_token'; i.value = '{token}'; f.append(i); \
         document.body.append(f); f.submit();"
    );
    browser.go(&format!("{ZENDESK}/hc/en-us")).await;
    browser.page.execute(&form, Vec::new()).await.unwrap();
    assert_eq!(browser.text_of("h1").await, "This sign-in could not be completed");
    screenshot(&browser, "refused-post").await;
    assert_eq!(stage.zendesk.posted_tokens().len(), 0);
    assert_eq!(stage.imis.tokens_given(), 0, "the token was not even exchanged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_out_of_one_signs_out_of_the_other() {
    let app = "path: /sso/zendesk\n";
    let edit = |from_zendesk: &str| {
        format!("{app}        single_logout: {{from_imis: true, from_zendesk: {from_zendesk}}}\n")
    };
    for from_zendesk in ["offer", "sign_out"] {
        let stage = Stage::with(Setup::new(Generation::Ems).edit(app, &edit(from_zendesk))).await;
        let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
        let sign_in = async || {
            browser.go(&format!("{ZENDESK}{WANTED}")).await;
            browser.sign_in("AMUELLER", PASSWORD).await;
            assert_eq!(browser.text_of("#email").await, "ann.mueller@example.org");
        };
        let nobody_anywhere = async || {
            browser.go(&format!("{ZENDESK}/hc/en-us")).await;
            assert!(browser.text_of("#nobody").await.starts_with("Not signed in"));
            browser.go(&format!("https://{SITE}/")).await;
            assert_eq!(browser.text_of("a").await, "Sign in");
        };
        sign_in().await;
        browser.go(&format!("https://{SITE}/")).await;
        browser.text_of("#who").await;
        browser.click("a").await;
        assert_eq!(browser.text_of("a").await, "Sign in");
        assert_eq!(browser.url().await, format!("https://{SITE}/"), "where iMIS leads whoever signs out");
        nobody_anywhere().await;

        sign_in().await;
        browser.go(&format!("{ZENDESK}/access/logout")).await;
        if from_zendesk == "offer" {
            assert_eq!(browser.text_of("h1").await, "You are signed out of Contoso Helpdesk");
            screenshot(&browser, "signed-out-offer").await;
            browser.click("a.button").await;
        }
        assert_eq!(browser.text_of("a").await, "Sign in");
        nobody_anywhere().await;
    }
}

/// What a page's script sees of the messaging token's address: `200 true` with a token, `204 false` without, or why
/// not.
async fn asked_by_script(browser: &Browser) -> String {
    let script = format!(
        "const done = arguments[0];
         fetch('https://{SITE}/sso/zendesk/messaging-token', {{credentials: 'include'}})
            .then(async answer => done(answer.status + ' ' + (await answer.text()).includes('\"jwt\"')))
            .catch(error => done(error.name));"
    );
    browser.page.execute_async(&script, Vec::new()).await.unwrap().as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_of_the_site_gets_a_messaging_token_and_no_other() {
    let keys = "messaging: {key_id: app_0123456789, secret: {file: messaging-key}}";
    let stage = Stage::with(Setup::new(Generation::Ems).with_app(keys)).await;
    let Some(browser) = Browser::open(&stage, Scripts::On).await else { return };
    browser.go(&format!("https://{SITE}/SignIn")).await;
    assert_eq!(asked_by_script(&browser).await, "204 false");
    browser.sign_in("AMUELLER", PASSWORD).await;
    browser.text_of("#who").await;
    assert_eq!(asked_by_script(&browser).await, "200 true");
    browser.go(&format!("{MAPPED}/hc/en-us")).await;
    assert_eq!(asked_by_script(&browser).await, "TypeError", "another site may not read the answer");
    stage
        .gateway
        .logged(|line| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.contains("did not come from a script of this site"))
        })
        .await;
    // Opened as a page.
    browser.go(&format!("https://{SITE}/sso/zendesk/messaging-token")).await;
    assert!(browser.page.source().await.unwrap().contains("not-same-origin"));
}
