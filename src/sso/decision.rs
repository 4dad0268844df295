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
use crate::sso::return_to::Arrival;
use crate::sso::site::SignOn;
use crate::sso::{Learned, SignInError, facts, token};
use crate::zendesk::staff::Standing;

/// What a decision is made with.
pub(crate) struct Deciding<'a> {
    pub(crate) sign_on: &'a SignOn,
    pub(crate) app: &'a App,
    pub(crate) language: &'a Language,
    pub(crate) incident: &'a str,
    pub(crate) learned: &'a Learned,
}

/// How a decision came about, step by step; kept only for whoever asks.
pub(crate) struct Steps(Option<(Vec<Step>, Instant)>);

/// One of them. What came of it may tell of a person.
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) outcome: String,
    pub(crate) took: Duration,
}

impl Steps {
    pub(crate) fn kept() -> Self {
        Self(Some((Vec::new(), Instant::now())))
    }

    pub(crate) fn forgotten() -> Self {
        Self(None)
    }

    pub(crate) fn note(&mut self, name: &str, outcome: impl FnOnce() -> String) {
        if let Some((steps, since)) = &mut self.0 {
            let took = since.elapsed();
            steps.push(Step { name: name.to_owned(), outcome: outcome(), took });
            *since = Instant::now();
        }
    }

    pub(crate) fn into_list(self) -> Vec<Step> {
        self.0.map(|(steps, _)| steps).unwrap_or_default()
    }
}

/// Whether the person may enter the app.
pub(crate) async fn decide(
    deciding: &Deciding<'_>,
    (identity, arrival): (&Identity, &Arrival),
    steps: &mut Steps,
) -> Result<Permit, SignInError> {
    let Deciding { sign_on, app, language, .. } = *deciding;
    let imis = &sign_on.imis;
    let subject = policy::subject(app, identity)?;
    let _ = deciding.learned.subject.set(subject.clone());
    let profile = imis.profile(identity, subject).await?;
    if let Some(email) = &profile.email {
        let _ = deciding.learned.email.set(email.clone());
    }
    steps.note("profile", || profile.describe());
    let date = clock::today();
    let memberships = if app.asks_groups() {
        let memberships = imis.memberships(identity, subject, &date).await?;
        steps.note("groups", || {
            let current = memberships.iter().filter(|membership| membership.is_current);
            let names: Vec<&str> = current.map(|membership| membership.group.as_str()).collect();
            if names.is_empty() { "none that counts today".to_owned() } else { names.join(", ") }
        });
        memberships
    } else {
        Vec::new()
    };
    let facts = facts::of(&profile, (identity, app, arrival), &memberships, &date);
    let permit = policy::authorize(profile, app, (language, &facts), steps)?;
    guard_email(deciding, identity, &permit, steps).await?;
    guard_staff(deciding, &permit, &facts, steps)?;
    token::require_short(&permit)?;
    Ok(permit)
}

/// An e-mail address that two people have would make one of them the other in Zendesk.
async fn guard_email(
    deciding: &Deciding<'_>,
    identity: &Identity,
    permit: &Permit,
    steps: &mut Steps,
) -> Result<(), SignInError> {
    let Deciding { sign_on, app, incident, .. } = *deciding;
    if app.guards.duplicate_email == OnDuplicate::Off {
        steps.note("guard: duplicate_email", || "off".to_owned());
        return Ok(());
    }
    let among = Among { companies: !app.guards.refuses_companies, inactive: !app.guards.refuses_inactive };
    let shared = match sign_on.imis.is_shared(identity, permit.id(), (permit.email(), among)).await {
        Ok(shared) => shared,
        Err(error) if app.guards.duplicate_email == OnDuplicate::Warn => {
            warn!(request_id = incident, app = %app.name, error = %Chain(&error), "iMIS did not say who else has this e-mail address");
            steps.note("guard: duplicate_email", || Chain(&error).to_string());
            return Ok(());
        }
        Err(error) => return Err(SignInError::Duplicates(error)),
    };
    steps.note("guard: duplicate_email", || {
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
    deciding: &Deciding<'_>,
    permit: &Permit,
    facts: &Facts,
    steps: &mut Steps,
) -> Result<(), SignInError> {
    let Deciding { sign_on, app, language, .. } = *deciding;
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
    steps.note("guard: staff", || why.to_owned());
    verdict
}
