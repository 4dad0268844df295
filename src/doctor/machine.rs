//! This machine: the limit on open files, and who has the ports.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use nix::sys::resource::{Resource, getrlimit};
use serde_json::Value;

use crate::config::Config;
use crate::doctor::finding::Finding;

const SUBJECT: &str = "this machine";

/// `running`: the status of the gateway that answers on the control socket.
pub(super) fn check(config: &Config, running: Option<&Value>) -> Vec<Finding> {
    let listen = &config.listen;
    let addresses = listen.https.iter().chain(&listen.http).chain(&listen.admin);
    // Port 0 is chosen by the system, and always free.
    let ports = addresses.filter(|address| address.port() != 0).map(|address| port(running, *address));
    file_limit(config).into_iter().chain(ports).collect()
}

/// Each connection may need a second one, to iMIS.
fn file_limit(config: &Config) -> Option<Finding> {
    let connections = config.limits.connections as u64;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let finding = Finding::of(SUBJECT, "file descriptors")
        .seen("the hard limit of this command; the service has the limit of its unit");
    let result = format!("{hard} for {connections} connections");
    Some(if hard >= connections.saturating_mul(2) {
        finding.good(result)
    } else {
        finding.warning(result, "set LimitNOFILE= of the unit to twice limits.connections")
    })
}

fn port(running: Option<&Value>, address: SocketAddr) -> Finding {
    let finding = Finding::of(SUBJECT, format!("address {address}")).seen("tried to listen on it");
    match (TcpListener::bind(address).map_err(|error| (error.kind(), error)), running) {
        (Ok(_), _) => finding.good("free"),
        (Err((ErrorKind::AddrInUse, _)), Some(status)) => finding
            .seen(format!("process {} on the control socket", status["pid"]))
            .good("in use, and a gateway is running"),
        (Err((ErrorKind::AddrInUse, _)), None) => finding.warning(
            "in use, and no gateway answers on the control socket",
            "`ss -ltnp` shows the process: another web server keeps the gateway from starting",
        ),
        (Err((ErrorKind::PermissionDenied, _)), _) => finding.warning(
            "this user may not listen on it",
            "ports below 1024 need imis-gateway.socket, which passes them to the service, or AmbientCapabilities=CAP_NET_BIND_SERVICE",
        ),
        (Err((_, error)), _) => finding.failed(
            error.to_string(),
            "use an address of this machine: `ip address` shows them",
        ),
    }
}
