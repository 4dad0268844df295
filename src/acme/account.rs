//! The account that the gateway has with a CA.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::acme::order::{AcmeError, is_of_type};
use crate::acme::{client, store};
use crate::config::Acme;

/// By its file, one account is made at a time.
static MAKING: LazyLock<std::sync::Mutex<HashMap<PathBuf, Arc<Mutex<()>>>>> = LazyLock::new(Default::default);

/// As it lies in its file.
#[derive(Serialize, Deserialize)]
struct Kept {
    contact: Option<String>,
    credentials: AccountCredentials,
}

/// The account that the gateway has with a CA, made when there is none.
pub(super) async fn account(acme: &Acme) -> Result<Account, AcmeError> {
    let path = &acme.account_file;
    // The library takes anything for one.
    let asked = client::directory(&acme.directory, acme.roots.0.clone()).await;
    asked.map_err(|error| AcmeError::NoAnswer(acme.directory.to_string(), error))?;
    let builder = Account::builder_with_http(client::client(acme.roots.0.clone())?);
    let uri = acme.contact.as_ref().map(|address| format!("mailto:{address}"));
    let contact: Vec<&str> = uri.iter().map(String::as_str).collect();
    let mut kept = kept_account(acme).await?;
    // Several sites may find none at once, and one account is enough for all.
    let _making = if kept.is_none() {
        let making = {
            let mut all = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(path.clone()).or_default().clone()
        };
        let making = making.lock_owned().await;
        kept = kept_account(acme).await?;
        Some(making)
    } else {
        None
    };
    let Some((kept, text)) = kept else {
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let external = acme.external_account.as_ref().and_then(|external| {
            let key = BASE64_URL_SAFE_NO_PAD.decode(external.key.expose().trim_end_matches('=')).ok()?;
            Some(ExternalAccountKey::new(external.id.clone(), &key))
        });
        let (account, credentials) =
            builder.create(&new, acme.directory.to_string(), external.as_ref()).await?;
        keep(path, Kept { contact: acme.contact.clone(), credentials }).await?;
        return Ok(account);
    };
    let is_changed = kept.contact != acme.contact;
    let account = builder.from_credentials(kept.credentials).await?;
    if is_changed {
        account.update_contacts(&contact).await.map_err(|error| unknown_account(error, path))?;
        let Kept { credentials, .. } = serde_json::from_slice(&text)
            .map_err(|source| AcmeError::Account { path: path.display().to_string(), source })?;
        keep(path, Kept { contact: acme.contact.clone(), credentials }).await?;
    }
    Ok(account)
}

/// The account in its file, if there is one.
async fn kept_account(acme: &Acme) -> Result<Option<(Kept, Vec<u8>)>, AcmeError> {
    let path = &acme.account_file;
    let shown = || path.display().to_string();
    match read(path).await {
        Ok(text) => {
            let kept: Kept = serde_json::from_slice(&text)
                .map_err(|source| AcmeError::Account { path: shown(), source })?;
            Ok(Some((kept, text)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(AcmeError::Store { path: shown(), what: "read", source }),
    }
}

/// What an error of the CA's means for the account.
pub(super) fn unknown_account(error: instant_acme::Error, path: &Path) -> AcmeError {
    let is_unknown =
        matches!(&error, instant_acme::Error::Api(problem) if is_of_type(problem, "accountDoesNotExist"));
    if is_unknown { AcmeError::NoAccount { path: path.display().to_string() } } else { error.into() }
}

async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || crate::config::read_file(&path)).await;
    read.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

async fn keep(path: &Path, kept: Kept) -> Result<(), AcmeError> {
    let shown = || path.display().to_string();
    let text = serde_json::to_vec(&kept).map_err(|source| AcmeError::Account { path: shown(), source })?;
    let written = store::write(path, text).await;
    written.map_err(|source| AcmeError::Store { path: shown(), what: "written", source })
}
