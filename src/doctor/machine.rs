//! This machine: whether there are files enough, and who has the ports.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use nix::sys::resource::{Resource, getrlimit};
use serde_json::Value;

use crate::config::Config;
use crate::doctor::{Finding, Severity};

/// `running`: what a gateway says that answers on the control socket.
pub(super) fn examine(config: &Config, running: Option<&Value>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = files(config).into_iter().collect();
    let listen = &config.listen;
    let addresses = listen.https.iter().chain(&listen.http).chain(&listen.admin);
    // One that the system chooses is free.
    findings.extend(addresses.filter(|address| address.port() != 0).map(|address| port(running, *address)));
    findings
}

fn here(check: String) -> Finding {
    Finding {
        severity: Severity::Good,
        site: "this machine".to_owned(),
        check,
        result: String::new(),
        seen: String::new(),
        advice: None,
    }
}

/// Whether there are as many files as connections may need, one towards iMIS beside each.
fn files(config: &Config) -> Option<Finding> {
    let connections = config.limits.connections as u64;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let finding = Finding {
        result: format!("{hard} for {connections} connections"),
        seen: "the hard limit of this command; the service has that of its unit".to_owned(),
        ..here("file descriptors".to_owned())
    };
    if hard >= connections.saturating_mul(2) {
        return Some(finding);
    }
    let result = finding.result.clone();
    Some(finding.but(
        Severity::Warning,
        result,
        "LimitNOFILE= of the unit should be twice limits.connections",
    ))
}

/// Whether the gateway can have an address, or has it.
fn port(running: Option<&Value>, address: SocketAddr) -> Finding {
    let finding = Finding { seen: "tried to listen on it".to_owned(), ..here(format!("address {address}")) };
    match TcpListener::bind(address) {
        Ok(_) => Finding { result: "free".to_owned(), ..finding },
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            match running {
                Some(status) => Finding {
                    result: "in use, and a gateway runs".to_owned(),
                    seen: format!("process {} on the control socket", status["pid"]),
                    ..finding
                },
                None => finding.but(
                    Severity::Warning,
                    "in use, and no gateway answers on the control socket",
                    "`ss -ltnp` shows who listens there: another web server keeps the gateway from starting",
                ),
            }
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => finding.but(
            Severity::Warning,
            "this user may not listen on it",
            "ports below 1024 are root's: imis-gateway.socket passes them to the service, or AmbientCapabilities=CAP_NET_BIND_SERVICE",
        ),
        Err(error) => finding.but(
            Severity::Failed,
            error.to_string(),
            "the address has to be one of this machine's: `ip address` shows them",
        ),
    }
}
