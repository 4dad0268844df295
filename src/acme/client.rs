//! The connection to a CA: HTTP with the configured roots and limits of time and size, the directory, and the account.

use std::io::ErrorKind;
use std::pin::Pin;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Limited};
use instant_acme::{Account, BodyWrapper, BytesResponse, Error, ExternalAccountKey, HttpClient, NewAccount};

use crate::acme::error::AcmeError;
use crate::acme::store::NewFile;
use crate::base::error_chain::Chain;
use crate::base::http_client;
use crate::base::tls_client::client_config;
use crate::config::Acme;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;
/// Seconds. instant-acme panics on a `Retry-After` that overflows its clock; an order is polled more often than a CA.
const MAX_RETRY_AFTER: u64 = 24 * 3600;
const MAX_POLL_INTERVAL: u64 = 30;

/// What instant-acme sends its requests with.
struct Client(reqwest::Client);

impl Client {
    fn new(acme: &Acme) -> Result<Self, Error> {
        let tls = client_config(acme.roots.0.clone(), Vec::new());
        let tls = tls.map_err(|error| Error::Other(error.into()))?;
        let builder = http_client::builder(tls, TOTAL_TIMEOUT);
        let client = builder.https_only(true).connect_timeout(CONNECT_TIMEOUT).build();
        Ok(Self(client.map_err(|error| Error::Other(error.into()))?))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let max = if head.method == Method::GET { MAX_RETRY_AFTER } else { MAX_POLL_INTERVAL };
            let Ok(body) = body.collect().await;
            let unsent = |error: reqwest::Error| Error::Other(error.without_url().into());
            let request = Request::from_parts(head, body.to_bytes());
            let mut sent = client.execute(request.clone().try_into().map_err(unsent)?).await;
            // Connections break. If the first request has arrived, instant-acme gets its nonce refused, and takes
            // another.
            if sent.as_ref().is_err_and(|error| !error.is_timeout()) {
                sent = client.execute(request.try_into().map_err(unsent)?).await;
            }
            let mut response = Response::from(sent.map_err(unsent)?);
            let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            if let Some(seconds) = retry_after.and_then(|text| text.trim().parse::<u64>().ok()) {
                response.headers_mut().insert(RETRY_AFTER, seconds.min(max).into());
            }
            Ok(response.map(|body| Limited::new(body, MAX_RESPONSE_BYTES)).into())
        })
    }
}

/// Whether the CA answers with its directory (RFC 8555 section 7.1.1). instant-acme uses any URL in it, or panics.
pub(crate) async fn check_directory(acme: &Acme) -> Result<(), String> {
    let asked = async {
        let request = Request::get(acme.directory.as_str()).body(BodyWrapper::default())?;
        let mut response = Client::new(acme)?.request(request).await?;
        response.body.into_bytes().await.map_err(Error::Other)
    };
    let body = asked.await.map_err(|error| Chain(&error).to_string())?;
    let directory: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let is_url = |name: &str| {
        directory[name].as_str().is_some_and(|url| url.parse().is_ok_and(|url: Uri| url.host().is_some()))
    };
    let is_directory = ["newNonce", "newAccount", "newOrder"].into_iter().all(is_url);
    is_directory.then_some(()).ok_or_else(|| "the URL is not that of an ACME directory".to_owned())
}

/// The account with the CA: the one in its file, or a new one if there is no file.
pub(super) async fn account(acme: &Acme) -> Result<Account, AcmeError> {
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
