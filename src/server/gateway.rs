//! The composition root: everything that answers requests, built from one configuration and immutable after. A reload builds another,
//! which takes over what is not the configuration's (`Lasting`) and what its predecessor knows that is still true.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use rustls::server::ProducesTickets;
use rustls::sign::CertifiedKey;
use rustls_pki_types::ServerName;
use tokio::sync::Semaphore;

use crate::acme::Progress;
use crate::base::clock;
use crate::base::min_rate::Limits;
use crate::base::x509;
use crate::config::expression::Language;
use crate::config::{self, App, BrowserTimeouts, Config, Secret, ShownSecret};
use crate::edge::admission::Admission;
use crate::edge::tls;
use crate::imis::{self, Imis};
use crate::observe::audit::Audit;
use crate::observe::metrics::Metrics;
use crate::observe::spans::Spans;
use crate::pages::Pages;
use crate::proxy::places::Places;
use crate::sso::rate::Rates;
use crate::sso::state::{Signer, UsedStates};
use crate::upstream::servers::Servers;
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
    pub(crate) lasting: Arc<Lasting>,
    pub(crate) metrics: Metrics,
    pub(crate) audit: Audit,
    /// How many sign-ins anybody may begin.
    pub(crate) rates: Arc<Rates>,
    /// The same for messaging tokens, which every page of the site may ask for: a busy site must not use up its visitors' sign-ins.
    pub(crate) messaging_rates: Arc<Rates>,
    /// In which rules and claims are written.
    pub(crate) language: Language,
    pub(crate) admission: Arc<Admission>,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) access_log: bool,
    /// Whether requests without a `traceparent` are given one.
    pub(crate) traces: bool,
    pub(crate) timeouts: BrowserTimeouts,
    /// How slow browsers may be within a body.
    pub(crate) limits: Limits,
    /// Of the configuration's text.
    pub(crate) hash: String,
}

/// What one process keeps, however often it is reloaded.
pub(crate) struct Lasting {
    pub(crate) metrics: Metrics,
    pub(crate) admission: Arc<Admission>,
    /// Where the redirect from http leads.
    pub(crate) https_port: u16,
    tickets: Arc<dyn ProducesTickets>,
    /// Signs where no `state_key` is configured.
    own_key: Secret,
    used_states: Arc<UsedStates>,
    /// Where traces go.
    pub(crate) spans: Option<Arc<Spans>>,
    /// What is under way with CAs, and how it went.
    pub(crate) acme: Progress,
    /// Since when secrets have been known, by their fingerprints; seconds since 1970.
    secrets: Mutex<HashMap<String, u64>>,
}

impl Lasting {
    pub(crate) fn new(
        config: &Config,
        https_port: u16,
        spans: Option<Arc<Spans>>,
    ) -> Result<Arc<Self>, BuildError> {
        let own_key = clock::random_hex().and_then(|half| Ok(half + &clock::random_hex()?));
        Ok(Arc::new(Self {
            metrics: Metrics::new(),
            admission: Admission::new(config.limits),
            https_port,
            tickets: tls::own_tickets()?,
            own_key: Secret::new(&own_key.map_err(BuildError::Random)?),
            used_states: Arc::default(),
            spans,
            acme: Progress::default(),
            secrets: Mutex::default(),
        }))
    }

    /// How old a secret is, in seconds, as far as anybody knows.
    pub(crate) fn age(&self, secret: &ShownSecret) -> u64 {
        let now = clock::unix_now();
        let mut known = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let since = secret.changed.unwrap_or_else(|| *known.entry(secret.fingerprint.clone()).or_insert(now));
        now.saturating_sub(since)
    }
}

/// A site with its clients.
pub(crate) struct Site {
    pub(crate) config: config::Site,
    pub(crate) upstream_tls: Arc<rustls::ClientConfig>,
    pub(crate) places: Arc<Places>,
    pub(crate) servers: Arc<Servers>,
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
    pub(crate) places: Arc<Semaphore>,
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
    /// For a command that answers no requests.
    pub(crate) fn alone(config: &Config) -> Result<Self, BuildError> {
        Self::build(config, &Lasting::new(config, 443, None)?, None)
    }

    /// `before`: the one whose place it takes.
    pub(crate) fn build(
        config: &Config,
        lasting: &Arc<Lasting>,
        before: Option<&Self>,
    ) -> Result<Self, BuildError> {
        let shared: Vec<&Secret> = config.state_key.iter().flat_map(|both| both.all()).collect();
        let keys = if shared.is_empty() { vec![&lasting.own_key] } else { shared.clone() };
        let mut sites = Vec::new();
        let mut by_host = HashMap::new();
        for (index, site) in config.sites.iter().enumerate() {
            by_host.extend(site.hosts.iter().map(|host| (host.clone(), index)));
            let same = |before: &Self| site.hosts.iter().find_map(|host| before.site_of(host));
            let predecessor = before.and_then(|before| before.sites.get(same(before)?));
            let mut built = Site::build(site, (&keys, &shared), lasting, (before, predecessor))?;
            if let (true, Some(before)) = (site.acme.is_some(), before) {
                // Whoever changes to a CA loses nothing until it has answered.
                built.config.of_before = before.shown_instead(site);
            }
            sites.push(built);
        }
        let kept_rates = |of: fn(&Self) -> &Arc<Rates>| {
            let kept = before.map(of).filter(|rates| rates.limits == config.sign_in_limits);
            kept.cloned().unwrap_or_else(|| Arc::new(Rates::new(config.sign_in_limits)))
        };
        for secret in config.secrets() {
            lasting.age(&secret);
        }
        let apps = config.sites.iter().flat_map(|site| site.apps());
        let names = config.sites.iter().map(|site| site.hosts[0].as_str());
        lasting.metrics.expect(names, apps.map(|app| app.name.as_str()));
        for site in config.sites.iter().filter(|site| site.acme.is_some()) {
            lasting.metrics.expect_orders(&site.hosts[0]);
        }
        Ok(Self {
            by_host,
            trusted_proxies: config.trusted_proxies.clone(),
            proxy_protocol: config.proxy_protocol,
            pages: Pages::new(),
            metrics: lasting.metrics.clone(),
            audit: Audit::new(config, keys[0], before.map(|before| &before.audit)),
            rates: kept_rates(|before| &before.rates),
            messaging_rates: kept_rates(|before| &before.messaging_rates),
            language: Language::new(),
            admission: lasting.admission.clone(),
            tls: tls::server_config(
                sites.iter().map(|site| &site.config),
                (config.ticket_key.as_deref(), &lasting.tickets),
                &lasting.acme.challenges,
            )?,
            access_log: config.log.access,
            traces: config.log.trace,
            timeouts: config.timeouts,
            limits: Limits { gap: config.timeouts.gap, rate: config.limits.body_rate },
            hash: config.hash.clone(),
            lasting: lasting.clone(),
            sites,
        })
    }

    /// What the hosts of a site that its own certificate is no good for are shown here, as far as that is good.
    fn shown_instead(&self, site: &config::Site) -> Vec<(String, Arc<CertifiedKey>)> {
        let now = clock::unix_now_signed();
        let is_good = |pair: &CertifiedKey, host: &str| {
            let times = pair.cert.first().and_then(x509::validity);
            times.is_some_and(|(_, until)| until > now) && x509::covers(pair, host)
        };
        let lacking = site
            .hosts
            .iter()
            .filter(|host| !site.certificate.as_ref().is_some_and(|pair| is_good(pair, host)));
        lacking
            .filter_map(|host| Some((host.clone(), self.shown(host).filter(|pair| is_good(pair, host))?)))
            .collect()
    }

    /// The certificate that browsers are shown for a host.
    fn shown(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let site = &self.sites.get(self.site_of(host)?)?.config;
        let instead = site.of_before.iter().find(|(own, _)| own == host).map(|(_, pair)| pair);
        instead.or(site.certificate.as_ref()).cloned()
    }

    /// Who works in the accounts.
    pub(crate) fn staff(&self) -> impl Iterator<Item = &Arc<Staff>> {
        self.sites.iter().flat_map(|site| &site.sign_on).flat_map(|sign_on| sign_on.staff.values())
    }

    /// The secrets of all apps, as they may be shown, with their ages in seconds.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (ShownSecret, u64)> {
        let apps = self.sites.iter().flat_map(|site| site.config.apps());
        apps.flat_map(|app| app.secrets()).map(|secret| {
            let age = self.lasting.age(&secret);
            (secret, age)
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
        (keys, shared): (&[&Secret], &[&Secret]),
        lasting: &Lasting,
        (gateway, before): (Option<&Gateway>, Option<&Self>),
    ) -> Result<Self, BuildError> {
        let names = upstream_names(config);
        let kept = before.filter(|before| {
            upstream_names(&before.config) == names
                && before.config.upstream == config.upstream
                && before.servers.have_cookies_of(shared)
        });
        let (upstream_tls, places, servers) = match kept {
            Some(before) => (before.upstream_tls.clone(), before.places.clone(), before.servers.clone()),
            None => (
                Arc::new(crate::base::tls_client::client_config(config.upstream.roots.0.clone(), names)?),
                Arc::new(Places::new(config.upstream.limits)),
                Servers::new(&config.upstream, shared, before.map(|before| &*before.servers))
                    .map_err(BuildError::Random)?,
            ),
        };
        if let Some(before) = before.filter(|_| kept.is_none()) {
            let same_health = before.config.upstream.health == config.upstream.health;
            servers.take_over(&before.servers, same_health);
        }
        let sign_on = match &config.sign_on {
            Some(sign_on) => Some(Arc::new(SignOn {
                imis: Imis::build(
                    &sign_on.imis,
                    config,
                    (&upstream_tls, &servers),
                    lasting.metrics.recognitions(&config.hosts[0]),
                )?,
                states: Signer::new(keys, &config.hosts[0], lasting.used_states.clone()),
                staff: staff_of(&sign_on.apps, gateway)?,
                apps: sign_on.apps.clone(),
                places: match before.and_then(|before| before.sign_on.as_ref()) {
                    Some(before) => before.places.clone(),
                    None => Arc::new(Semaphore::new(SIGN_INS_AT_A_TIME)),
                },
            })),
            None => None,
        };
        Ok(Self { config: config.clone(), upstream_tls, places, servers, sign_on })
    }
}

/// What is to be known of the staff of each account whose API can be asked. What another app knew of the same account is taken over, and
/// all of it when it is asked in the same way.
fn staff_of(apps: &[Arc<App>], before: Option<&Gateway>) -> Result<HashMap<String, Arc<Staff>>, BuildError> {
    let old: Vec<(&App, &Arc<Staff>)> = before
        .iter()
        .flat_map(|before| before.sites.iter().flat_map(|site| &site.sign_on))
        .flat_map(|sign_on| {
            sign_on.apps.iter().filter_map(|app| Some((&**app, sign_on.staff.get(&app.path)?)))
        })
        .collect();
    let mut all = HashMap::new();
    for app in apps.iter().filter(|app| app.guards.refuses_staff) {
        let Some(api) = &app.zendesk.api else { continue };
        let of = |old: &App| old.zendesk.api.as_ref().is_some_and(|old| old.url == api.url);
        let same = |old: &App| old.zendesk.api.as_ref() == Some(api) && old.name == app.name;
        let staff = match old.iter().find(|(old, _)| same(old)) {
            Some((_, staff)) => Arc::clone(staff),
            None => {
                let known = old.iter().find(|(old, _)| of(old)).map(|(_, staff)| &***staff);
                Staff::new(zendesk_api(api)?, &app.name, known)
            }
        };
        all.insert(app.path.clone(), staff);
    }
    Ok(all)
}

/// A client of an account's API.
pub(crate) fn zendesk_api(api: &config::ZendeskApi) -> Result<Api, BuildError> {
    let tls = crate::base::tls_client::client_config(api.roots.0.clone(), Vec::new())?;
    Api::new(api, tls).map_err(BuildError::Zendesk)
}

/// The names that the certificate of an upstream of this site may carry.
fn upstream_names(config: &config::Site) -> Vec<ServerName<'static>> {
    let hosts = config.hosts.iter();
    let rewritten = config.upstream.host.iter().map(|authority| &authority.host);
    let servers = config.upstream.servers.iter().map(|server| &server.host);
    hosts.chain(rewritten).chain(servers).filter_map(|name| ServerName::try_from(name.clone()).ok()).collect()
}
