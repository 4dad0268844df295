//! Gauges that are read from the running gateway at each scrape.

use crate::observe::metrics::{Snapshot, labels};
use crate::request::gateway::Gateway;
use crate::server::process_state::ProcessState;
use crate::upstream::servers::Condition;

pub(super) fn read(gateway: &Gateway, process: &ProcessState) -> Snapshot {
    let mut snapshot = Snapshot::new();
    let open = process.admission.open();
    snapshot.gauge("connections", "Open client connections", [([], whole(open))]);
    certificates(&mut snapshot, gateway, process);
    servers(&mut snapshot, gateway);
    secrets(&mut snapshot, gateway, process);
    staff(&mut snapshot, gateway);
    snapshot
}

fn certificates(snapshot: &mut Snapshot, gateway: &Gateway, process: &ProcessState) {
    let expiries = gateway.sites.iter().filter_map(|site| {
        let expiry = site.certificate_expiry()?;
        Some((labels([("site", site.name())]), expiry))
    });
    snapshot.seconds(
        "certificate_expiry_timestamp",
        "Time at which the certificate of a site expires",
        expiries,
    );
    let failing = gateway.sites.iter().filter_map(|site| {
        let standing = process.acme.standing(&site.config.acme.as_ref()?.certificate_file);
        Some((labels([("site", site.name())]), standing.failed.is_some().into()))
    });
    snapshot.gauge(
        "acme_failing",
        "1 if the last certificate order failed, or its certificate is not used; only for sites with acme",
        failing,
    );
}

fn servers(snapshot: &mut Snapshot, gateway: &Gateway) {
    let all = || {
        gateway.sites.iter().flat_map(|site| {
            let servers = &site.upstream.servers;
            (0..servers.len()).map(move |index| {
                let server = servers.server(index).to_string();
                (labels([("site", site.name()), ("server", &server)]), servers, index)
            })
        })
    };
    snapshot.gauge(
        "upstream_server_up",
        "1 if a server of iMIS gets requests; 0 if it is ejected, unhealthy or drained",
        all().map(|(labels, servers, index)| (labels, (servers.condition(index) == Condition::Up).into())),
    );
    snapshot.gauge(
        "upstream_server_requests",
        "Requests in flight per server of iMIS; only for sites with several servers",
        all().map(|(labels, servers, index)| (labels, whole(servers.busy(index)))),
    );
}

fn secrets(snapshot: &mut Snapshot, gateway: &Gateway, process: &ProcessState) {
    let apps = gateway.sites.iter().flat_map(|site| site.config.apps());
    let ages = apps.flat_map(|app| app.secrets()).map(|secret| {
        let age = process.age(&secret);
        let (app, name) = (secret.app.as_str(), secret.secret);
        (labels([("app", app), ("secret", name), ("fingerprint", &secret.fingerprint)]), whole(age))
    });
    snapshot.seconds(
        "secret_age",
        "Age of a secret: since its file changed, or since this process first saw it if it is not in a file",
        ages,
    );
}

fn staff(snapshot: &mut Snapshot, gateway: &Gateway) {
    let all: Vec<_> = gateway
        .sites
        .iter()
        .flat_map(|site| &site.sign_on)
        .flat_map(|sign_on| sign_on.apps.iter().map(|app| (app, sign_on.staff.get(&app.path))))
        .filter_map(|(app, staff)| Some((labels([("app", app.name.as_str())]), staff?.state())))
        .collect();
    snapshot.gauge(
        "zendesk_staff_known",
        "1 if the list of Zendesk staff has been fetched, otherwise 0; only for apps with zendesk.api",
        all.iter().map(|(app, state)| (app.clone(), state.is_some().into())),
    );
    let known = || all.iter().filter_map(|(app, state)| Some((app.clone(), (*state)?)));
    snapshot.gauge(
        "zendesk_staff",
        "Agents and admins in the list of Zendesk staff",
        known().map(|(app, (people, _))| (app, whole(people))),
    );
    snapshot.seconds(
        "zendesk_staff_age",
        "Time since the list of Zendesk staff was fetched; it is fetched every five minutes",
        known().map(|(app, (_, age))| (app, whole(age.as_secs()))),
    );
}

fn whole(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
