//! What a service of `Type=notify` tells systemd (sd_notify(3)): ready, reloading, stopping, and that it is alive.

use imis_gateway_simulators::certificates::Authority;
use std::os::unix::net::UnixDatagram;

use crate::support::gateway::TIMEOUT;
use crate::support::{Gateway, SITE, lay_out_certificates};

/// What is said next, but for the watchdog's food.
fn next(socket: &UnixDatagram) -> String {
    loop {
        let said = datagram(socket);
        if said != "WATCHDOG=1\n" {
            return said;
        }
    }
}

fn datagram(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 4096];
    loop {
        match socket.recv(&mut bytes) {
            Ok(count) => return String::from_utf8(bytes[..count].to_vec()).unwrap(),
            // The machine, or this process, has stood still for a moment.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("nothing is said in time: {error}"),
        }
    }
}

#[test]
fn systemd_is_notified_of_start_reload_stop_and_the_watchdog() {
    let folder = tempfile::tempdir().unwrap();
    lay_out_certificates(&Authority::new("test CA"), folder.path());
    let yaml = format!(
        r#"version: 1
listen: {{https: ["127.0.0.1:0"], http: ["127.0.0.1:0"], admin: 127.0.0.1:0}}
workers: 2
sites:
  - hosts: [{SITE}]
    certificate: {{chain: members.pem, key: members.key}}
    upstream: {{servers: ["https://127.0.0.1:9"], ca_file: ca.pem}}
"#
    );
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, &yaml).unwrap();
    let at = folder.path().join("notify.sock");
    let socket = UnixDatagram::bind(&at).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut gateway = Gateway::start_notifying(&at, folder.path());
    let ready = next(&socket);
    assert!(ready.starts_with("READY=1\nSTATUS="), "{ready}");

    // Twice in a row: the watchdog is fed again and again.
    assert_eq!(datagram(&socket), "WATCHDOG=1\n");
    assert_eq!(datagram(&socket), "WATCHDOG=1\n");

    gateway.signal("HUP");
    let reloading = next(&socket);
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    let good = next(&socket);
    assert!(good.starts_with("READY=1\nSTATUS="), "{good}");

    std::fs::write(&file, yaml.replace("workers: 2", "wokers: 2")).unwrap();
    gateway.signal("HUP");
    assert!(next(&socket).starts_with("RELOADING=1\n"));
    let failed = next(&socket);
    assert!(
        failed.starts_with("READY=1\nSTATUS=") && failed != good,
        "the old one goes on, and that is said: {failed}"
    );

    gateway.signal("TERM");
    let stopping = next(&socket);
    assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
    assert_eq!(gateway.wait().code(), Some(0));
}
