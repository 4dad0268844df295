//! The state of the running gateway, as JSON for `imis-gateway status`. It contains no secrets.

use serde_json::{Value, json};

use crate::base::clock;
use crate::base::x509;
use crate::request::gateway::{Gateway, Site};
use crate::server::process_state::ProcessState;
use crate::server::reload::ServerHandle;
use crate::upstream::servers::Condition;

/// The state of the process and of every site.
pub(crate) async fn read(server: &ServerHandle) -> Value {
    let gateway = server.gateway();
    let last = server.last();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_seconds": server.uptime().as_secs(),
        "draining": server.is_draining(),
        "configuration": {
            "hash": gateway.hash,
            "differs_from_file": server.differs_from_file().await,
        },
        "last_reload": &*last,
        "failed_reloads": server.failed().iter().map(|failed| json!(&**failed)).collect::<Vec<_>>(),
        "connections": server.process.admission.open(),
        "sites": gateway.sites.iter().map(|site| site_status(site, &server.process)).collect::<Vec<_>>(),
    })
}

/// What does not work beside the gateway itself, one line each: iMIS's servers, its service account, and the Zendesk
/// API.
pub(crate) fn problems(gateway: &Gateway) -> Vec<String> {
    let mut problems = Vec::new();
    for site in &gateway.sites {
        let servers = &site.upstream.servers;
        for index in 0..servers.len() {
            let state = servers.condition(index);
            let server = servers.server(index);
            if let Some(outage) = servers.outage(index) {
                problems.push(format!(
                    "upstream {server}: {} since {}, {} failed connections",
                    state.name(),
                    clock::rfc_3339_of(outage.since.cast_signed()),
                    outage.failed_connections
                ));
            } else if state == Condition::Drained {
                problems.push(format!("upstream {server}: drained"));
            }
        }
        let Some(sign_on) = &site.sign_on else { continue };
        if let Some(error) = sign_on.imis.api.service_account_error() {
            problems.push(format!("service account of {}: {error}", site.name()));
        }
        for app in &sign_on.apps {
            let staff = sign_on.staff.get(&app.path);
            if let Some(error) = staff.and_then(|staff| staff.last_error()) {
                problems.push(format!("Zendesk API of {}: {error}", app.name));
            }
        }
    }
    problems
}

fn site_status(site: &Site, process: &ProcessState) -> Value {
    let servers: Vec<Value> = (0..site.upstream.servers.len())
        .map(|index| {
            let servers = &site.upstream.servers;
            let outage = servers.outage(index);
            json!({
                "server": servers.server(index).to_string(),
                "state": servers.condition(index).name(),
                "down_since": outage.map(|outage| clock::rfc_3339_of(outage.since.cast_signed())),
                "failed_connections": outage.map(|outage| outage.failed_connections),
            })
        })
        .collect();
    json!({
        "hosts": site.config.hosts,
        "certificate": {
            "word": site.certificate_warning(clock::unix_now_signed()),
            "expires": site.certificate_expiry().map(clock::rfc_3339_of),
            "uncovered": site.config.certificate.as_ref().map(|pair| {
                site.config.hosts.iter().filter(|host| !x509::covers(pair, host)).collect::<Vec<_>>()
            }),
            "acme": site.config.acme.as_ref().map(|acme| {
                let status = process.acme.status(&acme.certificate_file);
                json!({
                    "directory": acme.directory.as_str(),
                    "challenge": acme.challenge.name(),
                    "next": status.next_check.map(clock::rfc_3339_of),
                    "renewed": status.renewal.map(clock::rfc_3339_of),
                    "failed": status.last_error,
                })
            }),
        },
        "upstream": servers,
        "service_account_error": site.sign_on.as_ref().and_then(|sign_on| sign_on.imis.api.service_account_error()),
        "apps": site.sign_on.iter().flat_map(|sign_on| sign_on.apps.iter().map(|app| {
            let staff = sign_on.staff.get(&app.path);
            let error = staff.and_then(|staff| staff.last_error());
            let staff = staff.and_then(|staff| staff.state());
            json!({
                "name": app.name,
                "path": app.path,
                "zendesk": app.zendesk.origin.to_string(),
                "secrets": app.secrets().map(|secret| {
                    let age = process.age(&secret);
                    json!({"secret": secret.secret, "fingerprint": secret.fingerprint, "age_seconds": age})
                }).collect::<Vec<_>>(),
                "staff": staff.map(|(people, age)| json!({"people": people, "age_seconds": age.as_secs()})),
                "zendesk_api_error": error,
            })
        })).collect::<Vec<_>>(),
    })
}
