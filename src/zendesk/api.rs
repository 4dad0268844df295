//! The Zendesk API of an account, as an OAuth client (client credentials) or with an API token.

use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use url::Url;

use crate::base::http_client;
use crate::base::query::encoded;
use crate::base::tls_client;
use crate::config::{ZendeskApi, ZendeskCredentials};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// A page of 100 users is about 200 KiB.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Pages of 100 items.
const MAX_PAGES: usize = 100;
/// A token is renewed this long before it expires.
const RENEW_BEFORE_END: Duration = Duration::from_secs(60);
/// The lifetime to request. Zendesk allows 300 s to 172,800 s.
const TOKEN_LIFETIME_SECONDS: u64 = 3600;
/// The longest wait for `Retry-After` within a request.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(90);

/// A request to the API failed. No variant contains text from the response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("no answer")]
    Unreachable(#[source] reqwest::Error),
    #[error(
        "Zendesk rejected the OAuth client (status {0}); check client_id and client_secret, and that its kind is `confidential`"
    )]
    Client(StatusCode),
    #[error("status {0}")]
    Status(StatusCode),
    #[error("Zendesk limits the rate of requests; retry after {} s", .0.as_secs())]
    RateLimited(Duration),
    #[error("the response differs from the API documentation")]
    Answer,
    #[error("the list has no admin; the owner of the OAuth client must be allowed to see all users")]
    NoAdmin,
    #[error("the response is longer than {MAX_BYTES} bytes or {MAX_PAGES} pages")]
    TooLong,
}

impl From<reqwest::Error> for ApiError {
    fn from(error: reqwest::Error) -> Self {
        Self::Unreachable(error.without_url())
    }
}

/// The API of one account.
pub(crate) struct Api {
    client: Client,
    base: Url,
    credentials: ZendeskCredentials,
    token: Mutex<Option<Token>>,
}

struct Token {
    text: SecretString,
    renew_at: Instant,
    /// The scope that Zendesk granted.
    scope: Option<String>,
}

#[derive(Deserialize)]
struct GrantedToken {
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    scope: Option<String>,
}

/// Setting up a client for the API failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiBuildError {
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("cannot set up the HTTP client")]
    Client(#[from] reqwest::Error),
    #[error("the system's random number generator failed")]
    Random(#[from] getrandom::Error),
}

impl Api {
    pub(crate) fn new(api: &ZendeskApi) -> Result<Self, ApiBuildError> {
        let tls = tls_client::client_config(api.roots.0.clone(), Vec::new())?;
        let client = http_client::builder(tls, REQUEST_TIMEOUT)
            .user_agent(http_client::USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()?;
        Ok(Self {
            client,
            base: api.url.clone(),
            credentials: api.credentials.clone(),
            token: Mutex::default(),
        })
    }

    /// GETs a path below `/api/v2/`. Repeats the request with a new token if Zendesk rejects the first, and
    /// after `Retry-After`.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        let url = self.base.join(&format!("api/v2/{path}")).map_err(|_| ApiError::Answer)?;
        let mut renew = false;
        for attempt in 0..3 {
            let response = self.send(url.clone(), renew).await?;
            match response.status() {
                StatusCode::OK => return json_of(response).await,
                StatusCode::UNAUTHORIZED if attempt == 0 => renew = true,
                StatusCode::TOO_MANY_REQUESTS => {
                    let wait = retry_after(&response);
                    if wait > MAX_RETRY_AFTER || attempt == 2 {
                        return Err(ApiError::RateLimited(wait));
                    }
                    tokio::time::sleep(wait).await;
                    renew = false;
                }
                other => return Err(ApiError::Status(other)),
            }
        }
        Err(ApiError::Status(StatusCode::UNAUTHORIZED))
    }

    /// The scope of the token. `None` without an OAuth client, or if Zendesk reports no scope.
    pub(crate) async fn scope(&self) -> Result<Option<String>, ApiError> {
        if matches!(self.credentials, ZendeskCredentials::Token { .. }) {
            return Ok(None);
        }
        self.token(false).await?;
        Ok(self.token.lock().await.as_ref().and_then(|token| token.scope.clone()))
    }

    /// GETs all items of a list by cursor pagination. `name` is its key in the responses.
    pub(crate) async fn list(&self, path: &str, name: &str) -> Result<Vec<Value>, ApiError> {
        self.list_with(path, name, "").await.map(|(all, _)| all)
    }

    /// GETs all items of a list, and the related records that `path` includes (Zendesk calls that side-loading). The
    /// latter are
    /// `None` if a response has no such key: the list does not support it.
    pub(crate) async fn list_with(
        &self,
        path: &str,
        name: &str,
        included: &str,
    ) -> Result<(Vec<Value>, Option<Vec<Value>>), ApiError> {
        let first = format!("{path}{}page[size]=100", if path.contains('?') { '&' } else { '?' });
        let (mut all, mut also) = (Vec::new(), Some(Vec::new()));
        let mut next = first.clone();
        for _ in 0..MAX_PAGES {
            let mut answer = self.get(&next).await?;
            let Value::Array(page) = answer[name].take() else { return Err(ApiError::Answer) };
            all.extend(page);
            also = match (also, answer[included].take()) {
                (Some(also), Value::Array(page)) => Some([also, page].concat()),
                _ => None,
            };
            match (answer["meta"]["has_more"].as_bool(), answer.get("next_page")) {
                (Some(true), _) => {}
                (Some(false), _) | (None, Some(Value::Null)) => return Ok((all, also)),
                // Not cursor pagination, so there may be more pages.
                (None, _) => return Err(ApiError::Answer),
            }
            let cursor = non_blank(&answer["meta"]["after_cursor"]).ok_or(ApiError::Answer)?;
            next = format!("{first}&page[after]={}", encoded(&cursor));
        }
        Err(ApiError::TooLong)
    }

    async fn send(&self, url: Url, renew: bool) -> Result<reqwest::Response, ApiError> {
        let request = self.client.request(Method::GET, url).header(http::header::ACCEPT, "application/json");
        let request = match &self.credentials {
            ZendeskCredentials::Client { .. } => {
                request.bearer_auth(self.token(renew).await?.expose_secret())
            }
            ZendeskCredentials::Token { email, token } => {
                request.basic_auth(format!("{email}/token"), Some(token.expose()))
            }
        };
        Ok(request.send().await?)
    }

    async fn token(&self, renew: bool) -> Result<SecretString, ApiError> {
        let mut current = self.token.lock().await;
        if let Some(token) = current.as_ref().filter(|token| !renew && Instant::now() < token.renew_at) {
            return Ok(token.text.clone());
        }
        let ZendeskCredentials::Client { id, secret } = &self.credentials else {
            return Err(ApiError::Answer);
        };
        let url = self.base.join("oauth/tokens").map_err(|_| ApiError::Answer)?;
        let body = json!({"grant_type": "client_credentials", "client_id": id, "client_secret": secret.expose(),
            "expires_in": TOKEN_LIFETIME_SECONDS});
        let request = self.client.post(url).header(http::header::CONTENT_TYPE, "application/json");
        let asked = Instant::now();
        let response = request.body(body.to_string()).send().await?;
        match response.status() {
            StatusCode::OK | StatusCode::CREATED => {}
            refused @ (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(ApiError::Client(refused));
            }
            StatusCode::TOO_MANY_REQUESTS => return Err(ApiError::RateLimited(retry_after(&response))),
            other => return Err(ApiError::Status(other)),
        }
        let granted: GrantedToken =
            serde_json::from_value(json_of(response).await?).map_err(|_| ApiError::Answer)?;
        if granted.access_token.is_empty() || granted.access_token.contains(|c: char| !c.is_ascii_graphic()) {
            return Err(ApiError::Answer);
        }
        let life = Duration::from_secs(granted.expires_in.unwrap_or(TOKEN_LIFETIME_SECONDS).min(172_800));
        let text = SecretString::from(granted.access_token);
        *current = Some(Token {
            text: text.clone(),
            renew_at: asked + life.saturating_sub(RENEW_BEFORE_END.min(life / 10)),
            scope: granted.scope,
        });
        Ok(text)
    }
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3), a minute by default.
fn retry_after(response: &reqwest::Response) -> Duration {
    let header = response.headers().get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    Duration::from_secs(header.and_then(|text| text.trim().parse().ok()).unwrap_or(60).clamp(1, 3600))
}

async fn json_of(response: reqwest::Response) -> Result<Value, ApiError> {
    let body = http_client::body(response, MAX_BYTES).await?.ok_or(ApiError::TooLong)?;
    serde_json::from_slice(&body).map_err(|_| ApiError::Answer)
}

/// Text that is not blank, trimmed.
pub(crate) fn non_blank(value: &Value) -> Option<String> {
    value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}
