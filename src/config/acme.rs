//! Certificates that a CA is asked for: which CA, how it looks at us, and where what it gives is kept.

use std::path::PathBuf;

use url::Url;

use crate::config::{Roots, Secret};

/// How a site's certificate is had by ACME (RFC 8555).
#[derive(Debug)]
pub(crate) struct Acme {
    pub(crate) directory: Url,
    /// An e-mail address for the CA.
    pub(crate) contact: Option<String>,
    pub(crate) challenge: Challenge,
    /// Who vouches for the CA's own server.
    pub(crate) roots: Roots,
    pub(crate) external_account: Option<ExternalAccount>,
    /// The account with the CA, of all sites that have theirs there.
    pub(crate) account_file: PathBuf,
    /// Key and chain of this site, in one file so that they always are a pair.
    pub(crate) certificate_file: PathBuf,
    /// Why what lies there is not used.
    pub(crate) unusable: Option<String>,
}

/// How the CA sees that a host is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// RFC 8737: in a handshake on port 443.
    TlsAlpn01,
    /// RFC 8555 section 8.3: by a request on port 80.
    Http01,
}

impl Challenge {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }
}

/// An account that the CA knows by other means (RFC 8555 section 7.3.4).
#[derive(Debug)]
pub(crate) struct ExternalAccount {
    pub(crate) id: String,
    /// The HMAC key, as the CA shows it (base64url).
    pub(crate) key: Secret,
}
