//! The public address of a site: what its names resolve to, and which certificate is presented there. Also the
//! certificate's CA.
//!
//! All of it is observed from this machine. Visitors may take another route.

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
use crate::base::{clock, tls_client, x509};
use crate::config::Config;
use crate::doctor::finding::Finding;
use crate::doctor::probe::{STEP_TIMEOUT, connect, resolve, shown, within};
use crate::request::gateway::Site;

const NOT_HERE: &str =
    "point the name to this gateway (DNS, load balancer, port forwarding). Before the move, this is expected";

/// `running`: the status of the gateway on this machine.
pub(super) async fn check(config: &Config, site: &Site, running: Option<&Value>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let listening = || config.listen.https.first().map_or(443, std::net::SocketAddr::port);
    let port = site.config.public_port.unwrap_or_else(listening);
    // Port 0 is chosen by the system, and not known here.
    if port != 0 {
        for host in &site.config.hosts {
            findings.push(address(site, host, port).await);
        }
    }
    findings.extend(certificate_authority(site).await);
    findings.extend(last_certificate(site, running));
    findings
}

async fn address(site: &Site, host: &str, port: u16) -> Finding {
    let mut finding = Finding::of_site(site, format!("public address of {host}"));
    if site.config.certificate.is_none() {
        return finding.seen("not tried: this site has no certificate to compare").warning(
            "the CA has not issued a certificate yet, so there can be no connection",
            "the checks of the CA show why",
        );
    }
    finding.seen = format!("looked up {host}");
    let presented = async {
        let addresses = resolve(host, port).await?;
        finding.seen = shown(&addresses);
        let stream = connect(&addresses, port).await?;
        within("TLS handshake", presented_chain(host, stream)).await
    };
    match presented.await {
        Ok(chain) => compare(site, host, &chain, finding),
        Err(error) => finding.warning(error, NOT_HERE),
    }
}

fn compare(site: &Site, host: &str, presented: &[CertificateDer<'static>], finding: Finding) -> Finding {
    let own = site.config.certificate.as_ref().and_then(|pair| pair.cert.first());
    if presented.first() != own || own.is_none() {
        return finding.warning("another server answers there, with another certificate", NOT_HERE);
    }
    if let Some(warning) = site.certificate_warning(clock::unix_now_signed()) {
        return finding.warning(warning, "docs/runbook.md, \"The certificate\"");
    }
    match verify(host, presented) {
        Ok(()) => finding.good("this gateway answers there"),
        Err(error) => finding.warning(
            format!("this gateway answers there, but this machine does not trust the certificate: {error}"),
            "browsers will not trust it either, unless they know its CA. Add the intermediate certificates to the chain",
        ),
    }
}

/// Verifies a chain against the system's roots.
fn verify(host: &str, chain: &[CertificateDer<'static>]) -> Result<(), String> {
    let (Some((leaf, intermediates)), Ok(name)) =
        (chain.split_first(), ServerName::try_from(host.to_owned()))
    else {
        return Err("no certificate".to_owned());
    };
    let verifier =
        WebPkiServerVerifier::builder_with_provider(x509::system_roots(), tls_client::provider()).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now()));
    let verified = verifier.verify_server_cert(leaf, intermediates, &name, &[], now);
    verified.map(drop).map_err(|error| error.to_string())
}

/// The chain that a server presents for a name, valid or not. Nothing is sent over this connection.
async fn presented_chain(host: &str, stream: TcpStream) -> std::io::Result<Vec<CertificateDer<'static>>> {
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

async fn certificate_authority(site: &Site) -> Option<Finding> {
    let acme = site.config.acme.as_ref()?;
    let finding = Finding::of_site(site, "CA").seen(format!("asked {}", acme.directory));
    let asked = tokio::time::timeout(STEP_TIMEOUT, acme::check_directory(acme)).await;
    Some(match asked.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
        Ok(()) => finding.good("answers"),
        Err(error) => {
            let advice = if error.contains("UnknownIssuer") {
                "acme.ca_file must hold the root certificate of the CA's own server"
            } else if error.contains("ACME directory") {
                "acme.directory must be the directory URL that the CA documents"
            } else {
                "certificates cannot be issued or renewed: check whether a firewall blocks this machine"
            };
            finding.failed(error, advice)
        }
    })
}

/// Why the running gateway did not get its last certificate.
fn last_certificate(site: &Site, running: Option<&Value>) -> Option<Finding> {
    site.config.acme.as_ref()?;
    let mut sites = running?["sites"].as_array()?.iter();
    let status = sites.find(|status| status["hosts"][0] == site.config.hosts[0].as_str())?;
    let error = status["certificate"]["acme"]["failed"].as_str()?;
    let finding = Finding::of_site(site, "last certificate").seen("status of the running gateway");
    let advice =
        "docs/operations.md, \"Certificates by ACME\". After the fix, `imis-gateway reload` tries again";
    Some(finding.failed(error, advice))
}
