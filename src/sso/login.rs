//! The Remote login URL: signs members in to Zendesk, and sends everybody else to the sign-in page of iMIS.
//!
//! Not signed in, refused and failed are three different responses. Nothing is stored between two requests.

use bytes::Bytes;
use http::{Response, StatusCode};
use tracing::warn;

use crate::imis::recognise::Answer;
use crate::pages::Message;
use crate::sso::error::SignInError;
use crate::sso::login_params::LoginParams;
use crate::sso::request::{SsoRequest, within_timeout};
use crate::sso::{answer, decision, fetch_metadata, handoff, redirects};

/// Serves `<path>`.
pub(crate) async fn respond(request: SsoRequest) -> Response<Bytes> {
    let params = LoginParams::parse(&request.query, &request.app.zendesk);
    if params.return_to_dropped {
        warn!(request_id = request.id(), app = %request.app.name, "dropped a return_to that leads out of the Zendesk account");
    }
    match within_timeout(log_in(&request, &params)).await {
        Ok(response) => response,
        Err(error) => answer::failure(&request, &params, &error),
    }
}

async fn log_in(request: &SsoRequest, params: &LoginParams) -> Result<Response<Bytes>, SignInError> {
    if !fetch_metadata::is_top_level_navigation(&request.headers) {
        return Err(SignInError::NotNavigation);
    }
    request.services.rates.check_network(request.forwarded.client)?;
    let imis = &request.sign_on.imis;
    let visitor = request.as_visitor();
    // A HEAD request changes nothing: no token, no cookie, no record.
    let Some(session) = imis.recognition.session(&visitor) else {
        let redirect = if request.is_head {
            redirects::to_sign_in_page(request, params)
        } else {
            redirects::sign_in(request, params)?
        };
        return Ok(redirect);
    };
    let _permit = request.concurrency_permit().await?;
    match (imis.recognition.recognise(&session).await?, &imis.recognition.application) {
        (Answer::Person(identity), _) if request.is_head => {
            decision::for_request(request, &request.services.rates, &identity, params).await?;
            let page = Message::new(StatusCode::OK, format!("Signing in to {}", request.app.name));
            Ok(request.services.pages.message(&page, request.id()))
        }
        (Answer::AskSite | Answer::Anonymous, _) if request.is_head => {
            Ok(redirects::to_sign_in_page(request, params))
        }
        (Answer::Person(identity), _) => handoff::sign_in_to_zendesk(request, params, &identity).await,
        (Answer::AskSite, Some(application)) => redirects::single_sign_on(request, params, application),
        (Answer::Anonymous, _) | (Answer::AskSite, None) => redirects::sign_in(request, params),
    }
}
