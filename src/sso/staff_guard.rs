//! Refuses members whose e-mail address or iMIS ID belongs to an agent or admin of Zendesk: a token would sign them in
//! as that person.

use crate::config::App;
use crate::config::expression::{Expression, ExpressionError};
use crate::sso::denied::Denied;
use crate::sso::error::SignInError;
use crate::sso::policy::Permit;
use crate::sso::site::SignOn;
use crate::sso::trace::Trace;
use crate::zendesk::staff::Standing;

/// What is known about an address.
enum Verdict {
    Allowed,
    Refused,
    /// The list of the staff has not been fetched yet.
    Unknown,
}

/// `holds`: evaluates `guards.is_staff`, which says of a person that they are staff themselves.
pub(super) fn check(
    sign_on: &SignOn,
    app: &App,
    permit: &Permit,
    holds: impl FnOnce(&Expression) -> Result<bool, ExpressionError>,
    trace: &mut Trace,
) -> Result<(), SignInError> {
    let (verdict, reason) = verdict(sign_on, app, permit);
    let (result, reason) = match (verdict, &app.guards.is_staff) {
        (Verdict::Allowed, _) => (Ok(()), reason),
        (Verdict::Unknown, _) => (Err(SignInError::StaffUnknown), reason),
        (Verdict::Refused, None) => (Err(Denied::StaffAddress.into()), reason),
        (Verdict::Refused, Some(is_staff)) => match holds(is_staff) {
            Ok(true) => (Ok(()), "guards.is_staff says that this person is staff"),
            Ok(false) => (Err(Denied::StaffAddress.into()), reason),
            Err(error) => (Err(Denied::StaffFailed { error }.into()), "guards.is_staff cannot be evaluated"),
        },
    };
    trace.record("guard: staff", || reason.to_owned());
    result
}

fn verdict(sign_on: &SignOn, app: &App, permit: &Permit) -> (Verdict, &'static str) {
    use Verdict::{Allowed, Refused, Unknown};
    let guards = &app.guards;
    if !guards.refuses_staff {
        return (Allowed, "off");
    }
    let domain = permit.email().rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
    let is_staff_domain = guards.staff_domains.contains(&domain);
    let has_no_domains = guards.staff_domains.is_empty();
    let staff = sign_on.staff.get(&app.path);
    match staff.map(|staff| staff.standing(permit.email(), permit.id().as_str())) {
        Some(Standing::NotStaff) => (Allowed, "no staff member has the address"),
        Some(Standing::NotStaffStale) if is_staff_domain => {
            (Refused, "the staff list is old, and the address is in a staff domain")
        }
        Some(Standing::NotStaffStale) => {
            (Allowed, "no staff member had the address in the last staff list, which is old")
        }
        Some(Standing::SamePerson) => (Allowed, "the address belongs to the staff member with this iMIS ID"),
        Some(Standing::OtherStaffMember) => (Refused, "another staff member has the address"),
        Some(Standing::StaffImisId) => {
            (Refused, "a staff member with another address has this iMIS ID as external_id")
        }
        Some(Standing::Unknown) if is_staff_domain => {
            (Refused, "the staff list is not available yet, and the address is in a staff domain")
        }
        Some(Standing::Unknown) if has_no_domains => (Unknown, "the staff list is not available yet"),
        Some(Standing::Unknown) => {
            (Allowed, "the staff list is not available yet, and the address is in no staff domain")
        }
        None if is_staff_domain => (Refused, "the address is in a staff domain"),
        None if has_no_domains => {
            (Allowed, "no staff list (zendesk.api) and no staff domains (guards.staff_domains)")
        }
        None => (Allowed, "the address is in no staff domain"),
    }
}
