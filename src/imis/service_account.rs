//! The service account. All requests share one access token, which is renewed before it expires.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use moka::Expiry;
use moka::future::Cache;
use reqwest::{Client, Response, StatusCode};
use secrecy::SecretString;
use tracing::{debug, warn};
use url::Url;

use crate::base::error_chain::Chain;
use crate::config;
use crate::imis::client::{self, ApiError};
use crate::imis::token::{self, TokenError};

/// A token is not used in its last tenth or its last minute, whichever is shorter.
const RENEW_BEFORE_END: Duration = Duration::from_secs(60);

/// The service account of one site.
pub(super) struct ServiceAccount {
    client: Client,
    token_url: Url,
    credentials: Arc<config::ServiceAccount>,
    /// The current token. Callers that arrive while one is requested share the result, also an error.
    current: Cache<(), Arc<Token>>,
    /// Why the last attempt to get a token failed, if it did.
    last_error: ArcSwapOption<ApiError>,
}

struct Token {
    text: SecretString,
    lifetime: Duration,
}

/// Removes a token before it expires.
struct RenewEarly;

impl Expiry<(), Arc<Token>> for RenewEarly {
    fn expire_after_create(&self, (): &(), token: &Arc<Token>, _: Instant) -> Option<Duration> {
        Some(token.lifetime.saturating_sub(RENEW_BEFORE_END.min(token.lifetime / 10)))
    }
}

impl ServiceAccount {
    pub(super) fn new(client: Client, api_url: &Url, credentials: Arc<config::ServiceAccount>) -> Self {
        let current = Cache::builder().expire_after(RenewEarly).build();
        let token_url = token::url(api_url);
        Self { client, token_url, credentials, current, last_error: ArcSwapOption::empty() }
    }

    /// Why the last attempt to get a token failed, if it did.
    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.load().as_deref().map(|error| Chain(error).to_string())
    }

    /// GETs `url` with the account's token. If iMIS rejects the token, repeats the request with a new one.
    pub(super) async fn get(&self, client: &Client, url: Url) -> Result<Response, ApiError> {
        let token = self.token().await?;
        let response = client::get(client, url.clone(), &token.text).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        debug!("iMIS rejected a token before it expired; requesting a new one");
        // Another caller may have replaced it already.
        if self.current.get(&()).await.is_some_and(|current| Arc::ptr_eq(&current, &token)) {
            self.current.invalidate(&()).await;
        }
        client::get(client, url, &self.token().await?.text).await
    }

    async fn token(&self) -> Result<Arc<Token>, ApiError> {
        let token = self.current.try_get_with((), async { self.fetch().await.map(Arc::new) });
        let token = token.await;
        self.last_error.store(token.as_ref().err().cloned());
        token.map_err(ApiError::Shared)
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
        debug!(lifetime_seconds = granted.lifetime.as_secs(), "received an iMIS token");
        // The lifetime may have begun when iMIS received the request.
        let lifetime = granted.lifetime.saturating_sub(asked.elapsed());
        Ok(Token { text: granted.access_token, lifetime })
    }
}
