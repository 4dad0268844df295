//! The gateway's account with a CA.

use std::io::ErrorKind;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::{Account, ExternalAccountKey, NewAccount};

use crate::acme::client::{Client, check_directory};
use crate::acme::error::AcmeError;
use crate::acme::store::NewFile;
use crate::config::Acme;

/// The account in its file, or a new one when there is no file.
pub(super) async fn open(acme: &Acme) -> Result<Account, AcmeError> {
    let path = &acme.account_file;
    check_directory(acme).await.map_err(AcmeError::Directory)?;
    let builder = Account::builder_with_http(Box::new(Client::new(acme)?));
    match tokio::fs::read(path).await {
        Ok(saved) => {
            let invalid = |source| AcmeError::AccountFile { path: path.clone(), source };
            return Ok(builder.from_credentials(serde_json::from_slice(&saved).map_err(invalid)?).await?);
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(source) => return Err(AcmeError::File { action: "read", path: path.clone(), source }),
    }
    let file = NewFile::create(path).await?;
    let contact = acme.contact.as_ref().map(|address| format!("mailto:{address}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = acme.external_account.as_ref().and_then(|external| {
        let key = BASE64_URL_SAFE_NO_PAD.decode(external.key.expose().trim_end_matches('=')).ok()?;
        Some(ExternalAccountKey::new(external.id.clone(), &key))
    });
    let (account, credentials) = builder.create(&new, acme.directory.to_string(), external.as_ref()).await?;
    file.commit(&serde_json::json!(credentials).to_string()).await?;
    Ok(account)
}
