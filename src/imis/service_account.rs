//! The service account. All requests share one access token, which is renewed before it expires.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode};
use secrecy::SecretString;
use tokio::sync::Mutex;
use tracing::{debug, warn};
use url::Url;

use crate::base::error_chain::Chain;
use crate::config;
use crate::imis::client::{self, ApiError};
use crate::imis::token;
use crate::imis::token::TokenError;

/// A token is not used in its last tenth or its last minute, whichever is shorter.
const RENEW_BEFORE_END: Duration = Duration::from_secs(60);

/// The service account of one site.
pub(super) struct ServiceAccount {
    client: Client,
    token_url: Url,
    credentials: Arc<config::ServiceAccount>,
    current: Mutex<Current>,
    /// Number of finished attempts to get a token.
    attempts: AtomicU64,
}

/// The result of the last attempt.
#[derive(Default)]
struct Current {
    token: Option<Arc<Token>>,
    failed: Option<Arc<ApiError>>,
}

struct Token {
    text: SecretString,
    renew_at: Instant,
}

impl ServiceAccount {
    pub(super) fn new(client: Client, api_url: &Url, credentials: Arc<config::ServiceAccount>) -> Self {
        let token_url = token::url(api_url);
        Self { client, token_url, credentials, current: Mutex::default(), attempts: AtomicU64::new(0) }
    }

    /// Why the last attempt to get a token failed, if it did.
    pub(super) fn last_error(&self) -> Option<String> {
        let current = self.current.try_lock().ok()?;
        current.failed.as_ref().map(|error| Chain(&**error).to_string())
    }

    /// GETs `url` with the account's token. If iMIS rejects the token, repeats the request with a new one.
    pub(super) async fn get(&self, client: &Client, url: Url) -> Result<Response, ApiError> {
        let token = self.token(None).await?;
        let response = client::get(client, url.clone(), &token.text).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        debug!("iMIS rejected a token before it expired; requesting a new one");
        let token = self.token(Some(&token)).await?;
        client::get(client, url, &token.text).await
    }

    /// The current token, or a new one if it expires or was `refused`. Callers that arrive while a token is
    /// requested wait and share its result, also an error, so that a failing iMIS gets one request at a time.
    async fn token(&self, refused: Option<&Arc<Token>>) -> Result<Arc<Token>, ApiError> {
        let attempts_before = self.attempts.load(Ordering::Acquire);
        let mut current = self.current.lock().await;
        let is_refused = |token: &Arc<Token>| refused.is_some_and(|refused| Arc::ptr_eq(refused, token));
        if let Some(token) =
            current.token.as_ref().filter(|token| Instant::now() < token.renew_at && !is_refused(token))
        {
            return Ok(token.clone());
        }
        if self.attempts.load(Ordering::Acquire) != attempts_before {
            if let Some(error) = &current.failed {
                return Err(ApiError::Shared(error.clone()));
            }
            // It is new, even if its lifetime is short.
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
        let granted = match token::request(&self.client, self.token_url.clone(), &form).await {
            Ok(granted) => granted,
            Err(TokenError::Grant(status) | TokenError::Client(status)) => {
                warn!(
                    status = status.as_u16(),
                    "iMIS rejected the service account; its password may have changed"
                );
                return Err(ApiError::SignInRefused(status));
            }
            Err(TokenError::Api(error)) => return Err(error),
        };
        let early = RENEW_BEFORE_END.min(granted.lifetime / 10);
        debug!(lifetime_seconds = granted.lifetime.as_secs(), "received an iMIS token");
        Ok(Token { text: granted.access_token, renew_at: asked + granted.lifetime.saturating_sub(early) })
    }
}
