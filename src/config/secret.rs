//! Secrets, given by reference only: `{file: ..}`, `{credential: ..}` (systemd), `{env: ..}`.
//!
//! A secret has no Display, no Serialize and no text in Debug. Only this file reads environment variables.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretBox};

use crate::config::files::Files;
use crate::config::section::Value;

/// A value that must never be shown. White space at its ends (a pasted line end) and a byte order mark are removed.
pub struct Secret {
    text: SecretBox<str>,
    /// When its file was last changed, in seconds since 1970.
    changed: Option<u64>,
}

impl Secret {
    pub(crate) fn new(text: &str) -> Self {
        let text = SecretBox::new(text.trim_start_matches('\u{feff}').trim().into());
        Self { text, changed: None }
    }

    /// The secret itself, for the one call that needs it.
    pub(crate) fn expose(&self) -> &str {
        self.text.expose_secret()
    }

    /// When its file was last changed, in seconds since 1970; `None` if it does not come from a file.
    pub(crate) fn changed(&self) -> Option<u64> {
        self.changed
    }

    /// Enough to recognise the secret, too little to be useful to an attacker.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(self.expose())
    }
}

/// The first 32 bits of a SHA-256 hash with a prefix, as 8 hexadecimal digits.
pub(crate) fn fingerprint(text: &str) -> String {
    let digest = digest(&SHA256, format!("imis-gateway fingerprint\n{text}").as_bytes());
    digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Compares the texts only.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Where systemd keeps the credentials of the running service.
const SERVICE_CREDENTIALS: &str = "/run/credentials/imis-gateway.service";

/// Where a secret is.
enum Reference {
    File(PathBuf),
    Credential(String),
    Env(String),
}

impl Reference {
    fn resolve(&self, files: &Files) -> Result<Secret, String> {
        let (text, place) = match self {
            Self::File(path) => {
                let path = files.at(path);
                (read(files, &path)?, path.display().to_string())
            }
            Self::Credential(name) => {
                // A command that root runs can read the credentials of the service.
                let of_service =
                    || Path::new(SERVICE_CREDENTIALS).is_dir().then(|| SERVICE_CREDENTIALS.to_owned());
                let folder = environment("CREDENTIALS_DIRECTORY").or_else(of_service).ok_or_else(|| {
                    format!(
                        "credential `{name}`: $CREDENTIALS_DIRECTORY is not set; \
                         systemd sets it for a unit with LoadCredential={name}:/path; run other commands as root while the service is running"
                    )
                })?;
                let path = Path::new(&folder).join(name);
                (read(files, &path)?, path.display().to_string())
            }
            Self::Env(name) => {
                let text = environment(name).ok_or_else(|| {
                    format!("the environment variable `{name}` is not set (or is not UTF-8)")
                })?;
                (text, format!("${name}"))
            }
        };
        let mut secret = Secret::new(&text);
        if let Self::File(path) = self {
            secret.changed = modified(&files.at(path));
        }
        if secret.expose().is_empty() {
            return Err(format!("the secret in {place} is empty"));
        }
        if secret.expose().contains(char::is_control) {
            return Err(format!("the secret in {place} has a line break or control character inside it"));
        }
        Ok(secret)
    }
}

/// Not for credentials: systemd creates their files when the service starts.
fn modified(path: &Path) -> Option<u64> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    modified.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn read(files: &Files, path: &Path) -> Result<String, String> {
    let bytes = files.bytes(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    // The error of the conversion would contain the bytes.
    String::from_utf8(bytes).map_err(|_| format!("cannot read {}: it is not UTF-8", path.display()))
}

#[expect(clippy::disallowed_methods, reason = "the one home of environment references")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A secret of the file, fetched.
pub(super) fn secret(value: &Value<'_>) -> Option<Secret> {
    // Neither the value nor its keys are quoted: they may be the secret itself.
    let how = "a secret is given by reference: {file: PATH}, {credential: NAME} or {env: NAME}";
    if !value.is_mapping() {
        value.report(format!("{how}; never write it into this file"));
        return None;
    }
    let entries = value.entries();
    let reference = match entries.as_slice() {
        [("file", path)] => path.text(|path| Ok(Reference::File(PathBuf::from(path)))),
        [("credential", name)] => name.text(|name| credential_name(name).map(Reference::Credential)),
        [("env", name)] => name.text(|name| variable_name(name).map(Reference::Env)),
        _ => {
            value.report(how);
            None
        }
    };
    reference?.resolve(value.files()).map_err(|reason| value.report(reason)).ok()
}

/// The error does not quote the name: it may be the secret itself.
fn variable_name(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let begins = text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if plain && begins && text.len() <= 64 {
        Ok(text.to_owned())
    } else {
        Err("is not the name of an environment variable, like ZENDESK_JWT".to_owned())
    }
}

fn credential_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') || text.starts_with('.') {
        return Err("is not the name of a credential".to_owned());
    }
    Ok(text.to_owned())
}

/// A secret that can be rotated.
#[derive(Debug)]
pub(crate) struct SharedSecret {
    /// Signs.
    pub(crate) current: Secret,
    /// Accepted, too: the next one, or the previous one.
    pub(crate) next: Option<Secret>,
}

impl SharedSecret {
    /// The current one first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.current).chain(&self.next)
    }
}

/// One secret, or a current and a next one.
pub(super) fn shared_secret(value: &Value<'_>) -> Option<SharedSecret> {
    if !value.has("current") && !value.has("next") {
        return secret(value).map(|current| SharedSecret { current, next: None });
    }
    let section = value.section();
    let current = section.required("current").and_then(|value| secret(&value));
    let next_value = section.value("next");
    let next = next_value.as_ref().and_then(secret);
    if let (Some(value), Some(next), Some(current)) = (next_value, &next, &current)
        && next == current
    {
        value.report("it is the same as `current`; leave it out until there is a new one");
    }
    Some(SharedSecret { current: current?, next })
}

/// Shorter keys can be guessed.
const MIN_KEY_LENGTH: usize = 32;

/// A key of the gateway itself.
pub(super) fn long_key(value: &Value<'_>) -> Option<SharedSecret> {
    let secret = shared_secret(value)?;
    if secret.all().any(|key| key.expose().len() < MIN_KEY_LENGTH) {
        value.report(format!(
            "use a key of at least {MIN_KEY_LENGTH} characters, such as `openssl rand -hex 32` prints"
        ));
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_in_debug_and_loses_pasted_white_space() {
        let secret = Secret::new("\u{feff}  s3cr3t\r\n");
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(secret.expose(), "s3cr3t");
        // `printf 'imis-gateway fingerprint\ns3cr3t' | sha256sum`
        assert_eq!(secret.fingerprint(), "ae536858");
    }

    #[test]
    fn a_missing_empty_or_broken_secret_is_named_by_its_place_only() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty"), " \n").unwrap();
        std::fs::write(folder.path().join("two-lines"), "hunter2\nhunter3").unwrap();
        let problem =
            |name: &str| Reference::File(name.into()).resolve(&Files::below(folder.path())).unwrap_err();
        assert!(problem("absent").contains("cannot read"));
        assert!(problem("empty").contains("is empty"));
        assert!(problem("two-lines").contains("line break"));
        assert!(!problem("two-lines").contains("hunter"));
    }
}
