//! `imis-gateway doctor`: what is wrong with recognition is told apart, without a value of anybody's.

use imis_gateway_simulators::imis::{Faults, Generation, PageFault, QueryFault, SsoPage};

use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::origin::{Origin, Proxy};
use crate::support::{Gateway, Setup, Stage, free_address, run};

async fn doctor(stage: &Stage, arguments: &[&str], input: &str) -> (i32, String) {
    stage.run(&[&["doctor"], arguments].concat(), input).await
}

fn failed(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("FAILED")).collect()
}

/// One cause has one line. `check` is what failed, `words` what is said about it.
fn assert_one_failure(what: &str, (code, text): &(i32, String), check: &str, words: &[&str]) {
    let failed = failed(text);
    assert_eq!((*code, failed.len()), (1, 1), "{what}: {text}");
    assert!(failed[0].contains(check), "{what}: {text}");
    for word in words {
        assert!(text.contains(word), "{what}: {word}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_reports_what_works() {
    let stage = Stage::with(Setup::new(Generation::Ems).with_account_here()).await;
    let (code, text) = doctor(&stage, &["--imis-id", "104019"], "").await;
    assert_eq!(code, 0, "{text}");
    for says in [
        "client_context, not signed in: nobody, as expected",
        "iMIS markup in the page: MainBody, aspnetForm",
        "iMIS EMS (20.3 and later)",
        "the service account and Party records: it gets a token, and may read them",
        "iMIS ID 104019 for Contoso Helpdesk: may enter",
        "Zendesk for Contoso Helpdesk, the account: there, with a Help Center",
        "Zendesk for Contoso Helpdesk, the clock: differs from ours by 0 s",
        "Zendesk for Contoso Helpdesk, who has to sign in: is sent to https://members.example.org/sso/zendesk\n",
        "Zendesk for Contoso Helpdesk, API: a token for: read write",
        "only the guard protects those without one",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(text.contains("14 checks, 0 warnings, 0 failed") && !text.contains("warning "), "{text}");
    assert!(!text.contains("association.example"), "no address of anybody's: {text}");
    let value = stage.imis.sign_in("staff");
    for given in [format!("login={value}; a=secret-of-mine"), format!("Cookie: login={value}\r\n")] {
        let (code, text) = doctor(&stage, &["--cookies"], &given).await;
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("with the cookies given: iMIS ID 300001, acting for 104019"), "{text}");
        assert!(!text.contains(&value) && !text.contains("secret-of-mine"), "{text}");
    }
    let (code, text) = doctor(&stage, &["--cookies", "--format", "json"], &format!("login={value}")).await;
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, found["findings"].as_array().unwrap().len()), (0, 14));
    assert!(
        found["findings"].as_array().unwrap().iter().all(|finding| finding["severity"] == "ok"),
        "{text}"
    );
    assert_eq!(stage.imis.renewals(&value), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_cookie_wrong_page_and_firewall_are_told_apart() {
    let stage = Stage::new().await;
    let (code, text) = doctor(&stage, &["--cookies"], "LoginX=1; ASP.NET_SessionId=2").await;
    assert_eq!(code, 1);
    assert!(
        text.contains("seen: cookies: LoginX, ASP.NET_SessionId") && text.contains("try:  session_cookies"),
        "{text}"
    );
    for (fault, says) in [
        (PageFault::Firewall(200), "comes from a firewall"),
        (PageFault::Firewall(403), "403 usually comes from a firewall"),
        (PageFault::Missing, "the path is wrong"),
        (PageFault::ErrorPage, "iMIS itself reports an error"),
        (PageFault::Redirect("https://elsewhere.example/".to_owned()), "it must be public"),
        (PageFault::Typed("application/json", "{}".to_owned()), "choose a RiSE page"),
        (PageFault::Drop, "HTTP response: "),
    ] {
        stage.imis.set_faults(Faults { pages: fault.clone(), ..Faults::default() });
        let (code, text) = doctor(&stage, &[], "").await;
        assert!(code == 1 && text.contains(says), "{fault:?}: {text}");
        assert_eq!(failed(&text).len(), 1, "{fault:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_is_not_filtered_and_a_missing_page_are_found() {
    let setup = Setup::new(Generation::Ems).recognised_by(
        "[{method: whoami_query, page: /imis-gateway-probe, query: $/Gateway/WhoAmI, columns: {id: ID}}, \
          {method: client_application, page: /SingleSignOn, client_id: x, client_secret: {file: client-secret}}]",
    );
    let stage = Stage::with(setup).await;
    let (code, text) = doctor(&stage, &[], "").await;
    assert!(
        code == 1 && text.contains("client_application, not signed in: the recognition page does not exist"),
        "{text}"
    );
    let cookie = stage.cookie_of("AMUELLER");
    let (_, text) = doctor(&stage, &["--cookies"], &cookie).await;
    assert!(text.contains("whoami_query, with the cookies given: iMIS ID 104019"), "{text}");
    assert!(text.contains("columns: Chapter, Email, Full Name, ID, Is Company"), "{text}");
    stage.imis.set_faults(Faults { query: QueryFault::Unfiltered, ..Faults::default() });
    let (_, text) = doctor(&stage, &["--cookies"], &cookie).await;
    assert!(
        text.contains("does not filter by the signed-in person") && text.contains("LoggedIn User Key"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_configuration_is_reported_as_by_check() {
    let stage = Stage::new().await;
    std::fs::write(stage.folder().join("config.yaml"), "version: 2\n").unwrap();
    let (code, text) = doctor(&stage, &[], "").await;
    assert!(code == 78 && text.contains("config.yaml:1:10: version"), "{code} {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_zendesk_would_drop_are_found() {
    let fields = "claims: {user_fields: {membership: profile.status, paid_thru: profile.paid_through, chapter: \"'South'\"}}";
    let stage = Stage::with(Setup::new(Generation::Ems).with_account_here().with_app(fields)).await;
    let (code, text) = doctor(&stage, &[], "").await;
    assert_eq!(code, 1, "{text}");
    for says in [
        "ok       members.example.org: Zendesk for Contoso Helpdesk, staff: ",
        "user field membership: the account has it",
        "FAILED   members.example.org: Zendesk for Contoso Helpdesk, user field paid_thru: the account has no field with this key",
        "user field chapter: a field of type dropdown cannot have the configured value",
        "fields of the account: membership, paid_through, chapter",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(!text.contains("association.example"), "{text}");
    let wrong = Setup::new(Generation::Ems)
        .with_account_here()
        .edit("client_secret: {file: zendesk-api}", "client_secret: {file: imis-password}");
    let stage = Stage::with(wrong).await;
    let (code, text) = doctor(&stage, &[], "").await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("rejected the OAuth client") && text.contains("confidential"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_to_imis_is_walked_step_by_step() {
    let slow_clock = b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: Microsoft-IIS/10.0\r\nX-Powered-By: \x1b[2Jall is well\r\nContent-Length: 0\r\n\r\n";
    let (proxy, _) = Proxy::answering(slow_clock).await;
    let (code, text) = proxy.run(&["doctor"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("warning  members.example.org: server https://127.0.0.1:")
            && text.contains("answered 200"),
        "{text}"
    );
    assert!(
        text.contains("software: Microsoft-IIS/10.0, \\u{1b}[2Jall is well; its clock differs by")
            && !text.contains('\u{1b}')
            && text.contains("set both by NTP"),
        "{text}"
    );

    let own = proxy.authority.certificate_pem();
    let other = Authority::new("another CA");
    for (pem, words) in [(other.certificate_pem(), "TLS handshake: "), (own, "answered 200")] {
        std::fs::write(proxy.folder.path().join("ca.pem"), pem).unwrap();
        let (_, text) = proxy.run(&["doctor"]).await;
        assert!(text.contains(words), "{text}");
    }
    for (server, words) in [
        ("https://127.0.0.1:1", "no connection to port 1: "),
        ("https://no-such-name.invalid", "DNS lookup: "),
    ] {
        let proxy = Proxy::to(Authority::new("test CA"), server, None, "");
        let (code, text) = proxy.run(&["doctor"]).await;
        assert_eq!(code, 1);
        assert!(text.contains("FAILED") && text.contains(words) && text.contains("try: "), "{text}");
    }
    // iMIS 2017 sends whoever asks by plain HTTP back to us.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 2048]).await;
            let answer =
                "HTTP/1.1 302 Found\r\nLocation: https://members.example.org/\r\nContent-Length: 0\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let proxy = Proxy::to(Authority::new("test CA"), &server, None, "");
    let (code, text) = proxy.run(&["doctor"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("this is a redirect loop for visitors: use https"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_distinguishes_missing_closed_and_unconfigured_accounts() {
    let of = |now: bool| if now { now_as_date() } else { "Sun, 06 Nov 1994 08:49:37 GMT".to_owned() };
    let nothing = |_: &str| (404, String::new());
    let no_help_center = |path: &str| (if path.starts_with("/hc") { 404 } else { 200 }, String::new());
    let own_sign_in = |path: &str| match path {
        "/hc/requests" => (302, "/access/unauthenticated?return_to=x".to_owned()),
        "/access/unauthenticated?return_to=x" => (302, "/auth/v3/signin".to_owned()),
        _ => (200, String::new()),
    };
    let elsewhere = |path: &str| match path {
        "/hc/requests" => (302, "https://sso.other.example/login?return_to=https://x/secret".to_owned()),
        _ => (200, String::new()),
    };
    type Answers = fn(&str) -> (u16, String);
    let cases: [(Answers, bool, i32, &[&str]); 5] = [
        (nothing, true, 1, &["there is no account at this subdomain"]),
        (no_help_center, true, 1, &["it has no Help Center", "activate the Help Center"]),
        (
            own_sign_in,
            true,
            0,
            &["is not sent here", "ended at", "/auth/v3/signin with 200", "End user authentication"],
        ),
        (
            elsewhere,
            true,
            0,
            &[
                "is sent to https://sso.other.example/login\n",
                "should be https://members.example.org/sso/zendesk",
            ],
        ),
        (elsewhere, false, 1, &["differs from ours by", "set this machine's clock"]),
    ];
    for (answers, now, expected, says) in cases {
        let date = of(now);
        let authority = Authority::new("Zendesk's CA");
        let account = Origin::start(&authority, move |mut stream| {
            let date = date.clone();
            async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
                let head = String::from_utf8(head).unwrap();
                let (status, location) = answers(head.split(' ').nth(1).unwrap());
                let location = if location.is_empty() { location } else { format!("Location: {location}\r\n") };
                let answer = format!("HTTP/1.1 {status} X\r\nDate: {date}\r\n{location}Content-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        })
        .await;
        let setup = Setup::new(Generation::Ems).edit(
            "          subdomain: contoso\n",
            &format!("          subdomain: contoso\n          url: https://{}\n          api: {{url: ZENDESK_API, ca_file: both.pem, client_id: gateway, client_secret: {{file: zendesk-api}}}}\n", account.address),
        );
        // The account's pages and its API have different servers here.
        let stage = Stage::with_file(setup, "both.pem", &authority.certificate_pem()).await;
        let (code, text) = doctor(&stage, &[], "").await;
        assert_eq!(code, expected, "{text}");
        for says in says {
            assert!(text.contains(says), "{says}: {text}");
        }
        assert!(!text.contains("secret"), "{text}");
    }
    // And from a machine that cannot look.
    let stage = Stage::with(
        Setup::new(Generation::Ems)
            .edit("subdomain: contoso\n", "subdomain: contoso\n          url: https://127.0.0.1:1\n"),
    )
    .await;
    let (code, text) = doctor(&stage, &[], "").await;
    assert!(code == 0 && text.contains("this machine cannot reach it"), "{text}");
}

/// Now, as a `Date` header has it.
fn now_as_date() -> String {
    let shown = std::process::Command::new("date")
        .args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"])
        .env("LC_ALL", "C")
        .output();
    String::from_utf8(shown.unwrap().stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_finds_missing_permissions_and_another_imis_than_configured() {
    let refused = Setup::new(Generation::Ems)
        .with_account_here()
        .edit("password: {file: imis-password}", "password: {file: zendesk-api}");
    let stage = Stage::with(refused).await;
    let (code, text) = doctor(&stage, &["--imis-id", "104019"], "").await;
    assert_eq!(code, 1, "{text}");
    for says in [
        "rejected the service account",
        "may have it changed every 90 days",
        "1 more fails because of this: iMIS ID 104019 for Contoso Helpdesk",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    let stage = Stage::with(Setup::new(Generation::Imis2017).with_account_here()).await;
    let (code, text) = doctor(&stage, &["--imis-id", "999999"], "").await;
    assert!(
        text.contains("iMIS 2017 (20.0 to 20.2)") && text.contains("warning  members.example.org: iMIS ID 999999 for Contoso Helpdesk: iMIS has no contact with this ID"),
        "{text}"
    );
    assert!(code == 0 || text.contains("broken: "), "{text}");
    let file = stage.folder().join("config.yaml");
    let yaml = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, yaml.replace(stage.imis.api_path(), "/")).unwrap();
    let (code, text) = doctor(&stage, &[], "").await;
    assert!(
        code == 1
            && text.contains("this is iMIS 2017, whose API is mostly at")
            && text.contains("api_url does not lead to the API"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_and_the_way_of_a_name_to_here_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test CA");
    authority.issue(&["localhost"]).write(folder.path(), "members").unwrap();
    std::fs::write(folder.path().join("ca.pem"), authority.certificate_pem()).unwrap();
    let (https, http) = (free_address(), free_address());
    let yaml = format!(
        r#"version: 1
listen: {{https: ["{https}"], http: ["{http}"], admin: "127.0.0.1:0", control: control.sock}}
sites:
  - hosts: [localhost, no-such-name.invalid]
    certificate: {{chain: members.pem, key: members.key}}
    upstream: {{servers: ["http://127.0.0.1:9"]}}
"#
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let (_, text) = run(folder.path(), &["doctor"], "").await;
    for says in [
        &format!("ok       this machine: address {https}: in use, and a gateway is running"),
        &format!("process {} on the control socket", gateway.pid()),
        "warning  localhost: public address of localhost: this gateway answers there, but this machine does not trust the certificate",
        "warning  localhost: public address of no-such-name.invalid: DNS lookup: ",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    drop(gateway);
    let other = std::net::TcpListener::bind(https).unwrap();
    let (_, text) = run(folder.path(), &["doctor"], "").await;
    assert!(
        text.contains(&format!("warning  this machine: address {https}: in use, and no gateway answers")),
        "{text}"
    );
    assert!(text.contains(&format!("ok       this machine: address {http}: free")), "{text}");
    drop(other);
    let (_, text) = run(folder.path(), &["doctor"], "").await;
    assert!(
        text.contains(&format!("public address of localhost: no connection to port {}", https.port())),
        "{text}"
    );
}

const COLUMNS: &str = "{id: ID, name: Full Name, email: Email, phone: Mobile Phone, status: Member Status, company: Is Company}";

fn by_query(columns: &str) -> Setup {
    Setup::new(Generation::Ems).recognised_by(&format!(
        "{{method: whoami_query, page: /imis-gateway-probe, query: $/Gateway/WhoAmI, columns: {columns}}}"
    ))
}

fn by_application(posts_to: &str) -> Setup {
    let mut setup = Setup::new(Generation::Ems).recognised_by(
        "[{method: client_context, page: /imis-gateway-probe}, {method: client_application, page: /SingleSignOn, \
         client_id: zendesk-gateway, client_secret: {file: client-secret}}]",
    );
    setup.imis.sso_page_target = Some(posts_to.to_owned());
    setup
}

/// With the Zendesk account here, doctor as a signed-in member and about a member.
async fn diagnosis(setup: Setup) -> (i32, String) {
    let stage = Stage::with(setup.with_account_here()).await;
    let cookie = stage.cookie_of("AMUELLER");
    let (code, text) = doctor(&stage, &["--cookies", "--imis-id", "104019"], &cookie).await;
    assert!(stage.imis.renewals(cookie.split("ogin=").nth(1).unwrap().split(';').next().unwrap()) == 0);
    let reply = stage.sso("", &cookie).await;
    assert!(!reply.header("location").contains("ReturnUrl="), "the member is still signed in: {text}");
    (code, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_set_up_has_no_failure() {
    for (name, setup, words) in [
        ("query", by_query(COLUMNS), "with the cookies given: iMIS ID 104019"),
        ("no service account", by_query(COLUMNS).without_service_account(), "use --cookies"),
        ("context, 2017", Setup::new(Generation::Imis2017), "with the cookies given: iMIS ID 104019"),
        ("application", by_application("/sso/zendesk/imis"), "client_id and client_secret are accepted"),
        (
            "application, URL",
            by_application("https://www.example.org/sso/zendesk/imis"),
            "for a signed-in member",
        ),
    ] {
        let (code, text) = diagnosis(setup).await;
        assert!(code == 0 && text.contains("0 failed") && text.contains(words), "{name}: {text}");
        assert!(!text.contains("the session has ended"), "{name}: {text}");
        for (key, path) in [("base_path", "/"), ("sign_in", "/"), ("sign_out", "/")] {
            assert!(text.contains(&format!("members.example.org: {key} {path}")), "{name}: {key}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_that_reads_only_itself_is_found() {
    let mut setup = Setup::new(Generation::Ems);
    setup.imis.service_account_reads_only = Some("300001".to_owned());
    let said = ["Remote Service and SysAdmin", "1 more fails because of this: iMIS ID 104019"];
    assert_one_failure("roles", &diagnosis(setup).await, "the service account and Party records", &said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_without_a_page_are_found() {
    let edit = |generation, from: &str, to: &str| Setup::new(generation).edit(from, to);
    let of_base = |path: &str| edit(Generation::Imis2017, "base_path: /iMIS/", &format!("base_path: {path}"));
    let ems = |key: &str| {
        edit(Generation::Ems, "      session_cookies:", &format!("      {key}\n      session_cookies:"))
    };
    for (setup, check) in [
        (of_base("/iMISx/"), "base_path /iMISx/"),
        (ems("sign_in: /Typo/SignIn.aspx"), "sign_in /Typo/SignIn.aspx"),
        (ems("sign_out: /no-such-page"), "sign_out /no-such-page"),
        (ems("sign_out: /AsiCommon/Controls/Shared/FormsAuthentication/logoff.aspx"), "sign_out /AsiCommon"),
        (edit(Generation::Ems, "base_path: /\n", "base_path: /iMIS/\n"), "base_path /iMIS/"),
    ] {
        let key = format!("{}: the path", check.split(' ').next().unwrap());
        assert_one_failure(check, &diagnosis(setup).await, check, &["no such page (404)", &key]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_the_query_does_not_have_are_found() {
    let found = diagnosis(by_query(&COLUMNS.replace("email: Email", "email: E-mail"))).await;
    let said = ["the query has no column `E-mail`; it has: Chapter, Email, Full Name, ID", "aliases"];
    assert_one_failure("email", &found, "whoami_query, with the cookies given", &said);
    let found = diagnosis(by_query(&COLUMNS.replace("id: ID", "id: Id"))).await;
    assert_one_failure(
        "id",
        &found,
        "whoami_query, with the cookies given",
        &["no column `Id`", "columns: Chapter"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_application_that_imis_does_not_know_is_found() {
    for (from, to) in [
        ("client_secret: {file: client-secret}", "client_secret: {file: zendesk-jwt}"),
        ("client_id: zendesk-gateway", "client_id: zendesk"),
    ] {
        let found = diagnosis(by_application("/sso/zendesk/imis").edit(from, to)).await;
        let said = ["check client_id and client_secret", "Client applications"];
        assert_one_failure(to, &found, ": client application: ", &said);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_sign_on_page_that_posts_elsewhere_is_found() {
    for markup in [SsoPage::Onload, SsoPage::UpperCase, SsoPage::Script, SsoPage::InsidePage] {
        for target in [
            "/sso/zendesk",
            "https://old.example.org/sso/zendesk/imis",
            "http://members.example.org/sso/zendesk/imis",
        ] {
            let mut setup = by_application(target);
            setup.imis.sso_page = markup;
            let stage = Stage::with(setup).await;
            let found = doctor(&stage, &["--cookies"], &stage.cookie_of("AMUELLER")).await;
            let said = [target, "must be https://members.example.org/sso/zendesk/imis"];
            let check = "client_application, with the cookies given";
            assert_one_failure(&format!("{markup:?} {target}"), &found, check, &said);
        }
        let mut setup = by_application("/sso/zendesk/imis");
        setup.imis.sso_page = markup;
        let stage = Stage::with(setup).await;
        let (code, text) = doctor(&stage, &["--cookies"], &stage.cookie_of("AMUELLER")).await;
        assert_eq!(code, 0, "{markup:?}: {text}");
        let ended = doctor(&stage, &["--cookies"], "Login=ended").await;
        assert!(ended.1.contains("client_application, with the cookies given: nobody"), "{}", ended.1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_cause_has_one_line() {
    let wrong_port = |stage: &Stage| {
        let port = stage.imis.address().port();
        stage.edit(&format!("127.0.0.1:{port}"), "127.0.0.1:1");
    };
    let stage = Stage::with(by_application("/sso/zendesk/imis").with_account_here()).await;
    wrong_port(&stage);
    let cookie = stage.cookie_of("AMUELLER");
    let found = doctor(&stage, &["--cookies", "--imis-id", "104019"], &cookie).await;
    assert_one_failure("port", &found, "server https://127.0.0.1:1", &["11 more fail because of this: "]);
    let password = by_query(COLUMNS).edit("password: {file: imis-password}", "password: {file: zendesk-api}");
    assert_one_failure("password", &diagnosis(password).await, "Party records", &["every 90 days"]);
    let secret = Setup::new(Generation::Ems)
        .with_app("claims: {user_fields: {membership: profile.status}}")
        .with_account_here()
        .edit("client_secret: {file: zendesk-api}", "client_secret: {file: imis-password}");
    let stage = Stage::with(secret).await;
    let found = doctor(&stage, &["--imis-id", "104019"], "").await;
    assert_one_failure("Zendesk", &found, "Zendesk for Contoso Helpdesk, staff", &["2 more fail"]);
    let page = "[{method: client_context, page: /typo.aspx}, {method: whoami_query, page: /typo.aspx, \
        query: $/Gateway/WhoAmI, columns: {id: ID}}]";
    let stage = Stage::with(Setup::new(Generation::Ems).recognised_by(page)).await;
    let found = doctor(&stage, &["--cookies"], &stage.cookie_of("AMUELLER")).await;
    assert_one_failure("page", &found, "client_context, not signed in", &["3 more fail"]);
}
