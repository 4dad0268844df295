//! TLS towards browsers: versions, ALPN, and the certificate of the site that SNI names.
//!
//! A name we do not serve is refused in the handshake, and so is one whose certificate a CA has not given yet; a client that sends no
//! name gets the first site's certificate. No early data.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedCipherSuite};

use crate::acme::challenges::Challenges;
use crate::config::SharedSecret;

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

/// The TLS configuration of the HTTPS listeners. `tickets`: the shared ticket key if one is configured, and the process's own.
pub(crate) fn server_config<'a>(
    sites: impl Iterator<Item = SiteCertificates<'a>> + Clone,
    (shared, own): (Option<&SharedSecret>, &Arc<dyn ProducesTickets>),
    challenges: &Arc<Challenges>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // With AES in hardware the 128-bit suite is the cheapest to key and to run, and as strong as any here.
    provider.cipher_suites.sort_by_key(prefer_aes_128);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(BySni::new(sites.clone(), challenges.clone())));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if sites.clone().any(|site| site.tls_alpn_challenge) {
        config.alpn_protocols.push(ACME_TLS.to_vec());
    }
    config.ignore_client_order = true;
    config.ticketer = match shared {
        Some(secret) => crate::edge::session_tickets::Shared::new(secret),
        None => own.clone(),
    };
    // A browser resumes with one: over HTTP/2 it opens one connection at a time. Each costs as much as a small request.
    config.send_tls13_tickets = 1;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn prefer_aes_128(suite: &SupportedCipherSuite) -> bool {
    !format!("{:?}", suite.suite()).contains("AES_128")
}

/// The protocol of a CA that looks whether a host is ours (RFC 8737 section 3).
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

#[derive(Debug)]
struct BySni {
    by_host: HashMap<String, Arc<CertifiedKey>>,
    without_name: Option<Arc<CertifiedKey>>,
    challenges: Arc<Challenges>,
}

impl BySni {
    fn new<'a>(
        mut sites: impl Iterator<Item = SiteCertificates<'a>> + Clone,
        challenges: Arc<Challenges>,
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
        // Whoever says so and nothing else is a CA; others are shown no such certificate.
        if hello.alpn().is_some_and(|mut offered| offered.all(|protocol| protocol == ACME_TLS)) {
            return self.challenges.certificate(hello.server_name()?);
        }
        match hello.server_name() {
            // rustls has lower-cased the name.
            Some(name) => self.by_host.get(name).cloned(),
            None => self.without_name.clone(),
        }
    }
}
