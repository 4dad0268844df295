//! The composition root: builds everything that answers requests from one configuration. What the previous
//! configuration's parts know and is still true goes into the new ones.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use tokio::sync::Semaphore;

use crate::base::min_rate::Limits;
use crate::base::{clock, x509};
use crate::config::expression::Language;
use crate::config::{self, App, Config, Secret};
use crate::edge::session_tickets;
use crate::edge::tls::{self, SiteCertificates};
use crate::imis::Imis;
use crate::observe::audit::Audit;
use crate::pages::Pages;
use crate::proxy::concurrency_limit::ConcurrencyLimit;
use crate::request::error_page::Failure;
use crate::request::gateway::{Gateway, Site};
use crate::server::build_error::BuildError;
use crate::server::process_state::ProcessState;
use crate::sso::rate_limit::RateLimits;
use crate::sso::site::{Services, SignOn};
use crate::sso::state_cookie::StateCookies;
use crate::upstream::site::SiteUpstream;
use crate::zendesk::Refusal;
use crate::zendesk::staff::Staff;

/// How many sign-ins of a site run at a time. Each waits on iMIS with a connection or two, and iMIS serves others as
/// well.
const MAX_CONCURRENT_SIGN_INS: usize = 64;

/// A gateway for a command that answers no requests.
pub(crate) fn offline_gateway(config: &Config) -> Result<Gateway, BuildError> {
    gateway(config, &*ProcessState::new(config, 443, None)?, None)
}

/// A gateway for a configuration. `previous`: the one that it replaces.
pub(crate) fn gateway(
    config: &Config,
    process: &ProcessState,
    previous: Option<&Gateway>,
) -> Result<Gateway, BuildError> {
    let shared: Vec<&Secret> = config.state_key.iter().flat_map(|both| both.all()).collect();
    let keys = if shared.is_empty() { vec![&process.own_key] } else { shared.clone() };
    let parts = Parts { process, keys: &keys, shared: &shared, previous };
    let sites = config.sites.iter().map(|site| parts.site(site)).collect::<Result<Vec<_>, _>>()?;
    let by_host = config.sites.iter().enumerate();
    let by_host = by_host.flat_map(|(index, site)| site.hosts.iter().map(move |host| (host.clone(), index)));
    for secret in config.secrets() {
        process.age(&secret);
    }
    let apps = config.sites.iter().flat_map(|site| site.apps());
    let names = config.sites.iter().map(|site| site.hosts[0].as_str());
    let apps = apps.map(|app| app.name.as_str());
    process.metrics.create_series(names, &Failure::NAMES, apps, &Refusal::NAMES);
    for site in config.sites.iter().filter(|site| site.acme.is_some()) {
        process.metrics.create_acme_series(&site.hosts[0]);
    }
    let tickets = match &config.ticket_key {
        Some(key) => session_tickets::Shared::new(key.all().map(Secret::expose)),
        None => process.tickets.clone(),
    };
    let certificates = sites.iter().map(|site| SiteCertificates {
        hosts: &site.config.hosts,
        certificate: site.config.certificate.as_ref(),
        previous: &site.previous_certificates,
        tls_alpn_challenge: site
            .config
            .acme
            .as_ref()
            .is_some_and(|acme| acme.challenge == config::Challenge::TlsAlpn01),
    });
    let tls = tls::server_config(certificates, tickets, process.acme.certificates.clone())?;
    let pages = Arc::new(Pages::new());
    Ok(Gateway {
        by_host: by_host.collect(),
        trusted_proxies: config.trusted_proxies.clone(),
        proxy_protocol: config.proxy_protocol,
        services: Arc::new(Services {
            pages: pages.clone(),
            metrics: process.metrics.clone(),
            audit: Audit::new(config, keys[0], previous.map(|previous| &previous.services.audit)),
            rates: parts.rates(config, |services| &services.rates),
            messaging_rates: parts.rates(config, |services| &services.messaging_rates),
            language: Language::new(),
        }),
        pages,
        metrics: process.metrics.clone(),
        tls,
        access_log: config.log.access,
        traces: config.log.generate_traceparent,
        trace_exporter: process.trace_exporter.clone(),
        challenge_answers: process.acme.answers.clone(),
        https_port: process.https_port,
        timeouts: config.timeouts,
        limits: Limits { gap: config.timeouts.body_idle, rate: config.limits.min_body_rate },
        hash: config.hash.clone(),
        sites,
    })
}

/// What the parts of a gateway are built from.
struct Parts<'a> {
    process: &'a ProcessState,
    /// The keys that sign, the first of them; the others verify.
    keys: &'a [&'a Secret],
    /// Those of them that several gateways share.
    shared: &'a [&'a Secret],
    previous: Option<&'a Gateway>,
}

impl Parts<'_> {
    fn site(&self, config: &config::Site) -> Result<Site, BuildError> {
        let previous = self.previous.and_then(|previous| {
            let index = config.hosts.iter().find_map(|host| previous.site_of(host))?;
            previous.sites.get(index)
        });
        if let Some(previous) = previous.filter(|_| config.acme.is_none()) {
            require_certificate_as_good_as(previous, config)?;
        }
        let upstream = SiteUpstream::build(config, self.shared, previous.map(|site| &site.upstream))?;
        let same_upstream = previous.filter(|previous| Arc::ptr_eq(&previous.upstream, &upstream));
        let concurrency_limit = match same_upstream {
            Some(previous) => previous.concurrency_limit.clone(),
            None => Arc::new(ConcurrencyLimit::new(config.upstream.limits)),
        };
        let previous_sign_on = previous.and_then(|previous| previous.sign_on.as_ref());
        let sign_on = match &config.sign_on {
            Some(sign_on) => Some(Arc::new(SignOn {
                hosts: config.hosts.clone(),
                imis: Imis::build(
                    &sign_on.imis,
                    config,
                    &upstream.tls,
                    &upstream.servers,
                    self.process.metrics.clone(),
                )?,
                states: StateCookies::new(self.keys, &config.hosts[0], self.process.used_states.clone()),
                staff: staff_of(&sign_on.apps, self.previous)?,
                apps: sign_on.apps.clone(),
                sign_in_permits: previous_sign_on.map_or_else(
                    || Arc::new(Semaphore::new(MAX_CONCURRENT_SIGN_INS)),
                    |previous| previous.sign_in_permits.clone(),
                ),
            })),
            None => None,
        };
        let previous_certificates = match (&config.acme, self.previous) {
            (Some(_), Some(previous)) => previous_certificates(previous, config),
            _ => Vec::new(),
        };
        Ok(Site { config: config.clone(), previous_certificates, upstream, concurrency_limit, sign_on })
    }

    /// The rate limits of the previous configuration, as long as their settings are the same.
    fn rates(&self, config: &Config, of: fn(&Services) -> &Arc<RateLimits>) -> Arc<RateLimits> {
        let previous = self.previous.map(|previous| of(&previous.services));
        let kept = previous.filter(|rates| rates.limits == config.sign_in_limits);
        kept.cloned().unwrap_or_else(|| Arc::new(RateLimits::new(config.sign_in_limits)))
    }
}

/// A valid certificate is not replaced by one that browsers refuse.
fn require_certificate_as_good_as(previous: &Site, config: &config::Site) -> Result<(), BuildError> {
    let in_use = previous.previous_certificates.first().map(|(_, key)| key);
    let in_use = in_use.or(previous.config.certificate.as_ref());
    let (Some(in_use), Some(new)) = (in_use, &config.certificate) else { return Ok(()) };
    let now = clock::unix_now_signed();
    if new.cert.first() != in_use.cert.first()
        && let Some(why) = x509::fault(new, &config.hosts, now)
        && x509::fault(in_use, &config.hosts, now).is_none()
    {
        return Err(BuildError::WorseCertificate { site: config.hosts[0].clone(), why });
    }
    Ok(())
}

/// For the hosts of a site that its own certificate is not valid for, the certificate in use before, where that is
/// valid: a change to another CA loses nothing until that CA has issued one.
fn previous_certificates(previous: &Gateway, site: &config::Site) -> Vec<(String, Arc<CertifiedKey>)> {
    let now = clock::unix_now_signed();
    let is_valid = |key: &CertifiedKey, host: &str| {
        let times = key.cert.first().and_then(x509::validity);
        times.is_some_and(|(_, until)| until > now) && x509::covers(key, host)
    };
    let lacking =
        site.hosts.iter().filter(|host| !site.certificate.as_ref().is_some_and(|key| is_valid(key, host)));
    lacking
        .filter_map(|host| {
            Some((host.clone(), previous.certificate(host).filter(|key| is_valid(key, host))?))
        })
        .collect()
}

/// The staff list of each account whose API is configured. What another app knows of the same account is taken over,
/// and all of it when the API is asked in the same way.
fn staff_of(
    apps: &[Arc<App>],
    previous: Option<&Gateway>,
) -> Result<HashMap<String, Arc<Staff>>, BuildError> {
    let old: Vec<(&App, &Arc<Staff>)> = previous
        .iter()
        .flat_map(|previous| previous.sites.iter().flat_map(|site| &site.sign_on))
        .flat_map(|sign_on| {
            sign_on.apps.iter().filter_map(|app| Some((&**app, sign_on.staff.get(&app.path)?)))
        })
        .collect();
    let mut all = HashMap::new();
    for app in apps.iter().filter(|app| app.guards.refuses_staff) {
        let Some(api) = &app.zendesk.api else { continue };
        let same_account = |old: &App| old.zendesk.api.as_ref().is_some_and(|old| old.url == api.url);
        let same = |old: &App| old.zendesk.api.as_ref() == Some(api) && old.name == app.name;
        let staff = match old.iter().find(|(old, _)| same(old)) {
            Some((_, staff)) => Arc::clone(staff),
            None => {
                let known = old.iter().find(|(old, _)| same_account(old)).map(|(_, staff)| &***staff);
                Staff::new(api, &app.name, known)?
            }
        };
        all.insert(app.path.clone(), staff);
    }
    Ok(all)
}
