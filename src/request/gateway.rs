//! A configuration and everything that was built from it. It is immutable: a reload builds a new one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustls::sign::CertifiedKey;

use crate::base::min_rate::Limits;
use crate::base::published::Published;
use crate::base::x509;
use crate::config::{self, ClientTimeouts};
use crate::observe::metrics::Metrics;
use crate::observe::trace_export::TraceExporter;
use crate::pages::Pages;
use crate::proxy::concurrency_limit::ConcurrencyLimit;
use crate::sso::site::{Services, SignOn};
use crate::upstream::site::SiteUpstream;
use crate::zendesk::staff::Staff;

/// The state that all workers share, read-only.
pub(crate) struct Gateway {
    pub(crate) sites: Vec<Site>,
    pub(crate) by_host: HashMap<String, usize>,
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Whether trusted proxies begin each connection with a PROXY header.
    pub(crate) proxy_protocol: bool,
    pub(crate) pages: Arc<Pages>,
    pub(crate) metrics: Metrics,
    /// Shared by the sign-ins of all sites.
    pub(crate) services: Arc<Services>,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) access_log: bool,
    /// Whether requests without a `traceparent` get one.
    pub(crate) traces: bool,
    /// Exports traces to a collector, if one is configured.
    pub(crate) trace_exporter: Option<Arc<TraceExporter>>,
    /// Answers to the HTTP-01 challenges of a CA, by token.
    pub(crate) challenge_answers: Arc<Published<String>>,
    /// The port that plain HTTP redirects to.
    pub(crate) https_port: u16,
    pub(crate) timeouts: ClientTimeouts,
    /// The idle time-out and minimum rate of bodies.
    pub(crate) limits: Limits,
    /// Hash of the configuration's text.
    pub(crate) hash: String,
}

/// One iMIS web site, with the clients of its servers.
pub(crate) struct Site {
    pub(crate) config: config::Site,
    /// Certificates of the previous configuration, for hosts that the CA has not issued a valid one for yet.
    pub(crate) previous_certificates: Vec<(String, Arc<CertifiedKey>)>,
    pub(crate) upstream: Arc<SiteUpstream>,
    pub(crate) concurrency_limit: Arc<ConcurrencyLimit>,
    /// Present when the site has apps to sign in to.
    pub(crate) sign_on: Option<Arc<SignOn>>,
}

impl Gateway {
    /// The staff list of each Zendesk account that has one.
    pub(crate) fn staff(&self) -> impl Iterator<Item = &Arc<Staff>> {
        self.sites.iter().flat_map(|site| &site.sign_on).flat_map(|sign_on| sign_on.staff.values())
    }

    /// The site of a host name without port, compared without case (RFC 9110 section 4.2.3). A trailing dot is ignored.
    pub(crate) fn site_of(&self, host: &str) -> Option<usize> {
        let host = host.strip_suffix('.').unwrap_or(host);
        match self.by_host.get(host) {
            Some(index) => Some(*index),
            None => self.by_host.get(&host.to_ascii_lowercase()).copied(),
        }
    }

    /// Whether an address is a trusted proxy, whose forwarding headers are believed.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        if self.trusted_proxies.is_empty() {
            return false;
        }
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }

    /// The certificate that clients get for a host.
    pub(crate) fn certificate(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let site = self.sites.get(self.site_of(host)?)?;
        let previous = site.previous_certificates.iter().find(|(name, _)| name == host).map(|(_, key)| key);
        previous.or(site.config.certificate.as_ref()).cloned()
    }
}

impl Site {
    /// Path of the start page.
    pub(crate) fn home(&self) -> &str {
        self.config.sign_on.as_ref().map_or("/", |sign_on| &sign_on.imis.base_path)
    }

    /// The name of the site in logs and metrics.
    pub(crate) fn name(&self) -> &str {
        &self.config.hosts[0]
    }

    /// When the certificate in use expires, in seconds since 1970.
    pub(crate) fn certificate_expiry(&self) -> Option<i64> {
        let previous = self.previous_certificates.first().map(|(_, key)| key);
        let key = previous.or(self.config.certificate.as_ref())?;
        x509::validity(key.cert.first()?).map(|(_, until)| until)
    }

    /// A warning about the certificate in use. `now`: seconds since 1970.
    pub(crate) fn certificate_warning(&self, now: i64) -> Option<String> {
        match self.previous_certificates.first() {
            Some((host, _)) => Some(format!(
                "{host} uses the certificate of the previous configuration until the CA has issued a valid one"
            )),
            None => self.config.certificate_warning(now),
        }
    }
}
