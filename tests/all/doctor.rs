//! `imis-gateway doctor`: what is wrong with recognition is told apart, without a value of anybody's.

use imis_gateway_simulators::imis::{Faults, Generation, PageFault, QueryFault};

use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::origin::Proxy;
use crate::support::{Setup, Stage};

async fn doctor(stage: &Stage, arguments: &[&str], input: &str) -> (i32, String) {
    stage.run(&[&["doctor"], arguments].concat(), input).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_works_is_said_to_work() {
    let stage = Stage::new().await;
    let (code, text) = doctor(&stage, &[], "").await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("ok       members.example.org: client_context, not signed in: nobody, as it should be"),
        "{text}"
    );
    assert!(
        text.contains("of iMIS in the page: MainBody, aspnetForm") && text.contains("4 checks, 0 failed"),
        "{text}"
    );
    let value = stage.imis.sign_in("staff");
    for given in [format!("login={value}; a=secret-of-mine"), format!("Cookie: login={value}\r\n")] {
        let (code, text) = doctor(&stage, &["--cookies"], &given).await;
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("with the cookies given: iMIS ID 300001, acting for 104019"), "{text}");
        assert!(!text.contains(&value) && !text.contains("secret-of-mine"), "{text}");
    }
    let (code, text) = doctor(&stage, &["--cookies", "--format", "json"], &format!("login={value}")).await;
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, found["findings"].as_array().unwrap().len()), (0, 5));
    assert_eq!(found["findings"][4]["severity"], "ok");
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
        (PageFault::Firewall(200), "firewall's"),
        (PageFault::Firewall(403), "403 is mostly a firewall's"),
        (PageFault::Missing, "the path is wrong"),
        (PageFault::ErrorPage, "iMIS itself fails"),
        (PageFault::Redirect("https://elsewhere.example/".to_owned()), "it has to be public"),
        (PageFault::Typed("application/json", "{}".to_owned()), "name a RiSE page"),
        (PageFault::Drop, "is iMIS up?"),
    ] {
        stage.imis.set_faults(Faults { pages: fault.clone(), ..Faults::default() });
        let (code, text) = doctor(&stage, &[], "").await;
        assert!(code == 1 && text.contains("FAILED") && text.contains(says), "{fault:?}: {text}");
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
    assert!(text.contains("not filtered on the person") && text.contains("LoggedIn User Key"), "{text}");
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
    let stage = Stage::with(Setup::new(Generation::Ems).with_api().with_app(fields)).await;
    let (code, text) = doctor(&stage, &[], "").await;
    assert_eq!(code, 1, "{text}");
    for says in [
        "ok       members.example.org: Zendesk for Contoso Helpdesk, staff: ",
        "user field membership: the account has it",
        "FAILED   members.example.org: Zendesk for Contoso Helpdesk, user field paid_thru: the account has no field with this key",
        "user field chapter: a field of type dropdown cannot be set to what the configuration says",
        "fields of the account: membership, paid_through, chapter",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(!text.contains("association.example"), "{text}");
    let wrong = Setup::new(Generation::Ems)
        .with_api()
        .edit("client_secret: {file: zendesk-api}", "client_secret: {file: imis-password}");
    let stage = Stage::with(wrong).await;
    let (code, text) = doctor(&stage, &[], "").await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does not accept the OAuth client") && text.contains("confidential"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_to_imis_is_walked_step_by_step() {
    let slow_clock = b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: Microsoft-IIS/10.0\r\nContent-Length: 0\r\n\r\n";
    let (proxy, _) = Proxy::answering(slow_clock).await;
    let (code, text) = proxy.run(&["doctor"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("warning  members.example.org: server https://127.0.0.1:")
            && text.contains("answered 200"),
        "{text}"
    );
    assert!(
        text.contains("software: Microsoft-IIS/10.0; its clock differs by")
            && text.contains("set both by NTP"),
        "{text}"
    );

    let own = proxy.authority.certificate_pem();
    let other = Authority::new("another CA");
    for (pem, words) in [(other.certificate_pem(), "the TLS handshake: "), (own, "answered 200")] {
        std::fs::write(proxy.folder.path().join("ca.pem"), pem).unwrap();
        let (_, text) = proxy.run(&["doctor"]).await;
        assert!(text.contains(words), "{text}");
    }
    for (server, words) in
        [("https://127.0.0.1:1", "the connection: "), ("https://no-such-name.invalid", "the name: ")]
    {
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
    assert!(text.contains("visitors would go round in circles: use https"), "{text}");
}
