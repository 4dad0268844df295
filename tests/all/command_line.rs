//! The program as an operator calls it.

use std::path::Path;
use std::process::{Command, Output};

use imis_gateway_simulators::certificates::Authority;
use imis_gateway_simulators::imis::Generation;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Setup, Stage, lay_out_certificates};

fn run(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_imis-gateway")).args(arguments).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with certificates, secrets and `yaml` as `config.yaml`.
fn folder_with(yaml: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    lay_out_certificates(&Authority::new("test CA"), folder.path());
    std::fs::write(folder.path().join("secret"), "a-secret-of-more-than-thirty-two-characters\n").unwrap();
    std::fs::write(folder.path().join("config.yaml"), yaml).unwrap();
    folder
}

const GOOD: &str = "version: 1
listen: {https: ['127.0.0.1:0'], http: [], admin: null}
sites:
  - hosts: [members.example.org]
    certificate: {chain: members.pem, key: members.key}
    upstream: {servers: ['https://127.0.0.1:9'], ca_file: ca.pem}
    imis:
      recognise: {method: client_context, page: /probe}
      service_account: {username: svc, password: {file: secret}}
    apps:
      - {name: Help, path: /sso/zendesk, zendesk: {subdomain: contoso, shared_secret: {file: secret}}}
";

#[test]
fn check_accepts_a_valid_configuration() {
    let folder = folder_with(GOOD);
    let output = run(&["check"], folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("good, 1 site(s), 1 app(s)"), "{}", text(&output.stdout));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn check_reports_all_problems_with_line_column_and_suggestion() {
    let yaml = "version: 1
lisen: {}
sites:
  - hosts: [members.example.org, '*.example.org', members.example.org]
    certificate: {chain: missing.pem, key: members.key}
    upstream:
      servers: [10.0.0.5, 'ftp://x']
      timeouts: {connect: 3, response_haed: 1h, idle: 1s}
    imis:
      recognise: {method: guess, page: probe}
      service_account: {username: svc, password: hunter2}
    apps:
      - name: Help
        path: /SSO/
        zendesk: {subdomain: 'https://contoso.zendesk.com', shared_secret: {file: nothing-here}}
        rules: []
";
    let folder = folder_with(yaml);
    for command in ["check", "run"] {
        let output = run(&[command, "--config", "config.yaml"], folder.path());
        assert_eq!(output.status.code(), Some(78));
        let errors = text(&output.stderr);
        for expected in [
            "config.yaml:2:1: lisen: unknown key; did you mean `listen`?",
            "config.yaml:4:34: sites[0].hosts[1]: wildcards are not supported",
            "config.yaml:4:51: sites[0].hosts[2]: `members.example.org` is listed twice",
            "config.yaml:5:26: sites[0].certificate.chain: cannot read the certificate chain",
            "config.yaml:7:17: sites[0].upstream.servers[0]: `10.0.0.5` is not a server",
            "config.yaml:7:27: sites[0].upstream.servers[1]: scheme `ftp` is not supported",
            "config.yaml:8:27: sites[0].upstream.timeouts.connect: `3` is not a duration; write it like 500ms",
            "config.yaml:8:30: sites[0].upstream.timeouts.response_haed: unknown key; did you mean `response_head`?",
            "config.yaml:10:27: sites[0].imis.recognise.method: unknown value `guess`; use client_context, whoami_query",
            "config.yaml:10:40: sites[0].imis.recognise.page: `probe` is not a path",
            "config.yaml:11:50: sites[0].imis.service_account.password: a secret is given by reference",
            "config.yaml:14:15: sites[0].apps[0].path: `/SSO/` cannot be an SSO path",
            "config.yaml:15:30: sites[0].apps[0].zendesk.subdomain:",
            "config.yaml:15:76: sites[0].apps[0].zendesk.shared_secret: cannot read",
            "config.yaml:16:16: sites[0].apps[0].rules: no rule at all would let nobody in",
            "15 problems in ",
        ] {
            assert!(errors.contains(expected), "missing: {expected}\n{errors}");
        }
        assert!(!errors.contains("hunter2"), "a secret in the wrong place is not repeated");
    }
}

#[test]
fn invalid_yaml_and_missing_files_are_configuration_errors() {
    for (yaml, expected) in [
        ("version: 1\nsites: [\n", "not valid YAML"),
        ("version: 1\nversion: 1\n", "config.yaml:2:1: not valid YAML: duplicate mapping key: version"),
        ("", "expected a mapping of keys, found nothing"),
        ("version: 2\nsites: []\n", "version: expected a whole number from 1 to 1"),
        ("- a\n", "expected a mapping of keys, found a list"),
    ] {
        let folder = folder_with(yaml);
        let output = run(&["check"], folder.path());
        assert_eq!(output.status.code(), Some(78), "{yaml}");
        assert!(text(&output.stderr).contains(expected), "{expected} in {}", text(&output.stderr));
    }
    let empty = tempfile::tempdir().unwrap();
    let output = run(&["check", "--config", "nowhere.yaml"], empty.path());
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("nowhere.yaml: cannot be read"));
}

#[test]
fn a_key_of_another_certificate_is_found_before_anything_starts() {
    let folder = folder_with(GOOD);
    let other = Authority::new("other").issue(&["members.example.org"]);
    std::fs::write(folder.path().join("members.key"), &other.key_pem).unwrap();
    let output = run(&["check"], folder.path());
    assert_eq!(output.status.code(), Some(78));
    assert!(
        text(&output.stderr).contains("certificate.key: the key does not go with"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn secrets_come_from_systemd_and_the_environment_too() {
    let yaml = GOOD.replacen("{file: secret}", "{credential: imis-password}", 1).replacen(
        "{file: secret}",
        "{env: ZENDESK_JWT}",
        1,
    );
    let folder = folder_with(&yaml);
    std::fs::write(folder.path().join("imis-password"), "a password").unwrap();
    let with = |directory: Option<&Path>, variable: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imis-gateway"));
        command
            .arg("check")
            .current_dir(folder.path())
            .env_remove("CREDENTIALS_DIRECTORY")
            .env_remove("ZENDESK_JWT");
        if let Some(directory) = directory {
            command.env("CREDENTIALS_DIRECTORY", directory);
        }
        if let Some(variable) = variable {
            command.env("ZENDESK_JWT", variable);
        }
        command.output().unwrap()
    };
    let secret = "a-secret-of-more-than-thirty-two-characters";
    assert_eq!(with(Some(folder.path()), Some(secret)).status.code(), Some(0));
    let errors = text(&with(None, None).stderr);
    assert!(errors.contains("LoadCredential=imis-password"), "{errors}");
    assert!(errors.contains("`ZENDESK_JWT` is not set"), "{errors}");
}

#[test]
fn usage_errors_are_usage_errors() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(&["frobnicate"], folder.path()).status.code(), Some(2));
    assert_eq!(run(&[], folder.path()).status.code(), Some(2));
    let help = run(&["--help"], folder.path());
    assert_eq!(help.status.code(), Some(0));
    for word in ["run", "check", "version", "Exit codes"] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    assert!(text(&run(&["version"], folder.path()).stdout).starts_with("imis-gateway 0."));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = folder_with(&GOOD.replace("127.0.0.1:0", &address));
    let output = run(&["run"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains(&format!("cannot listen on {address}")),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn check_warns_about_settings_that_are_rarely_intended() {
    let yaml = GOOD
        .replace("hosts: [members.example.org]", "hosts: [members.example.org, other.example.org]")
        .replace("imis:\n", "imis:\n      api_url: http://127.0.0.1:9/\n")
        .replace("https://127.0.0.1:9'", "http://127.0.0.1:9'")
        .replace("sites:", "timeouts: {drain: 5m}\nsites:");
    let folder = folder_with(&yaml);
    std::fs::write(folder.path().join("secret"), "short").unwrap();
    let output = run(&["check"], folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for words in [
        "does not cover this name",
        "api_url is plain HTTP",
        "upstream http://127.0.0.1:9 is plain HTTP",
        "shorter than 32",
        "raise TimeoutStopSec=",
    ] {
        assert_eq!(text(&output.stdout).matches(words).count(), 1, "{words} in {}", text(&output.stdout));
    }
    assert!(text(&output.stdout).contains("warning: other.example.org: the certificate does not cover"));
}

#[test]
fn the_pretty_log_is_for_people() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = folder_with(
        &GOOD.replace("127.0.0.1:0", &address).replace("sites:", "log: {format: pretty}\nsites:"),
    );
    let errors = text(&run(&["run"], folder.path()).stderr);
    assert!(
        errors.contains(" INFO ") && errors.contains("1 site(s), 1 app(s)") && !errors.contains('{'),
        "{errors}"
    );
}

#[tokio::test]
async fn the_admin_listener_says_whether_it_lives_and_is_ready() {
    let stage = Stage::new().await;
    let get = |path: &'static str| {
        let address = stage.gateway.admin;
        async move {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    };
    assert!(get("/livez").await.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").await.ends_with("ready\n"));
    assert!(get("/readyz?verbose").await.contains("listeners: accepting"));
    assert!(get("/other").await.starts_with("HTTP/1.1 404"));
}

/// A file of another program, or of another time.
#[test]
fn a_report_of_problems_is_short_and_obeyed_by_no_terminal() {
    let keys: String = (0..90_000).map(|number| format!("key{number}: 1\n")).collect();
    let folder = folder_with(&format!("version: 1\n{keys}"));
    let started = std::time::Instant::now();
    let output = run(&["check"], folder.path());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(said.lines().count(), 102, "{}", said.lines().last().unwrap());
    assert!(
        said.contains("\nand 89901 more\n90001 problems in ./config.yaml"),
        "{}",
        said.lines().last().unwrap()
    );
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "{:?}", started.elapsed());
    let json = run(&["check", "--format", "json"], folder.path());
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (json["problems"].as_array().unwrap().len(), &json["omitted_problems"]),
        (100, &89_901.into())
    );

    let folder = folder_with(
        "version: 1\n\"k\\e[2Jey\": 1\nsites: [{hosts: [\"a\\e]0;owned\\abc\\u202E.example.org\"]}]\n",
    );
    let said = text(&run(&["check"], folder.path()).stderr);
    assert!(said.contains("\\u{1b}[2J") && said.contains("\\u{202e}"), "{said}");
    assert!(!said.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{said:?}");
}

#[test]
fn a_number_with_a_leading_zero_is_refused() {
    for number in ["010", "-01", "00"] {
        let folder = folder_with(&format!("version: 1\nworkers: {number}\n"));
        let output = run(&["check"], folder.path());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{number}: {said}");
        assert!(said.contains("config.yaml:2:10: a number must not begin with 0"), "{number}: {said}");
    }
}

/// The status line of a request to the admin listener.
async fn admin_status(stage: &Stage, host: &str, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(stage.gateway.admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_admin_listener_answers_under_known_names_only() {
    let admin = "admin: 127.0.0.1:0\n";
    let setup =
        Setup::new(Generation::Ems).edit(admin, &format!("{admin}  admin_hosts: [metrics.example.org]\n"));
    let stage = Stage::with(setup).await;
    for host in ["127.0.0.1", "localhost:9180", "metrics.example.org"] {
        assert_eq!(admin_status(&stage, host, "/metrics").await, "HTTP/1.1 200 OK", "{host}");
    }
    for host in ["evil.example", "members.example.org:9180"] {
        let status = admin_status(&stage, host, "/metrics").await;
        assert_eq!(status, "HTTP/1.1 421 Misdirected Request", "{host}");
    }
}

/// Clients that send requests and read nothing.
#[tokio::test]
async fn the_admin_listener_answers_while_others_do_not_read() {
    let stage = Stage::new().await;
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(400);
    let mut unread = Vec::new();
    for _ in 0..300 {
        let mut stream = tokio::net::TcpStream::connect(stage.gateway.admin).await.unwrap();
        // The gateway may close while this is sent.
        let _ = stream.write_all(request.as_bytes()).await;
        unread.push(stream);
    }
    assert_eq!(admin_status(&stage, "localhost", "/livez").await, "HTTP/1.1 200 OK");
    // All but the newest have been closed: reading comes to an end.
    let mut ended = 0;
    for stream in &mut unread {
        let mut all = Vec::new();
        let read =
            tokio::time::timeout(std::time::Duration::from_millis(50), stream.read_to_end(&mut all)).await;
        ended += usize::from(read.is_ok());
    }
    assert!(ended >= 300 - 64, "{ended} of 300 have ended");
}

#[tokio::test]
async fn certificates_are_spoken_of_before_they_end_and_when_they_have() {
    let stage = Stage::new().await;
    for (days, words) in [(-2, "has EXPIRED"), (5, "expires in"), (400, "")] {
        stage
            .authority
            .issue_for_days(&[crate::support::SITE, "www.example.org"], days)
            .write(stage.folder(), "members")
            .unwrap();
        for command in ["check", "reload"] {
            let (code, said) = stage.run(&[command], "").await;
            // A valid certificate is not replaced by one that has expired.
            let is_refused = days < 0 && command == "reload";
            assert_eq!(code, if is_refused { 78 } else { 0 }, "{said}");
            assert_eq!(
                said.contains("The certificate in use is valid, so it is not replaced"),
                is_refused,
                "{said}"
            );
            assert!(
                said.contains(words) && (!words.is_empty() || !said.contains("expire")),
                "{days}: {said}"
            );
        }
        let (_, status) = stage.run(&["status"], "").await;
        assert!(status.contains(if words.is_empty() { "valid until" } else { words }), "{status}");
    }
}

#[tokio::test]
async fn check_warns_about_settings_that_fail_later() {
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::new().await;
    let secret = stage.folder().join("zendesk-jwt");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o666)).unwrap();
    let (_, said) = stage.run(&["check"], "").await;
    assert!(said.contains("zendesk-jwt: anybody on this machine may write it"), "{said}");
    for (https, http) in
        [("[::]:8443", "[::]:8443"), ("0.0.0.0:8443", "[::]:8443"), ("127.0.0.1:8443", "0.0.0.0:8443")]
    {
        stage.edit(
            "https: [\"127.0.0.1:0\"]\n  http: [\"127.0.0.1:0\"]",
            &format!("https: [\"{https}\"]\n  http: [\"{http}\"]"),
        );
        let (code, said) = stage.run(&["check"], "").await;
        assert_eq!(code, 78);
        assert!(said.contains("http and https both take port 8443"), "{said}");
        stage.edit(
            &format!("https: [\"{https}\"]\n  http: [\"{http}\"]"),
            "https: [\"127.0.0.1:0\"]\n  http: [\"127.0.0.1:0\"]",
        );
    }
    std::fs::write(
        stage.folder().join("members.key"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let (_, said) = stage.run(&["check"], "").await;
    assert!(said.contains("it is encrypted: decrypt it with"), "{said}");
}

#[tokio::test]
async fn a_passed_socket_that_fits_nothing_is_refused_for_good() {
    let stage = Stage::new().await;
    for (listen, words) in [
        ("https: [\"127.0.0.1:1\"]", "imis-gateway.socket and `listen` have to name the same ports"),
        ("admin: 127.0.0.1:PORT", "loopback only"),
    ] {
        let socket = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port().to_string();
        let text = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
        let key = listen.split(':').next().unwrap();
        let line = text.lines().find(|line| line.trim_start().starts_with(key)).unwrap();
        let other = tempfile::NamedTempFile::new_in(stage.folder()).unwrap();
        let text = text
            .replace(line, &format!("  {}", listen.replace("PORT", &port)))
            .replace("control: control.sock", "control: null");
        std::fs::write(other.path(), text).unwrap();
        let pass = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" run --config \"$1\"";
        let output = Command::new("sh")
            .args(["-c", pass, env!("CARGO_BIN_EXE_imis-gateway")])
            .arg(other.path())
            .stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(socket)))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn an_old_command_name_is_an_error_that_gives_the_new_one() {
    let folder = folder_with(GOOD);
    for (old, new) in [
        (
            &["mint", "--dry-run", "--app", "Help", "--imis-id", "1"][..],
            "tip: `mint --dry-run` is called `claims`",
        ),
        (
            &["server", "drain", "https://10.0.0.5"][..],
            "tip: `server drain|restore` is called `upstream drain|enable`",
        ),
    ] {
        let output = run(old, folder.path());
        assert_eq!(output.status.code(), Some(2), "{old:?}");
        let errors = text(&output.stderr);
        assert!(errors.contains(&format!("unrecognized subcommand '{}'", old[0])), "{errors}");
        assert!(errors.contains(new) && !errors.contains("similar"), "{errors}");
    }
    let output = run(&["upstream", "restore", "https://10.0.0.5"], folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("[possible values: drain, enable]"), "{}", text(&output.stderr));
}
