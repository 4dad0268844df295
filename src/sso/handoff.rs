//! Signs a member in to Zendesk: decides, mints a token, and returns the page whose form posts it (form post response
//! mode).
//!
//! The token is in the body of that one POST, never in a URL.

use bytes::Bytes;
use http::Response;
use tracing::info;

use crate::base::{clock, cookies};
use crate::imis::PartyId;
use crate::imis::recognise::Identity;
use crate::observe::audit::Decision;
use crate::pages::HandOff;
use crate::sso::decision;
use crate::sso::error::SignInError;
use crate::sso::login_params::LoginParams;
use crate::sso::loop_guard::{self, Destination};
use crate::sso::policy::Permit;
use crate::sso::request::SsoRequest;
use crate::sso::secret_rotation;
use crate::sso::state_cookie::Purpose;
use crate::sso::token::{self, Token};
use crate::zendesk;

/// The response that signs in the person that iMIS recognised, if the policy allows it.
pub(super) async fn sign_in_to_zendesk(
    request: &SsoRequest,
    params: &LoginParams,
    identity: &Identity,
) -> Result<Response<Bytes>, SignInError> {
    let permit = decision::for_request(request, &request.services.rates, identity, params).await?;
    loop_guard::unless_looping(request, params, Destination::Zendesk, || {
        let jti = clock::random_hex().map_err(SignInError::Random)?;
        let chosen = secret_rotation::choose(request, params);
        let token = token::mint(chosen.secret, &permit, clock::unix_now(), &jti)?;
        record(request, identity, &permit, chosen.name);
        let mut response = page(request, params, &token);
        cookies::append(&mut response, &chosen.cookie);
        // A sign-in ends any sign-out that is still under way.
        for state in request.sign_on.states.open(Purpose::SignOut, &request.headers, clock::unix_now()) {
            cookies::append(&mut response, &state.deletion());
        }
        Ok(response)
    })
}

fn record(request: &SsoRequest, identity: &Identity, permit: &Permit, secret: &'static str) {
    let (app, services) = (&request.app.name, &request.services);
    info!(
        request_id = request.id(),
        client = %request.forwarded.client,
        app,
        imis_id = permit.id().as_str(),
        signed_in_as = identity.id.as_str(),
        on_behalf_of = identity.on_behalf_of.as_ref().map(PartyId::as_str),
        rule = permit.rule(),
        is_member = permit.is_member(),
        customer_type = permit.customer_type(),
        secret,
        "signed in"
    );
    services.metrics.decisions.inc([app, "signed-in", ""]);
    services.metrics.tokens.inc([app, secret]);
    services.audit.record(&Decision { rule: permit.rule(), ..request.decision("signed-in") });
}

fn page(request: &SsoRequest, params: &LoginParams, token: &Token) -> Response<Bytes> {
    let zendesk = &request.app.zendesk;
    // Chromium checks every redirect after the POST against form-action: Zendesk's hosts, and ours, where Zendesk sends
    // members with an error.
    let port = request.authority.port().map(|port| format!(":{port}")).unwrap_or_default();
    let own = request.sign_on.hosts.iter().map(|host| format!("https://{host}{port}"));
    let theirs = zendesk.authorities().map(|authority| format!("https://{authority}"));
    let form_action: Vec<String> = theirs.chain(["'self'".to_owned()]).chain(own).collect();
    request.services.pages.hand_off(&HandOff {
        app: &request.app.name,
        action: &zendesk::jwt_url(zendesk),
        jwt: token.expose(),
        return_to: params.return_to(),
        again: &params.login_path(&request.app),
        form_action: &form_action.join(" "),
        incident: request.id(),
    })
}
