//! Single logout: signing out of iMIS or Zendesk leads to signing out of the other if an app is configured so. It never
//! loops and never follows a script.

use http::Method;
use imis_gateway_simulators::imis::Generation;

use crate::support::cookie_jar::Jar;
use crate::support::origin::Proxy;
use crate::support::{Reply, SSO, Setup, Stage, ZENDESK};
use crate::upstreams::{Two, two};

const OUT: &str = "/AsiCommon/Controls/Shared/FormsAuthentication/logout.aspx";
const STATE: &str = "__Host-imis-gateway-sign-out";

async fn stage(single_logout: &str) -> Stage {
    let app = "path: /sso/zendesk\n";
    let setup =
        Setup::new(Generation::Ems).edit(app, &format!("{app}        single_logout: {single_logout}\n"));
    Stage::with(setup).await
}

fn browser(stage: &Stage) -> Jar {
    Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"))
}

#[tokio::test]
async fn a_sign_out_of_imis_leads_through_zendesk_and_on_to_where_imis_wanted() {
    let stage = stage("{from_imis: true}").await;
    for (query, home) in [
        ("", "https://members.example.org/"),
        ("?returnurl=%2FSignedOut%3Fa%3Db", "https://members.example.org/SignedOut?a=b"),
        (
            "?returnurl=bye.aspx",
            "https://members.example.org/AsiCommon/Controls/Shared/FormsAuthentication/bye.aspx",
        ),
    ] {
        let mut jar = browser(&stage);
        let reply = jar.get(&format!("{OUT}{query}")).await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("location")),
            (302, &*format!("{ZENDESK}/access/logout"))
        );
        assert_eq!(jar.names("login"), 0, "iMIS has signed out already");
        assert_eq!(jar.names(STATE), 1);
        let reply = jar.get(&format!("{SSO}/signed-out?brand_id=1&email=a%40b.c&external_id=104019")).await;
        assert_eq!((reply.status.as_u16(), reply.header("location")), (302, home));
        assert_eq!(jar.names(STATE), 0);
        let reply = jar.get(&format!("{SSO}/signed-out")).await;
        assert_eq!(reply.status, 200, "once");
    }
}

#[tokio::test]
async fn head_of_the_remote_logout_url_changes_nothing() {
    let stage = stage("{from_imis: true, from_zendesk: sign_out}").await;
    let mut jar = browser(&stage);
    jar.get(OUT).await;
    let client = stage.client();
    for query in ["?external_id=104019", "?kind=error&message=JWT%20signature%20invalid"] {
        let target = format!("{SSO}/signed-out{query}");
        let cookies = jar.header();
        let reply = client.send(Method::HEAD, &target, &[("cookie", &cookies)], bytes::Bytes::new()).await;
        assert_eq!(reply.status, 200, "{query}");
    }
    let metrics = stage.gateway.metrics().await;
    let none = "imis_gateway_zendesk_refusals_total{app=\"Contoso Helpdesk\",kind=\"signature\"} 0";
    assert!(metrics.contains(none), "{metrics}");
    // The state parameter of the sign-out is still valid.
    let reply = jar.get(&format!("{SSO}/signed-out?external_id=104019")).await;
    assert_eq!((reply.status.as_u16(), reply.header("location")), (302, "https://members.example.org/"));
}

#[tokio::test]
async fn only_a_top_level_sign_out_is_redirected() {
    let stage = stage("{from_imis: true}").await;
    let cookie = stage.cookie_of("AMUELLER");
    let navigation = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    let own = |headers: &[(&'static str, &'static str)], cookie: &str, method: Method| {
        let (client, cookie) = (stage.client(), cookie.to_owned());
        let headers = headers.to_vec();
        async move {
            let mut all = vec![("cookie", cookie.as_str())];
            all.extend(headers);
            let reply = client.send(method, OUT, &all, "").await;
            (
                reply.status.as_u16(),
                reply.header("location").to_owned(),
                reply.headers.get_all("set-cookie").iter().count(),
            )
        }
    };
    let unchanged = (302, "/".to_owned(), 1);
    for (headers, cookie, method) in [
        (&[("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")][..], cookie.as_str(), Method::GET),
        (&[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], &cookie, Method::GET),
        (&[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")], &cookie, Method::GET),
        (&[], &cookie, Method::GET),
        (&navigation, &cookie, Method::POST),
        (&navigation, "a=b", Method::GET),
    ] {
        assert_eq!(own(headers, cookie, method.clone()).await, unchanged, "{headers:?} {cookie} {method}");
    }
    // A page that is no sign-out keeps its redirect.
    let mut jar = browser(&stage);
    let reply = jar.get("/missing.aspx").await;
    assert!(reply.header("location").contains("404.aspx"));
    let (status, location, cookies) = own(&navigation, &cookie, Method::GET).await;
    assert_eq!((status, location, cookies), (302, format!("{ZENDESK}/access/logout"), 2));
    // And over HTTP/2.
    let cookie = stage.cookie_of("AMUELLER");
    let headers = [&navigation[..], &[("cookie", cookie.as_str())]].concat();
    let reply = stage.client().send_h2(Method::GET, OUT, &headers, "").await;
    assert_eq!(reply.header("location"), format!("{ZENDESK}/access/logout"));
    assert_eq!(reply.headers.get_all("location").iter().count(), 1);
    assert_eq!(reply.headers.get_all("set-cookie").iter().count(), 2);
}

#[tokio::test]
async fn by_default_a_sign_out_of_imis_passes_unchanged() {
    let stage = Stage::new().await;
    let mut jar = browser(&stage);
    let reply = jar.get(OUT).await;
    assert_eq!((reply.status.as_u16(), reply.header("location")), (302, "/"));
    assert_eq!(jar.names(STATE), 0);
}

#[tokio::test]
async fn a_forged_state_cookie_does_not_redirect() {
    let stage = stage("{from_imis: true}").await;
    for value in ["", "x", "aHR0cHM6Ly9ldmlsLmV4YW1wbGUv.AAAA"] {
        let headers = [
            ("cookie", &*format!("{STATE}={value}")),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        let reply = stage.client().get(&format!("{SSO}/signed-out"), &headers).await;
        assert_eq!((reply.status.as_u16(), reply.header("location")), (200, ""));
    }
    // An error of Zendesk is shown, whatever is on its way.
    let mut jar = browser(&stage);
    jar.get(OUT).await;
    let reply = jar.get(&format!("{SSO}/signed-out?kind=error&message=x")).await;
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("could not sign you in"));
}

#[tokio::test]
async fn several_accounts_are_signed_out_one_after_the_other() {
    let app = "    apps:\n";
    let more = "    apps:\n      - name: Staff Desk\n        path: /sso/staff\n        single_logout: {from_imis: true}\n        \
                zendesk: {subdomain: contoso-staff, shared_secret: {file: zendesk-jwt}}\n      - name: Quiet Desk\n        \
                path: /sso/quiet\n        zendesk: {subdomain: contoso-quiet, shared_secret: {file: zendesk-jwt}}\n";
    let path = "path: /sso/zendesk\n";
    let setup = Setup::new(Generation::Ems)
        .edit(app, more)
        .edit(path, &format!("{path}        single_logout: {{from_imis: true}}\n"));
    let stage = Stage::with(setup).await;
    let mut jar = browser(&stage);
    let reply = jar.get(OUT).await;
    assert_eq!(reply.header("location"), "https://contoso-staff.zendesk.com/access/logout");
    let reply = jar.get("/sso/staff/signed-out").await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("location")),
        (302, &*format!("{ZENDESK}/access/logout"))
    );
    let reply = jar.get(&format!("{SSO}/signed-out")).await;
    assert_eq!(reply.header("location"), "https://members.example.org/");
    assert_eq!(jar.names(STATE), 0);
}

#[tokio::test]
async fn a_sign_out_of_zendesk_offers_or_does_that_of_imis() {
    let ann = "?brand_id=1&email=ann%40example.org&external_id=104019";
    let off = Stage::new().await;
    let reply = browser(&off).get(&format!("{SSO}/signed-out{ann}")).await;
    assert_eq!(reply.status, 200);
    assert!(!reply.text().contains("logout.aspx"), "{}", reply.text());
    assert_eq!(off.imis.requests().len(), 0);

    let offers = stage("{from_zendesk: offer}").await;
    let reply = browser(&offers).get(&format!("{SSO}/signed-out{ann}")).await;
    assert!(
        reply.text().contains(&format!("<a href=\"{OUT}\" class=\"button\">Sign out of this site, too</a>")),
        "{}",
        reply.text()
    );
    crate::sign_in::assert_strict_page(&reply);
    let reply = Jar::new(offers.client()).get(&format!("{SSO}/signed-out{ann}")).await;
    assert!(!reply.text().contains("logout.aspx"), "nobody is signed in");
    assert_eq!(offers.imis.requests().len(), 0, "nothing is asked and nothing is done");

    let does = stage("{from_zendesk: sign_out}").await;
    let mut jar = browser(&does);
    // Whoever does not know whose browser it is gets nothing done.
    for other in
        ["", "?external_id=", "?external_id=104020", "?email=ann%40example.org", "?external_id=104019x"]
    {
        let reply = jar.get(&format!("{SSO}/signed-out{other}")).await;
        assert_eq!(reply.status, 200, "{other}");
        assert!(reply.text().contains("Sign out of this site, too"), "{other}");
    }
    for headers in [
        [("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
        [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
    ] {
        let cookie = jar.header();
        let headers = [&headers[..], &[("cookie", cookie.as_str())]].concat();
        assert_eq!(does.client().get(&format!("{SSO}/signed-out{ann}"), &headers).await.status, 200);
    }
    let reply = jar.get(&format!("{SSO}/signed-out{ann}")).await;
    assert_eq!((reply.status.as_u16(), reply.header("location")), (302, OUT));
}

/// Both ways at once end, and end at home.
#[tokio::test]
async fn single_logout_in_both_directions_ends() {
    let stage = stage("{from_imis: true, from_zendesk: sign_out}").await;
    let mut jar = browser(&stage);
    let mut at = format!("{SSO}/signed-out?external_id=104019");
    let mut way = Vec::new();
    for _ in 0..8 {
        let reply = jar.get(&at).await;
        let to = reply.header("location").to_owned();
        way.push(to.clone());
        at = match to.as_str() {
            "" => break,
            // Zendesk has signed out long since, and says so again.
            zendesk if zendesk.starts_with(ZENDESK) => format!("{SSO}/signed-out?external_id=104019"),
            own => own.trim_start_matches("https://members.example.org").to_owned(),
        };
    }
    assert_eq!(way, [OUT, &format!("{ZENDESK}/access/logout"), "https://members.example.org/", ""]);
}

/// A sign-out by another site's link, given up half way, and a later one.
#[tokio::test]
async fn a_crafted_sign_out_does_not_redirect_a_later_one() {
    let app = "path: /sso/zendesk\n";
    let setup =
        Setup::new(Generation::Ems).edit(app, &format!("{app}        single_logout: {{from_imis: true}}\n"));
    let stage = Stage::with(setup).await;
    let mut jar = Jar::new(stage.client()).with(&stage.cookie_of("AMUELLER"));
    // Opened by another site's window, which closes it before Zendesk has answered.
    let reply = jar.get(&format!("{OUT}?returnurl=https%3A%2F%2Fevil.example%2Fzendesk-login")).await;
    assert!(reply.header("location").contains("zendesk.com/access/logout"));
    // The member comes back, works, and signs out of Zendesk.
    let mut jar = jar.with(&stage.cookie_of("AMUELLER"));
    assert!(jar.get(SSO).await.token().is_some());
    let reply = jar.get(&format!("{SSO}/signed-out?brand_id=1&external_id=104019")).await;
    assert_ne!(
        reply.header("location"),
        "https://evil.example/zendesk-login",
        "led to another site by a sign-out of Zendesk"
    );
}

/// Two servers behind a site with an app and single logout.
async fn two_with_single_logout(upstream_keys: &str) -> Two {
    let servers = two(upstream_keys).await;
    let timeouts = "idle: 60s}\n";
    let app = format!(
        "{timeouts}    imis:
      session_cookies: [Login]
      recognise: {{method: client_context, page: /imis-gateway-probe}}
      service_account: {{username: svc-gateway, password: {{file: any-secret}}}}
    apps:
      - name: Contoso Helpdesk
        path: {SSO}
        single_logout: {{from_imis: true}}
        zendesk: {{subdomain: contoso, shared_secret: {{file: any-secret}}}}
"
    );
    servers.proxy.reload(timeouts, &app).await;
    servers
}

/// A GET over either protocol, as of a top-level navigation.
async fn navigate(proxy: &Proxy, h2: bool, target: &str, cookie: &str) -> Reply {
    let headers = [("cookie", cookie), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    match h2 {
        false => proxy.client.get(target, &headers).await,
        true => proxy.client.send_h2(Method::GET, target, &headers, "").await,
    }
}

fn assert_leads_to_zendesk(reply: &Reply, h2: bool) {
    let locations: Vec<_> =
        reply.headers.get_all("location").iter().map(|location| location.to_str().unwrap()).collect();
    assert_eq!(
        (reply.status.as_u16(), locations),
        (302, vec![format!("{ZENDESK}/access/logout").as_str()]),
        "h2 {h2}"
    );
}

fn cookies_set(reply: &Reply) -> Vec<&str> {
    let lines = reply.headers.get_all("set-cookie").iter();
    lines.map(|line| line.to_str().unwrap().split(';').next().unwrap()).collect()
}

#[tokio::test]
async fn a_sign_out_sets_the_state_cookie_and_then_the_affinity_cookie() {
    let servers = two_with_single_logout("      balance: least_requests\n      affinity: cookie\n").await;
    for h2 in [false, true] {
        let reply = navigate(&servers.proxy, h2, OUT, "Login=of-a-session").await;
        assert_leads_to_zendesk(&reply, h2);
        let names: Vec<_> =
            cookies_set(&reply).iter().map(|cookie| cookie.split('=').next().unwrap()).collect();
        assert_eq!(names, ["Login", STATE, "__Host-imis-gateway-server"], "h2 {h2}");
    }
}

#[tokio::test]
async fn learned_affinity_does_not_learn_from_the_state_cookie_of_a_sign_out() {
    let keys = format!("      balance: least_requests\n      affinity: [ARRAffinity, {STATE}]\n");
    let servers = two_with_single_logout(&keys).await;
    let proxy = &servers.proxy;
    for h2 in [false, true] {
        // A session on one of the servers, by a cookie of iMIS.
        let server = navigate(proxy, h2, "/set", "a=b").await.text();
        let session = format!("ARRAffinity=of-{server}");
        for _ in 0..10 {
            assert_eq!(navigate(proxy, h2, "/", &session).await.text(), server, "learned, h2 {h2}");
        }
        let reply = navigate(proxy, h2, OUT, &format!("{session}; Login=of-a-session")).await;
        assert_leads_to_zendesk(&reply, h2);
        let set = cookies_set(&reply);
        assert_eq!(set.len(), 2, "{set:?}");
        let state = set[1];
        assert!(state.starts_with(STATE), "{set:?}");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 {
            seen.insert(navigate(proxy, h2, "/", state).await.text());
        }
        assert_eq!(seen.len(), 2, "the state cookie says nothing about the server, h2 {h2}");
    }
}
