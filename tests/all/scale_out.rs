//! Two gateways for one site behind HAProxy, one of which is killed: nothing of either is needed by the other but the
//! keys they share.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use imis_gateway_simulators::imis::Generation;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Browser, Client, Gateway, SITE, SSO, Setup, Stage, free_address, skip};
use crate::tokens::claims;

const SHARED: &str =
    "state_key: {file: shared-key}\nticket_key: {file: shared-key}\ntrusted_proxies: [127.0.0.0/8]\n";

async fn stage() -> Stage {
    let method = "{method: client_application, page: /SingleSignOn, client_id: zendesk-gateway, client_secret: {file: client-secret}}";
    let mut setup = Setup::new(Generation::Ems).recognised_by(method);
    setup.imis.sso_page_target = Some("/sso/zendesk/imis".to_owned());
    Stage::with(setup).await
}

/// The configuration of the stage with what two gateways share, and with more.
fn shared(stage: &Stage, more: &str) -> String {
    std::fs::write(stage.folder().join("shared-key"), "a-key-that-two-gateways-share-and-nobody-else")
        .unwrap();
    let text = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    text.replace("version: 1\n", &format!("version: 1\n{SHARED}{more}"))
}

/// A request and its whole answer, unless the connection is cut.
async fn ask(client: &Client, method: &str, path: &str, cookie: &str, body: &str) -> std::io::Result<String> {
    let mut stream = client.connect_as("http/1.1", SITE).await?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\nCookie: {cookie}\r\nOrigin: https://{SITE}\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    if text.contains("\r\n\r\n") { Ok(text) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

/// The same, once more where the connection was cut, as browsers and people do.
async fn ask_twice(client: &Client, method: &str, path: &str, cookie: &str, body: &str) -> (String, bool) {
    for attempt in 0..20 {
        if let Ok(text) = ask(client, method, path, cookie, body).await {
            return (text, attempt > 0);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no answer, twenty times");
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let start = text.find(begin)? + begin.len();
    text[start..].split(end).next()
}

/// From the Remote login URL to a token, by way of the site's own page. Whether it had to begin anew.
async fn signs_in(stage: &Stage, client: &Client) -> bool {
    let session = stage.cookie_of("AMUELLER");
    let mut anew = false;
    for _ in 0..3 {
        let (begun, _) = ask_twice(client, "GET", SSO, &session, "").await;
        let state =
            between(&begun.to_lowercase(), "set-cookie: __host-imis-gateway-sign-in", ";").map(str::to_owned);
        let at = begun.find("__Host-imis-gateway-sign-in").unwrap_or_else(|| panic!("{state:?} {begun}"));
        let state = begun[at..].split(';').next().unwrap();
        let form = format!("refresh_token={}", stage.imis.refresh_token("AMUELLER"));
        let cookie = format!("{session}; {state}");
        if let Ok(page) = ask(client, "POST", "/sso/zendesk/imis", &cookie, &form).await {
            let token = between(&page, "name=\"jwt\" value=\"", "\"").unwrap_or_else(|| panic!("{page}"));
            assert_eq!(claims(token)["external_id"], "104019");
            return anew;
        }
        // What was posted may have been taken: it is good once.
        anew = true;
    }
    panic!("no sign-in in three attempts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_gateways_is_killed_under_load_and_no_sign_in_is_lost() {
    if Command::new("haproxy").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return skip("haproxy");
    }
    let stage = Arc::new(stage().await);
    let yaml = shared(&stage, "proxy_protocol: true\n");
    let mut one = Gateway::start(stage.folder(), &yaml);
    let two = Gateway::start(stage.folder(), &yaml);
    let port = free_address().port();
    let config = stage.folder().join("haproxy.cfg");
    // As in docs/operations.md, with the ports of this test.
    let text = format!(
        "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 1s\n  timeout client 30s\n  timeout server 30s\n  retries 2\n  option redispatch\n\
         frontend site\n  bind 127.0.0.1:{port}\n  default_backend gateways\n\
         backend gateways\n  balance roundrobin\n  option httpchk GET /readyz\n  default-server check inter 200ms fall 1 rise 1 send-proxy-v2\n  \
         server one {} check port {}\n  server two {} check port {}\n",
        one.https,
        one.admin.port(),
        two.https,
        two.admin.port()
    );
    std::fs::write(&config, text).unwrap();
    let mut haproxy = Command::new("haproxy")
        .arg("-db")
        .arg("-f")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let client = Client::new(&stage.authority, address);
    let outcome = tokio::spawn({
        let stage = stage.clone();
        async move {
            for _ in 0..100 {
                if ask(&client, "GET", "/Default.aspx", "", "").await.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let (over, done, anew) = (
                Arc::new(AtomicBool::new(false)),
                Arc::new(AtomicUsize::new(0)),
                Arc::new(AtomicUsize::new(0)),
            );
            let members: Vec<_> = (0..4)
                .map(|_| {
                    let (stage, client) = (stage.clone(), client.clone());
                    let (over, done, anew) = (over.clone(), done.clone(), anew.clone());
                    tokio::spawn(async move {
                        while !over.load(Ordering::Relaxed) {
                            anew.fetch_add(usize::from(signs_in(&stage, &client).await), Ordering::Relaxed);
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            let wait_for = async |more: usize| {
                let before = done.load(Ordering::Relaxed);
                while done.load(Ordering::Relaxed) < before + more {
                    assert!(members.iter().all(|member| !member.is_finished()), "a member has not got in");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            wait_for(20).await;
            one.signal("KILL");
            one.wait();
            wait_for(40).await;
            over.store(true, Ordering::Relaxed);
            for member in members {
                member.await.unwrap();
            }
            (done.load(Ordering::Relaxed), anew.load(Ordering::Relaxed))
        }
    });
    let outcome = tokio::time::timeout(Duration::from_secs(60), outcome).await;
    let _ = haproxy.kill();
    let _ = haproxy.wait();
    let (done, anew) = outcome.unwrap().unwrap();
    assert!(anew <= 4, "{anew} of {done} began anew: each member once at most");
    let seen = two.log();
    assert!(seen.contains("\"client\":\"127.0.0.1\""), "the PROXY header named the visitor");
}

#[tokio::test]
async fn a_session_of_one_gateway_is_resumed_by_the_other_and_after_a_change_of_the_key() {
    let stage = stage().await;
    let yaml = shared(&stage, "");
    let (one, two) = (Gateway::start(stage.folder(), &yaml), Gateway::start(stage.folder(), &yaml));
    let client = |gateway: &Gateway, like: &Client| like.at(gateway.https);
    let first = Client::new(&stage.authority, one.https);
    ask(&first, "GET", "/Default.aspx", "", "").await.unwrap();
    let kind = |stream: &Browser| stream.get_ref().1.handshake_kind();
    let second = client(&two, &first);
    assert_eq!(kind(&second.connect("http/1.1").await), Some(rustls::HandshakeKind::Resumed));
    // A ticket is used once; another comes with an answer.
    ask(&second, "GET", "/Default.aspx", "", "").await.unwrap();
    drop((one, two));
    std::fs::write(stage.folder().join("next-key"), "another-key-that-two-gateways-share-from-now-on")
        .unwrap();
    let both = "ticket_key: {current: {file: next-key}, next: {file: shared-key}}";
    let third = Gateway::start(stage.folder(), &yaml.replace("ticket_key: {file: shared-key}", both));
    assert_eq!(kind(&client(&third, &first).connect("http/1.1").await), Some(rustls::HandshakeKind::Resumed));
    let alone = yaml.replace("ticket_key: {file: shared-key}", "ticket_key: {file: next-key}");
    let strangers = Client::new(&stage.authority, third.https);
    ask(&strangers, "GET", "/Default.aspx", "", "").await.unwrap();
    let fourth = Gateway::start(stage.folder(), &alone);
    assert_eq!(
        kind(&client(&fourth, &strangers).connect("http/1.1").await),
        Some(rustls::HandshakeKind::Resumed)
    );
}
