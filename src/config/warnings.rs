//! What is allowed, and yet probably not what the operator wants.

use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use crate::base::paths::parent_directory;
use crate::base::{clock, x509};
use crate::config::app::{App, OnBehalfOf};
use crate::config::certificate::{Acme, Challenge};
use crate::config::document::Config;
use crate::config::process::Otlp;
use crate::config::recognise::MethodKind;
use crate::config::secret::Secret;
use crate::config::site::{SignOn, Site};
use crate::config::zendesk::ZendeskCredentials;

/// `TimeoutStopSec=` of the systemd unit of the packages.
const UNIT_STOP_TIMEOUT: Duration = Duration::from_secs(40);
/// Characters of a shared secret of Zendesk, at least.
const MIN_SHARED_SECRET: usize = 32;

impl Config {
    /// What is allowed, and yet probably not what the operator wants.
    pub fn warnings(&self) -> Vec<String> {
        let drain = self.timeouts.drain;
        let audit_folder = self.audit.file.as_deref().map(parent_directory);
        let of_process = [
            (drain >= UNIT_STOP_TIMEOUT).then(|| {
                let (drain, stop) = (drain.as_secs(), UNIT_STOP_TIMEOUT.as_secs());
                format!("timeouts.drain is {drain} s, but systemd kills the service {stop} s after it has asked it to stop: raise TimeoutStopSec=, too")
            }),
            audit_folder.filter(|folder| !folder.is_dir()).map(|folder| {
                let folder = folder.display();
                format!("audit.file: the folder {folder} does not exist; decisions would be in the log only")
            }),
        ];
        let mut warnings: Vec<String> = of_process.into_iter().flatten().collect();
        for path in self.watched.open_to_all() {
            warnings.push(format!("{}: anybody on this machine may write it", path.display()));
        }
        warnings.extend(self.otlp.iter().flat_map(of_otlp).map(str::to_owned));
        for site in &self.sites {
            warnings.extend(of_hosts(site));
            let acme = site.acme.iter().flat_map(|acme| self.of_acme(site, acme));
            let mut of_site: Vec<String> =
                site.certificate_warning(clock::unix_now_signed()).into_iter().collect();
            of_site.extend(acme.chain(of_connections(site)));
            of_site.extend(site.sign_on.iter().flat_map(of_sign_on));
            warnings.extend(of_site.into_iter().map(|warning| format!("{}: {warning}", site.hosts[0])));
        }
        warnings
    }

    fn of_acme(&self, site: &Site, acme: &Acme) -> Vec<String> {
        let mut others = self.sites.iter().filter_map(|other| other.acme.as_ref());
        let folder = acme.certificate_file.ancestors().skip(1).find(|folder| folder.exists());
        let flags = AccessFlags::W_OK | AccessFlags::X_OK;
        let without_port_80 = acme.challenge == Challenge::Http01 && self.listen.http.is_empty();
        let of_acme = [
            others.any(|other| other.account_file == acme.account_file && other.contact != acme.contact).then(|| {
                "another site has the same account with this CA but another contact; use the same contact".to_owned()
            }),
            acme.unusable.as_ref().map(|why| {
                format!("the certificate from the CA cannot be used, a new one will be requested: {why}")
            }),
            folder.filter(|folder| access(*folder, flags).is_err()).map(|folder| {
                let folder = folder.display();
                format!("this user may not write in {folder}: certificates from the CA could not be stored")
            }),
            without_port_80.then(|| {
                "http-01 needs port 80, but listen.http is empty: validation fails unless systemd passes a socket for it".to_owned()
            }),
        ];
        let without_dot = site.hosts.iter().filter(|host| !host.contains('.'));
        let without_dot = without_dot
            .map(|host| format!("no public CA issues a certificate for a name without a dot: {host}"));
        of_acme.into_iter().flatten().chain(without_dot).collect()
    }
}

fn of_otlp(otlp: &Otlp) -> impl Iterator<Item = &'static str> {
    let is_local = match otlp.endpoint.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let is_exposed = otlp.token.is_some() && otlp.endpoint.scheme() == "http" && !is_local;
    let is_other_protocol = otlp.endpoint.path() == "/" || otlp.endpoint.port() == Some(4317);
    let of_otlp = [
        is_exposed.then_some("log.otlp: the token crosses the network unencrypted; use https"),
        is_other_protocol
            .then_some("log.otlp: most collectors accept traces over HTTP at port 4318 and /v1/traces"),
    ];
    of_otlp.into_iter().flatten()
}

/// Warnings about hosts, each with the name of the host.
fn of_hosts(site: &Site) -> impl Iterator<Item = String> {
    let consequence = match site.acme {
        Some(_) => "until the CA has issued one that does",
        None => "browsers will refuse it",
    };
    let is_covered = |host: &str| site.certificate.as_ref().is_none_or(|key| x509::covers(key, host));
    let uncovered = site.hosts.iter().filter(move |host| !is_covered(host));
    uncovered.map(move |host| format!("{host}: the certificate does not cover this name; {consequence}"))
}

fn of_connections(site: &Site) -> impl Iterator<Item = String> {
    let plain = site.upstream.servers.iter().filter(|server| !server.tls).map(|server| {
        format!(
            "the upstream {server} is plain HTTP: cookies and pages cross the network unencrypted, and iMIS 2017 \
             redirects plain HTTP in an endless loop; use https"
        )
    });
    let api = site.sign_on.as_ref().filter(|sign_on| sign_on.imis.api_url.scheme() != "https").map(|_| {
        "api_url is plain HTTP: the service account's password and members' records cross the network unencrypted; \
         use https"
            .to_owned()
    });
    plain.chain(api)
}

fn of_sign_on(sign_on: &SignOn) -> Vec<String> {
    let methods = &sign_on.imis.recognise;
    let never_revoked = methods.iter().any(
        |method| matches!(&method.kind, MethodKind::FormsTicket(ticket) if ticket.session_info.is_none()),
    );
    let redirects_only = methods.iter().all(|method| matches!(method.kind, MethodKind::ClientApplication(_)));
    let mut warnings = Vec::new();
    warnings.extend(never_revoked.then(|| {
        "forms_ticket without session_info: iMIS does not revoke tickets, so a member stays recognised after signing \
         out, until the ticket expires"
            .to_owned()
    }));
    for app in &sign_on.apps {
        warnings.extend((redirects_only && app.messaging.is_some()).then(|| {
            let name = &app.name;
            format!("`{name}` cannot issue messaging tokens: client_application can recognise a member only by a redirect; add a method")
        }));
        warnings.extend(of_app(app));
    }
    warnings
}

fn of_app(app: &App) -> impl Iterator<Item = String> {
    let (name, guards, own) = (&app.name, &app.guards, &app.zendesk.origin.host);
    let api = app.zendesk.api.as_ref();
    let knows_no_staff = guards.refuses_staff && api.is_none() && guards.staff_domains.is_empty();
    let uses_token = api.is_some_and(|api| matches!(api.credentials, ZendeskCredentials::Token { .. }));
    let api_host = api.map(|api| api.url.host_str().unwrap_or_default());
    let is_short = |secret: &Secret| secret.expose().len() < MIN_SHARED_SECRET;
    let before = [
        knows_no_staff.then(|| {
            format!(
                "`{name}` does not know who is an agent in Zendesk: an iMIS account with the e-mail address of an agent \
                 signs in as that agent. Set zendesk.api or guards.staff_domains, or turn guards.staff off"
            )
        }),
        uses_token.then(|| {
            format!("`{name}` uses an API token, which Zendesk no longer accepts from 2027-04-30: use an OAuth client")
        }),
        api_host.filter(|host| host != own).map(|host| {
            format!("`{name}` asks the API of {host} about agents, but signs in to {own}: is that one account?")
        }),
        app.untrusted_variable().map(|variable| {
            format!("a rule of `{name}` uses {variable}, which anyone can set in the URL: it keeps nobody out")
        }),
    ];
    let after = [
        (app.on_behalf_of == OnBehalfOf::SignInAsContact).then(|| {
            format!("`{name}` signs staff in as the contact they act for: Zendesk cannot tell them apart")
        }),
        app.zendesk.shared_secret.all().any(is_short).then(|| {
            format!("the shared secret of `{name}` is shorter than {MIN_SHARED_SECRET} characters; was it copied completely?")
        }),
    ];
    let overwriting = app.claims.overwriting().map(move |what| format!("`{name}`: {what}"));
    before.into_iter().flatten().chain(overwriting).chain(after.into_iter().flatten())
}
