//! Secrets, given by reference only: `{file: ..}`, `{credential: ..}` (systemd), `{env: ..}`.
//!
//! A secret has no Display, no Serialize and no text in Debug. Only this file reads environment variables.

use std::fmt;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretBox};

use crate::base::hex::hex;
use crate::config::files::Files;
use crate::config::section::Value;

/// A value that must never be shown. White space at its ends (a pasted line end) and a byte order mark are removed.
pub struct Secret {
    text: SecretBox<str>,
    /// When its file was last changed, in seconds since 1970; `None` if it does not come from a file.
    pub(super) changed: Option<u64>,
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

    /// Enough to recognise the secret, too little to be useful to an attacker.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(self.expose())
    }
}

/// The first 32 bits of a SHA-256 hash with a prefix, as 8 hexadecimal digits.
pub(crate) fn fingerprint(text: &str) -> String {
    let digest = digest(&SHA256, format!("imis-gateway fingerprint\n{text}").as_bytes());
    hex(&digest.as_ref()[..4])
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

/// Checks a secret that was read from `place`.
fn checked(text: &str, place: &str) -> Result<Secret, String> {
    let secret = Secret::new(text);
    if secret.expose().is_empty() {
        return Err(format!("the secret in {place} is empty"));
    }
    if secret.expose().contains(char::is_control) {
        return Err(format!("the secret in {place} has a line break or control character inside it"));
    }
    Ok(secret)
}

fn from_file(files: &Files, path: &Path) -> Result<Secret, String> {
    let shown = path.display().to_string();
    let bytes = files.bytes(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    // The error of the conversion would contain the bytes.
    let text = String::from_utf8(bytes).map_err(|_| format!("cannot read {shown}: it is not UTF-8"))?;
    checked(&text, &shown)
}

fn from_credential(files: &Files, name: &str) -> Result<Secret, String> {
    // A command that root runs can read the credentials of the service.
    let of_service = || Path::new(SERVICE_CREDENTIALS).is_dir().then(|| SERVICE_CREDENTIALS.to_owned());
    let folder = environment("CREDENTIALS_DIRECTORY").or_else(of_service).ok_or_else(|| {
        format!(
            "credential `{name}`: $CREDENTIALS_DIRECTORY is not set; \
             systemd sets it for a unit with LoadCredential={name}:/path; run other commands as root while the service is running"
        )
    })?;
    from_file(files, &Path::new(&folder).join(name))
}

fn from_environment(name: &str) -> Result<Secret, String> {
    let text = environment(name)
        .ok_or_else(|| format!("the environment variable `{name}` is not set (or is not UTF-8)"))?;
    checked(&text, &format!("${name}"))
}

/// Not for credentials: systemd creates their files when the service starts.
fn modified(path: &Path) -> Option<u64> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    modified.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
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
    let files = value.files();
    let found = match value.entries().as_slice() {
        [("file", path)] => {
            let path = path.as_text(|path| Ok(files.at(path)))?;
            from_file(files, &path).map(|secret| Secret { changed: modified(&path), ..secret })
        }
        [("credential", name)] => from_credential(files, &name.as_text(credential_name)?),
        [("env", name)] => from_environment(&name.as_text(variable_name)?),
        _ => Err(how.to_owned()),
    };
    found.map_err(|reason| value.report(reason)).ok()
}

/// The error does not quote the name: it may be the secret itself.
fn variable_name(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let is_name =
        is_plain && (1..=64).contains(&text.len()) && !text.starts_with(|c: char| c.is_ascii_digit());
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| "is not the name of an environment variable, like ZENDESK_JWT".to_owned())
}

fn credential_name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && !text.contains('/') && !text.starts_with('.');
    is_name.then(|| text.to_owned()).ok_or_else(|| "is not the name of a credential".to_owned())
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
    if ["current", "next"].iter().all(|key| value.given(key).is_none()) {
        return secret(value).map(|current| SharedSecret { current, next: None });
    }
    let section = value.as_section();
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
            |name: &str| from_file(&Files::below(folder.path()), &folder.path().join(name)).unwrap_err();
        assert!(problem("absent").contains("cannot read"));
        assert!(problem("empty").contains("is empty"));
        assert!(problem("two-lines").contains("line break"));
        assert!(!problem("two-lines").contains("hunter"));
    }
}
