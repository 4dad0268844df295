//! A certificate authority and certificates, made at run time and never written into the repository.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

/// An authority that lives as long as the value.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate for some names, with its key.
pub struct Identity {
    /// PEM, leaf only.
    pub certificate_pem: String,
    /// PEM, PKCS #8.
    pub key_pem: String,
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    /// A new authority.
    #[expect(clippy::expect_used, reason = "fixed parameters")]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate can be signed");
        Self { issuer }
    }

    /// The authority's own certificate, PEM.
    pub fn certificate_pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for host names and addresses.
    #[expect(clippy::expect_used, reason = "names of tests and demo")]
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.signed(CertificateParams::new(owned(names)).expect("names of tests and demo are names"))
    }

    /// As above, valid from thirty days ago until the given number of days from now.
    #[expect(clippy::expect_used, reason = "a test that cannot make its certificates should stop")]
    pub fn issue_for_days(&self, names: &[&str], days: i64) -> Identity {
        let mut params = CertificateParams::new(owned(names)).expect("names of tests and demo are names");
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - Duration::days(30), now + Duration::days(days));
        self.signed(params)
    }

    #[expect(clippy::expect_used, reason = "a test that cannot make its certificates should stop")]
    fn signed(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be signed");
        Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key,
        }
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Identity {
    /// Writes `NAME.pem` and `NAME.key` into a folder.
    pub fn write(&self, folder: &Path, name: &str) -> std::io::Result<()> {
        std::fs::write(folder.join(format!("{name}.pem")), &self.certificate_pem)?;
        std::fs::write(folder.join(format!("{name}.key")), &self.key_pem)
    }

    /// A TLS server configuration for HTTP/1.1.
    #[expect(clippy::expect_used, reason = "made above")]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a fresh key is a key");
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(vec![self.certificate.clone()], key)
            })
            .expect("a fresh pair is a pair");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}
