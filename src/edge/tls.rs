//! TLS towards clients: versions, ALPN, and the certificate of the host that the client names (SNI).
//!
//! The handshake fails for a host that no site has, and for one whose certificate has not been issued yet. A client
//! that names no host gets the first site's certificate. There is no early data.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedCipherSuite};

use crate::base::published::Published;

/// The certificates of one site.
#[derive(Clone, Copy)]
pub(crate) struct SiteCertificates<'a> {
    pub(crate) hosts: &'a [String],
    pub(crate) certificate: Option<&'a Arc<CertifiedKey>>,
    /// Certificates of the previous configuration, for hosts that the site's own is not valid for yet.
    pub(crate) previous: &'a [(String, Arc<CertifiedKey>)],
    /// A CA validates the site by TLS-ALPN-01.
    pub(crate) tls_alpn_challenge: bool,
}

/// The TLS configuration of the HTTPS listeners. `challenges`: the certificates for TLS-ALPN-01 challenges, by host.
pub(crate) fn server_config<'a>(
    sites: impl Iterator<Item = SiteCertificates<'a>> + Clone,
    tickets: Arc<dyn ProducesTickets>,
    challenges: Arc<Published<CertifiedKey>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // With AES in hardware the 128-bit suite is the fastest.
    provider.cipher_suites.sort_by_key(prefer_aes_128);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(BySni::new(sites.clone(), challenges)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if sites.clone().any(|site| site.tls_alpn_challenge) {
        config.alpn_protocols.push(ACME_TLS.to_vec());
    }
    config.ignore_client_order = true;
    config.ticketer = tickets;
    // One is enough, because HTTP/2 clients open one connection at a time. Each ticket costs as much as a small
    // request.
    config.send_tls13_tickets = 1;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn prefer_aes_128(suite: &SupportedCipherSuite) -> bool {
    !format!("{:?}", suite.suite()).contains("AES_128")
}

/// The ALPN protocol of a CA that validates a host (RFC 8737 section 3).
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

#[derive(Debug)]
struct BySni {
    by_host: HashMap<String, Arc<CertifiedKey>>,
    without_name: Option<Arc<CertifiedKey>>,
    challenges: Arc<Published<CertifiedKey>>,
}

impl BySni {
    fn new<'a>(
        mut sites: impl Iterator<Item = SiteCertificates<'a>> + Clone,
        challenges: Arc<Published<CertifiedKey>>,
    ) -> Self {
        let keys = sites.clone().flat_map(|site| {
            let own =
                site.hosts.iter().filter_map(move |host| Some((host.clone(), site.certificate?.clone())));
            own.chain(site.previous.iter().cloned())
        });
        let by_host = keys.collect();
        let without_name = sites.next().and_then(|site| {
            let previous = site.previous.first().map(|(_, key)| key);
            previous.or(site.certificate).cloned()
        });
        Self { by_host, without_name, challenges }
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A CA offers this protocol alone. Other clients never get a challenge certificate.
        if hello.alpn().is_some_and(|mut offered| offered.all(|protocol| protocol == ACME_TLS)) {
            return self.challenges.get(hello.server_name()?);
        }
        match hello.server_name() {
            // rustls has lower-cased the name.
            Some(name) => self.by_host.get(name).cloned(),
            None => self.without_name.clone(),
        }
    }
}
