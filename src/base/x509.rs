//! Certificates, keys and roots as they lie on disk: PEM, read once, checked in pairs.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::config::{Files, Site};

/// A certificate chain, leaf first.
pub(crate) fn chain(files: &Files, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates(files, path, "the certificate chain")
}

fn certificates(
    files: &Files,
    path: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let unread = |why: String| format!("cannot read {what} {shown}: {why}");
    let pem = files.bytes(path).map_err(|error| unread(error.to_string()))?;
    let certificates = chain_in(&pem).map_err(unread)?;
    if certificates.is_empty() {
        return Err(format!(
            "{shown} holds no certificate (a block `-----BEGIN CERTIFICATE-----` is expected)"
        ));
    }
    Ok(certificates)
}

fn chain_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// Key and chain from one file.
pub(crate) fn both(pem: &[u8]) -> Result<Arc<CertifiedKey>, String> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| format!("no private key: {error}"))?;
    let chain = chain_in(pem).map_err(|why| format!("no certificate: {why}"))?;
    pair(chain, key)
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
    CertifiedKey::from_der(chain, key, &crate::edge::tls::provider())
        .map(Arc::new)
        .map_err(|error| format!("the key does not go with the certificate chain: {error}"))
}

/// Whether the certificate is for `host`.
pub(crate) fn covers(certificate: &CertifiedKey, host: &str) -> bool {
    let (Some(leaf), Ok(name)) = (certificate.cert.first(), ServerName::try_from(host)) else { return false };
    ParsedCertificate::try_from(leaf).is_ok_and(|leaf| verify_server_name(&leaf, &name).is_ok())
}

/// When the certificate of a site stops being good, in seconds since 1970.
pub(crate) fn expiry(site: &Site) -> Option<i64> {
    let pair = site.of_before.first().map(|(_, pair)| pair).or(site.certificate.as_ref())?;
    validity(pair.cert.first()?).map(|(_, until)| until)
}

/// From when and until when it is good, in seconds since 1970.
pub(crate) fn validity(leaf: &CertificateDer<'_>) -> Option<(i64, i64)> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// So many days before its end a certificate is worth a word, at every start and reload and once a day.
const EXPIRES_SOON_DAYS: i64 = 30;
const A_DAY: i64 = 24 * 3600;

/// What is to be said about the time in which a site's certificate is good; `now` in seconds since 1970. One that a CA renews is worth
/// a word only when that is overdue.
pub(crate) fn of_its_time(site: &Site, now: i64) -> Option<String> {
    if let Some((host, _)) = site.of_before.first() {
        return Some(format!("{host} is shown the certificate of before, until the CA has given a good one"));
    }
    let Some(leaf) = site.certificate.as_ref().and_then(|pair| pair.cert.first()) else {
        return Some("there is no certificate of the CA yet: until there is, browsers get no connection (after a reload: the certificate of before)".to_owned());
    };
    let (from, until) = validity(leaf)?;
    let soon = EXPIRES_SOON_DAYS * A_DAY;
    within(leaf, now, if site.acme.is_some() { soon.min((until - from) / 4) } else { soon })
}

/// The same, of a server's.
pub(crate) fn of_the_time_of(leaf: &CertificateDer<'_>, now: i64) -> Option<String> {
    within(leaf, now, EXPIRES_SOON_DAYS * A_DAY)
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

/// The roots of `ca_file`.
pub(crate) fn roots(files: &Files, path: &Path) -> Result<Arc<RootCertStore>, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(files, path, "the roots")? {
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
