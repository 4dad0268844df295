//! The composition root: everything that answers requests, built once from the configuration and immutable after.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustls_pki_types::ServerName;
use tokio::sync::Semaphore;

use crate::admission::Admission;
use crate::audit::Audit;
use crate::config::{self, App, BrowserTimeouts, Config, Secret};
use crate::expression::Language;
use crate::imis::{self, Imis};
use crate::metrics::Metrics;
use crate::pace::Limits;
use crate::pages::Pages;
use crate::proxy::places::Places;
use crate::sso::rate::Rates;
use crate::sso::state::Signer;
use crate::tls;
use crate::zendesk::api::Api;
use crate::zendesk::staff::Staff;

/// What all workers share, read-only.
pub(crate) struct Gateway {
    pub(crate) sites: Vec<Site>,
    by_host: HashMap<String, usize>,
    trusted_proxies: Vec<IpNet>,
    /// Whether trusted proxies begin each connection with a PROXY header.
    pub(crate) proxy_protocol: bool,
    pub(crate) pages: Pages,
    pub(crate) metrics: Metrics,
    pub(crate) audit: Audit,
    /// How many sign-ins anybody may begin.
    pub(crate) rates: Rates,
    /// The same for messaging tokens, which every page of the site may ask for: a busy site must not use up its visitors' sign-ins.
    pub(crate) messaging_rates: Rates,
    /// In which rules and claims are written.
    pub(crate) language: Language,
    pub(crate) admission: Arc<Admission>,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) access_log: bool,
    pub(crate) timeouts: BrowserTimeouts,
    /// How slow browsers may be within a body.
    pub(crate) limits: Limits,
    /// Where the redirect from http leads.
    pub(crate) https_port: u16,
}

/// A site with its clients.
pub(crate) struct Site {
    pub(crate) config: config::Site,
    pub(crate) upstream_tls: Arc<rustls::ClientConfig>,
    pub(crate) places: Arc<Places>,
    /// Present when the site has apps to sign in to.
    pub(crate) sign_on: Option<Arc<SignOn>>,
}

/// The apps of a site, with the clients of the iMIS that knows their members.
pub(crate) struct SignOn {
    pub(crate) imis: Imis,
    /// Makes and reads what browsers carry for us.
    pub(crate) states: Signer,
    pub(crate) apps: Vec<Arc<App>>,
    /// Who works in the accounts, by the apps' paths.
    pub(crate) staff: HashMap<String, Arc<Staff>>,
    /// A place for each sign-in under way; whoever finds none waits a little, then is told to come back.
    pub(crate) places: Semaphore,
}

/// A sign-in waits on iMIS with a connection or two; iMIS has others to serve.
const SIGN_INS_AT_A_TIME: usize = 64;

/// Why a configuration that reads well cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("the clients of iMIS cannot be set up")]
    Imis(#[from] imis::BuildError),
    #[error("the client of Zendesk's API cannot be set up")]
    Zendesk(#[source] reqwest::Error),
    #[error("the system has no randomness to give")]
    Random(#[source] getrandom::Error),
}

impl Gateway {
    pub(crate) fn build(config: &Config, https_port: u16) -> Result<Self, BuildError> {
        let metrics = Metrics::new();
        let mut sites = Vec::new();
        let mut by_host = HashMap::new();
        for (index, site) in config.sites.iter().enumerate() {
            by_host.extend(site.hosts.iter().map(|host| (host.clone(), index)));
            sites.push(Site::build(site, config.state_key.as_deref(), &metrics)?);
        }
        Ok(Self {
            sites,
            by_host,
            trusted_proxies: config.trusted_proxies.clone(),
            proxy_protocol: config.proxy_protocol,
            pages: Pages::new(),
            metrics,
            audit: Audit::new(config).map_err(BuildError::Random)?,
            rates: Rates::new(config.sign_in_limits),
            messaging_rates: Rates::new(config.sign_in_limits),
            language: Language::new(),
            admission: Admission::new(config.limits),
            tls: tls::server_config(&config.sites)?,
            access_log: config.log.access,
            timeouts: config.timeouts,
            limits: Limits { gap: config.timeouts.gap, rate: config.limits.body_rate },
            https_port,
        })
    }

    /// The site of a host name without port, compared without case (RFC 9110 section 4.2.3).
    pub(crate) fn site_of(&self, host: &str) -> Option<usize> {
        match self.by_host.get(host) {
            Some(index) => Some(*index),
            None => self.by_host.get(&host.to_ascii_lowercase()).copied(),
        }
    }

    /// Whether a peer's word about where a request came from is taken.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        if self.trusted_proxies.is_empty() {
            return false;
        }
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}

impl Site {
    fn build(
        config: &config::Site,
        state_key: Option<&Secret>,
        metrics: &Metrics,
    ) -> Result<Self, BuildError> {
        let names = upstream_names(config);
        let upstream_tls = Arc::new(tls::upstream::client_config(config.upstream.roots.clone(), names)?);
        let sign_on = match &config.sign_on {
            Some(sign_on) => Some(Arc::new(SignOn {
                imis: Imis::build(
                    &sign_on.imis,
                    config,
                    &upstream_tls,
                    metrics.recognitions(&config.hosts[0]),
                )?,
                states: Signer::new(state_key, &config.hosts[0]).map_err(BuildError::Random)?,
                staff: staff_of(&sign_on.apps)?,
                apps: sign_on.apps.clone(),
                places: Semaphore::new(SIGN_INS_AT_A_TIME),
            })),
            None => None,
        };
        let places = Arc::new(Places::new(config.upstream.limits));
        Ok(Self { config: config.clone(), upstream_tls, places, sign_on })
    }
}

/// What is to be known of the staff of each account whose API can be asked.
fn staff_of(apps: &[Arc<App>]) -> Result<HashMap<String, Arc<Staff>>, BuildError> {
    let mut all = HashMap::new();
    for app in apps.iter().filter(|app| app.guards.refuses_staff) {
        if let Some(api) = &app.zendesk.api {
            all.insert(app.path.clone(), Staff::new(zendesk_api(api)?, &app.name));
        }
    }
    Ok(all)
}

/// A client of an account's API.
pub(crate) fn zendesk_api(api: &config::ZendeskApi) -> Result<Api, BuildError> {
    let tls = tls::upstream::client_config(api.roots.clone(), Vec::new())?;
    Api::new(api, tls).map_err(BuildError::Zendesk)
}

/// The names that the certificate of an upstream of this site may carry.
fn upstream_names(config: &config::Site) -> Vec<ServerName<'static>> {
    let hosts = config.hosts.iter();
    let rewritten = config.upstream.host.iter().map(|authority| &authority.host);
    let servers = config.upstream.servers.iter().map(|server| &server.host);
    hosts.chain(rewritten).chain(servers).filter_map(|name| ServerName::try_from(name.clone()).ok()).collect()
}
