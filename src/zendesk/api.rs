//! The Zendesk API of an account, as an OAuth client (client credentials) or with an API token.

use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use url::Url;

use crate::base::clock;
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

/// One page of a list.
pub(crate) struct Page {
    pub(crate) items: Vec<Value>,
    /// The rest of the response, such as related records.
    pub(crate) answer: Value,
    /// The cursor of the next page; `None` after the last one.
    pub(crate) next: Option<String>,
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
        match self.request(Method::GET, path, None).await? {
            (StatusCode::OK, body) => body.ok_or(ApiError::Answer),
            (other, _) => Err(ApiError::Status(other)),
        }
    }

    /// Sends a request to a path below `/api/v2/`, with JSON. Repeats it with a new token if Zendesk rejects the first,
    /// and after `Retry-After`: Zendesk has not carried it out then. Returns the status and the JSON of the response.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        json: Option<&Value>,
    ) -> Result<(StatusCode, Option<Value>), ApiError> {
        let url = self.base.join(&format!("api/v2/{path}")).map_err(|_| ApiError::Answer)?;
        let mut renew = false;
        for attempt in 0..3 {
            let response = self.send(method.clone(), url.clone(), json, renew).await?;
            let status = response.status();
            renew = status == StatusCode::UNAUTHORIZED;
            match status {
                StatusCode::UNAUTHORIZED if attempt == 0 => {}
                StatusCode::TOO_MANY_REQUESTS if attempt < 2 => {
                    let wait = retry_after(&response);
                    // A limit of jobs is not a limit of requests.
                    if json_of(response).await.is_ok_and(|body| body["error"] == "TooManyJobs") {
                        return Ok((status, Some(json!({"error": "TooManyJobs"}))));
                    }
                    if wait > MAX_RETRY_AFTER {
                        return Err(ApiError::RateLimited(wait));
                    }
                    tokio::time::sleep(wait).await;
                }
                StatusCode::TOO_MANY_REQUESTS => return Err(ApiError::RateLimited(retry_after(&response))),
                StatusCode::OK | StatusCode::CREATED => return Ok((status, Some(json_of(response).await?))),
                // Other responses may be empty, or an error page of something in between.
                _ => return Ok((status, json_of(response).await.ok())),
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
        let (mut all, mut also, mut cursor) = (Vec::new(), Some(Vec::new()), None);
        for _ in 0..MAX_PAGES {
            let mut page = self.page(path, name, cursor.as_deref()).await?;
            all.append(&mut page.items);
            also = match (also, page.answer[included].take()) {
                (Some(also), Value::Array(page)) => Some([also, page].concat()),
                _ => None,
            };
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok((all, also)),
            }
        }
        Err(ApiError::TooLong)
    }

    /// GETs one page of a list by cursor pagination. `cursor`: `None` for the first page.
    pub(crate) async fn page(&self, path: &str, name: &str, cursor: Option<&str>) -> Result<Page, ApiError> {
        let after = cursor.map(|cursor| format!("&page[after]={}", encoded(cursor))).unwrap_or_default();
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut answer = self.get(&format!("{path}{separator}page[size]=100{after}")).await?;
        let Value::Array(items) = answer[name].take() else { return Err(ApiError::Answer) };
        let next = match (answer["meta"]["has_more"].as_bool(), answer.get("next_page")) {
            (Some(true), _) => Some(non_blank(&answer["meta"]["after_cursor"]).ok_or(ApiError::Answer)?),
            (Some(false), _) | (None, Some(Value::Null)) => None,
            // Not cursor pagination, so there may be more pages.
            (None, _) => return Err(ApiError::Answer),
        };
        if next.is_some() && next.as_deref() == cursor {
            return Err(ApiError::Answer);
        }
        Ok(Page { items, answer, next })
    }

    async fn send(
        &self,
        method: Method,
        url: Url,
        json: Option<&Value>,
        renew: bool,
    ) -> Result<reqwest::Response, ApiError> {
        let mut request = self.client.request(method, url).header(http::header::ACCEPT, "application/json");
        if let Some(json) = json {
            request = request.header(http::header::CONTENT_TYPE, "application/json").body(json.to_string());
        }
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

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3). Zendesk's edge sends none; a minute then.
fn retry_after(response: &reqwest::Response) -> Duration {
    let header = response.headers().get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let date = |text: &str| {
        let at = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(at.as_secs().saturating_sub(clock::unix_now()))
    };
    let seconds = header.map(str::trim).and_then(|text| text.parse().ok().or_else(|| date(text)));
    Duration::from_secs(seconds.unwrap_or(60).clamp(1, 3600))
}

async fn json_of(response: reqwest::Response) -> Result<Value, ApiError> {
    let body = http_client::body(response, MAX_BYTES).await?.ok_or(ApiError::TooLong)?;
    serde_json::from_slice(&body).map_err(|_| ApiError::Answer)
}

/// Text that is not blank, trimmed.
pub(crate) fn non_blank(value: &Value) -> Option<String> {
    value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}
