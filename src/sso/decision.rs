//! From who somebody is to whether they may enter: the same for a sign-in and for `explain`, which cannot sign.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::config::expression::{Facts, Language};
use crate::config::{App, OnDuplicate};
use crate::imis::party::Among;
use crate::imis::recognise::Identity;
use crate::sso::denied::Denied;
use crate::sso::policy;
use crate::sso::policy::Permit;
use crate::sso::return_to::LoginParams;
use crate::sso::site::SignOn;
use crate::sso::{AuditSubject, SignInError, facts, token};
use crate::zendesk::staff::Standing;

/// What a decision is made with.
pub(crate) struct DecisionContext<'a> {
    pub(crate) sign_on: &'a SignOn,
    pub(crate) app: &'a App,
    pub(crate) language: &'a Language,
    pub(crate) incident: &'a str,
    pub(crate) audit_subject: &'a AuditSubject,
}

/// How a decision came about, step by step; kept only for whoever asks.
pub(crate) struct Trace(Option<(Vec<TraceStep>, Instant)>);

/// One of them. What came of it may tell of a person.
pub(crate) struct TraceStep {
    pub(crate) name: String,
    pub(crate) outcome: String,
    pub(crate) took: Duration,
}

impl Trace {
    pub(crate) fn recording() -> Self {
        Self(Some((Vec::new(), Instant::now())))
    }

    pub(crate) fn disabled() -> Self {
        Self(None)
    }

    pub(crate) fn record(&mut self, name: &str, outcome: impl FnOnce() -> String) {
        if let Some((steps, since)) = &mut self.0 {
            let took = since.elapsed();
            steps.push(TraceStep { name: name.to_owned(), outcome: outcome(), took });
            *since = Instant::now();
        }
    }

    pub(crate) fn into_steps(self) -> Vec<TraceStep> {
        self.0.map(|(steps, _)| steps).unwrap_or_default()
    }
}

/// Whether the person may enter the app.
pub(crate) async fn decide(
    context: &DecisionContext<'_>,
    (identity, params): (&Identity, &LoginParams),
    trace: &mut Trace,
) -> Result<Permit, SignInError> {
    let DecisionContext { sign_on, app, language, .. } = *context;
    let imis = &sign_on.imis;
    let subject = policy::subject(app, identity)?;
    let _ = context.audit_subject.subject.set(subject.clone());
    let profile = imis.profile(identity, subject).await?;
    if let Some(email) = &profile.email {
        let _ = context.audit_subject.email.set(email.clone());
    }
    trace.record("profile", || profile.describe());
    let date = clock::today();
    let memberships = if app.asks_groups() {
        let memberships = imis.memberships(identity, subject, &date).await?;
        trace.record("groups", || {
            let current = memberships.iter().filter(|membership| membership.is_current);
            let names: Vec<&str> = current.map(|membership| membership.group.as_str()).collect();
            if names.is_empty() { "none that counts today".to_owned() } else { names.join(", ") }
        });
        memberships
    } else {
        Vec::new()
    };
    let facts = facts::of(&profile, (identity, app, params), &memberships, &date);
    let permit = policy::authorize(profile, app, (language, &facts), trace)?;
    guard_email(context, identity, &permit, trace).await?;
    guard_staff(context, &permit, &facts, trace)?;
    token::require_short(&permit)?;
    Ok(permit)
}

/// An e-mail address that two people have would make one of them the other in Zendesk.
async fn guard_email(
    context: &DecisionContext<'_>,
    identity: &Identity,
    permit: &Permit,
    trace: &mut Trace,
) -> Result<(), SignInError> {
    let DecisionContext { sign_on, app, incident, .. } = *context;
    if app.guards.duplicate_email == OnDuplicate::Off {
        trace.record("guard: duplicate_email", || "off".to_owned());
        return Ok(());
    }
    let among = Among { companies: !app.guards.refuses_companies, inactive: !app.guards.refuses_inactive };
    let shared = match sign_on.imis.is_shared(identity, permit.id(), (permit.email(), among)).await {
        Ok(shared) => shared,
        Err(error) if app.guards.duplicate_email == OnDuplicate::Warn => {
            warn!(request_id = incident, app = %app.name, error = %Chain(&error), "iMIS did not say who else has this e-mail address");
            trace.record("guard: duplicate_email", || Chain(&error).to_string());
            return Ok(());
        }
        Err(error) => return Err(SignInError::Duplicates(error)),
    };
    trace.record("guard: duplicate_email", || {
        let found =
            if shared { "somebody else has the same primary address" } else { "nobody else has the address" };
        found.to_owned()
    });
    match (shared, app.guards.duplicate_email) {
        (true, OnDuplicate::Refuse) => Err(Denied::DuplicateEmail.into()),
        (true, OnDuplicate::Warn | OnDuplicate::Off) => {
            let imis_id = permit.id().as_str();
            warn!(request_id = incident, app = %app.name, imis_id, "somebody else has the same primary e-mail address");
            Ok(())
        }
        (false, _) => Ok(()),
    }
}

/// Whoever carries the address of somebody who works in Zendesk would become that person.
fn guard_staff(
    context: &DecisionContext<'_>,
    permit: &Permit,
    facts: &Facts,
    trace: &mut Trace,
) -> Result<(), SignInError> {
    let DecisionContext { sign_on, app, language, .. } = *context;
    let guards = &app.guards;
    let (verdict, why) = if !guards.refuses_staff {
        (Ok(()), "off")
    } else {
        let domain = permit.email().rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
        let of_domains = guards.staff_domains.contains(&domain);
        let standing =
            sign_on.staff.get(&app.path).map(|staff| staff.standing(permit.email(), permit.id().as_str()));
        match standing {
            Some(Standing::NotStaff) => (Ok(()), "nobody of the staff has the address"),
            Some(Standing::NotStaffLongAgo) if of_domains => (
                Err(Denied::StaffAddress.into()),
                "the list of the staff is old, and the address is of its domains",
            ),
            Some(Standing::NotStaffLongAgo) => (
                Ok(()),
                "nobody of the staff had the address when the list was fetched, which is a while ago",
            ),
            Some(Standing::SamePerson) => (Ok(()), "the address is of the staff member with this iMIS ID"),
            Some(Standing::SomebodyOfStaff) => {
                (Err(Denied::StaffAddress.into()), "somebody of the staff has the address")
            }
            Some(Standing::HasTheirId) => (
                Err(Denied::StaffAddress.into()),
                "somebody of the staff has this iMIS ID as external_id, and another address",
            ),
            Some(Standing::Unknown) if of_domains => (
                Err(Denied::StaffAddress.into()),
                "the staff is not known yet, and the address is of its domains",
            ),
            Some(Standing::Unknown) if guards.staff_domains.is_empty() => {
                (Err(SignInError::StaffUnknown), "the staff is not known yet")
            }
            Some(Standing::Unknown) => {
                (Ok(()), "the staff is not known yet, and the address is of none of its domains")
            }
            None if of_domains => (Err(Denied::StaffAddress.into()), "the address is of the staff's domains"),
            None if guards.staff_domains.is_empty() => {
                (Ok(()), "nothing is known of the staff (zendesk.api, guards.staff_domains)")
            }
            None => (Ok(()), "the address is of none of the staff's domains"),
        }
    };
    let (verdict, why) = match (verdict, &guards.is_staff) {
        (Err(SignInError::Denied(denied)), Some(is_staff)) => match language.holds(is_staff, facts) {
            Ok(true) => (Ok(()), "guards.is_staff says that this person is staff"),
            Ok(false) => (Err(SignInError::Denied(denied)), why),
            Err(error) => (Err(Denied::StaffFailed { error }.into()), "guards.is_staff cannot be worked out"),
        },
        (verdict, _) => (verdict, why),
    };
    trace.record("guard: staff", || why.to_owned());
    verdict
}
