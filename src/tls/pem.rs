//! Certificates, keys and roots as they lie on disk: PEM, read once, checked in pairs.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::config::Files;

/// A certificate chain, leaf first.
pub(crate) fn chain(files: &Files, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let pem =
        files.bytes(path).map_err(|error| format!("cannot read the certificate chain {shown}: {error}"))?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("cannot read the certificate chain {shown}: {error}"))?;
    if certificates.is_empty() {
        return Err(format!(
            "{shown} holds no certificate (a block `-----BEGIN CERTIFICATE-----` is expected)"
        ));
    }
    Ok(certificates)
}

/// A private key: PKCS #8, PKCS #1 or SEC 1.
pub(crate) fn key(files: &Files, path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let shown = path.display();
    let pem =
        files.bytes(path).map_err(|error| format!("cannot read a private key from {shown}: {error}"))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let has = |words: &[u8]| pem.windows(words.len()).any(|piece| piece == words);
        let hint = if has(b"ENCRYPTED") {
            "; it is encrypted: decrypt it with `openssl pkey -in FILE -out FILE`"
        } else if has(b"BEGIN CERTIFICATE") {
            "; it holds a certificate"
        } else {
            ""
        };
        format!("cannot read a private key from {shown}: {error}{hint}")
    })
}

/// The two as what the handshake signs with; they must belong together.
pub(crate) fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, String> {
    CertifiedKey::from_der(chain, key, &super::provider())
        .map(Arc::new)
        .map_err(|error| format!("the key does not go with the certificate chain: {error}"))
}

/// Whether the certificate is for `host`.
pub(crate) fn covers(certificate: &CertifiedKey, host: &str) -> bool {
    let (Some(leaf), Ok(name)) = (certificate.cert.first(), ServerName::try_from(host)) else { return false };
    ParsedCertificate::try_from(leaf).is_ok_and(|leaf| verify_server_name(&leaf, &name).is_ok())
}

/// When a certificate stops being good, in seconds since 1970.
pub(crate) fn expiry(certificate: &CertifiedKey) -> Option<i64> {
    validity(certificate.cert.first()?).map(|(_, until)| until)
}

/// From when and until when it is good.
fn validity(leaf: &CertificateDer<'_>) -> Option<(i64, i64)> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// So many days before its end a certificate is worth a word, at every start and reload and once a day.
const EXPIRES_SOON_DAYS: i64 = 30;

/// What is to be said about the time in which a certificate is good; `now` in seconds since 1970.
pub(crate) fn of_its_time(certificate: &CertifiedKey, now: i64) -> Option<String> {
    of_the_time_of(certificate.cert.first()?, now)
}

/// The same, of a server's.
pub(crate) fn of_the_time_of(leaf: &CertificateDer<'_>, now: i64) -> Option<String> {
    let (from, until) = validity(leaf)?;
    let at = crate::ambient::rfc_3339_of;
    let days = (until - now).div_euclid(24 * 3600);
    if now >= until {
        Some(format!("the certificate has EXPIRED, at {}: browsers refuse it", at(until)))
    } else if now < from {
        Some(format!(
            "the certificate is not good before {}: browsers refuse it (is this machine's clock right?)",
            at(from)
        ))
    } else if days < EXPIRES_SOON_DAYS {
        Some(format!("the certificate expires in {days} days, at {}", at(until)))
    } else {
        None
    }
}

/// The roots of `ca_file`.
pub(crate) fn roots(files: &Files, path: &Path) -> Result<Arc<RootCertStore>, String> {
    let mut store = RootCertStore::empty();
    for certificate in chain(files, path)? {
        store.add(certificate).map_err(|error| {
            format!("{} holds a certificate that cannot be a root: {error}", path.display())
        })?;
    }
    Ok(Arc::new(store))
}

/// The roots that the system trusts; empty when it has none.
pub(crate) fn system_roots() -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(store)
}
