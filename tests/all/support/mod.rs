//! A stage for one test: certificates, both simulators and the gateway, on free loopback ports, gone with the value.

pub(crate) mod chromium;
pub(crate) mod client;
pub(crate) mod flush_on_write;
pub(crate) mod http2_frames;
pub(crate) mod gateway;
pub(crate) mod cookie_jar;
pub(crate) mod origin;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use imis_gateway_simulators::certificates::Authority;
use imis_gateway_simulators::imis::{Generation, Imis, Options as ImisOptions};
use imis_gateway_simulators::zendesk::{Options as ZendeskOptions, User as ZendeskUser, Zendesk};
use tempfile::TempDir;

pub(crate) use client::{Browser, Client, Reply};
pub(crate) use gateway::Gateway;

pub(crate) const SITE: &str = "members.example.org";
pub(crate) const SSO: &str = "/sso/zendesk";
pub(crate) const ZENDESK: &str = "https://contoso.zendesk.com";
pub(crate) const MAPPED: &str = "https://support.contoso.org";

/// The secret of Zendesk messaging, in the file `messaging-key`.
pub(crate) const MESSAGING_KEY: &str = "a key of messaging, not of single sign-on";

/// Everything that a journey needs.
pub(crate) struct Stage {
    pub(crate) gateway: Gateway,
    pub(crate) imis: Imis,
    pub(crate) zendesk: Zendesk,
    pub(crate) secret: String,
    pub(crate) authority: Authority,
    folder: TempDir,
}

/// What a stage may differ in.
pub(crate) struct Setup {
    pub(crate) imis: ImisOptions,
    /// Log lines at this level.
    pub(crate) log_level: &'static str,
    /// Replaces text of the configuration.
    pub(crate) edits: Vec<(String, String)>,
    /// Agents of the Zendesk account, beside its owner and Sam.
    pub(crate) agents: Vec<ZendeskUser>,
    /// Whether Zendesk includes identities in lists.
    pub(crate) includes_identities: bool,
}

impl Setup {
    pub(crate) fn new(generation: Generation) -> Self {
        Self {
            imis: ImisOptions::new(generation),
            log_level: "debug",
            edits: Vec::new(),
            agents: Vec::new(),
            includes_identities: true,
        }
    }

    /// With other methods of recognition, as they stand in the configuration.
    pub(crate) fn recognised_by(self, methods: &str) -> Self {
        let base = match self.imis.generation {
            Generation::Ems => "/",
            Generation::Imis2017 => "/iMIS/",
        };
        self.edit(&format!("{{method: client_context, page: {base}imis-gateway-probe}}"), methods)
    }

    /// Where profiles come from elsewhere.
    pub(crate) fn without_service_account(self) -> Self {
        let account = "      service_account: {username: svc-gateway, password: {file: imis-password}}\n";
        self.edit(account, "").with_app("guards: {duplicate_email: off}")
    }

    /// With the API of Zendesk, for the guard of its staff.
    pub(crate) fn with_api(self) -> Self {
        let at = "          subdomain: contoso\n";
        let api = "api: {url: ZENDESK_API, ca_file: ca.pem, client_id: gateway, client_secret: {file: zendesk-api}, staff_folder: null}";
        self.edit(at, &format!("{at}          {api}\n"))
    }

    /// With the API of Zendesk, and the account's pages where they can be reached from here.
    pub(crate) fn with_account_here(self) -> Self {
        self.with_api().edit(
            "          subdomain: contoso\n",
            "          subdomain: contoso\n          url: ZENDESK_API\n",
        )
    }

    /// With more keys of the app, as they stand in the configuration.
    pub(crate) fn with_app(self, keys: &str) -> Self {
        let app = "        path: /sso/zendesk\n";
        self.edit(app, &format!("{app}        {}\n", keys.replace('\n', "\n        ")))
    }

    pub(crate) fn edit(mut self, from: &str, to: &str) -> Self {
        self.edits.push((from.to_owned(), to.to_owned()));
        self
    }
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(Setup::new(Generation::Ems)).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        Self::with_file(setup, "empty", "").await
    }

    /// With a file of this name beside the configuration: this text, and the stage's own root.
    pub(crate) async fn with_file(setup: Setup, name: &str, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("test CA");
        std::fs::write(folder.path().join(name), format!("{text}{}", authority.certificate_pem())).unwrap();
        lay_out_certificates(&authority, folder.path());
        let imis_identity = authority.issue(&[SITE, "127.0.0.1"]);
        let imis = Imis::start(setup.imis.clone(), Some(imis_identity.server_config())).await.unwrap();
        let mut options = ZendeskOptions::new("zendesk.com", MAPPED, &format!("https://{SITE}{SSO}"));
        options.includes_identities = setup.includes_identities;
        let secret = options.shared_secret.clone();
        let options_api_secret = options.api_client.1.clone();
        let identity = authority.issue(&[
            "contoso.zendesk.com",
            "contoso-events.zendesk.com",
            "support.contoso.org",
            "127.0.0.1",
        ]);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let zendesk = Zendesk::start(any, options, Some(identity.server_config())).await.unwrap();
        zendesk.edit_users(|users| users.extend(setup.agents.iter().cloned()));
        std::fs::write(folder.path().join("imis-password"), &imis.options().service_account.1).unwrap();
        std::fs::write(folder.path().join("zendesk-jwt"), format!("{secret}\n")).unwrap();
        let options = imis.options();
        for (name, text) in [
            ("client-secret", &options.client_application.1),
            ("validation-key", &options.machine_key.validation_key),
            ("decryption-key", &options.machine_key.decryption_key),
            ("messaging-key", &MESSAGING_KEY.to_owned()),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        std::fs::write(folder.path().join("zendesk-api"), &options_api_secret).unwrap();
        let mut yaml = configuration(&setup, &imis);
        for (from, to) in &setup.edits {
            assert!(yaml.contains(from), "nothing to replace: {from}");
            yaml = yaml.replace(from, to);
        }
        yaml = yaml.replace("ZENDESK_API", &format!("https://{}", zendesk.address()));
        let gateway = Gateway::start(folder.path(), &yaml);
        Self { gateway, imis, zendesk, secret, authority, folder }
    }

    /// What the program says to this, with this on its standard input, and how it ends.
    pub(crate) async fn run(&self, arguments: &[&str], input: &str) -> (i32, String) {
        run(self.folder(), arguments, input).await
    }

    /// Changes its configuration, which is not taken up yet.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        edit(self.folder(), from, to);
    }

    /// Where its configuration is.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client that trusts the test CA and talks to the gateway, whatever the name.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.authority, self.gateway.https)
    }

    /// The `Cookie` header of somebody who has just signed in.
    pub(crate) fn cookie_of(&self, username: &str) -> String {
        format!(
            "ASP.NET_SessionId=abc; {}={}; ARRAffinity=1",
            self.imis.options().cookie,
            self.imis.sign_in(username)
        )
    }

    /// GET of the SSO path with a cookie.
    pub(crate) async fn sso(&self, query: &str, cookie: &str) -> Reply {
        self.client().get(&format!("{SSO}{query}"), &[("cookie", cookie)]).await
    }
}

/// Changes the configuration in a folder.
pub(crate) fn edit(folder: &Path, from: &str, to: &str) {
    let file = folder.join("config.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "no `{from}` in {text}");
    // At once, as an editor does it: a reload that is under way reads one or the other.
    let new = folder.join("config.yaml.new");
    std::fs::write(&new, text.replace(from, to)).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// What the program says to this, with the configuration in a folder, and how it ends.
pub(crate) async fn run(folder: &Path, arguments: &[&str], input: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imis-gateway"));
    command.args(arguments).arg("--config").arg(folder.join("config.yaml"));
    let input = input.to_owned();
    let run = move || {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        // A program that reads nothing may have ended.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

pub(crate) fn lay_out_certificates(authority: &Authority, folder: &Path) {
    std::fs::write(folder.join("ca.pem"), authority.certificate_pem()).unwrap();
    authority.issue(&[SITE, "www.example.org"]).write(folder, "members").unwrap();
}

fn configuration(setup: &Setup, imis: &Imis) -> String {
    let base = imis.base_path();
    format!(
        r#"version: 1
listen:
  https: ["127.0.0.1:0"]
  http: ["127.0.0.1:0"]
  admin: 127.0.0.1:0
  control: control.sock
workers: 2
log: {{format: json, level: {level}}}
limits: {{sign_ins_per_network: 1000000, sign_ins_per_person: 1000000}}
sites:
  - hosts: [{SITE}, www.example.org]
    certificate: {{chain: members.pem, key: members.key}}
    upstream:
      servers: ["https://{address}"]
      ca_file: ca.pem
      timeouts: {{connect: 3s, response_head: 20s, idle: 60s}}
    imis:
      base_path: {base}
      api_url: https://{address}{api}
      session_cookies: [Login]
      recognise: {{method: client_context, page: {base}imis-gateway-probe}}
      service_account: {{username: svc-gateway, password: {{file: imis-password}}}}
    apps:
      - name: Contoso Helpdesk
        path: {SSO}
        zendesk:
          subdomain: contoso
          brand_hosts: [contoso-events.zendesk.com, support.contoso.org]
          shared_secret: {{file: zendesk-jwt}}
"#,
        level = setup.log_level,
        address = imis.address(),
        api = imis.api_path(),
    )
}

/// An address that is free and stays so until somebody asks for it by name: below those that the system gives to
/// connections, of which other tests make thousands at the same time.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(15_000 + next % 17_000).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(address).is_ok() && std::net::UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// Says loudly that something is not tested here; in CI nothing may be skipped.
pub(crate) fn skip(what: &str) {
    assert_ne!(ci().as_deref(), Some("true".as_ref()), "{what} is missing, and in CI nothing may be skipped");
    // Written straight to the stream, so that the test runner does not swallow it.
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED: {what} is not installed; see README, \"Tests\" ***");
}

#[expect(clippy::disallowed_methods, reason = "tests ask whether they run in CI")]
fn ci() -> Option<std::ffi::OsString> {
    std::env::var_os("CI")
}
