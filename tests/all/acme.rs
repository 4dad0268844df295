//! Certificates by ACME, from a real CA that runs here: pebble, with its own DNS. It knows nothing of renewal
//! information (RFC 9773), so that part of its directory is a double of the test's.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use imis_gateway_simulators::certificates::Authority;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::support::gateway::TIMEOUT;
use crate::support::origin::{Connection, Origin, read_request};
use crate::support::{Client, Gateway, SITE, edit, free_address, run, skip};

const OTHER: &str = "events.example.org";
/// In base64url, as CAs show it.
const MAC_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// A CA, its DNS, and a server of pages behind the gateway; all of them end with the value.
struct Ca {
    children: Vec<Child>,
    folder: TempDir,
    authority: Authority,
    acme: SocketAddr,
    management: SocketAddr,
    https: SocketAddr,
    http: SocketAddr,
}

impl Drop for Ca {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Already ended is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Ca {
    /// For which every name is at `address`, and which may want accounts bound to some of its own.
    async fn start(address: &str, bound: bool) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("test CA");
        authority.issue(&["127.0.0.1", SITE]).write(folder.path(), "pebble").unwrap();
        authority.issue(&[OTHER]).write(folder.path(), "other").unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.certificate_pem()).unwrap();
        let (acme, management, https, http) =
            (free_address(), free_address(), free_address(), free_address());
        let dns = free_address();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config = json!({"pebble": {
            "listenAddress": acme.to_string(), "managementListenAddress": management.to_string(),
            "certificate": at("pebble.pem"), "privateKey": at("pebble.key"),
            "httpPort": http.port(), "tlsPort": https.port(), "ocspResponderURL": "", "externalAccountBindingRequired": bound,
            "externalAccountMACKeys": {"of-ours": MAC_KEY},
        }});
        std::fs::write(folder.path().join("pebble.json"), config.to_string()).unwrap();
        let run = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut names = Command::new("pebble-challtestsrv");
        names.args([
            "-dns01",
            &dns.to_string(),
            "-management",
            &free_address().to_string(),
            "-http01",
            "",
            "-https01",
            "",
        ]);
        names.args(["-tlsalpn01", "", "-defaultIPv4", address, "-defaultIPv6", ""]);
        let mut pebble = Command::new("pebble");
        pebble.args(["-config", &at("pebble.json"), "-dnsserver", &dns.to_string(), "-strict"]);
        // As it is, one nonce in twenty is refused; three in a row would be a failure that nobody can repeat.
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "0");
        let (Ok(names), Ok(pebble)) = (run(&mut names), run(&mut pebble)) else {
            skip("pebble, a real ACME server (package pebble)");
            return None;
        };
        let ca = Self { children: vec![names, pebble], folder, authority, acme, management, https, http };
        let end = Instant::now() + TIMEOUT;
        while TcpStream::connect(acme).await.is_err() {
            assert!(Instant::now() < end, "pebble does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(ca)
    }

    /// A gateway whose site has its certificate from this CA, and that has another site.
    fn gateway(&self, directory: &str, more: &str) -> Gateway {
        let (https, http) = (self.https, self.http);
        // Of one that has been killed.
        let _ = std::fs::remove_file(self.folder.path().join("control.sock"));
        let yaml = format!(
            r#"version: 1
listen: {{https: ["{https}"], http: ["{http}"], admin: "127.0.0.1:0", control: control.sock}}
watch_interval: null
sites:
  - hosts: [{SITE}]
    certificate: {{acme: {{contact: web@example.org, directory: "{directory}", ca_file: ca.pem, folder: state{more}}}}}
    upstream: {{servers: ["http://127.0.0.1:9"]}}
  - hosts: [{OTHER}]
    certificate: {{chain: other.pem, key: other.key}}
    upstream: {{servers: ["http://127.0.0.1:9"]}}
"#
        );
        Gateway::start(self.folder.path(), &yaml)
    }

    fn directory(&self) -> String {
        format!("https://{}/dir", self.acme)
    }

    /// A client that trusts what this CA signs.
    async fn client(&self) -> Client {
        let asked = Client::new(&self.authority, self.management).get("/roots/0", &[]).await;
        Client::trusting(&asked.text(), self.https)
    }

    /// While this is held the CA finds no address of anybody's, and waits.
    fn hold_names(&self) -> impl Drop + use<> {
        struct Held(u32);
        impl Drop for Held {
            fn drop(&mut self) {
                signal(self.0, "CONT");
            }
        }
        let names = self.children[0].id();
        signal(names, "STOP");
        Held(names)
    }

    /// Where the gateway keeps what it has of the CA.
    fn kept(&self) -> (PathBuf, PathBuf) {
        let mut folders = std::fs::read_dir(self.folder.path().join("state")).unwrap();
        let folder = folders.next().unwrap().unwrap().path();
        (folder.join("account.json"), folder.join(format!("{SITE}.pem")))
    }
}

fn signal(process: u32, signal: &str) {
    let sent = Command::new("kill").args(["-s", signal, &process.to_string()]).status().unwrap();
    assert!(sent.success());
}

fn has_given(line: &Value) -> bool {
    line["message"] == "the CA issued a certificate"
}

/// What a client without any session is shown.
async fn leaf(ca: &Ca) -> CertificateDer<'static> {
    let client = ca.client().await;
    // The log comes before the certificate is taken up.
    let end = Instant::now() + TIMEOUT;
    loop {
        match client.connect_as("http/1.1", SITE).await {
            Ok(stream) => return stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned(),
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn status(gateway_folder: &Path) -> Value {
    let config = gateway_folder.join("config.yaml");
    let shown = Command::new(env!("CARGO_BIN_EXE_imis-gateway"))
        .args(["status", "--format", "json", "--config"])
        .arg(config)
        .output()
        .unwrap();
    serde_json::from_slice(&shown.stdout).unwrap()
}

/// Waits until the gateway does not look at the certificate for the next ten minutes.
async fn gateway_waits(gateway_folder: &Path) {
    let end = Instant::now() + TIMEOUT;
    loop {
        let shown = status(gateway_folder);
        let next = shown["sites"][0]["certificate"]["acme"]["next"].as_str();
        if next.is_some_and(|next| *next > *rfc_3339(now() + 600)) {
            return;
        }
        assert!(Instant::now() < end, "{shown}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn page(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.windows(7).any(|end| end == b"</html>") {
        let read = tokio::time::timeout(TIMEOUT, stream.read_buf(&mut head)).await.unwrap().unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&head));
    }
    String::from_utf8_lossy(&head).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_comes_by_handshake_is_kept_and_is_renewed_when_the_ca_advises_it() {
    let Some(ca) = Ca::start("127.0.0.1", false).await else { return };
    let window = Arc::new(AtomicI64::new(1_000_000));
    let directory = advising(&ca, window.clone()).await;
    let gateway = ca.gateway(&directory, "");
    gateway.logged(has_given).await;
    let client = ca.client().await;
    let first = leaf(&ca).await;
    let (account, kept) = ca.kept();
    assert_eq!((mode(&account), mode(&kept), mode(kept.parent().unwrap())), (0o600, 0o600, 0o700));
    let pem = std::fs::read(&kept).unwrap();
    assert_eq!(CertificateDer::from_pem_slice(&pem).unwrap(), first);
    let account_then = std::fs::read(&account).unwrap();
    assert!(!gateway.log().contains("PRIVATE") && !gateway.log().contains("web@example.org"));
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains(&format!("acme_orders_total{{site=\"{SITE}\",result=\"good\"}} 1")),
        "{metrics}"
    );
    let shown = status(ca.folder.path());
    let of_site = &shown["sites"][0]["certificate"];
    assert!(of_site["acme"]["failed"].is_null() && of_site["word"].is_null(), "{shown}");
    let known = ["next", "renewed"].iter().all(|moment| of_site["acme"][*moment].is_string());
    assert!(known && of_site["expires"].is_string() && of_site["uncovered"] == json!([]), "{shown}");
    let (_, text) = run(ca.folder.path(), &["status"], "").await;
    assert!(text.contains("by tls-alpn-01") && text.contains("  renewed at "), "{text}");
    let (_, said) = run(ca.folder.path(), &["doctor"], "").await;
    assert!(said.contains(&format!("ok       {SITE}: CA: answers")), "{said}");
    // Nobody who looks like a CA is shown anything, or served.
    client.connect_as("acme-tls/1", SITE).await.unwrap_err();
    drop(gateway);

    // Another process has it at once, and a new one when the CA wishes; connections that are open stay.
    window.store(3, Ordering::Relaxed);
    let gateway = ca.gateway(&directory, "");
    assert_eq!(leaf(&ca).await, first);
    let mut open = client.connect_as("http/1.1", SITE).await.unwrap();
    assert!(page(&mut open).await.contains("502"));
    gateway.logged(has_given).await;
    gateway.logged(|line| line["message"].as_str().is_some_and(|text| text.starts_with("reloaded"))).await;
    let second = leaf(&ca).await;
    assert_ne!(first, second);
    assert!(page(&mut open).await.contains("502"), "under the certificate that it began with");
    assert_eq!(std::fs::read(&account).unwrap(), account_then, "the account is the same");
    // The CA advises to renew the new certificate at once, too: the gateway waits, and says until when.
    gateway_waits(ca.folder.path()).await;
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains(&format!("acme_orders_total{{site=\"{SITE}\",result=\"good\"}} 1")),
        "{metrics}"
    );
    assert_eq!(leaf(&ca).await, second);
}

/// The directory of the CA with renewal information, which advises a window of a second that begins so many seconds
/// from now.
async fn advising(ca: &Ca, window: Arc<AtomicI64>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = format!("https://{}", listener.local_addr().unwrap());
    let asked = Client::new(&ca.authority, ca.acme).get("/dir", &[("host", &ca.acme.to_string())]).await;
    let mut directory: Value = serde_json::from_slice(&asked.body).unwrap();
    directory["renewalInfo"] = json!(format!("{own}/renewal-info"));
    let acceptor = TlsAcceptor::from(ca.authority.issue(&["127.0.0.1"]).server_config());
    // Ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0)
            {
            }
            let body = if head.starts_with(b"GET /renewal-info/") {
                let start = now() + window.load(Ordering::Relaxed);
                json!({"suggestedWindow": {"start": rfc_3339(start), "end": rfc_3339(start + 1)}}).to_string()
            } else {
                directory.to_string()
            };
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nRetry-After: 21600\r\nConnection: close";
            let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    format!("{own}/dir")
}

#[expect(clippy::disallowed_methods, reason = "a double of a CA has a clock")]
fn now() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs())
        .unwrap()
}

fn rfc_3339(seconds: i64) -> String {
    let shown =
        Command::new("date").args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%SZ"]).output();
    String::from_utf8(shown.unwrap().stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_comes_by_a_request_on_the_plain_port_for_an_account_that_the_ca_knows() {
    let Some(ca) = Ca::start("127.0.0.1", true).await else { return };
    std::fs::write(ca.folder.path().join("mac-key"), MAC_KEY).unwrap();
    let bound = ", challenge: http-01, external_account: {id: of-ours, key: {file: mac-key}}";
    let gateway = ca.gateway(&ca.directory(), bound);
    // Whoever else asks there is led to https as ever.
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let request = format!(
        "GET /.well-known/acme-challenge/of-somebody-else HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 308") && answer.contains("/.well-known/acme-challenge/of-somebody-else"),
        "{answer}"
    );
    gateway.logged(has_given).await;
    leaf(&ca).await;
    assert!(!gateway.log().contains(MAC_KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_validation_is_quoted_and_other_sites_are_served() {
    // Nobody listens there.
    let Some(ca) = Ca::start("127.0.0.77", false).await else { return };
    let gateway = ca.gateway(&ca.directory(), "");
    let line = gateway.logged(|line| line["message"] == "the certificate order failed").await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains(SITE) && error.contains("127.0.0.77") && error.contains("connect"), "{error}");
    assert_eq!(line["retry_in_seconds"], 60);
    Client::new(&ca.authority, ca.https).connect_as("http/1.1", OTHER).await.unwrap();
    ca.client().await.connect_as("http/1.1", SITE).await.unwrap_err();
    let shown = status(ca.folder.path());
    let of_site = &shown["sites"][0]["certificate"];
    assert!(of_site["acme"]["failed"].as_str().unwrap().contains("127.0.0.77"), "{shown}");
    let (_, said) = run(ca.folder.path(), &["doctor"], "").await;
    for says in [
        &format!("FAILED   {SITE}: last certificate: the CA could not validate {SITE}"),
        "the CA has not issued a certificate yet",
    ] {
        assert!(said.contains(says), "{says}: {said}");
    }
    assert!(of_site["word"].as_str().unwrap().contains("the CA has not issued a certificate yet"), "{shown}");
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains(&format!("acme_orders_total{{site=\"{SITE}\",result=\"failed\"}} 1")),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_certificate_that_does_not_match_its_key_is_ordered_again() {
    let Some(ca) = Ca::start("127.0.0.1", false).await else { return };
    drop(ca.gateway(&ca.directory(), ""));
    let kept = ca.folder.path().join("state").join(format!("127.0.0.1={}_dir", ca.acme.port()));
    std::fs::create_dir_all(&kept).unwrap();
    let one = ca.authority.issue(&[SITE]);
    let another = ca.authority.issue(&[SITE]);
    let file = kept.join(format!("{SITE}.pem"));
    std::fs::write(&file, format!("{}{}", one.key_pem, another.certificate_pem)).unwrap();
    let checked = Command::new(env!("CARGO_BIN_EXE_imis-gateway"))
        .args(["check", "--config"])
        .arg(ca.folder.path().join("config.yaml"))
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.contains("a new one will be requested"), "{said}");
    let gateway = ca.gateway(&ca.directory(), "");
    gateway.logged(has_given).await;
    leaf(&ca).await;
}

/// A directory that says this to everything but a request for itself.
async fn lying(ca: &Ca, head: &'static str, body: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = format!("https://{}", listener.local_addr().unwrap());
    let urls = ["newNonce", "newAccount", "newOrder", "revokeCert", "keyChange", "renewalInfo"];
    let directory: Value =
        urls.iter().map(|name| ((*name).to_owned(), json!(format!("{own}/{name}")))).collect();
    let acceptor = TlsAcceptor::from(ca.authority.issue(&["127.0.0.1"]).server_config());
    // Ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut asked = Vec::new();
            while !asked.windows(4).any(|end| end == b"\r\n\r\n")
                && stream.read_buf(&mut asked).await.is_ok_and(|read| read > 0)
            {}
            let (head, body) = if asked.starts_with(b"GET /dir") {
                ("HTTP/1.1 200 OK", directory.to_string())
            } else if asked.starts_with(b"HEAD ") {
                ("HTTP/1.1 200 OK", String::new())
            } else {
                (head, body.to_owned())
            };
            let answer = format!(
                "{head}\r\nReplay-Nonce: x\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    format!("{own}/dir")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_lies_is_one_failure_like_any_other() {
    let Some(ca) = Ca::start("127.0.0.1", false).await else { return };
    for (head, body, says) in [
        (
            "HTTP/1.1 200 OK\r\nRetry-After: 18446744073709551615\r\nLocation: https://127.0.0.1:9/account",
            "{}",
            "",
        ),
        (
            "HTTP/1.1 429 Slow",
            r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too\u001b[2J often"}"#,
            "API error: too [2J often",
        ),
        ("HTTP/1.1 500 Odd\r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT", "<html>", ""),
    ] {
        let directory = lying(&ca, head, body).await;
        let gateway = ca.gateway(&directory, "");
        let line = gateway.logged(|line| line["message"] == "the certificate order failed").await;
        assert!(line["error"].as_str().unwrap().contains(says), "{line}");
        assert_eq!(line["retry_in_seconds"], if head.contains("429") { 3600 } else { 60 });
        assert!(!gateway.log().contains("panic") && !gateway.log().contains('\u{1b}'), "{}", gateway.log());
    }
    // What is no directory is called that.
    let gateway = ca.gateway(&format!("https://{}/", ca.acme), "");
    let line = gateway.logged(|line| line["message"] == "the certificate order failed").await;
    assert!(line["error"].as_str().unwrap().contains("the URL is not that of an ACME directory"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_changes_to_acme_keeps_its_certificate_until_the_ca_issues_one() {
    let Some(ca) = Ca::start("127.0.0.1", false).await else { return };
    ca.authority.issue(&[SITE]).write(ca.folder.path(), "own").unwrap();
    let gateway = ca.gateway("https://127.0.0.1:1/dir", "");
    let own = Client::new(&ca.authority, ca.https);
    own.connect_as("http/1.1", SITE).await.unwrap_err();
    let yaml = std::fs::read_to_string(ca.folder.path().join("config.yaml")).unwrap();
    let acme = yaml.lines().find(|line| line.contains("{acme: ")).unwrap().trim();
    let pair = "certificate: {chain: own.pem, key: own.key}";
    let taken_up = async |from: &str, to: &str| {
        edit(ca.folder.path(), from, to);
        let (code, said) = run(ca.folder.path(), &["reload"], "").await;
        assert_eq!(code, 0, "{said}");
    };
    taken_up(acme, pair).await;
    own.connect_as("http/1.1", SITE).await.unwrap();
    // A CA that is down takes nothing away, nor does what it gave long ago.
    let stale = ca.authority.issue_for_days(&[SITE], -1);
    let folder = ca.folder.path().join("state/127.0.0.1=1_dir");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{SITE}.pem")), format!("{}{}", stale.key_pem, stale.certificate_pem))
        .unwrap();
    taken_up(pair, acme).await;
    Client::new(&ca.authority, ca.https).connect_as("http/1.1", SITE).await.unwrap();
    let shown = status(ca.folder.path());
    assert!(
        shown["sites"][0]["certificate"]["word"]
            .as_str()
            .unwrap()
            .contains("the certificate of the previous configuration"),
        "{shown}"
    );
    taken_up("https://127.0.0.1:1/dir", &ca.directory()).await;
    gateway.logged(has_given).await;
    leaf(&ca).await;
    assert!(status(ca.folder.path())["sites"][0]["certificate"]["word"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_needs_a_writable_folder_and_a_certificate_that_cannot_be_used_yet_is_kept() {
    let Some(ca) = Ca::start("127.0.0.1", false).await else { return };
    // A file where the folder should be: nothing is asked for.
    std::fs::write(ca.folder.path().join("state"), "").unwrap();
    let gateway = ca.gateway(&ca.directory(), "");
    let line = gateway.logged(|line| line["message"] == "the certificate order failed").await;
    assert!(line["error"].as_str().unwrap().contains("cannot be written"), "{line}");
    drop(gateway);
    std::fs::remove_file(ca.folder.path().join("state")).unwrap();

    // The pair of the other site is half written when the certificate comes; `watch` is off, so nobody else reloads.
    let chain = ca.folder.path().join("other.pem");
    let whole = std::fs::read_to_string(&chain).unwrap();
    let held = ca.hold_names();
    let gateway = ca.gateway(&ca.directory(), "");
    gateway.logged(|line| line["message"] == "ordering a certificate").await;
    std::fs::write(&chain, "half").unwrap();
    drop(held);
    gateway.logged(|line| line["message"] == "reload failed; keeping the previous configuration").await;
    let shown = status(ca.folder.path());
    let failed = shown["sites"][0]["certificate"]["acme"]["failed"].as_str().unwrap_or_default().to_owned();
    assert!(failed.contains("the new certificate waits for a reload"), "{shown}");
    let failures = gateway.log().matches("reload failed; keeping the previous configuration").count();
    assert_eq!(failures, 1, "a reload that fails is not requested again at once");
    std::fs::write(&chain, whole).unwrap();
    // Whoever reloads has it at once; without that it would be tried again in a minute.
    let (code, said) = run(ca.folder.path(), &["reload"], "").await;
    assert_eq!(code, 0, "{said}");
    leaf(&ca).await;
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains(&format!("acme_orders_total{{site=\"{SITE}\",result=\"good\"}} 1")),
        "{metrics}"
    );
}

/// A CA in front of this one, which breaks off the connection for the first so many certificates.
async fn dropping(ca: &Ca, first: usize, orders: Arc<AtomicUsize>, certificates: Arc<AtomicUsize>) -> Origin {
    let behind = Client::new(&ca.authority, ca.acme);
    let front = move |mut connection: Connection| {
        let (behind, orders, certificates) = (behind.clone(), orders.clone(), certificates.clone());
        async move {
            while let Some(request) = read_request(&mut connection).await {
                let (head, body) = request.split_once("\r\n\r\n").unwrap();
                let mut line = head.split(' ');
                let (method, target) = (line.next().unwrap(), line.next().unwrap());
                if target.starts_with("/order-plz") {
                    orders.fetch_add(1, Ordering::Relaxed);
                } else if target.starts_with("/certZ/")
                    && certificates.fetch_add(1, Ordering::Relaxed) < first
                {
                    return;
                }
                // By which it makes its URLs.
                let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
                let headers = [("host", host), ("content-type", "application/jose+json")];
                let reply = behind.send(method.parse().unwrap(), target, &headers, body.to_owned()).await;
                let mut answer = format!("HTTP/1.1 {}\r\n", reply.status);
                let is_framing = |name: &str| name == "content-length" || name == "transfer-encoding";
                for (name, value) in reply.headers.iter().filter(|(name, _)| !is_framing(name.as_str())) {
                    write!(answer, "{name}: {}\r\n", value.to_str().unwrap()).unwrap();
                }
                write!(answer, "content-length: {}\r\n\r\n{}", reply.body.len(), reply.text()).unwrap();
                if connection.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    };
    Origin::start(&ca.authority, front).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_come_is_fetched_and_not_ordered_anew() {
    let Some(ca) = Ca::start("127.0.0.1", false).await else { return };
    let (orders, certificates) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let front = dropping(&ca, 1, orders.clone(), certificates.clone()).await;
    let gateway = ca.gateway(&format!("https://{}/dir", front.address), "");
    gateway.logged(has_given).await;
    leaf(&ca).await;
    assert_eq!((orders.load(Ordering::Relaxed), certificates.load(Ordering::Relaxed)), (1, 2));
}
