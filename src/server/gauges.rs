//! Gauges that are read from the running gateway at each scrape.

use crate::observe::metrics::MetricTable;
use crate::request::gateway::Gateway;
use crate::server::process_state::ProcessState;
use crate::sync::last_run::LastRun;
use crate::upstream::servers::Condition;

pub(super) fn read(gateway: &Gateway, process: &ProcessState) -> MetricTable {
    let mut table = MetricTable::default();
    table.gauge("connections", [], "Open client connections").set([], process.admission.open());
    certificates(&mut table, gateway, process);
    servers(&mut table, gateway);
    secrets(&mut table, gateway, process);
    staff(&mut table, gateway);
    sync(&mut table, gateway);
    table
}

fn certificates(table: &mut MetricTable, gateway: &Gateway, process: &ProcessState) {
    let expiry = table.gauge(
        "certificate_expiry_timestamp_seconds",
        ["site"],
        "Time at which the certificate of a site expires",
    );
    let failing = table.gauge(
        "acme_failing",
        ["site"],
        "1 if the last certificate order failed, or its certificate is not used; only for sites with acme",
    );
    for site in &gateway.sites {
        if let Some(time) = site.certificate_expiry() {
            expiry.set([site.name()], time);
        }
        if let Some(acme) = &site.config.acme {
            let status = process.acme.status(&acme.certificate_file);
            failing.set([site.name()], status.last_error.is_some());
        }
    }
}

fn servers(table: &mut MetricTable, gateway: &Gateway) {
    let up = table.gauge(
        "upstream_server_up",
        ["site", "server"],
        "1 if a server of iMIS gets requests; 0 if it is ejected, unhealthy or drained",
    );
    let requests = table.gauge(
        "upstream_server_requests",
        ["site", "server"],
        "Requests in flight per server of iMIS; only for sites with several servers",
    );
    for site in &gateway.sites {
        let servers = &site.upstream.servers;
        for index in 0..servers.len() {
            let server = servers.server(index).to_string();
            up.set([site.name(), &server], servers.condition(index) == Condition::Up);
            requests.set([site.name(), &server], servers.busy(index));
        }
    }
}

fn secrets(table: &mut MetricTable, gateway: &Gateway, process: &ProcessState) {
    let age = table.gauge(
        "secret_age_seconds",
        ["app", "secret", "fingerprint"],
        "Age of a secret: since its file changed, or since this process first saw it if it is not in a file",
    );
    let apps = gateway.sites.iter().flat_map(|site| site.config.apps());
    for secret in apps.flat_map(|app| app.secrets()) {
        age.set([&secret.app, secret.secret, &secret.fingerprint], process.age(&secret));
    }
}

fn staff(table: &mut MetricTable, gateway: &Gateway) {
    let known = table.gauge(
        "zendesk_staff_known",
        ["app"],
        "1 if the list of Zendesk staff has been fetched, otherwise 0; only for apps with zendesk.api",
    );
    let people = table.gauge("zendesk_staff", ["app"], "Agents and admins in the list of Zendesk staff");
    let age = table.gauge(
        "zendesk_staff_age_seconds",
        ["app"],
        "Time since the list of Zendesk staff was fetched; it is fetched every five minutes",
    );
    for sign_on in gateway.sites.iter().flat_map(|site| &site.sign_on) {
        for app in &sign_on.apps {
            let Some(staff) = sign_on.staff.get(&app.path) else { continue };
            let state = staff.state();
            known.set([&app.name], state.is_some());
            if let Some((count, since)) = state {
                people.set([&app.name], count);
                age.set([&app.name], since.as_secs());
            }
        }
    }
}

/// The last run of `imis-gateway sync`, from the file that it leaves.
fn sync(table: &mut MetricTable, gateway: &Gateway) {
    let success =
        table.gauge("sync_last_success_timestamp_seconds", ["app"], "Time of the last sync without failures");
    let finished =
        table.gauge("sync_last_run_timestamp_seconds", ["app"], "Time at which the last sync ended");
    let failing =
        table.gauge("sync_failing", ["app"], "1 if the last sync failed, was stopped or had failures");
    let members = table.gauge("sync_members", ["app"], "Members in the source of the last sync");
    let writes = table.gauge("sync_writes", ["app", "kind"], "Changes that the last sync made");
    let failures = table.gauge("sync_failures", ["app", "code"], "Changes of the last sync that failed");
    for sign_on in gateway.sites.iter().filter_map(|site| site.sign_on.as_deref()) {
        for app in &sign_on.apps {
            let Some(status) = LastRun::read(sign_on, app) else { continue };
            success.set([&app.name], status.last_success);
            finished.set([&app.name], status.finished);
            failing.set([&app.name], status.outcome != "success");
            members.set([&app.name], status.members);
            for (kind, count) in &status.writes {
                writes.set([&app.name, kind], *count);
            }
            for (code, count) in &status.failures {
                failures.set([&app.name, code], *count);
            }
        }
    }
}
