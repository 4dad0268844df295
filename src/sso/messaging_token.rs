//! Zendesk messaging knows who is talking: a script of the site's own pages fetches a token for the member who is signed in.
//!
//! Who may have one is decided as for a sign-in. What comes back is for scripts: JSON, or nothing when nobody is signed in. It goes
//! to nobody but a page of this very site; browsers say which page asks in Sec-Fetch-* (W3C Fetch Metadata) and Origin (RFC 6454),
//! and one that says nothing gets nothing, since here nobody is sent anywhere who could show who they are in another way.

use bytes::Bytes;
use http::header::{HeaderMap, ORIGIN, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::base::clock;
use crate::config::Messaging;
use crate::imis::recognise::Answer;
use crate::observe::audit::Decision;
use crate::pages;
use crate::sso::return_to::LoginParams;
use crate::sso::token;
use crate::sso::token::LIFE_OF_MESSAGING;
use crate::sso::{DEADLINE, Failed, SignInError, SsoRequest, TRY_AGAIN_AFTER, note};

/// `<path>/messaging-token`.
pub(crate) async fn messaging_token(request: SsoRequest) -> Response<Bytes> {
    let Some(messaging) = &request.app.messaging else {
        return failed(&request, StatusCode::NOT_FOUND, "not-configured");
    };
    if !is_own_script(&request.headers, &format!("https://{}", request.authority)) {
        warn!(request_id = %request.incident, app = %request.app.name, "refused: a messaging token was not asked for by a script of this site");
        return failed(&request, StatusCode::FORBIDDEN, "not-same-origin");
    }
    let minted = timeout(DEADLINE, token_for(&request, messaging)).await;
    match minted.unwrap_or(Err(SignInError::TimedOut)) {
        Ok(Some(token)) => {
            let body = json!({"jwt": token.expose(), "expires_in": LIFE_OF_MESSAGING.as_secs()});
            pages::json(StatusCode::OK, &body)
        }
        Ok(None) => pages::no_content(),
        Err(error) => {
            note(&request, &error);
            match error.failed() {
                Failed::Denied(_) | Failed::NotNavigation => {
                    failed(&request, StatusCode::FORBIDDEN, "refused")
                }
                Failed::RateLimited(_) => later(failed(&request, StatusCode::TOO_MANY_REQUESTS, "too-often")),
                Failed::Broken => later(failed(&request, StatusCode::SERVICE_UNAVAILABLE, "unavailable")),
            }
        }
    }
}

async fn token_for(request: &SsoRequest, messaging: &Messaging) -> Result<Option<token::Token>, SignInError> {
    request
        .services
        .messaging_rates
        .check_network(request.forwarded.client)
        .map_err(SignInError::RateLimited)?;
    let imis = &request.sign_on.imis;
    let visitor = request.as_visitor();
    let Some(session) = imis.session(&visitor) else { return Ok(None) };
    let _place = request.place().await?;
    let identity = match imis.recognise(&session).await? {
        Answer::Person(identity) => identity,
        // The Single Sign-On page cannot be asked behind the member's back.
        Answer::Nobody | Answer::AskSite => return Ok(None),
    };
    let permit =
        request.permit(&request.services.messaging_rates, (&identity, &LoginParams::default())).await?;
    let token = token::mint_for_messaging(messaging, &permit, clock::unix_now())?;
    info!(
        request_id = %request.incident,
        client = %request.forwarded.client,
        app = %request.app.name,
        imis_id = permit.id().as_str(),
        rule = permit.rule(),
        "messaging token"
    );
    request.services.metrics.decision(&request.app.name, "messaging", "");
    request.services.audit.record(&Decision { rule: permit.rule(), ..request.decision("messaging") });
    Ok(Some(token))
}

/// Whether a script of a page of this very origin asks.
fn is_own_script(headers: &HeaderMap, own: &str) -> bool {
    let said = |name: &str, allowed: &[&str]| {
        let mut lines = headers.get_all(name).iter().peekable();
        lines.peek().is_some() && lines.all(|value| allowed.iter().any(|allowed| value == allowed))
    };
    said("sec-fetch-site", &["same-origin"])
        && said("sec-fetch-dest", &["empty"])
        && said("sec-fetch-mode", &["cors", "same-origin"])
        // Browsers leave it out where a page asks its own origin.
        && (!headers.contains_key(ORIGIN) || said("origin", &[own]))
}

fn failed(request: &SsoRequest, status: StatusCode, error: &str) -> Response<Bytes> {
    pages::json(status, &json!({"error": error, "incident": request.incident}))
}

fn later(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(TRY_AGAIN_AFTER));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(lines: &[(&'static str, &str)]) -> bool {
        let headers: HeaderMap = lines
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        is_own_script(&headers, "https://members.example.org")
    }

    #[test]
    fn only_a_script_of_the_same_origin_asks() {
        let own =
            [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];
        let with = |line| [own.as_slice(), &[line]].concat();
        assert!(allowed(&own));
        assert!(allowed(&with(("origin", "https://members.example.org"))));
        for line in [
            ("origin", "null"),
            ("origin", "https://evil.example"),
            ("origin", "http://members.example.org"),
            ("origin", "https://members.example.org.evil.example"),
        ] {
            assert!(!allowed(&with(line)), "{line:?}");
        }
        for change in [
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "none"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-mode", "no-cors"),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-dest", "script"),
        ] {
            let mut lines = own.to_vec();
            lines.retain(|(name, _)| *name != change.0);
            assert!(!allowed(&lines), "without {}", change.0);
            lines.push(change);
            assert!(!allowed(&lines), "{change:?}");
        }
    }
}
