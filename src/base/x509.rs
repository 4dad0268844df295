//! X.509 certificates: parsing, key pairs, validity, host names.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// The certificates in a PEM text, leaf first.
pub(crate) fn parse_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// Parses a file with private key and certificate chain.
pub(crate) fn parse_bundle(pem: &[u8]) -> Result<Arc<CertifiedKey>, String> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| format!("no private key: {error}"))?;
    let chain = parse_chain(pem).map_err(|why| format!("no certificate: {why}"))?;
    certified_key(chain, key)
}

/// Combines chain and key, which must belong together, for TLS handshakes.
pub(crate) fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, String> {
    CertifiedKey::from_der(chain, key, &crate::base::tls_client::provider())
        .map(Arc::new)
        .map_err(|error| format!("the key does not go with the certificate chain: {error}"))
}

/// Whether the certificate is for `host`.
pub(crate) fn covers(certificate: &CertifiedKey, host: &str) -> bool {
    let (Some(leaf), Ok(name)) = (certificate.cert.first(), ServerName::try_from(host)) else { return false };
    ParsedCertificate::try_from(leaf).is_ok_and(|leaf| verify_server_name(&leaf, &name).is_ok())
}

/// From when and until when a certificate is valid, in seconds since 1970.
pub(crate) fn validity(leaf: &CertificateDer<'_>) -> Option<(i64, i64)> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// A warning starts this many days before a certificate expires: at each start and reload, and once a day.
const EXPIRES_SOON_DAYS: i64 = 30;
const A_DAY: i64 = 24 * 3600;

/// A warning if a certificate expires soon or is not valid now. `renewed`: an ACME client renews it, so the warning
/// starts only when the renewal is overdue. `now`: seconds since 1970.
pub(crate) fn expiry_warning(leaf: &CertificateDer<'_>, renewed: bool, now: i64) -> Option<String> {
    let soon = EXPIRES_SOON_DAYS * A_DAY;
    let soon = match (renewed, validity(leaf)) {
        (true, Some((from, until))) => soon.min((until - from) / 4),
        (true, None) | (false, _) => soon,
    };
    within(leaf, now, soon)
}

/// Why browsers would refuse a certificate for one of these hosts now. `now`: seconds since 1970.
pub(crate) fn fault(certificate: &CertifiedKey, hosts: &[String], now: i64) -> Option<String> {
    let uncovered = || hosts.iter().find(|host| !covers(certificate, host));
    within(certificate.cert.first()?, now, 0).or_else(|| {
        uncovered().map(|host| format!("the certificate does not cover {host}: browsers refuse it"))
    })
}

fn within(leaf: &CertificateDer<'_>, now: i64, soon: i64) -> Option<String> {
    let (from, until) = validity(leaf)?;
    let at = crate::base::clock::rfc_3339_of;
    let days = (until - now).div_euclid(A_DAY);
    if now >= until {
        Some(format!("the certificate has EXPIRED, at {}: browsers refuse it", at(until)))
    } else if now < from {
        Some(format!(
            "the certificate is not good before {}: browsers refuse it (is this machine's clock right?)",
            at(from)
        ))
    } else if until - now < soon {
        Some(format!("the certificate expires in {days} days, at {}", at(until)))
    } else {
        None
    }
}

/// The root certificates that the system trusts. May be empty.
pub(crate) fn system_roots() -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(store)
}
