//! Certificates, keys and roots from the PEM files that a configuration names.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::base::x509;
use crate::config::files::Files;

/// The certificates of a file, leaf first. `what` they are is for the error.
pub(crate) fn certificates(
    files: &Files,
    path: &Path,
    what: &str,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let unread = |why: String| format!("cannot read {what} {shown}: {why}");
    let pem = files.bytes(path).map_err(|error| unread(error.to_string()))?;
    let certificates = x509::parse_chain(&pem).map_err(unread)?;
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
