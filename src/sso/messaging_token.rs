//! The messaging token endpoint: a script on the site's pages fetches a token that tells Zendesk messaging who the
//! member is.
//!
//! The decision is the same as for a sign-in. The response is JSON, or 204 when nobody is signed in. Only a page of
//! this site gets one: clients that do not send Fetch Metadata are refused, since nobody can be sent to a sign-in page
//! from here.

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;
use tracing::{info, warn};

use crate::base::clock;
use crate::config::Messaging;
use crate::imis::recognise::Answer;
use crate::observe::audit::Decision;
use crate::pages;
use crate::sso::answer::{self, RETRY_AFTER_SECONDS};
use crate::sso::error::{ErrorKind, SignInError};
use crate::sso::login_params::LoginParams;
use crate::sso::request::{SsoRequest, within_timeout};
use crate::sso::token::{self, MESSAGING_TOKEN_LIFETIME, Token};
use crate::sso::{decision, fetch_metadata};

/// Serves `<path>/messaging-token`.
pub(crate) async fn respond(request: SsoRequest) -> Response<Bytes> {
    let Some(messaging) = &request.app.messaging else {
        return failure(&request, StatusCode::NOT_FOUND, "not-configured");
    };
    if !fetch_metadata::is_same_origin_script(&request.headers, &request.origin()) {
        warn!(request_id = request.id(), app = %request.app.name, "refused: the request for a messaging token did not come from a script of this site");
        return failure(&request, StatusCode::FORBIDDEN, "not-same-origin");
    }
    match within_timeout(issue(&request, messaging)).await {
        Ok(Some(token)) => {
            let body = json!({"jwt": token.expose(), "expires_in": MESSAGING_TOKEN_LIFETIME.as_secs()});
            pages::json(StatusCode::OK, &body)
        }
        Ok(None) => pages::no_content(),
        Err(error) => {
            answer::record(&request, &error);
            match error.kind() {
                ErrorKind::Denied(_) | ErrorKind::NotNavigation => {
                    failure(&request, StatusCode::FORBIDDEN, "refused")
                }
                ErrorKind::RateLimited(_) => {
                    with_retry_after(failure(&request, StatusCode::TOO_MANY_REQUESTS, "too-often"))
                }
                ErrorKind::Unavailable { .. } => {
                    with_retry_after(failure(&request, StatusCode::SERVICE_UNAVAILABLE, "unavailable"))
                }
            }
        }
    }
}

/// A token for the member who is signed in, or `None`.
async fn issue(request: &SsoRequest, messaging: &Messaging) -> Result<Option<Token>, SignInError> {
    let SsoRequest { services, app, sign_on, .. } = request;
    services.messaging_rates.check_network(request.forwarded.client)?;
    let visitor = request.as_visitor();
    let Some(session) = sign_on.imis.recognition.session(&visitor) else { return Ok(None) };
    let _permit = request.concurrency_permit().await?;
    let identity = match sign_on.imis.recognition.recognise(&session).await? {
        Answer::Person(identity) => identity,
        // A script cannot pass through the Single Sign-On page.
        Answer::Anonymous | Answer::AskSite => return Ok(None),
    };
    let params = LoginParams::default();
    let permit = decision::for_request(request, &services.messaging_rates, &identity, &params).await?;
    let token = token::mint_for_messaging(messaging, &permit, clock::unix_now())?;
    info!(
        request_id = request.id(),
        client = %request.forwarded.client,
        app = %app.name,
        imis_id = permit.id().as_str(),
        rule = permit.rule(),
        "messaging token"
    );
    services.metrics.decisions.inc([&app.name, "messaging", ""]);
    services.audit.record(&Decision { rule: permit.rule(), ..request.decision("messaging") });
    Ok(Some(token))
}

fn failure(request: &SsoRequest, status: StatusCode, error: &str) -> Response<Bytes> {
    pages::json(status, &json!({"error": error, "incident": request.id()}))
}

fn with_retry_after(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    response
}
