//! Secrets, reached by reference only: `{file: ..}`, `{credential: ..}` (systemd), `{env: ..}`.
//!
//! A secret has no Display, no Serialize and no text in Debug. This is the one place that reads the environment.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretBox};

use crate::config::files::Files;

/// A value that must never be shown. White space around it (a pasted line end), or a byte order mark, is not part of it.
pub struct Secret {
    text: SecretBox<str>,
    /// Seconds since 1970, where its file tells.
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

    /// When it was last changed, in seconds since 1970, as far as that is known: the time of a file.
    pub(crate) fn changed(&self) -> Option<u64> {
        self.changed
    }

    /// Enough to tell it from others, too little to be of use to anybody.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(self.expose())
    }
}

/// The first 32 bits of a SHA-256 of its own kind, as 8 hex digits.
pub(crate) fn fingerprint(text: &str) -> String {
    let digest = digest(&SHA256, format!("imis-gateway fingerprint\n{text}").as_bytes());
    digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether both are the same secret; when they were changed is no matter.
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

/// Where systemd keeps the credentials of the service while it runs.
const OF_SERVICE: &str = "/run/credentials/imis-gateway.service";

/// Where a secret is to be found.
pub(super) enum Reference {
    File(PathBuf),
    Credential(String),
    Env(String),
}

impl Reference {
    /// Fetches the secret.
    pub(super) fn resolve(&self, files: &Files) -> Result<Secret, String> {
        let (text, place) = match self {
            Self::File(path) => {
                let path = files.at(path);
                (read(files, &path)?, path.display().to_string())
            }
            Self::Credential(name) => {
                // Commands beside the service have no credentials of their own; root may read the service's.
                let of_service = || Path::new(OF_SERVICE).is_dir().then(|| OF_SERVICE.to_owned());
                let folder = environment("CREDENTIALS_DIRECTORY").or_else(of_service).ok_or_else(|| {
                    format!(
                        "credential `{name}`: $CREDENTIALS_DIRECTORY is not set; \
                         systemd sets it for a unit with LoadCredential={name}:/path; for a command beside the service, run it as root while the service runs"
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

/// A credential's is the start of the service, which says nothing.
fn modified(path: &Path) -> Option<u64> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    modified.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn read(files: &Files, path: &Path) -> Result<String, String> {
    let bytes = files.bytes(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    // Not what the conversion says: it holds the bytes.
    String::from_utf8(bytes).map_err(|_| format!("cannot read {}: it is not UTF-8", path.display()))
}

#[expect(clippy::disallowed_methods, reason = "the one home of environment references")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
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
