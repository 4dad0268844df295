//! `sites[].certificate`: a pair of files, or a CA to ask.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::sign::CertifiedKey;
use url::{Host, Url};

use crate::base::x509;
use crate::config::acme::{Acme, Challenge, ExternalAccount};
use crate::config::files::Files;
use crate::config::pem;
use crate::config::raw::{Section, Value};
use crate::config::read::sign_on::secret;
use crate::config::{Roots, fingerprint, values};

/// What browsers are shown, and whether a CA is asked for it. There is none before the CA has answered for the first time.
pub(super) type Certificate = (Option<Arc<CertifiedKey>>, Option<Arc<Acme>>);

const FOLDER: &str = "/var/lib/imis-gateway/acme";
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

pub(super) fn certificate(
    mut section: Section<'_>,
    files: &Files,
    hosts: Option<&[String]>,
) -> Option<Certificate> {
    if let Some(value) = section.optional("acme") {
        for key in ["chain", "key"] {
            if let Some(value) = section.optional(key) {
                value.report("there is a CA to ask (acme): remove this, or acme");
            }
        }
        section.finish();
        return acme(&value, files, hosts?);
    }
    let path = |value: Value<'_>| value.text(values::not_empty).map(|path| files.at(path));
    let chain_value = section.required("chain");
    let key_value = section.required("key");
    let chain_path: Option<PathBuf> = chain_value.clone().and_then(path);
    let key_path: Option<PathBuf> = key_value.clone().and_then(path);
    section.finish();

    let report = |value: Option<Value<'_>>, reason: String| {
        if let Some(value) = value {
            value.report(reason);
        }
    };
    let chain =
        chain_path.and_then(|path| pem::chain(files, &path).map_err(|why| report(chain_value, why)).ok());
    let key =
        key_path.and_then(|path| pem::key(files, &path).map_err(|why| report(key_value.clone(), why)).ok());
    let pair = x509::certified_key(chain?, key?).map_err(|why| report(key_value, why)).ok()?;
    Some((Some(pair), None))
}

fn acme(value: &Value<'_>, files: &Files, hosts: &[String]) -> Option<Certificate> {
    let mut section = value.section()?;
    let directory = section.text_or("directory", directory, Url::parse(LETS_ENCRYPT).ok()?);
    let contact = match section.optional("contact") {
        Some(value) if value.is_null() => Some(None),
        Some(value) => value.text(contact).map(Some),
        None => Some(None),
    };
    let challenge = section.text_or(
        "challenge",
        |text| match text {
            "tls-alpn-01" => Ok(Challenge::TlsAlpn01),
            "http-01" => Ok(Challenge::Http01),
            "dns-01" => Err("dns-01 is not supported; use tls-alpn-01 or http-01, or chain and key of a client that does it".to_owned()),
            other => Err(format!("`{other}` is not a challenge; use tls-alpn-01 or http-01")),
        },
        Challenge::TlsAlpn01,
    );
    let roots = match section.optional("ca_file") {
        Some(value) => value.text(|path| pem::roots(files, &files.at(path)).map(Roots)),
        None => Some(Roots(x509::system_roots())),
    };
    let external_account = match section.optional("external_account") {
        Some(value) => value.section().and_then(|section| external_account(section, files)).map(Some),
        None => Some(None),
    };
    let folder = section.text_or("folder", values::not_empty, FOLDER.to_owned());
    if roots.as_ref().is_some_and(|roots| roots.0.is_empty()) {
        section.report("the system has no CA certificates; install them (ca-certificates) or set ca_file");
    }
    section.finish();
    for host in hosts {
        if !matches!(Host::parse(host), Ok(Host::Domain(_))) {
            value.report(format!("{host} is an address: a CA vouches for names; use chain and key"));
            return None;
        }
    }
    let directory = directory?;
    let folder = files.at(folder?).join(name_of(&directory));
    let external_account = external_account?;
    // Sites may be of different accounts with one CA.
    let account = match &external_account {
        Some(external) => format!("account-{}.json", fingerprint(&external.id)),
        None => "account.json".to_owned(),
    };
    let (account_file, certificate_file) =
        (folder.join(account), folder.join(format!("{}.pem", hosts.first()?)));
    let (pair, unusable) = match files.bytes(&certificate_file) {
        Ok(bytes) => match x509::parse_bundle(&bytes) {
            Ok(pair) => (Some(pair), None),
            Err(why) => (None, Some(format!("{}: {why}", certificate_file.display()))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (None, None),
        // Nothing that others wrote there keeps the other sites from starting.
        Err(error) => {
            let shown = certificate_file.display();
            (
                None,
                Some(format!(
                    "{shown} cannot be read: {error}; it has to be of the user that the service runs as"
                )),
            )
        }
    };
    let acme = Acme {
        directory,
        contact: contact?,
        challenge: challenge?,
        roots: roots?,
        external_account,
        account_file,
        certificate_file,
        unusable,
    };
    Some((pair, Some(Arc::new(acme))))
}

fn external_account(mut section: Section<'_>, files: &Files) -> Option<ExternalAccount> {
    let id = section.required("id").and_then(|value| value.text(values::not_empty));
    let key_value = section.required("key");
    let key = key_value.as_ref().and_then(|value| secret(value, files));
    if let (Some(value), Some(key)) = (&key_value, &key)
        && BASE64_URL_SAFE_NO_PAD.decode(key.expose().trim_end_matches('=')).is_err()
    {
        value.report("the key is not what a CA shows: letters, digits, `-` and `_` (base64url)");
        return None;
    }
    section.finish();
    Some(ExternalAccount { id: id?, key: key? })
}

fn directory(text: &str) -> Result<Url, String> {
    let url = match text {
        "letsencrypt" => LETS_ENCRYPT,
        "letsencrypt-staging" => LETS_ENCRYPT_STAGING,
        url => url,
    };
    let wrong = || {
        format!("`{text}` is not a CA; use letsencrypt, letsencrypt-staging, or the https URL of a directory")
    };
    let url = Url::parse(url).map_err(|_| wrong())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    if url.scheme() == "https" && url.has_host() && plain { Ok(url) } else { Err(wrong()) }
}

fn contact(text: &str) -> Result<String, String> {
    let text = text.strip_prefix("mailto:").unwrap_or(text);
    let simple =
        |c: char| c.is_ascii_graphic() && !matches!(c, ',' | '?' | '<' | '>' | '"' | '(' | ')' | ';');
    match text.split_once('@') {
        Some((name, domain))
            if !name.is_empty()
                && domain.contains('.')
                && !domain.contains('@')
                && text.chars().all(simple) =>
        {
            Ok(text.to_owned())
        }
        _ => Err(format!("`{text}` is not an e-mail address")),
    }
}

/// What lies of a CA is kept apart from what lies of others.
fn name_of(directory: &Url) -> String {
    let text = directory.as_str().trim_start_matches("https://");
    let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let plain = |c| {
        if c == '/' {
            '_'
        } else if kept(c) {
            c
        } else {
            '='
        }
    };
    text.chars().map(plain).collect()
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
    fn accounts_of_different_cas_lie_apart() {
        let name = |text| name_of(&directory(text).unwrap());
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
