//! The service account: one access token, shared, fetched by one caller at a time, renewed before it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tracing::{debug, warn};
use url::Url;

use super::client::{self, ApiError};
use crate::config;

const MOST_TOKEN_BYTES: usize = 64 * 1024;
const MOST_PARTY_BYTES: usize = 2 * 1024 * 1024;
/// A token is not used in its last tenth, or its last minute if that is less.
const RENEW_BEFORE_END: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct ServiceAccount {
    client: Client,
    token_url: Url,
    credentials: Arc<config::ServiceAccount>,
    token: Mutex<Option<Arc<Token>>>,
}

struct Token {
    text: SecretString,
    renew_at: Instant,
}

/// The token endpoint's answer (OAuth 2.0, RFC 6749 section 5.1).
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: u64,
}

/// A number, or a number in quotes.
fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default())
}

impl ServiceAccount {
    pub(super) fn new(client: Client, api_url: &Url, credentials: Arc<config::ServiceAccount>) -> Self {
        let mut token_url = api_url.clone();
        token_url.set_path(&format!("{}token", api_url.path()));
        Self { client, token_url, credentials, token: Mutex::new(None) }
    }

    /// GETs `url` with the account's token, once more with a new one when the first is refused.
    pub(super) async fn get(&self, client: &Client, url: Url) -> Result<Bytes, ApiError> {
        let token = self.token(None).await?;
        let mut response = self.send(client, url.clone(), &token).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            debug!("iMIS refused a token before its end; asking for another");
            let token = self.token(Some(&token)).await?;
            response = self.send(client, url, &token).await?;
        }
        match response.status() {
            StatusCode::OK => client::json_body(response, MOST_PARTY_BYTES).await,
            other => Err(ApiError::Status(other)),
        }
    }

    async fn send(&self, client: &Client, url: Url, token: &Token) -> Result<reqwest::Response, ApiError> {
        let request = client.get(url).bearer_auth(token.text.expose_secret());
        Ok(request.header(http::header::ACCEPT, "application/json").send().await?)
    }

    /// The current token, or a new one when it is old or the one that was `refused`. Whoever comes while a token is
    /// being fetched waits for that one.
    async fn token(&self, refused: Option<&Arc<Token>>) -> Result<Arc<Token>, ApiError> {
        let mut current = self.token.lock().await;
        if let Some(token) = current.as_ref()
            && Instant::now() < token.renew_at
            && !refused.is_some_and(|refused| Arc::ptr_eq(refused, token))
        {
            return Ok(token.clone());
        }
        *current = None;
        let token = Arc::new(self.fetch().await?);
        *current = Some(token.clone());
        Ok(token)
    }

    async fn fetch(&self) -> Result<Token, ApiError> {
        let form = [
            ("grant_type", "password"),
            ("username", self.credentials.username.as_str()),
            ("password", self.credentials.password.expose()),
        ];
        let asked = Instant::now();
        let response = self.client.post(self.token_url.clone()).form(&form).send().await?;
        match response.status() {
            StatusCode::OK => {}
            refused @ (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                warn!(
                    status = refused.as_u16(),
                    "iMIS refuses the service account; has its password been changed?"
                );
                return Err(ApiError::SignInRefused(refused));
            }
            other => return Err(ApiError::Status(other)),
        }
        let body = client::json_body(response, MOST_TOKEN_BYTES).await?;
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| ApiError::NoToken)?;
        if answer.access_token.is_empty() || answer.access_token.contains(|c: char| !c.is_ascii_graphic()) {
            return Err(ApiError::NoToken);
        }
        let lifetime = Duration::from_secs(answer.expires_in);
        let early = RENEW_BEFORE_END.min(lifetime / 10);
        debug!(seconds = answer.expires_in, "a new iMIS token");
        Ok(Token { text: answer.access_token.into(), renew_at: asked + lifetime.saturating_sub(early) })
    }
}
