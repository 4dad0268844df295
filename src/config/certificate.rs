//! `sites[].certificate`: a chain and its key in files, or a CA that issues a certificate by ACME.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::sign::CertifiedKey;
use url::{Host, Url};

use crate::base::x509;
use crate::config::pem;
use crate::config::secret::{Secret, fingerprint, secret};
use crate::config::section::Value;
use crate::config::values::{self, Roots};

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// How to get a certificate by ACME (RFC 8555).
#[derive(Debug)]
pub(crate) struct Acme {
    pub(crate) directory: Url,
    pub(crate) contact: Option<String>,
    pub(crate) challenge: Challenge,
    pub(crate) roots: Roots,
    pub(crate) external_account: Option<ExternalAccount>,
    /// The account with the CA; sites can share it.
    pub(crate) account_file: PathBuf,
    /// Key and chain of this site, in one file so that they always belong together.
    pub(crate) certificate_file: PathBuf,
    /// Why the contents of `certificate_file` are not used.
    pub(crate) unusable: Option<String>,
}

/// How the CA validates a host.
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

/// External account binding (RFC 8555 section 7.3.4).
#[derive(Debug)]
pub(crate) struct ExternalAccount {
    pub(crate) id: String,
    /// The HMAC key, as the CA shows it (base64url).
    pub(crate) key: Secret,
}

/// The certificate (`None` until the CA has issued one), and the CA that issues it, if the gateway asks one.
type Certificate = (Option<Arc<CertifiedKey>>, Option<Arc<Acme>>);

pub(super) fn certificate(section: &Value<'_>, hosts: &[String]) -> Option<Certificate> {
    if let Some(acme_section) = section.section("acme") {
        for other in ["chain", "key"].into_iter().filter_map(|key| section.given(key)) {
            other.report("`acme` gets the certificate from a CA: remove either this or `acme`");
        }
        return acme(&acme_section, hosts);
    }
    let files = section.files();
    let path = |value: &Value<'_>| Some(files.at(value.as_text(values::not_empty)?));
    let chain = section.required("chain").and_then(|value| {
        pem::certificates(files, &path(&value)?, "the certificate chain")
            .map_err(|why| value.report(why))
            .ok()
    });
    let key_value = section.required("key")?;
    let key = pem::key(files, &path(&key_value)?).map_err(|why| key_value.report(why)).ok()?;
    let certified_key = x509::certified_key(chain?, key).map_err(|why| key_value.report(why)).ok()?;
    Some((Some(certified_key), None))
}

fn acme(section: &Value<'_>, hosts: &[String]) -> Option<Certificate> {
    let directory = section.parsed("directory", directory);
    let contact = section.parsed("contact", contact);
    if let Some(value) = section.given("challenge").filter(|value| value.is_word("dns-01")) {
        value.report(
            "dns-01 is not supported; use tls-alpn-01 or http-01, or chain and key from another ACME client",
        );
        return None;
    }
    let challenge =
        section.word("challenge", &[("tls-alpn-01", Challenge::TlsAlpn01), ("http-01", Challenge::Http01)]);
    let roots = section.required_roots("ca_file");
    let external_account = section.section("external_account").map(|section| external_account(&section));
    let folder = section.parsed("folder", values::not_empty);
    if let Some(host) = hosts.iter().find(|host| !matches!(Host::parse(host), Ok(Host::Domain(_)))) {
        section.report(format!("{host} is an address: ACME needs a host name; use chain and key"));
        return None;
    }
    let directory = directory?;
    let folder = section.files().at(folder?).join(directory_name(&directory));
    // Sites can have different accounts with one CA.
    let (external_account, account) = match external_account {
        Some(external) => {
            let external = external?;
            let account = format!("account-{}.json", fingerprint(&external.id));
            (Some(external), account)
        }
        None => (None, "account.json".to_owned()),
    };
    let certificate_file = folder.join(format!("{}.pem", hosts.first()?));
    // An unusable file does not keep the other sites from starting.
    let found = match section.files().bytes(&certificate_file) {
        Ok(bytes) => x509::parse_bundle(&bytes).map(Some).map_err(|why| format!(": {why}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!(" cannot be read: {error}; the user that the service runs as must own it")),
    };
    let unusable = found.as_ref().err().map(|why| format!("{}{why}", certificate_file.display()));
    let acme = Acme {
        directory,
        contact,
        challenge,
        roots,
        external_account,
        account_file: folder.join(account),
        certificate_file,
        unusable,
    };
    Some((found.ok().flatten(), Some(Arc::new(acme))))
}

fn external_account(section: &Value<'_>) -> Option<ExternalAccount> {
    let id = section.parsed("id", values::not_empty);
    let value = section.value("key")?;
    let key = secret(&value)?;
    if BASE64_URL_SAFE_NO_PAD.decode(key.expose().trim_end_matches('=')).is_err() {
        value.report("the key of a CA consists of letters, digits, `-` and `_` (base64url)");
    }
    Some(ExternalAccount { id: id?, key })
}

fn directory(text: &str) -> Result<Url, String> {
    let url = match text {
        "letsencrypt" => LETS_ENCRYPT,
        "letsencrypt-staging" => LETS_ENCRYPT_STAGING,
        url => url,
    };
    let is_directory = |url: &Url| {
        url.scheme() == "https" && url.has_host() && url.fragment().is_none() && !values::has_credentials(url)
    };
    Url::parse(url).ok().filter(is_directory).ok_or_else(|| {
        format!("`{text}` is not a CA; use letsencrypt, letsencrypt-staging, or the https URL of a directory")
    })
}

fn contact(text: &str) -> Result<String, String> {
    let text = text.strip_prefix("mailto:").unwrap_or(text);
    let is_plain = |c: char| c.is_ascii_graphic() && !",?<>\"();".contains(c);
    let is_address = text.split_once('@').is_some_and(|(name, domain)| {
        !name.is_empty() && domain.contains('.') && !domain.contains('@') && text.chars().all(is_plain)
    });
    is_address.then(|| text.to_owned()).ok_or_else(|| format!("`{text}` is not an e-mail address"))
}

/// The name of the subfolder for one CA.
fn directory_name(directory: &Url) -> String {
    let plain = |c: char| match c {
        '/' => '_',
        c if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') => c,
        _ => '=',
    };
    directory.as_str().trim_start_matches("https://").chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_a_known_ca_or_a_url() {
        assert_eq!(directory("letsencrypt-staging").unwrap().as_str(), LETS_ENCRYPT_STAGING);
        assert!(directory("https://ca.example.org/acme/directory").is_ok());
        for wrong in
            ["lets-encrypt", "http://ca.example.org/", "https://user@ca.example.org/", "ca.example.org"]
        {
            assert!(directory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_ca_has_its_own_folder() {
        let name = |text| directory_name(&directory(text).unwrap());
        assert_eq!(name("letsencrypt"), "acme-v02.api.letsencrypt.org_directory");
        assert_ne!(name("letsencrypt"), name("letsencrypt-staging"));
        assert_eq!(name("https://ca.example.org/a/../../etc"), "ca.example.org_etc");
    }

    #[test]
    fn a_contact_is_one_address() {
        assert_eq!(contact("mailto:web@example.org").unwrap(), "web@example.org");
        for wrong in
            ["web", "a@b", "a@example.org,b@example.org", "a@example.org?subject=x", "a b@example.org"]
        {
            assert!(contact(wrong).is_err(), "{wrong}");
        }
    }
}
