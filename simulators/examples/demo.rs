//! The demo: the gateway, an iMIS and a Zendesk, all on this machine, with keys made at run time.
//!
//! `cargo run --example demo`

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use imis_gateway::config::Config;
use imis_gateway::server::lifecycle::Server;
use imis_gateway_simulators::certificates::Authority;
use imis_gateway_simulators::imis::people::PASSWORD;
use imis_gateway_simulators::imis::{Generation, Imis, Options as ImisOptions};
use imis_gateway_simulators::zendesk::{Options as ZendeskOptions, Zendesk};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let (gateway_port, zendesk_port) = (free_port(8443)?, free_port(8444)?);
    let site = format!("https://members.localhost:{gateway_port}");

    let authority = Authority::new("imis-gateway demo CA");
    std::fs::write(folder.path().join("ca.pem"), authority.certificate_pem())?;
    authority.issue(&["members.localhost"]).write(folder.path(), "members")?;
    let imis_identity = authority.issue(&["members.localhost", "127.0.0.1"]);
    let zendesk_names =
        ["contoso.zendesk.localhost", "contoso-events.zendesk.localhost", "help.localhost", "127.0.0.1"];
    let zendesk_identity = authority.issue(&zendesk_names);

    let imis = runtime
        .block_on(Imis::start(ImisOptions::new(Generation::Ems), Some(imis_identity.server_config())))?;
    let domain = format!("zendesk.localhost:{zendesk_port}");
    let mapped = format!("https://help.localhost:{zendesk_port}");
    let options = ZendeskOptions::new(&domain, &mapped, &format!("{site}/sso/zendesk"));
    let zendesk_address = SocketAddr::from(([127, 0, 0, 1], zendesk_port));
    let zendesk = runtime.block_on(Zendesk::start(
        zendesk_address,
        options.clone(),
        Some(zendesk_identity.server_config()),
    ))?;

    std::fs::write(folder.path().join("imis-password"), &imis.options().service_account.1)?;
    std::fs::write(folder.path().join("zendesk-jwt"), &options.shared_secret)?;
    std::fs::write(folder.path().join("zendesk-api"), &options.api_client.1)?;
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, configuration(gateway_port, zendesk_port, &imis))?;
    let config = Config::load(Path::new(&file))?;
    let log = imis_gateway::observe::log::init(&config.log);
    let server = Server::start(&config)?;

    tell(&site, &options.origin, &file, &imis)?;
    server.run_until_signal(&log);
    drop((imis, zendesk));
    Ok(())
}

fn configuration(gateway_port: u16, zendesk_port: u16, imis: &Imis) -> String {
    format!(
        r#"version: 1
listen: {{https: ["127.0.0.1:{gateway_port}"], http: [], admin: null, control: control.sock}}
workers: 1
log: {{format: pretty}}
sites:
  - hosts: [members.localhost]
    certificate: {{chain: members.pem, key: members.key}}
    upstream: {{servers: ["https://{imis_address}"], ca_file: ca.pem}}
    imis:
      api_url: https://{imis_address}/
      session_cookies: [{cookie}]
      recognise: {{method: client_context, page: /imis-gateway-probe}}
      service_account: {{username: svc-gateway, password: {{file: imis-password}}}}
    apps:
      - name: Contoso Helpdesk
        path: /sso/zendesk
        zendesk:
          subdomain: contoso
          url: https://contoso.zendesk.localhost:{zendesk_port}
          brand_hosts: ["contoso-events.zendesk.localhost:{zendesk_port}", "help.localhost:{zendesk_port}"]
          shared_secret: {{file: zendesk-jwt}}
          api:
            url: https://127.0.0.1:{zendesk_port}
            ca_file: ca.pem
            client_id: gateway
            staff_folder: null
            client_secret: {{file: zendesk-api}}
"#,
        imis_address = imis.address(),
        cookie = imis.options().cookie,
    )
}

/// What to open, and who can sign in.
fn tell(site: &str, zendesk: &str, configuration: &Path, imis: &Imis) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "\nimis-gateway demo: gateway, iMIS and Zendesk on this machine; all keys were made just now.\n"
    )?;
    writeln!(out, "  Open a restricted Help Center page:  {zendesk}/hc/en-us/requests")?;
    writeln!(out, "  The members' site, proxied:          {site}/")?;
    writeln!(out, "  The configuration of this run:       {}", configuration.display())?;
    writeln!(out, "  (docs/tutorial.md goes on from here.)\n")?;
    writeln!(
        out,
        "  Your browser will warn about the certificates of both; they are made for this run, so go on."
    )?;
    writeln!(
        out,
        "  (Names below .localhost are this machine in Chrome, Edge and Firefox. Elsewhere add them to your hosts file.)\n"
    )?;
    writeln!(out, "  Who can sign in, all with the password {PASSWORD}:")?;
    for person in &imis.options().people {
        writeln!(
            out,
            "    {:<10} {:<28} {}",
            person.username,
            person.party["Name"].as_str().unwrap_or_default(),
            person.note
        )?;
    }
    writeln!(out, "\n  Ctrl+C ends it.\n")?;
    out.flush()
}

/// The wanted port if nobody has it, else any.
fn free_port(wanted: u16) -> std::io::Result<u16> {
    let any = || std::net::TcpListener::bind(("127.0.0.1", 0));
    let socket = std::net::TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| any())?;
    Ok(socket.local_addr()?.port())
}
