//! What is allowed and yet not what most operators want.

use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use crate::base::clock;
use crate::base::paths::parent_directory;
use crate::base::x509;
use crate::config::{Challenge, Config, How, OnBehalfOf, Secret, SignOn, ZendeskApi, ZendeskCredentials};

/// `TimeoutStopSec=` of the unit that comes with the gateway.
const UNIT_STOPS_AFTER: Duration = Duration::from_secs(40);

impl Config {
    /// What is allowed and yet not what most operators want.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.timeouts.drain >= UNIT_STOPS_AFTER {
            warnings.push(format!(
                "timeouts.drain is {} s, and systemd kills the service {} s after it has told it to stop: raise TimeoutStopSec= with it",
                self.timeouts.drain.as_secs(),
                UNIT_STOPS_AFTER.as_secs()
            ));
        }
        if let Some(file) = &self.audit.file
            && !parent_directory(file).is_dir()
        {
            warnings.push(format!(
                "audit.file: there is no folder {}; decisions would be in the log only",
                parent_directory(file).display()
            ));
        }
        for path in self.watched.open_to_all() {
            warnings.push(format!("{}: anybody on this machine may write it", path.display()));
        }
        if let Some(otlp) = &self.otlp {
            let is_here = matches!(otlp.endpoint.host(), Some(url::Host::Ipv4(ip)) if ip.is_loopback())
                || matches!(otlp.endpoint.host(), Some(url::Host::Ipv6(ip)) if ip.is_loopback())
                || otlp.endpoint.host_str() == Some("localhost");
            if otlp.token.is_some() && otlp.endpoint.scheme() == "http" && !is_here {
                warnings.push("log.otlp: the token crosses the network in the clear; use https".to_owned());
            }
            if otlp.endpoint.path() == "/" || otlp.endpoint.port() == Some(4317) {
                warnings.push(
                    "log.otlp: collectors take traces over HTTP at port 4318 and the path /v1/traces, as a rule"
                        .to_owned(),
                );
            }
        }
        let now = clock::unix_now_signed();
        for site in &self.sites {
            if let Some(word) = site.certificate_warning(now) {
                warnings.push(format!("{}: {word}", site.hosts[0]));
            }
            if let Some(certificate) = &site.certificate {
                for host in site.hosts.iter().filter(|host| !x509::covers(certificate, host)) {
                    let mended = if site.acme.is_some() {
                        "until the CA has given one that does"
                    } else {
                        "browsers will refuse it"
                    };
                    warnings.push(format!("{host}: the certificate does not cover this name; {mended}"));
                }
            }
            if let Some(acme) = &site.acme {
                let others = self.sites.iter().filter_map(|other| other.acme.as_ref());
                if others
                    .clone()
                    .any(|other| other.account_file == acme.account_file && other.contact != acme.contact)
                {
                    warnings.push(format!(
                        "{}: another site has the same account with this CA and another contact; write the same in both",
                        site.hosts[0]
                    ));
                }
                if let Some(why) = &acme.unusable {
                    warnings.push(format!(
                        "{}: what the CA gave cannot be used, another will be asked for: {why}",
                        site.hosts[0]
                    ));
                }
                let folder = acme.certificate_file.ancestors().skip(1).find(|folder| folder.exists());
                if let Some(folder) = folder
                    && access(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_err()
                {
                    warnings.push(format!(
                        "{}: whoever runs this may not write in {}: what the CA gives could not be kept",
                        site.hosts[0],
                        folder.display()
                    ));
                }
                for host in site.hosts.iter().filter(|host| !host.contains('.')) {
                    warnings
                        .push(format!("{host}: no public CA gives a certificate for a name without a dot"));
                }
                if acme.challenge == Challenge::Http01 && self.listen.http.is_empty() {
                    warnings.push(format!(
                        "{}: http-01 asks on port 80, and listen.http is empty: unless systemd passes a socket for it, no certificate is given",
                        site.hosts[0]
                    ));
                }
            }
            for server in site.upstream.servers.iter().filter(|server| !server.tls) {
                warnings.push(format!(
                    "{}: the upstream {server} is plain HTTP: cookies and pages cross the network in the clear, and \
                     iMIS 2017 redirects plain HTTP for ever; use https",
                    site.hosts[0]
                ));
            }
            if let Some(sign_on) = &site.sign_on
                && sign_on.imis.api_url.scheme() != "https"
            {
                warnings.push(format!(
                    "{}: api_url is plain HTTP: the service account's password and members' records cross the network \
                     in the clear; use https",
                    site.hosts[0]
                ));
            }
            let tickets = site.sign_on.iter().flat_map(|sign_on| &sign_on.imis.recognise);
            if tickets.into_iter().any(
                |method| matches!(&method.how, How::FormsTicket(ticket) if ticket.session_info.is_none()),
            ) {
                warnings.push(format!(
                    "{}: forms_ticket without session_info: iMIS revokes no ticket, so whoever has signed out stays recognised \
                     for as long as the ticket is valid",
                    site.hosts[0]
                ));
            }
            let asks_site = |sign_on: &SignOn| {
                sign_on.imis.recognise.iter().all(|method| matches!(method.how, How::ClientApplication(_)))
            };
            if site.sign_on.as_ref().is_some_and(asks_site) {
                for app in site.apps().filter(|app| app.messaging.is_some()) {
                    warnings.push(format!(
                        "{}: `{}` gives nobody a messaging token: client_application cannot tell who is signed in without leading the browser away; add a method",
                        site.hosts[0], app.name
                    ));
                }
            }
            for app in site.apps().filter(|app| app.guards.refuses_staff) {
                if app.zendesk.api.is_none() && app.guards.staff_domains.is_empty() {
                    warnings.push(format!(
                        "{}: `{}` cannot know who works in Zendesk: an iMIS account with the e-mail address of an agent becomes that agent. Set zendesk.api, or name guards.staff_domains, or switch guards.staff off",
                        site.hosts[0], app.name
                    ));
                }
            }
            for app in site.apps() {
                if let Some(ZendeskApi { credentials: ZendeskCredentials::Token { .. }, .. }) =
                    &app.zendesk.api
                {
                    warnings.push(format!(
                        "{}: `{}` uses an API token of Zendesk, which stop working on 2027-04-30: use an OAuth client",
                        site.hosts[0], app.name
                    ));
                }
                if let Some(api) = &app.zendesk.api
                    && api.url.host_str() != Some(app.zendesk.origin.host.as_str())
                {
                    warnings.push(format!(
                        "{}: `{}` asks the API of {} about the staff, and signs in to {}: is that one account?",
                        site.hosts[0],
                        app.name,
                        api.url.host_str().unwrap_or_default(),
                        app.zendesk.origin.host
                    ));
                }
                if let Some(name) = app.trusts_the_request() {
                    warnings.push(format!(
                        "{}: a rule of `{}` asks about {name}, which is whatever the address says that somebody opens: it keeps nobody out",
                        site.hosts[0], app.name
                    ));
                }
                for what in app.claims.overwriting() {
                    warnings.push(format!("{}: `{}`: {what}", site.hosts[0], app.name));
                }
            }
            for app in site.apps().filter(|app| app.on_behalf_of == OnBehalfOf::SignInAsContact) {
                warnings.push(format!(
                    "{}: `{}` signs staff in as the contact they act for: in Zendesk nobody can tell them apart",
                    site.hosts[0], app.name
                ));
            }
            let is_short = |secret: &Secret| secret.expose().len() < 32;
            for app in site.apps().filter(|app| {
                let both = &app.zendesk.shared_secret;
                is_short(&both.current) || both.next.as_ref().is_some_and(is_short)
            }) {
                warnings.push(format!(
                    "{}: the shared secret of `{}` is shorter than 32 characters; was it copied whole?",
                    site.hosts[0], app.name
                ));
            }
        }
        warnings
    }
}
