//! Asking a CA: every wait bounded, every answer capped, no other roots than the configured ones.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use reqwest::Client;
use rustls::RootCertStore;
use url::Url;

use crate::tls::upstream::client_config;

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const TOTAL_DEADLINE: Duration = Duration::from_secs(30);
/// A chain has some kilobytes.
const MOST_BYTES: usize = 1024 * 1024;

/// Why a CA gives no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("the CA cannot be asked")]
    Unreachable(#[source] reqwest::Error),
    #[error("an answer of more than {MOST_BYTES} bytes")]
    TooLong,
    #[error("what answers there is no directory of a CA")]
    NoDirectory,
    #[error("TLS")]
    Tls(#[from] rustls::Error),
}

impl From<reqwest::Error> for NoAnswer {
    fn from(error: reqwest::Error) -> Self {
        Self::Unreachable(error.without_url())
    }
}

/// A client of a CA whose server these roots vouch for.
pub(super) fn client(roots: Arc<RootCertStore>) -> Result<Box<dyn HttpClient>, Error> {
    Ok(Box::new(OfCa(build(roots).map_err(|error| Error::Other(error.into()))?)))
}

/// Asks for the directory of a CA (RFC 8555 section 7.1.1) and no more.
pub(super) async fn directory(url: &Url, roots: Arc<RootCertStore>) -> Result<(), NoAnswer> {
    let request = http::Request::get(url.as_str()).body(BodyWrapper::default());
    let answer = ask(build(roots)?, request.map_err(|_| NoAnswer::NoDirectory)?).await?;
    let directory: serde_json::Value =
        serde_json::from_slice(answer.body()).map_err(|_| NoAnswer::NoDirectory)?;
    if directory["newOrder"].is_string() { Ok(()) } else { Err(NoAnswer::NoDirectory) }
}

fn build(roots: Arc<RootCertStore>) -> Result<Client, NoAnswer> {
    let tls = client_config(roots, Vec::new())?;
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .https_only(true)
        .referer(false)
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(TOTAL_DEADLINE)
        .build()?;
    Ok(client)
}

struct OfCa(Client);

impl HttpClient for OfCa {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let response = ask(client, request).await.map_err(|error| Error::Other(error.into()))?;
            Ok(response.map(Full::new).into())
        })
    }
}

async fn ask(
    client: Client,
    request: http::Request<BodyWrapper<Bytes>>,
) -> Result<http::Response<Bytes>, NoAnswer> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await;
    let request = reqwest::Request::try_from(http::Request::from_parts(head, body.to_bytes()))?;
    let mut answer = client.execute(request).await?;
    let mut bytes = BytesMut::new();
    while let Some(piece) = answer.chunk().await? {
        if bytes.len() + piece.len() > MOST_BYTES {
            return Err(NoAnswer::TooLong);
        }
        bytes.extend_from_slice(&piece);
    }
    let mut response = http::Response::new(bytes.freeze());
    *response.status_mut() = answer.status();
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    Ok(response)
}
