//! What a first attacker found about reloads and the control socket, and what held and has to go on holding.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use imis_gateway_simulators::imis::Generation;
use imis_gateway_simulators::zendesk::Faults as ZendeskFaults;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::origin::{Connection, Origin, Proxy, read_request};
use crate::support::{SITE, Setup, Stage};

/// What the control socket answers.
async fn control(folder: &Path, method: &str, path: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(folder.join("control.sock")).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn watching() -> Stage {
    Stage::with(Setup::new(Generation::Ems).edit("workers: 2", "workers: 2\nwatch_interval: 100ms")).await
}

async fn is_known(stage: &Stage, times: usize) {
    stage.gateway.logged_times(times, |line| line["message"] == "fetched the Zendesk staff list").await;
}

async fn metric(stage: &Stage, line: &str) {
    for _ in 0..200 {
        if stage.gateway.metrics().await.lines().any(|own| own == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no `{line}` in {}", stage.gateway.metrics().await);
}

#[tokio::test]
async fn a_reload_is_done_whole_whether_or_not_somebody_waits_for_it() {
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

#[tokio::test]
async fn no_external_id_is_told_from_another_by_case() {
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
async fn what_is_no_file_keeps_nobody_waiting() {
    let stage = watching().await;
    let file = stage.folder().join("zendesk-jwt");
    std::fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    stage
        .gateway
        .logged(|line| line["problem"].as_str().is_some_and(|text| text.contains("not a regular file")))
        .await;
    let (code, said) = stage.run(&["reload"], "").await;
    assert_eq!(code, 78, "{said}");
    assert_eq!(stage.run(&["status"], "").await.0, 0);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &stage.secret).unwrap();
    assert_eq!(stage.run(&["reload"], "").await.0, 0);
    metric(&stage, "imis_gateway_last_reload_successful 1").await;
}

#[tokio::test]
async fn a_failure_lasts_as_long_as_what_failed() {
    let stage = watching().await;
    let file = stage.folder().join("zendesk-jwt");
    let secret = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    metric(&stage, "imis_gateway_last_reload_successful 0").await;
    assert!(stage.run(&["status"], "").await.1.contains("FAILED"));
    std::fs::write(&file, &secret).unwrap();
    metric(&stage, "imis_gateway_last_reload_successful 1").await;
    assert!(!stage.run(&["status"], "").await.1.contains("FAILED"));

    // A secret that is taken up says nothing of the file that is broken.
    stage.edit("version: 1\n", "version: 1\ncolour: red\n");
    assert_eq!(stage.run(&["reload"], "").await.0, 78);
    std::fs::write(&file, "another-secret-of-the-account-long-enough").unwrap();
    stage
        .gateway
        .logged(|line| {
            line["trigger"] == "files"
                && line["message"].as_str().is_some_and(|text| text.starts_with("reloaded"))
        })
        .await;
    metric(&stage, "imis_gateway_last_reload_successful 0").await;
    let (_, status) = stage.run(&["status"], "").await;
    assert!(status.contains("FAILED") && status.contains("colour"), "{status}");
}

#[tokio::test]
async fn nothing_but_a_socket_is_replaced_by_the_control_socket() {
    let stage = Stage::new().await;
    let precious = stage.folder().join("precious");
    std::fs::write(&precious, "of value").unwrap();
    stage.edit("control: control.sock", "control: precious");
    for command in ["check", "run", "reload"] {
        let (code, said) = stage.run(&[command], "").await;
        assert!(code == 78 || command == "reload" && code == 1, "{command}: {code} {said}");
    }
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "of value");
    // What a gateway that was killed has left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(stage.folder().join("stale.sock")).unwrap());
    let text = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    let second = crate::support::Gateway::start(
        stage.folder(),
        &text.replace("control: precious", "control: stale.sock"),
    );
    let (code, status) = stage.run(&["status", "--format", "json"], "").await;
    assert_eq!(code, 0, "{status}");
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["pid"], second.pid());
}

#[tokio::test]
async fn a_gateway_that_ends_takes_nothing_up() {
    let mut proxy = Proxy::start(|mut connection: Connection| async move {
        while read_request(&mut connection).await.is_some() {
            tokio::time::sleep(Duration::from_millis(800)).await;
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let mut slow = proxy.client.connect("http/1.1").await;
    slow.write_all(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.gateway.signal("TERM");
    proxy
        .gateway
        .logged(|line| line["message"].as_str().is_some_and(|text| text.starts_with("stopping")))
        .await;
    let said = control(proxy.folder.path(), "POST", "/reload").await;
    assert!(said.starts_with("HTTP/1.1 422") && said.contains("shutting down"), "{said}");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("ok"), "{answer}");
    assert_eq!(proxy.gateway.wait().code(), Some(0));
    assert!(!proxy.folder.path().join("control.sock").exists());
}

#[tokio::test]
async fn how_often_files_are_looked_at_changes_at_once() {
    let stage =
        Stage::with(Setup::new(Generation::Ems).edit("workers: 2", "workers: 2\nwatch_interval: 1h")).await;
    stage.edit("watch_interval: 1h", "watch_interval: 100ms");
    assert_eq!(stage.run(&["reload"], "").await.0, 0);
    std::fs::write(stage.folder().join("zendesk-jwt"), "another-secret-of-the-account-long-enough").unwrap();
    stage.gateway.logged(|line| line["trigger"] == "files").await;
}

#[tokio::test]
async fn what_is_known_of_the_staff_is_the_accounts_whatever_else_changes() {
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
async fn a_list_that_nobody_needs_is_not_fetched_any_more() {
    let right = "client_secret: {file: zendesk-api}";
    let setup = Setup::new(Generation::Ems).with_api().edit(right, "client_secret: {file: imis-password}");
    let stage = Stage::with(setup).await;
    stage.gateway.logged(|line| line["message"] == "cannot fetch the Zendesk staff list").await;
    stage.edit("client_secret: {file: imis-password}", right);
    stage.edit("name: Contoso Helpdesk", "name: Renamed");
    assert_eq!(stage.run(&["reload"], "").await.0, 0);
    is_known(&stage, 1).await;
    // The first one would try again after fifteen seconds.
    tokio::time::sleep(Duration::from_secs(17)).await;
    let failures = stage
        .gateway
        .log()
        .lines()
        .filter(|line| line.contains("cannot fetch the Zendesk staff list"))
        .count();
    assert_eq!(failures, 1);
    // And one that is asked for in the same way is asked for once.
    for round in 0..10 {
        stage.edit("version: 1\n", &format!("version: 1\n# {round}\n"));
        assert!(control(stage.folder(), "POST", "/reload").await.starts_with("HTTP/1.1 200"));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let known =
        stage.gateway.log().lines().filter(|line| line.contains("fetched the Zendesk staff list")).count();
    assert_eq!(known, 1);
}

#[tokio::test]
async fn windows_authentication_lives_through_a_reload_that_leaves_the_servers_as_they_are() {
    let proxy = Proxy::start(|mut connection: Connection| async move {
        let mut signed_in = false;
        while let Some(request) = read_request(&mut connection).await {
            signed_in |= request.to_lowercase().contains("authorization: ntlm");
            let answer: &[u8] = if signed_in {
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nmine!"
            } else {
                b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 5\r\n\r\nwho??"
            };
            if connection.write_all(answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let mut browser = proxy.client.connect("http/1.1").await;
    let mut ask = async |more: &str| {
        browser.write_all(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n{more}\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        while !(text.ends_with("mine!") || text.ends_with("who??")) {
            text.push(char::from(browser.read_u8().await.unwrap()));
        }
        text.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(ask("").await, "401");
    assert_eq!(ask("Authorization: NTLM TlRMTVNTUAADAAAA\r\n").await, "200");
    proxy.reload("workers: 1", "workers: 1\n# only a comment").await;
    assert_eq!(ask("").await, "200");
    proxy.reload("idle: 60s", "idle: 50s").await;
    assert_eq!(ask("").await, "401", "to servers that are used in another way it goes anew");
}

#[tokio::test]
async fn a_hangup_at_the_start_ends_nothing() {
    let stage = Stage::new().await;
    let text = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    std::fs::write(
        stage.folder().join("config.yaml"),
        text.replace("control: control.sock", "control: null"),
    )
    .unwrap();
    for delay in 6..14 {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_imis-gateway"))
            .args(["run", "--config"])
            .arg(stage.folder().join("config.yaml"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(delay * 3)).await;
        let signal = |name: &str| {
            let sent =
                std::process::Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
            assert!(sent.unwrap().success());
        };
        signal("HUP");
        tokio::time::sleep(Duration::from_millis(300)).await;
        signal("TERM");
        assert_eq!(child.wait().unwrap().code(), Some(0), "a hang-up after {} ms", delay * 3);
    }
}

#[tokio::test]
async fn only_the_gateway_of_this_file_is_reloaded() {
    let stage = Stage::new().await;
    let text = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    std::fs::create_dir(stage.folder().join("other")).unwrap();
    std::fs::write(
        stage.folder().join("other/config.yaml"),
        text.replace("control: control.sock", "control: ../control.sock"),
    )
    .unwrap();
    let (code, said) = crate::support::run(&stage.folder().join("other"), &["reload"], "").await;
    assert_eq!(code, 1);
    assert!(said.contains("uses the configuration ") && said.contains(", not "), "{said}");
    let (code, said) = crate::support::run(Path::new("/nowhere"), &["status"], "").await;
    assert_eq!(code, 1);
    assert!(
        said.contains("cannot read /nowhere/config.yaml (No such file or directory (os error 2)); using the default socket"),
        "{said}"
    );
    // From the folder itself, by its bare name.
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_imis-gateway"))
        .args(["reload", "--config", "config.yaml"])
        .current_dir(stage.folder())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn who_listens_there_and_is_no_gateway_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(folder.path().join("control.sock")).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"message\":1}").await;
        }
    });
    std::fs::write(folder.path().join("config.yaml"), "listen: {control: control.sock}").unwrap();
    for command in ["status", "reload"] {
        let (code, said) = crate::support::run(folder.path(), &[command], "").await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("not from a gateway"), "{said}");
    }
}

#[tokio::test]
async fn a_secret_that_is_pasted_where_its_reference_belongs_is_not_shown() {
    let stage = Stage::new().await;
    let original = "shared_secret: {file: zendesk-jwt}";
    for pasted in [
        "{env: 'S3CR3T/+='}",
        "{S3CR3T: x}",
        "{file: zendesk-jwt, S3CR3T: x}",
        "S3CR3T",
        "[S3CR3T]",
        "{credential: ../S3CR3T}",
    ] {
        stage.edit(original, &format!("shared_secret: {pasted}"));
        for command in ["check", "reload"] {
            let (code, said) = stage.run(&[command], "").await;
            assert_eq!(code, 78, "{pasted}: {said}");
            assert!(!said.contains("S3CR3T"), "{pasted}: {said}");
        }
        stage.edit(&format!("shared_secret: {pasted}"), original);
    }
    assert!(!stage.gateway.log().contains("S3CR3T"));
}

#[tokio::test]
async fn sites_that_change_places_never_serve_one_another() {
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
    assert!(control(folder, "POST", "/reload").await.starts_with("HTTP/1.1 200"));
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut clients = Vec::new();
    for (host, wanted) in [(SITE, "one"), ("b.example.org", "two")] {
        let (proxy, over) = (proxy.clone(), over.clone());
        clients.push(tokio::spawn(async move {
            let mut stream = proxy.client.connect_as("http/1.1", host).await.unwrap();
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
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
        assert!(control(folder, "POST", "/reload").await.starts_with("HTTP/1.1 200"));
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut kept = clients.pop().unwrap().await.unwrap();
    clients.pop().unwrap().await.unwrap();
    // A site that is gone is gone on the connections that were made to it, too.
    write(&a);
    assert!(control(folder, "POST", "/reload").await.starts_with("HTTP/1.1 200"));
    kept.write_all(b"GET / HTTP/1.1\r\nHost: b.example.org\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    kept.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 421");
    assert!(proxy.client.connect_as("http/1.1", "b.example.org").await.is_err());
}
