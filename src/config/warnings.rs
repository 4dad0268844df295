//! What is allowed, and yet probably not what the operator wants.

use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use crate::base::paths::parent_directory;
use crate::base::{clock, x509};
use crate::config::app::{App, OnBehalfOf};
use crate::config::certificate::{Acme, Challenge};
use crate::config::document::Config;
use crate::config::process::Otlp;
use crate::config::recognise::How;
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
        let mut warnings = Vec::new();
        if self.timeouts.drain >= UNIT_STOP_TIMEOUT {
            warnings.push(format!(
                "timeouts.drain is {} s, but systemd kills the service {} s after it has asked it to stop: raise TimeoutStopSec=, too",
                self.timeouts.drain.as_secs(),
                UNIT_STOP_TIMEOUT.as_secs()
            ));
        }
        if let Some(file) = &self.audit.file
            && !parent_directory(file).is_dir()
        {
            warnings.push(format!(
                "audit.file: the folder {} does not exist; decisions would be in the log only",
                parent_directory(file).display()
            ));
        }
        for path in self.watched.open_to_all() {
            warnings.push(format!("{}: anybody on this machine may write it", path.display()));
        }
        self.otlp.iter().for_each(|otlp| of_otlp(otlp, &mut warnings));
        for site in &self.sites {
            of_hosts(site, &mut warnings);
            let mut of_site = Vec::from_iter(site.certificate_warning(clock::unix_now_signed()));
            if let Some(acme) = &site.acme {
                self.of_acme(site, acme, &mut of_site);
            }
            of_connections(site, &mut of_site);
            if let Some(sign_on) = &site.sign_on {
                of_sign_on(sign_on, &mut of_site);
            }
            warnings.extend(of_site.into_iter().map(|warning| format!("{}: {warning}", site.hosts[0])));
        }
        warnings
    }

    fn of_acme(&self, site: &Site, acme: &Acme, warnings: &mut Vec<String>) {
        let mut others = self.sites.iter().filter_map(|other| other.acme.as_ref());
        if others.any(|other| other.account_file == acme.account_file && other.contact != acme.contact) {
            warnings.push(
                "another site has the same account with this CA but another contact; use the same contact"
                    .to_owned(),
            );
        }
        if let Some(why) = &acme.unusable {
            warnings.push(format!(
                "the certificate from the CA cannot be used, a new one will be requested: {why}"
            ));
        }
        if let Some(folder) = acme.certificate_file.ancestors().skip(1).find(|folder| folder.exists())
            && access(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_err()
        {
            warnings.push(format!(
                "this user may not write in {}: certificates from the CA could not be stored",
                folder.display()
            ));
        }
        for host in site.hosts.iter().filter(|host| !host.contains('.')) {
            warnings.push(format!("no public CA issues a certificate for a name without a dot: {host}"));
        }
        if acme.challenge == Challenge::Http01 && self.listen.http.is_empty() {
            warnings.push(
                "http-01 needs port 80, but listen.http is empty: validation fails unless systemd passes a socket for it"
                    .to_owned(),
            );
        }
    }
}

fn of_otlp(otlp: &Otlp, warnings: &mut Vec<String>) {
    let is_local = match otlp.endpoint.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if otlp.token.is_some() && otlp.endpoint.scheme() == "http" && !is_local {
        warnings.push("log.otlp: the token crosses the network unencrypted; use https".to_owned());
    }
    if otlp.endpoint.path() == "/" || otlp.endpoint.port() == Some(4317) {
        warnings
            .push("log.otlp: most collectors accept traces over HTTP at port 4318 and /v1/traces".to_owned());
    }
}

/// Warnings about hosts, each with the name of the host.
fn of_hosts(site: &Site, warnings: &mut Vec<String>) {
    let Some(certificate) = &site.certificate else { return };
    let consequence = match site.acme {
        Some(_) => "until the CA has issued one that does",
        None => "browsers will refuse it",
    };
    for host in site.hosts.iter().filter(|host| !x509::covers(certificate, host)) {
        warnings.push(format!("{host}: the certificate does not cover this name; {consequence}"));
    }
}

fn of_connections(site: &Site, warnings: &mut Vec<String>) {
    for server in site.upstream.servers.iter().filter(|server| !server.tls) {
        warnings.push(format!(
            "the upstream {server} is plain HTTP: cookies and pages cross the network unencrypted, and iMIS 2017 \
             redirects plain HTTP in an endless loop; use https"
        ));
    }
    if site.sign_on.as_ref().is_some_and(|sign_on| sign_on.imis.api_url.scheme() != "https") {
        warnings.push(
            "api_url is plain HTTP: the service account's password and members' records cross the network \
             unencrypted; use https"
                .to_owned(),
        );
    }
}

fn of_sign_on(sign_on: &SignOn, warnings: &mut Vec<String>) {
    let methods = &sign_on.imis.recognise;
    if methods
        .iter()
        .any(|method| matches!(&method.how, How::FormsTicket(ticket) if ticket.session_info.is_none()))
    {
        warnings.push(
            "forms_ticket without session_info: iMIS does not revoke tickets, so a member stays recognised after \
             signing out, until the ticket expires"
                .to_owned(),
        );
    }
    let redirects_only = methods.iter().all(|method| matches!(method.how, How::ClientApplication(_)));
    for app in &sign_on.apps {
        if redirects_only && app.messaging.is_some() {
            warnings.push(format!(
                "`{}` cannot issue messaging tokens: client_application can recognise a member only by a redirect; add a method",
                app.name
            ));
        }
        of_app(app, warnings);
    }
}

fn of_app(app: &App, warnings: &mut Vec<String>) {
    let (name, guards) = (&app.name, &app.guards);
    if guards.refuses_staff && app.zendesk.api.is_none() && guards.staff_domains.is_empty() {
        warnings.push(format!(
            "`{name}` does not know who is an agent in Zendesk: an iMIS account with the e-mail address of an agent signs in \
             as that agent. Set zendesk.api or guards.staff_domains, or turn guards.staff off"
        ));
    }
    if let Some(api) = &app.zendesk.api {
        if matches!(api.credentials, ZendeskCredentials::Token { .. }) {
            warnings.push(format!(
                "`{name}` uses an API token, which Zendesk no longer accepts from 2027-04-30: use an OAuth client"
            ));
        }
        let (own, other) = (&app.zendesk.origin.host, api.url.host_str().unwrap_or_default());
        if own != other {
            warnings.push(format!(
                "`{name}` asks the API of {other} about agents, but signs in to {own}: is that one account?"
            ));
        }
    }
    if let Some(variable) = app.untrusted_variable() {
        warnings.push(format!(
            "a rule of `{name}` uses {variable}, which anyone can set in the URL: it keeps nobody out"
        ));
    }
    warnings.extend(app.claims.overwriting().map(|what| format!("`{name}`: {what}")));
    if app.on_behalf_of == OnBehalfOf::SignInAsContact {
        warnings.push(format!(
            "`{name}` signs staff in as the contact they act for: Zendesk cannot tell them apart"
        ));
    }
    let is_short = |secret: &Secret| secret.expose().len() < MIN_SHARED_SECRET;
    if app.zendesk.shared_secret.all().any(is_short) {
        warnings.push(format!(
            "the shared secret of `{name}` is shorter than {MIN_SHARED_SECRET} characters; was it copied completely?"
        ));
    }
}
