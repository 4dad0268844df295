//! The one table from a failed sign-in to its log line, audit record, metric and page.

use bytes::Bytes;
use http::header::ACCEPT_LANGUAGE;
use http::{Response, StatusCode};
use tracing::{info, warn};

use crate::base::error_chain::Chain;
use crate::observe::audit::Decision;
use crate::pages::{Link, Message};
use crate::sso::denied::Denied;
use crate::sso::error::{ErrorKind, SignInError};
use crate::sso::login_params::LoginParams;
use crate::sso::rate_limit::RateLimited;
use crate::sso::redirects;
use crate::sso::request::SsoRequest;

/// `Retry-After` of a sign-in that failed, in seconds.
pub(super) const RETRY_AFTER_SECONDS: u32 = 30;

/// Records a failed sign-in, and answers with a page. A HEAD request is no sign-in.
pub(super) fn failure(request: &SsoRequest, params: &LoginParams, error: &SignInError) -> Response<Bytes> {
    if !request.is_head {
        record(request, error);
    }
    request.services.pages.message(&message(request, params, error), request.id())
}

/// Writes the log line, metric and audit record of a failed sign-in.
pub(super) fn record(request: &SsoRequest, error: &SignInError) {
    let (request_id, app) = (request.id(), &request.app.name);
    let (decision, reason, rule) = match error.kind() {
        ErrorKind::NotNavigation => {
            warn!(request_id, app, "refused: not a top-level navigation");
            return;
        }
        ErrorKind::Denied(denied) => {
            info!(request_id, app, reason = denied.name(), rule = denied.rule(), error = %Chain(denied), "refused");
            ("refused", Some(denied.name()), denied.rule())
        }
        ErrorKind::RateLimited(limited) => {
            warn!(request_id, app, limit = limited.name(), "refused: rate limit exceeded");
            ("refused", Some("rate"), None)
        }
        ErrorKind::Unavailable { .. } => {
            warn!(request_id, app, error = %Chain(error), "sign-in failed");
            ("broken", None, None)
        }
    };
    request.services.metrics.decisions.inc([app, decision, reason.unwrap_or_default()]);
    // Unidentified clients must not push the records of identified members out of the audit file.
    if !matches!(error, SignInError::RateLimited(RateLimited::Network)) {
        request.services.audit.record(&Decision { reason, rule, ..request.decision(decision) });
    }
}

fn message(request: &SsoRequest, params: &LoginParams, error: &SignInError) -> Message {
    let app = &request.app.name;
    let login = params.login_path(&request.app);
    let again = Link::primary("Try again", login.clone());
    match error.kind() {
        ErrorKind::NotNavigation => {
            let text = "You can sign in only by opening this address in a browser window. \
                        It does not work inside another page or from a script.";
            Message::new(StatusCode::FORBIDDEN, "Please open this page directly").text(text).link(again)
        }
        ErrorKind::Denied(denied) => {
            let languages = request.headers.get(ACCEPT_LANGUAGE);
            let languages = languages.and_then(|value| value.to_str().ok()).unwrap_or_default();
            let message = Message::new(StatusCode::FORBIDDEN, denied.title())
                .text(denied.advice(&request.app, languages));
            let out =
                Link::new("Sign out, to use another account", redirects::sign_out_path(request, params));
            let (home, again) = (request.back_to_site(), Link::new("Try again", login));
            // What the text advises is the button.
            if matches!(denied, Denied::CompanyRecord) {
                message.link(out.into_primary()).link(home)
            } else {
                message.link(home.into_primary()).link(again).link(out)
            }
        }
        ErrorKind::RateLimited(_) => Message::new(StatusCode::TOO_MANY_REQUESTS, "Too many sign-ins")
            .text("There were too many sign-ins in the last minute. Please wait a moment, then try again.")
            .link(again)
            .retry_after(RETRY_AFTER_SECONDS),
        ErrorKind::Unavailable { by_imis } => {
            let cause = if by_imis {
                "The membership system did not answer correctly, so we cannot confirm who you are."
            } else {
                "We cannot check your access right now."
            };
            Message::new(StatusCode::SERVICE_UNAVAILABLE, "We cannot sign you in right now")
                .text(format!("{cause} The site itself still works. Please try {app} again in a minute."))
                .link(again)
                .link(request.password_link(params))
                .retry_after(RETRY_AFTER_SECONDS)
        }
    }
}
