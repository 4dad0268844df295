//! The service account: one access token, shared, fetched by one caller at a time, renewed before it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// Whatever the answer says, a token is asked for anew after a day.
const LONGEST_LIFE: Duration = Duration::from_secs(86_400);

/// See the module.
pub(super) struct ServiceAccount {
    client: Client,
    token_url: Url,
    credentials: Arc<config::ServiceAccount>,
    current: Mutex<Current>,
    /// Attempts that have ended.
    attempts: AtomicU64,
}

/// What the last attempt has left.
#[derive(Default)]
struct Current {
    token: Option<Arc<Token>>,
    failed: Option<Arc<ApiError>>,
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

/// A number, or a number in quotes; anything else is no time at all.
fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default();
    // Saturates, and takes what is not a number for zero.
    Ok(number as u64)
}

impl ServiceAccount {
    pub(super) fn new(client: Client, api_url: &Url, credentials: Arc<config::ServiceAccount>) -> Self {
        let mut token_url = api_url.clone();
        token_url.set_path(&format!("{}token", api_url.path()));
        Self { client, token_url, credentials, current: Mutex::default(), attempts: AtomicU64::new(0) }
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
    /// being fetched waits for that attempt and shares its end, good or bad: a failing iMIS is asked once, not in turn.
    async fn token(&self, refused: Option<&Arc<Token>>) -> Result<Arc<Token>, ApiError> {
        let came = self.attempts.load(Ordering::Acquire);
        let mut current = self.current.lock().await;
        let is_refused = |token: &Arc<Token>| refused.is_some_and(|refused| Arc::ptr_eq(refused, token));
        if let Some(token) =
            current.token.as_ref().filter(|token| Instant::now() < token.renew_at && !is_refused(token))
        {
            return Ok(token.clone());
        }
        if self.attempts.load(Ordering::Acquire) != came {
            if let Some(error) = &current.failed {
                return Err(ApiError::Shared(error.clone()));
            }
            // Fetched while this caller waited: new enough, however short its life.
            if let Some(token) = current.token.as_ref().filter(|token| !is_refused(token)) {
                return Ok(token.clone());
            }
        }
        let fetched = self.fetch().await;
        self.attempts.fetch_add(1, Ordering::Release);
        match fetched {
            Ok(token) => {
                let token = Arc::new(token);
                *current = Current { token: Some(token.clone()), failed: None };
                Ok(token)
            }
            Err(error) => {
                let error = Arc::new(error);
                current.failed = Some(error.clone());
                Err(ApiError::Shared(error))
            }
        }
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
        let lifetime = Duration::from_secs(answer.expires_in).min(LONGEST_LIFE);
        let early = RENEW_BEFORE_END.min(lifetime / 10);
        debug!(seconds = answer.expires_in, "a new iMIS token");
        Ok(Token { text: answer.access_token.into(), renew_at: asked + lifetime.saturating_sub(early) })
    }
}
