//! The token endpoint of iMIS (OAuth 2.0, RFC 6749 sections 4.3 and 6).

use std::time::Duration;

use reqwest::{Client, StatusCode};
use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use crate::imis::client::{self, ApiError};

const MAX_TOKEN_BYTES: usize = 64 * 1024;
/// A token is renewed after a day even if it lives longer.
const MAX_LIFETIME: Duration = Duration::from_secs(86_400);

/// An access token.
pub(super) struct GrantedToken {
    pub(super) access_token: SecretString,
    pub(super) lifetime: Duration,
    /// The user to whom it was issued.
    pub(super) user_name: Option<String>,
}

/// The endpoint issued no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token endpoint")]
    Api(#[from] ApiError),
    /// `invalid_grant`: the password or refresh token is not valid.
    #[error("the token endpoint rejected the refresh token or password (status {0})")]
    Grant(StatusCode),
    #[error("the token endpoint rejected the request with status {0}; check client_id and client_secret")]
    Client(StatusCode),
}

/// RFC 6749 section 5.1.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: u64,
    #[serde(default, rename = "userName")]
    user_name: Option<String>,
}

/// RFC 6749 section 5.2.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// A number, also in quotes. Anything else is 0.
fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default();
    // The conversion saturates; NaN becomes 0.
    Ok(number as u64)
}

/// The URL of the endpoint below the base URL of the API.
pub(super) fn url(api_url: &Url) -> Url {
    let mut url = api_url.clone();
    url.set_path(&format!("{}token", api_url.path()));
    url
}

pub(super) async fn request(
    client: &Client,
    url: Url,
    form: &[(&str, &str)],
) -> Result<GrantedToken, TokenError> {
    let response = client.post(url).form(form).send().await.map_err(ApiError::from)?;
    match response.status() {
        StatusCode::OK => {}
        refused @ (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            let body = client::json_body(response, MAX_TOKEN_BYTES).await;
            let refusal = body.ok().and_then(|body| serde_json::from_slice::<Refusal>(&body).ok());
            return Err(match refusal {
                Some(refusal) if refusal.error == "invalid_grant" => TokenError::Grant(refused),
                Some(_) | None => TokenError::Client(refused),
            });
        }
        other => return Err(ApiError::Status(other).into()),
    }
    let body = client::json_body(response, MAX_TOKEN_BYTES).await?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| ApiError::NoToken)?;
    if answer.access_token.is_empty() || answer.access_token.contains(|c: char| !c.is_ascii_graphic()) {
        return Err(ApiError::NoToken.into());
    }
    Ok(GrantedToken {
        access_token: answer.access_token.into(),
        lifetime: Duration::from_secs(answer.expires_in).min(MAX_LIFETIME),
        user_name: answer.user_name.filter(|name| !name.trim().is_empty()),
    })
}
