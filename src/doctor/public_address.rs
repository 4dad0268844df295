//! The way of a site's names to here: what they resolve to, who answers there, and with which certificate. It is tried from this machine;
//! visitors may come another way.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::acme;
use crate::base::clock;
use crate::base::tls_client;
use crate::base::x509;
use crate::config::Config;
use crate::doctor::{Finding, Severity};
use crate::request::gateway::Site;

const PATIENCE: Duration = Duration::from_secs(10);
const MOVE: &str = "visitors come here only when the name leads here (DNS, a load balancer, a port forwarding); before the move this is as it should be";

/// `running`: what a gateway on this machine says of itself.
pub(super) async fn examine(
    config: &Config,
    site: &Site,
    running: Option<&Value>,
    findings: &mut Vec<Finding>,
) {
    let port = config.listen.https.first().map_or(443, std::net::SocketAddr::port);
    // One that the system chooses nobody can know.
    if port != 0 {
        for host in &site.config.hosts {
            findings.push(way(site, host, port).await);
        }
    }
    if let Some(acme) = &site.config.acme {
        let finding = Finding { seen: format!("asked {}", acme.directory), ..Finding::good(site, "CA") };
        let asked = tokio::time::timeout(PATIENCE, acme::check_directory(acme)).await;
        findings.push(match asked.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(()) => Finding { result: "answers".to_owned(), ..finding },
            Err(why) => {
                let advice = if why.contains("UnknownIssuer") {
                    "acme.ca_file has to hold the root that vouches for the CA's own server"
                } else if why.contains("ACME directory") {
                    "acme.directory is the URL of the CA's directory, which the CA tells"
                } else {
                    "certificates are neither given nor renewed: does a firewall keep this machine from it?"
                };
                finding.but(Severity::Failed, why, advice)
            }
        });
        let of_site = running.and_then(|status| {
            let mut sites = status["sites"].as_array()?.iter();
            sites.find(|of| of["hosts"][0] == site.config.hosts[0].as_str())
        });
        if let Some(why) = of_site.and_then(|of| of["certificate"]["acme"]["failed"].as_str()) {
            let finding = Finding {
                seen: "what the gateway that runs says".to_owned(),
                ..Finding::good(site, "the last certificate")
            };
            findings.push(finding.but(Severity::Failed, why, "docs/operations.md, \"Certificates by ACME\"; when it is mended, `imis-gateway reload` has it asked again"));
        }
    }
}

async fn way(site: &Site, host: &str, port: u16) -> Finding {
    let mut finding = Finding::good(site, format!("the way of {host} to here"));
    if site.config.certificate.is_none() {
        finding.seen = "looked for no way: there is nothing to be known again by".to_owned();
        return finding.but(
            Severity::Warning,
            "the CA has given no certificate yet: whoever had none before gets no connection",
            "the CA has to give one first: the checks of the CA say why it does not",
        );
    }
    finding.seen = format!("asked for the addresses of {host}");
    let looked = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, port))).await;
    let addresses: Vec<_> = match looked {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return finding.but(Severity::Warning, format!("the name: {error}"), MOVE),
        Err(_) => return finding.but(Severity::Warning, "the name: no answer of DNS in time", MOVE),
    };
    let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    finding.seen = format!("addresses: {}", shown.join(", "));
    let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(&*addresses)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return finding.but(Severity::Warning, format!("nobody accepts on port {port}: {error}"), MOVE);
        }
        Err(_) => {
            return finding.but(Severity::Warning, format!("no connection to port {port} in time"), MOVE);
        }
    };
    let shown = match tokio::time::timeout(PATIENCE, shown_there(host, stream)).await {
        Ok(Ok(chain)) => chain,
        Ok(Err(error)) => return finding.but(Severity::Warning, format!("no TLS there: {error}"), MOVE),
        Err(_) => return finding.but(Severity::Warning, "no TLS there in time", MOVE),
    };
    judge(site, host, &shown, finding)
}

fn judge(site: &Site, host: &str, shown: &[CertificateDer<'static>], mut finding: Finding) -> Finding {
    let own = site.config.certificate.as_ref().and_then(|pair| pair.cert.first());
    if shown.first() != own || own.is_none() {
        return finding.but(
            Severity::Warning,
            "it leads elsewhere: another certificate is shown there",
            MOVE,
        );
    }
    "it leads here".clone_into(&mut finding.result);
    let now = clock::unix_now_signed();
    if let Some(word) = site.certificate_warning(now) {
        return finding.but(Severity::Warning, word, "docs/runbook.md, \"The certificate\"");
    }
    match trusted(host, shown) {
        Ok(()) => finding,
        Err(why) => finding.but(
            Severity::Warning,
            format!("it leads here, and this machine does not trust the certificate: {why}"),
            "browsers will not, either, unless they know its CA: has the chain all certificates between leaf and root?",
        ),
    }
}

/// Whether whoever trusts what this machine trusts would trust this.
fn trusted(host: &str, shown: &[CertificateDer<'static>]) -> Result<(), String> {
    let (Some((leaf, between)), Ok(name)) = (shown.split_first(), ServerName::try_from(host.to_owned()))
    else {
        return Err("none was shown".to_owned());
    };
    let verifier =
        WebPkiServerVerifier::builder_with_provider(x509::system_roots(), tls_client::provider()).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now()));
    verifier.verify_server_cert(leaf, between, &name, &[], now).map(|_| ()).map_err(|error| error.to_string())
}

/// The chain that is shown for a name, whatever it is worth: nothing is said on this connection.
async fn shown_there(host: &str, stream: TcpStream) -> std::io::Result<Vec<CertificateDer<'static>>> {
    let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
    let config = ClientConfig::builder_with_provider(tls_client::provider())
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(tls_client::Anything))
        .with_no_client_auth();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
}
