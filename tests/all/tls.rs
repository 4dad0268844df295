//! What the TLS of the gateway offers, as scanners and clients see it.

use std::process::Command;
use std::sync::Arc;

use imis_gateway_simulators::certificates::Authority;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::support::origin::Proxy;
use crate::support::{SITE, skip};

#[tokio::test]
async fn a_scanner_finds_nothing_old_or_weak() {
    let proxy = Proxy::to(Authority::new("test CA"), "https://127.0.0.1:1", None, "");
    let address = format!("--sni-name={SITE}");
    let scan = tokio::task::spawn_blocking(move || {
        Command::new("sslscan").args(["--no-colour", &address, &proxy.gateway.https.to_string()]).output()
    });
    let Ok(scanned) = scan.await.unwrap() else { return skip("sslscan (package sslscan)") };
    let text = String::from_utf8_lossy(&scanned.stdout);
    for (protocol, state) in [
        ("SSLv2", "disabled"),
        ("SSLv3", "disabled"),
        ("TLSv1.0", "disabled"),
        ("TLSv1.1", "disabled"),
        ("TLSv1.2", "enabled"),
        ("TLSv1.3", "enabled"),
    ] {
        let found = text.lines().any(|line| line.split_whitespace().eq([protocol, state]));
        assert!(found, "{protocol}: {text}");
    }
    let suites: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("Preferred") || line.starts_with("Accepted"))
        .filter_map(|line| line.split_whitespace().nth(4))
        .collect();
    assert!(suites.len() >= 5, "{text}");
    for suite in suites {
        let aead = suite.contains("GCM") || suite.contains("POLY1305");
        assert!(aead && (suite.starts_with("ECDHE-") || suite.starts_with("TLS_")), "{suite}");
    }
    assert!(text.contains("Session renegotiation not supported"), "{text}");
    assert!(
        !text.contains("vulnerable to heartbleed") || text.contains("not vulnerable to heartbleed"),
        "{text}"
    );
}

/// Handshakes with a client that would send early data if it could; whether it could, and whether it resumed.
fn handshake(config: &Arc<ClientConfig>, address: std::net::SocketAddr) -> (bool, bool) {
    use std::io::{Read, Write};
    let name = ServerName::try_from(SITE).unwrap();
    let mut connection = ClientConnection::new(config.clone(), name).unwrap();
    let early = connection.early_data().is_some();
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    // A whole exchange, so that the ticket has come.
    write!(stream, "GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 502 "), "{}", String::from_utf8_lossy(&answer));
    (early, connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed))
}

#[test]
fn sessions_resume_and_early_data_is_not_accepted() {
    let authority = Authority::new("test CA");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap()).unwrap();
    let proxy = Proxy::to(authority, "https://127.0.0.1:1", None, "");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_early_data = true;
    let config = Arc::new(config);
    assert_eq!(handshake(&config, proxy.gateway.https), (false, false));
    assert_eq!(handshake(&config, proxy.gateway.https), (false, true), "resumed, and no early data");
}
