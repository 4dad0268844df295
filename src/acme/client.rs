//! Asking a CA: every wait bounded, every answer capped, no other roots than the configured ones.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderValue, RETRY_AFTER, USER_AGENT};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use reqwest::Client;
use rustls::RootCertStore;
use url::Url;

use crate::base::clock;
use crate::base::tls_client::client_config;

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const TOTAL_DEADLINE: Duration = Duration::from_secs(30);
/// A chain has some kilobytes.
const MOST_BYTES: usize = 1024 * 1024;
/// Seconds: what a CA may ask us to wait, and how long advice lasts where it does not say.
const MOST_PAUSE: u64 = 24 * 3600;
const ADVICE_LASTS: u64 = 6 * 3600;
/// Within an order: whoever comes back only after hours finds the hosts' answers gone.
const MOST_PAUSE_WITHIN: u64 = 30;
/// RFC 8555 section 6.1.
const AGENT: &str = concat!("imis-gateway/", env!("CARGO_PKG_VERSION"));

/// Why a CA gives no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("no answer")]
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
    // The library takes them as they are.
    let is_good = |name: &str| {
        let url = directory[name].as_str().and_then(|text| text.parse::<http::Uri>().ok());
        url.is_some_and(|url| url.scheme_str() == Some("https") && url.host().is_some())
    };
    let all = ["newNonce", "newAccount", "newOrder"].into_iter().all(is_good);
    if all { Ok(()) } else { Err(NoAnswer::NoDirectory) }
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
    let is_read = request.method() == http::Method::GET;
    let (mut head, body) = request.into_parts();
    head.headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
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
    let most = if is_read { MOST_PAUSE } else { MOST_PAUSE_WITHIN };
    let pause = response.headers_mut().remove(RETRY_AFTER).as_ref().and_then(pause);
    let pause = pause.map(|seconds| seconds.min(most));
    // Advice about renewal has to come with one (RFC 9773 section 4.3).
    if let Some(seconds) = pause.or_else(|| is_read.then_some(ADVICE_LASTS)) {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    Ok(response)
}

/// What a CA asks for, in seconds within reason: whoever reads it adds it to a clock.
fn pause(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?.trim();
    let seconds = match text.parse() {
        Ok(seconds) => seconds,
        Err(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => MOST_PAUSE,
        Err(_) => {
            let at = httpdate::parse_http_date(text).ok()?;
            at.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs().saturating_sub(clock::unix_now())
        }
    };
    Some(seconds.min(MOST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_within_reason_or_none() {
        let of = |text: &str| pause(&HeaderValue::from_str(text).unwrap());
        assert_eq!((of("0"), of(" 120 "), of("86401")), (Some(0), Some(120), Some(MOST_PAUSE)));
        assert_eq!(of("18446744073709551615"), Some(MOST_PAUSE));
        assert_eq!(of("99999999999999999999999"), Some(MOST_PAUSE));
        assert_eq!(of("Fri, 31 Dec 9999 23:59:59 GMT"), Some(MOST_PAUSE));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        assert_eq!((of("soon"), of(""), of("-1")), (None, None, None));
    }
}
