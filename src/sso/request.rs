//! The request that every SSO endpoint gets.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderMap;
use http::uri::Authority;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use crate::config::App;
use crate::imis::{PartyId, Visitor};
use crate::observe::audit::Decision;
use crate::pages::Link;
use crate::sso::error::SignInError;
use crate::sso::login_params::LoginParams;
use crate::sso::site::{Services, SignOn};
use crate::upstream::forwarded::Forwarded;
use crate::zendesk;

/// Limits recognition, profile and token together, however slowly iMIS answers.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a sign-in waits when too many others wait for iMIS.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// A request for one of an app's SSO paths.
pub(crate) struct SsoRequest {
    pub(crate) services: Arc<Services>,
    pub(crate) sign_on: Arc<SignOn>,
    pub(crate) app: Arc<App>,
    pub(crate) query: String,
    /// A HEAD request: it gets the status of a GET, and never signs in.
    pub(crate) is_head: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) forwarded: Forwarded,
    pub(crate) authority: Authority,
    pub(crate) audit_subject: AuditSubject,
}

/// What a request has found out about the person so far, for the audit record.
///
/// Each value is set at most once: a request belongs to one person.
#[derive(Default)]
pub(crate) struct AuditSubject {
    /// Who is signed in to iMIS.
    pub(super) signed_in: OnceLock<PartyId>,
    /// Whose profile the token describes: the person, or the contact that the person acts for.
    pub(super) subject: OnceLock<PartyId>,
    /// The primary e-mail address as iMIS has it.
    pub(super) email: OnceLock<String>,
}

impl SsoRequest {
    /// The request id. Pages show it as the incident number.
    pub(super) fn id(&self) -> &str {
        &self.forwarded.incident
    }

    /// The origin that the client asked for.
    pub(super) fn origin(&self) -> String {
        format!("https://{}", self.authority)
    }

    pub(super) fn as_visitor(&self) -> Visitor<'_> {
        Visitor { headers: &self.headers, forwarded: &self.forwarded, authority: &self.authority }
    }

    /// A permit to wait for iMIS. Sign-ins over the limit queue for a short time.
    pub(super) async fn concurrency_permit(&self) -> Result<SemaphorePermit<'_>, SignInError> {
        let permit = timeout(QUEUE_TIMEOUT, self.sign_on.sign_in_permits.acquire()).await;
        permit.map_err(|_| SignInError::Busy)?.map_err(|_| SignInError::Busy)
    }

    pub(super) fn back_to_site(&self) -> Link {
        Link::back_to_site(&self.sign_on.imis.home)
    }

    /// A link to Zendesk's own password form, which works when single sign-on does not.
    pub(super) fn password_link(&self, params: &LoginParams) -> Link {
        let url = zendesk::password_sign_in(&self.app.zendesk, params.return_to());
        Link::new(format!("Sign in to {} with a password instead", self.app.name), url)
    }

    /// The audit record of this request. `reason` and `rule` are still empty.
    pub(super) fn decision(&self, decision: &'static str) -> Decision<'_> {
        let subject = &self.audit_subject;
        Decision {
            request_id: self.id(),
            app: &self.app.name,
            client: self.forwarded.client.to_string(),
            decision,
            reason: None,
            rule: None,
            imis_id: subject.subject.get().map(PartyId::as_str),
            signed_in_as: subject.signed_in.get().map(PartyId::as_str),
            email: subject.email.get().map(String::as_str),
            zendesk: self.app.zendesk.origin.to_string(),
        }
    }
}

/// The result of `signing_in`, or an error when it takes too long.
pub(super) async fn within_timeout<T>(
    signing_in: impl Future<Output = Result<T, SignInError>>,
) -> Result<T, SignInError> {
    timeout(SIGN_IN_TIMEOUT, signing_in).await.unwrap_or(Err(SignInError::TimedOut))
}
