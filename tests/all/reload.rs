//! Reloading the configuration while the gateway runs: all or nothing, without a lost request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use imis_gateway_simulators::imis::Generation;
use imis_gateway_simulators::zendesk::Faults as ZendeskFaults;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::gateway::TIMEOUT;
use crate::support::origin::{Connection, Origin, Proxy, read_request};
use crate::support::{SITE, SSO, Setup, Stage};
use crate::tokens::claims;

/// Answers every request with its name; `/slow` in two halves, the second when `go` is set; `/chat` is a WebSocket that
/// echoes.
pub(crate) async fn named(mut connection: Connection, name: &'static str, go: Arc<AtomicBool>) {
    while let Some(request) = read_request(&mut connection).await {
        if request.starts_with("GET /chat") {
            let agreed =
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
            connection.write_all(agreed.as_bytes()).await.unwrap();
            let mut buffer = [0; 64];
            while let Ok(count @ 1..) = connection.read(&mut buffer).await {
                connection.write_all(&buffer[..count]).await.unwrap();
            }
            return;
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\n";
        connection.write_all(format!("{head}{name}").as_bytes()).await.unwrap();
        if request.starts_with("GET /slow") {
            while !go.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        connection.write_all(b"...").await.unwrap();
    }
}

async fn origin(proxy: &Proxy, name: &'static str, go: &Arc<AtomicBool>) -> Origin {
    let go = go.clone();
    Origin::start(&proxy.authority, move |connection| named(connection, name, go.clone())).await
}

/// A request on a connection that stays, and its whole answer.
async fn h1(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    rest(stream, "").await
}

/// What is left of an answer of which this has been read.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin), read: &str) -> String {
    let mut text = read.to_owned();
    while !text.ends_with("...") {
        text.push(char::from(stream.read_u8().await.unwrap()));
    }
    text
}

#[tokio::test]
async fn a_reload_applies_to_new_requests_and_leaves_running_ones_alone() {
    let go = Arc::new(AtomicBool::new(false));
    let of_first = go.clone();
    let proxy = Proxy::start(move |connection| named(connection, "one", of_first.clone())).await;
    let second = origin(&proxy, "two", &go).await;
    let first_server = {
        let text = std::fs::read_to_string(proxy.folder.path().join("config.yaml")).unwrap();
        text.lines().find(|line| line.contains("servers:")).unwrap().trim().to_owned()
    };

    let mut kept = proxy.client.connect("http/1.1").await;
    assert!(h1(&mut kept, "/").await.ends_with("one..."));
    let mut slow = proxy.client.connect("http/1.1").await;
    slow.write_all(format!("GET /slow HTTP/1.1\r\nHost: {SITE}\r\n\r\n").as_bytes()).await.unwrap();
    let mut begun = String::new();
    while !begun.ends_with("one") {
        begun.push(char::from(slow.read_u8().await.unwrap()));
    }
    let mut socket = proxy.client.connect("http/1.1").await;
    let ask =
        format!("GET /chat HTTP/1.1\r\nHost: {SITE}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    socket.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let io = TokioIo::new(proxy.client.connect("h2").await);
    let (mut h2, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let h2_lives = tokio::spawn(connection);
    let ask_h2 = |path: &str| {
        let request = Request::get(format!("https://{SITE}{path}")).body(Empty::<&[u8]>::new()).unwrap();
        h2.send_request(request)
    };
    let mut ask_h2 = ask_h2;
    let slow_h2 = ask_h2("/slow").await.unwrap();
    let body = ask_h2("/").await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "one...");

    proxy.reload(&first_server, &format!("servers: [\"https://{}\"]", second.address)).await;

    assert!(h1(&mut kept, "/").await.ends_with("two..."), "on the same HTTP/1 connection");
    let body = ask_h2("/").await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "two...", "on the same HTTP/2 connection");
    assert_eq!(proxy.client.get("/", &[]).await.text(), "two...", "on a new connection");
    for message in [&b"hello"[..], b"again"] {
        socket.write_all(message).await.unwrap();
        let mut back = vec![0; message.len()];
        socket.read_exact(&mut back).await.unwrap();
        assert_eq!(back, message, "a WebSocket lives on");
    }
    go.store(true, Ordering::Relaxed);
    assert!(rest(&mut slow, &begun).await.ends_with("one..."), "an answer under way ends as it began");
    let body = slow_h2.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "one...", "over HTTP/2, too");
    assert!(h1(&mut slow, "/").await.ends_with("two..."));
    assert!(!h2_lives.is_finished(), "the HTTP/2 connection was not asked to end");
}

#[tokio::test]
async fn a_bad_configuration_is_reported_as_by_check_and_the_old_one_is_kept() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    stage.edit(
        "name: Contoso Helpdesk",
        "name: Contoso Helpdesk\n        colour: red\n        rules: [{allow: \"profile.\"}]",
    );
    let (code, checked) = stage.run(&["check"], "").await;
    assert_eq!(code, 78, "{checked}");
    let problems: Vec<&str> = checked.lines().filter(|line| line.contains("config.yaml:")).collect();
    assert_eq!(problems.len(), 2, "{checked}");
    let (code, said) = stage.run(&["reload"], "").await;
    assert_eq!(code, 78);
    for problem in &problems {
        assert!(said.contains(problem), "{problem} is not in {said}");
    }
    assert!(
        said.contains("2 problems in ") && said.contains("reload failed, keeping the previous configuration"),
        "{said}"
    );

    assert!(stage.sso("", &cookie).await.token().is_some(), "it signs in as before");
    let metrics = stage.gateway.metrics().await;
    assert!(metrics.contains("imis_gateway_last_reload_successful 0"), "{metrics}");
    assert!(metrics.contains("imis_gateway_reloads_total{by=\"command\",result=\"failed\"} 1"), "{metrics}");
    stage
        .gateway
        .logged(|line| {
            line["message"] == "reload failed"
                && line["problem"].as_str().is_some_and(|text| text.contains("colour"))
        })
        .await;
    let (code, status) = stage.run(&["status"], "").await;
    assert_eq!(code, 0);
    assert!(status.contains("FAILED") && status.contains("unknown key"), "{status}");
    assert!(status.contains("the file has changed since"), "{status}");

    let (code, json) = stage.run(&["reload", "--format", "json"], "").await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (code, json["good"].as_bool(), json["problems"].as_array().unwrap().len()),
        (78, Some(false), 2)
    );
    let (code, json) = stage.run(&["check", "--format", "json"], "").await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (code, json["good"].as_bool(), json["problems"].as_array().unwrap().len()),
        (78, Some(false), 2)
    );

    std::fs::write(stage.folder().join("config.yaml"), "sites: [").unwrap();
    let (code, said) =
        stage.run(&["reload", "--socket", &stage.folder().join("control.sock").to_string_lossy()], "").await;
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("not valid YAML"), "{said}");
    assert!(stage.sso("", &cookie).await.token().is_some());
}

#[tokio::test]
async fn rules_and_claims_are_reloaded_by_command_and_by_signal() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    assert!(stage.sso("", &cookie).await.token().is_some());
    stage.edit("        path: /sso/zendesk\n", "        path: /sso/zendesk\n        rules: [{deny: 'true', reason: closed}]\n        reasons: {closed: We are closed.}\n");
    let (code, said) = stage.run(&["reload"], "").await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("reloaded, 1 site(s), 1 app(s)"), "{said}");
    let refused = stage.sso("", &cookie).await;
    assert_eq!((refused.status.as_u16(), refused.token()), (403, None));
    assert!(refused.text().contains("We are closed."));
    stage.edit(
        "rules: [{deny: 'true', reason: closed}]\n        reasons: {closed: We are closed.}",
        "claims: {organization: \"'Chapter 7'\"}",
    );
    stage.gateway.signal("HUP");
    stage
        .gateway
        .logged(|line| {
            line["trigger"] == "signal"
                && line["message"].as_str().is_some_and(|text| text.starts_with("reloaded"))
        })
        .await;
    let token = stage.sso("", &cookie).await.token().unwrap();
    assert_eq!(claims(&token)["organization"], "Chapter 7");
    let metrics = stage.gateway.metrics().await;
    for line in [
        "imis_gateway_reloads_total{by=\"command\",result=\"good\"} 1",
        "imis_gateway_reloads_total{by=\"signal\",result=\"good\"} 1",
        "imis_gateway_last_reload_successful 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn tls_sessions_are_resumed_across_a_reload() {
    let proxy = Proxy::start(|connection| named(connection, "one", Arc::default())).await;
    let mut first = proxy.client.connect("http/1.1").await;
    assert_eq!(first.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    // The ticket comes with what is read.
    h1(&mut first, "/").await;
    proxy.reload("workers: 1", "workers: 1\n# another").await;
    let second = proxy.client.connect("http/1.1").await;
    assert_eq!(second.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
}

#[tokio::test]
async fn changes_that_need_a_restart_are_reported() {
    let proxy = Proxy::start(|connection| named(connection, "one", Arc::default())).await;
    let (_, checked) = proxy.run(&["check"]).await;
    assert!(
        checked.contains("listen, workers, log.format, log.level and log.otlp take effect at the next start"),
        "{checked}"
    );
    crate::support::edit(proxy.folder.path(), "workers: 1", "workers: 3\nlog: {format: pretty}");
    crate::support::edit(proxy.folder.path(), "log: {level: debug}\n", "");
    crate::support::edit(proxy.folder.path(), "http: [\"127.0.0.1:0\"]", "http: []");
    let (code, said) = proxy.run(&["reload"]).await;
    assert_eq!(code, 0, "{said}");
    for key in ["listen.http", "workers", "log.format", "log.level"] {
        assert!(
            said.contains(&format!("warning: {key}: this change takes effect after a restart")),
            "{key}: {said}"
        );
    }
    assert!(!said.contains("listen.https"), "{said}");
    let (_, status) = proxy.run(&["status"]).await;
    assert!(status.contains("restart        needed for the change of workers"), "{status}");
}

/// Whether HMAC-SHA-256 with this key gives the token's signature (RFC 7515 appendix A.1).
pub(crate) fn is_signed_with(token: &str, secret: &str) -> bool {
    use base64::Engine;
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signature).unwrap();
    aws_lc_rs::hmac::verify(&key, signed.as_bytes(), &signature).is_ok()
}

/// Waits until a count has grown by so many.
async fn grown_by(more: usize, count: &AtomicUsize) {
    let (before, end) = (count.load(Ordering::Relaxed), Instant::now() + TIMEOUT);
    while count.load(Ordering::Relaxed) < before + more {
        assert!(Instant::now() < end, "nothing is answered any more");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn sign_ins_go_on_while_it_is_reloaded_again_and_again() {
    let stage = Arc::new(Stage::with(Setup::new(Generation::Ems).with_api()).await);
    stage.gateway.logged(|line| line["message"] == "fetched the Zendesk staff list").await;
    // From now on its list can only be the one of before.
    stage.zendesk.set_faults(ZendeskFaults { drop: true, ..ZendeskFaults::default() });
    let over = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let mut members = Vec::new();
    for (username, id) in [("AMUELLER", "104019"), ("boconnor", "104020")] {
        let (stage, over, done) = (stage.clone(), over.clone(), done.clone());
        members.push(tokio::spawn(async move {
            let cookie = stage.cookie_of(username);
            while !over.load(Ordering::Relaxed) {
                let reply = stage.sso("", &cookie).await;
                let token = reply.token().unwrap_or_else(|| panic!("{} {}", reply.status, reply.text()));
                assert_eq!(claims(&token)["external_id"], id);
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for round in 0..20 {
        grown_by(2, &done).await;
        stage.edit("version: 1\n", &format!("version: 1\n# {round}\n"));
        let (code, said) = stage.run(&["reload"], "").await;
        assert_eq!(code, 0, "{said}");
    }
    over.store(true, Ordering::Relaxed);
    for member in members {
        member.await.unwrap();
    }
}

#[tokio::test]
async fn reloads_by_the_hundred_lose_no_request() {
    const RELOADS: usize = 200;
    let proxy = Arc::new(Proxy::start(|connection| named(connection, "one", Arc::default())).await);
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for kind in 0..4 {
        let (proxy, over, done) = (proxy.clone(), over.clone(), done.clone());
        clients.push(tokio::spawn(async move {
            let mut kept = proxy.client.connect("http/1.1").await;
            let io = TokioIo::new(proxy.client.connect("h2").await);
            let (mut h2, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            while !over.load(Ordering::Relaxed) {
                let text = match kind {
                    0 => h1(&mut kept, "/").await,
                    1 => {
                        let request =
                            Request::get(format!("https://{SITE}/")).body(Empty::<&[u8]>::new()).unwrap();
                        let answer =
                            h2.send_request(request).await.unwrap().into_body().collect().await.unwrap();
                        String::from_utf8(answer.to_bytes().to_vec()).unwrap()
                    }
                    2 => proxy.client.get("/", &[]).await.text(),
                    _ => proxy.client.send_h2(Method::POST, "/", &[], "a form").await.text(),
                };
                assert!(text.ends_with("one..."), "{text}");
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let file = proxy.folder.path().join("config.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    for round in 0..RELOADS {
        grown_by(4, &done).await;
        let (text, wanted) = match round % 4 {
            0 => (good.replace("workers: 1", "worker: 1"), 422),
            1 => (good.replace("idle: 60s", &format!("idle: {}s", 30 + round % 30)), 200),
            2 => (good.replace("members.key", "ca.pem"), 422),
            _ => (format!("{good}# {round}\n"), 200),
        };
        std::fs::write(&file, text).unwrap();
        let mut stream =
            tokio::net::UnixStream::connect(proxy.folder.path().join("control.sock")).await.unwrap();
        stream
            .write_all(b"POST /reload HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with(&format!("HTTP/1.1 {wanted} ")), "{round}: {said}");
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let metrics = proxy.gateway.metrics().await;
    for (result, count) in [("good", RELOADS / 2), ("failed", RELOADS / 2)] {
        let line = format!("imis_gateway_reloads_total{{by=\"command\",result=\"{result}\"}} {count}");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
}

/// Which gateway to ask stands in the file that cannot be read. The exit code is that of a bad configuration in any
/// case.
#[tokio::test]
async fn a_reload_of_a_file_that_is_not_yaml_exits_with_78() {
    let stage = Stage::new().await;
    std::fs::write(stage.folder().join("config.yaml"), "sites: [\n").unwrap();
    let socket = stage.folder().join("control.sock");
    let own = ["reload", "--socket", socket.to_str().unwrap()];
    for arguments in [&["reload"][..], &own, &["reload", "--socket", "/nowhere/control.sock"]] {
        let (code, said) = stage.run(arguments, "").await;
        assert_eq!(code, 78, "{arguments:?}: {said}");
        assert!(said.contains("config.yaml:") && said.contains("not valid YAML"), "{arguments:?}: {said}");
    }
    assert_eq!(stage.client().get("/Default.aspx", &[]).await.status, 200, "the old one goes on");
}

#[tokio::test]
async fn a_thousand_signals_cause_few_reloads() {
    let stage = Stage::new().await;
    let signals = format!("for i in $(seq 1000); do kill -HUP {}; done", stage.gateway.pid());
    assert!(std::process::Command::new("sh").args(["-c", &signals]).status().unwrap().success());
    let (code, said) = stage.run(&["reload"], "").await;
    assert_eq!(code, 0, "{said}");
    let metrics = stage.gateway.metrics().await;
    let reloads = |by: &str| -> u32 {
        let start = format!("imis_gateway_reloads_total{{by=\"{by}\",result=\"good\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    };
    assert_eq!(reloads("command"), 1);
    // The command has waited for at most the one that ran and the one that was next.
    assert!((1..200).contains(&reloads("signal")), "{metrics}");
}

#[tokio::test]
async fn status_and_healthcheck_report_the_running_configuration() {
    let stage = Stage::new().await;
    let (code, status) = stage.run(&["status", "--format", "json"], "").await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((code, status["pid"].as_u64()), (0, Some(stage.gateway.pid().into())));
    assert_eq!(status["configuration"]["differs_from_file"], false);
    assert_eq!(status["sites"][0]["apps"][0]["name"], "Contoso Helpdesk");
    assert!(status["sites"][0]["certificate"]["expires"].as_str().unwrap().ends_with('Z'));
    let (code, said) = stage.run(&["status"], "").await;
    assert_eq!(code, 0);
    assert!(
        said.contains(&format!("site           {SITE}, www.example.org")) && said.contains(SSO),
        "{said}"
    );

    let (code, said) = stage.run(&["healthcheck"], "").await;
    assert_eq!(code, 1, "port 0 is nobody's: {said}");
    stage.edit("admin: 127.0.0.1:0", &format!("admin: {}", stage.gateway.admin));
    let (code, said) = stage.run(&["healthcheck"], "").await;
    assert_eq!((code, said.as_str()), (0, "ready\n"));

    let nobody = ["--socket", "/nowhere/control.sock"];
    let (code, said) = stage.run(&[&["status"], &nobody[..]].concat(), "").await;
    assert_eq!(code, 1);
    assert!(said.contains("no gateway is listening on /nowhere/control.sock"), "{said}");
    let socket = stage.folder().join("control.sock");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
}

#[tokio::test]
async fn sites_that_swap_positions_never_serve_each_other() {
    async fn serve(mut connection: Connection, name: &'static str) {
        while read_request(&mut connection).await.is_some() {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{name}");
            if connection.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
    let proxy = Arc::new(Proxy::start(|connection| serve(connection, "one")).await);
    let two = Origin::start(&proxy.authority, |connection| serve(connection, "two")).await;
    let folder = proxy.folder.path();
    let text = std::fs::read_to_string(folder.join("config.yaml")).unwrap();
    let (head, _) = text.split_once("sites:\n").unwrap();
    let server = text.lines().find(|line| line.contains("servers:")).unwrap().trim();
    proxy.authority.issue(&["b.example.org"]).write(folder, "b").unwrap();
    let a = format!(
        "  - hosts: [{SITE}]\n    certificate: {{chain: members.pem, key: members.key}}\n    upstream: {{{server}, ca_file: ca.pem}}\n"
    );
    let b = format!(
        "  - hosts: [b.example.org]\n    certificate: {{chain: b.pem, key: b.key}}\n    upstream: {{servers: [\"https://{}\"], ca_file: ca.pem, host: {SITE}}}\n",
        two.address
    );
    let write =
        |sites: &str| std::fs::write(folder.join("config.yaml"), format!("{head}sites:\n{sites}")).unwrap();
    write(&format!("{a}{b}"));
    assert!(crate::control_socket::control(folder, "POST", "/reload").await.starts_with("HTTP/1.1 200"));
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for (host, wanted) in [(SITE, "one"), ("b.example.org", "two")] {
        let (proxy, over) = (proxy.clone(), over.clone());
        clients.push(tokio::spawn(async move {
            let mut stream = proxy.client.connect_as("http/1.1", host).await.unwrap();
            while !over.load(Ordering::Relaxed) {
                stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
                let mut text = String::new();
                while !text.contains("\r\n\r\n") || text.split_once("\r\n\r\n").unwrap().1.len() < 3 {
                    text.push(char::from(stream.read_u8().await.unwrap()));
                }
                assert!(text.ends_with(wanted), "{host}: {text}");
            }
            stream
        }));
    }
    for round in 0..200 {
        write(&if round % 2 == 0 { format!("{b}{a}") } else { format!("{a}{b}") });
        assert!(crate::control_socket::control(folder, "POST", "/reload").await.starts_with("HTTP/1.1 200"));
    }
    over.store(true, Ordering::Relaxed);
    let mut kept = clients.pop().unwrap().await.unwrap();
    clients.pop().unwrap().await.unwrap();
    // A site that is gone is gone on the connections that were made to it, too.
    write(&a);
    assert!(crate::control_socket::control(folder, "POST", "/reload").await.starts_with("HTTP/1.1 200"));
    kept.write_all(b"GET / HTTP/1.1\r\nHost: b.example.org\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    kept.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 421");
    assert!(proxy.client.connect_as("http/1.1", "b.example.org").await.is_err());
}

#[tokio::test]
async fn a_reload_completes_even_if_its_client_has_gone() {
    let stage = Stage::new().await;
    for round in 0..40 {
        stage.edit("version: 1\n", &format!("version: 1\n# {round}\n"));
        let mut stream = tokio::net::UnixStream::connect(stage.folder().join("control.sock")).await.unwrap();
        stream.write_all(b"POST /reload HTTP/1.1\r\nHost: g\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(round / 4)).await;
    }
    let asked = |line: &Value| line["message"] == "reload requested on the control socket";
    let done = |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with("reloaded: "));
    stage.gateway.logged(asked).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let lines: Vec<Value> =
        stage.gateway.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let count = lines.iter().filter(|line| asked(line)).count();
    stage.gateway.logged_times(count, done).await;
    assert_eq!(stage.run(&["reload"], "").await.0, 0);
    let (_, status) = stage.run(&["status", "--format", "json"], "").await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["configuration"]["differs_from_file"], false);
}
