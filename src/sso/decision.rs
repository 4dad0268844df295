//! Decides whether an identified person may sign in to an app. Sign-ins and `explain` share it.

use tracing::warn;

use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::config::expression::{Facts, Language};
use crate::config::{App, OnDuplicate};
use crate::imis::PartyId;
use crate::imis::party::AccountScope;
use crate::imis::profile::Profile;
use crate::imis::recognise::Identity;
use crate::sso::denied::Denied;
use crate::sso::error::SignInError;
use crate::sso::login_params::LoginParams;
use crate::sso::policy::Permit;
use crate::sso::rate_limit::RateLimits;
use crate::sso::request::{AuditSubject, SsoRequest};
use crate::sso::site::SignOn;
use crate::sso::trace::Trace;
use crate::sso::{facts, policy, staff_guard, token};

/// What a decision depends on.
pub(crate) struct DecisionContext<'a> {
    pub(crate) sign_on: &'a SignOn,
    pub(crate) app: &'a App,
    pub(crate) language: &'a Language,
    pub(crate) identity: &'a Identity,
    pub(crate) params: &'a LoginParams,
    pub(crate) request_id: &'a str,
    pub(crate) audit_subject: &'a AuditSubject,
}

/// Decides for a request, after the rate limit for the person. Every token of a request needs the permit that this
/// returns.
pub(super) async fn for_request(
    request: &SsoRequest,
    rates: &RateLimits,
    identity: &Identity,
    params: &LoginParams,
) -> Result<Permit, SignInError> {
    let SsoRequest { sign_on, app, audit_subject, .. } = request;
    let _ = audit_subject.signed_in.set(identity.id.clone());
    rates.check_person(&sign_on.hosts[0], identity.id.as_str())?;
    let language = &request.services.language;
    let request_id = request.id();
    let context = DecisionContext { sign_on, app, language, identity, params, request_id, audit_subject };
    decide(&context, &mut Trace::disabled()).await
}

/// Reads the profile, then applies the guards and rules of the app.
pub(crate) async fn decide(context: &DecisionContext<'_>, trace: &mut Trace) -> Result<Permit, SignInError> {
    let DecisionContext { sign_on, app, identity, audit_subject, .. } = *context;
    let imis = &sign_on.imis;
    let subject = policy::subject(app, identity)?;
    let _ = audit_subject.subject.set(subject.clone());
    let profile = imis.profile(identity, subject).await?;
    if let Some(email) = &profile.email {
        let _ = audit_subject.email.set(email.clone());
    }
    trace.record("profile", || profile.describe());
    let facts = facts_of(context, &profile, trace).await?;
    permit_for(context, profile, &facts, true, trace).await
}

/// Collects what rules and claims are about, with the memberships of the person if the app asks for groups.
pub(crate) async fn facts_of(
    context: &DecisionContext<'_>,
    profile: &Profile,
    trace: &mut Trace,
) -> Result<Facts, SignInError> {
    let DecisionContext { sign_on, app, identity, params, .. } = *context;
    let date = clock::today();
    let mut memberships = Vec::new();
    if app.asks_groups() {
        let token = identity.token.as_deref();
        memberships = sign_on.imis.api.memberships(&profile.id, &date, token).await?;
        trace.record("groups", || {
            let current = memberships.iter().filter(|membership| membership.is_current);
            let names: Vec<&str> = current.map(|membership| membership.group.as_str()).collect();
            if names.is_empty() { "none is current".to_owned() } else { names.join(", ") }
        });
    }
    Ok(facts::collect(profile, identity, app, params, &memberships, &date))
}

/// Applies the guards and rules of the app. The guard against duplicate addresses costs a request to iMIS; a profile
/// sync, which decides about all members, applies it only where it matters.
pub(crate) async fn permit_for(
    context: &DecisionContext<'_>,
    profile: Profile,
    facts: &Facts,
    checks_duplicates: bool,
    trace: &mut Trace,
) -> Result<Permit, SignInError> {
    let DecisionContext { sign_on, app, language, .. } = *context;
    let permit = policy::authorize(profile, app, language, facts, trace)?;
    if checks_duplicates {
        check_duplicate_email(context, permit.id(), permit.email(), trace).await?;
    }
    staff_guard::check(sign_on, app, &permit, |is_staff| language.holds(is_staff, facts), trace)?;
    token::require_short(&permit)?;
    Ok(permit)
}

/// Zendesk identifies people by e-mail address: two members with one address would get one account.
pub(crate) async fn check_duplicate_email(
    context: &DecisionContext<'_>,
    id: &PartyId,
    email: &str,
    trace: &mut Trace,
) -> Result<(), SignInError> {
    let DecisionContext { sign_on, app, identity, request_id, .. } = *context;
    const NAME: &str = "guard: duplicate_email";
    let guard = app.guards.duplicate_email;
    if guard == OnDuplicate::Off {
        trace.record(NAME, || "off".to_owned());
        return Ok(());
    }
    let among =
        AccountScope { companies: !app.guards.refuses_companies, inactive: !app.guards.refuses_inactive };
    let token = identity.token.as_deref();
    let is_shared = match sign_on.imis.api.is_shared(id, email, among, token).await {
        Ok(is_shared) => is_shared,
        Err(error) if guard == OnDuplicate::Warn => {
            warn!(request_id, app = %app.name, error = %Chain(&error), "cannot look up who else has this e-mail address");
            trace.record(NAME, || Chain(&error).to_string());
            return Ok(());
        }
        Err(error) => return Err(SignInError::Duplicates(error)),
    };
    let outcome = if is_shared {
        "another contact has the same primary address"
    } else {
        "no other contact has the address"
    };
    trace.record(NAME, || outcome.to_owned());
    if is_shared && guard == OnDuplicate::Refuse {
        return Err(Denied::DuplicateEmail.into());
    }
    if is_shared {
        let imis_id = id.as_str();
        warn!(request_id, app = %app.name, imis_id, "another contact has the same primary e-mail address");
    }
    Ok(())
}
