//! `sites[]`: one iMIS web site, its certificate, its servers, and the apps that its members sign in to.

use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::base::x509;
use crate::config::app::{self, App};
use crate::config::certificate::{self, Acme};
use crate::config::imis::{self, Imis};
use crate::config::section::Value;
use crate::config::upstream::{self, Upstream};
use crate::config::values;

/// One iMIS web site.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Lower-case names without port; at least one. The first one stands for the site.
    pub(crate) hosts: Vec<String>,
    /// The port that clients use for HTTPS, where it is known.
    pub(crate) public_port: Option<u16>,
    /// The value of `Strict-Transport-Security`.
    pub(crate) hsts: Option<String>,
    /// `None` until the CA has issued one.
    pub(crate) certificate: Option<Arc<CertifiedKey>>,
    pub(crate) acme: Option<Arc<Acme>>,
    pub(crate) upstream: Upstream,
    pub(crate) sign_on: Option<SignOn>,
}

/// The apps of a site, and the iMIS that knows their members.
#[derive(Debug, Clone)]
pub(crate) struct SignOn {
    pub(crate) imis: Imis,
    pub(crate) apps: Vec<Arc<App>>,
}

impl Site {
    /// A warning about the certificate's validity, if there is one to give. `now`: seconds since 1970.
    pub(crate) fn certificate_warning(&self, now: i64) -> Option<String> {
        match self.certificate.as_ref().and_then(|key| key.cert.first()) {
            Some(leaf) => x509::expiry_warning(leaf, self.acme.is_some(), now),
            None => Some(
                "the CA has not issued a certificate yet: until it has, clients cannot connect (after a reload: \
                 they get the previous certificate)"
                    .to_owned(),
            ),
        }
    }

    pub(crate) fn apps(&self) -> impl Iterator<Item = &Arc<App>> {
        self.sign_on.iter().flat_map(|sign_on| &sign_on.apps)
    }
}

pub(super) fn sites(list: &Value<'_>) -> Vec<Site> {
    let mut seen = Vec::new();
    list.some_items("at least one site is needed")
        .iter()
        .filter_map(|item| site(&item.as_section(), &mut seen))
        .collect()
}

fn site(section: &Value<'_>, hosts_seen: &mut Vec<String>) -> Option<Site> {
    let hosts = section.value("hosts").map(|list| hosts(&list, hosts_seen)).unwrap_or_default();
    let public_port = section.optional_number("public_port");
    let hsts = section.optional_number::<u64>("hsts").map(|seconds| format!("max-age={seconds}"));
    let certificate = section.section("certificate");
    let certificate = certificate.and_then(|section| certificate::certificate(&section, &hosts));
    let upstream = section.section("upstream").map(|section| upstream::upstream(&section));
    let imis = section.section("imis");
    let imis = imis.map(|section| imis::imis(&section, upstream.as_ref()));
    let list = section.given("apps");
    let apps = list.as_ref().map(app::apps).unwrap_or_default();
    if let (Some(list), Some(upstream)) = (&list, &upstream)
        && upstream.proxy_protocol.is_some()
    {
        list.report("the gateway asks iMIS on connections without a PROXY header: a site with apps cannot have upstream.proxy_protocol");
    }
    match (&list, &imis) {
        (Some(list), None) => {
            list.report("apps need to know the iMIS behind the site: add `imis:` beside `apps:`");
        }
        (Some(list), Some(Some(imis))) => report_needs(list, imis, &apps),
        (None, _) | (Some(_), Some(None)) => {}
    }
    let sign_on = match imis {
        Some(imis) => Some(SignOn { imis: imis?, apps }),
        None => None,
    };
    let (certificate, acme) = certificate?;
    Some(Site { hosts, public_port, hsts, certificate, acme, upstream: upstream?, sign_on })
}

/// Reports what the apps need of iMIS and do not have.
fn report_needs(list: &Value<'_>, imis: &Imis, apps: &[Arc<App>]) {
    if imis.session_cookies.is_empty() && apps.iter().any(|app| app.logout_from_imis) {
        list.report("single_logout.from_imis needs session_cookies, to know who had a session");
    }
    for app in apps.iter().filter(|_| imis.service_account.is_none()) {
        for why in app.needs_service_account() {
            list.report(format!("`{}`: {why} needs a service_account", app.name));
        }
    }
}

fn hosts(list: &Value<'_>, seen: &mut Vec<String>) -> Vec<String> {
    let mut hosts = Vec::new();
    for item in list.some_items("at least one host is needed") {
        let Some(host) = item.as_text(values::site_host) else { continue };
        if seen.contains(&host) {
            item.report(format!("`{host}` is listed twice; a host belongs to one site"));
        }
        seen.push(host.clone());
        hosts.push(host);
    }
    hosts
}
