//! Who may enter. Only this module makes a `Permit`, and only a `Permit` can be minted.

use serde_json::{Map, Value};

use crate::base::single_line::single_line;
use crate::config::expression::{Facts, Language};
use crate::config::{App, Effect, OnBehalfOf, Rule};
use crate::imis::PartyId;
use crate::imis::profile::{Kind, Profile, is_inactive};
use crate::imis::recognise::Identity;
use crate::sso::claims;
use crate::sso::denied::Denied;
use crate::sso::email_address::EmailAddress;
use crate::sso::error::SignInError;
use crate::sso::trace::Trace;

/// Proof that a person may enter, with all that a token needs.
pub(crate) struct Permit {
    profile: Profile,
    email: EmailAddress,
    name: String,
    claims: Map<String, Value>,
    /// The rule that allowed the sign-in, counted from 1. `None` without rules.
    rule: Option<usize>,
}

/// Names in Zendesk are at most 255 characters.
const MAX_NAME_CHARACTERS: usize = 255;

/// The contact whose profile counts. A person who acts for another contact becomes that contact only if the app is
/// configured so.
pub(crate) fn subject<'a>(app: &App, identity: &'a Identity) -> Result<&'a PartyId, Denied> {
    match (&identity.on_behalf_of, app.on_behalf_of) {
        (None, _) | (Some(_), OnBehalfOf::SignInAsStaff) => Ok(&identity.id),
        (Some(_), OnBehalfOf::Refuse) => Err(Denied::OnBehalfOf),
        (Some(contact), OnBehalfOf::SignInAsContact) => Ok(contact),
    }
}

/// Decides: the guards of the app first, then its rules. Without rules, every active person whom iMIS signed in may
/// enter.
pub(crate) fn authorize(
    profile: Profile,
    app: &App,
    language: &Language,
    facts: &Facts,
    trace: &mut Trace,
) -> Result<Permit, SignInError> {
    let guard = |name: &str, refuses: bool, found: bool, denied: Denied, trace: &mut Trace| {
        trace.record(name, || {
            let outcome = match (refuses, found) {
                (true, true) => "matches: refused",
                (false, true) => "matches, but the guard is off",
                (_, false) => "does not match",
            };
            outcome.to_owned()
        });
        if refuses && found { Err(denied) } else { Ok(()) }
    };
    let is_company = profile.kind == Kind::Company;
    guard("guard: company_records", app.guards.refuses_companies, is_company, Denied::CompanyRecord, trace)?;
    let inactive = profile.status.as_deref().is_some_and(is_inactive);
    guard("guard: inactive_records", app.guards.refuses_inactive, inactive, Denied::Inactive, trace)?;
    let email = profile.email.as_deref().ok_or(Denied::NoEmail)?;
    let email = EmailAddress::parse(email).ok_or(Denied::BadEmail)?;
    let name = profile
        .name
        .as_deref()
        .and_then(|name| single_line(name, MAX_NAME_CHARACTERS))
        .ok_or(Denied::NoName)?;
    let rule = match &app.rules {
        Some(rules) => Some(first_match(rules, language, facts, trace)?),
        None => {
            trace.record("rules", || "none: every member whom iMIS recognises may sign in".to_owned());
            None
        }
    };
    let claims = claims::of(&app.claims, language, facts)?;
    Ok(Permit { profile, email, name, claims, rule })
}

/// The number of the first rule that allows the sign-in.
fn first_match(
    rules: &[Rule],
    language: &Language,
    facts: &Facts,
    trace: &mut Trace,
) -> Result<usize, Denied> {
    for (number, rule) in (1..).zip(rules) {
        let holds = language.holds(&rule.when, facts);
        trace.record(&format!("rule {number}"), || {
            let effect = if rule.effect == Effect::Allow { "allow" } else { "deny" };
            let outcome = match &holds {
                Ok(true) => "holds".to_owned(),
                Ok(false) => "does not hold".to_owned(),
                Err(error) => error.to_string(),
            };
            format!("{effect} {}: {outcome}", rule.when)
        });
        match (holds, rule.effect) {
            (Ok(false), _) => {}
            (Ok(true), Effect::Allow) => return Ok(number),
            (Ok(true), Effect::Deny) => {
                return Err(Denied::Rule { rule: number, reason: rule.reason.clone() });
            }
            (Err(error), _) => return Err(Denied::RuleFailed { rule: number, error }),
        }
    }
    Err(Denied::NoRule)
}

impl Permit {
    pub(crate) fn id(&self) -> &PartyId {
        &self.profile.id
    }

    pub(crate) fn email(&self) -> &str {
        self.email.as_str()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// E.164.
    pub(crate) fn phone(&self) -> Option<&str> {
        self.profile.phone.as_deref()
    }

    /// What the app's own claims say.
    pub(crate) fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    pub(crate) fn rule(&self) -> Option<usize> {
        self.rule
    }

    pub(crate) fn is_member(&self) -> Option<bool> {
        self.profile.is_member()
    }

    pub(crate) fn customer_type(&self) -> Option<&str> {
        self.profile.customer_type()
    }
}

#[cfg(test)]
pub(crate) fn test_permit(phone: Option<&str>) -> Permit {
    tests::decide(
        tests::profile(|profile| profile.phone = phone.map(str::to_owned)),
        &crate::config::test_app(),
    )
    .ok()
    .unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sso::facts;
    use crate::sso::login_params::LoginParams;

    pub(crate) fn profile(change: impl FnOnce(&mut Profile)) -> Profile {
        let mut profile = Profile {
            id: PartyId::parse("104019").unwrap(),
            kind: Kind::Person,
            name: Some("Ann Müller".to_owned()),
            email: Some("ann@example.org".to_owned()),
            phone: None,
            status: Some("A".to_owned()),
            organization: None,
            attributes: std::collections::BTreeMap::new(),
        };
        change(&mut profile);
        profile
    }

    pub(crate) fn decide(profile: Profile, app: &App) -> Result<Permit, SignInError> {
        let identity = Identity::of(profile.id.clone());
        let params = LoginParams::default();
        let facts = facts::collect(&profile, &identity, app, &params, &[], "2026-11-27");
        authorize(profile, app, &Language::new(), &facts, &mut Trace::disabled())
    }

    fn denied_by(app: &App, change: impl FnOnce(&mut Profile)) -> Option<Denied> {
        match decide(profile(change), app) {
            Ok(_) => None,
            Err(SignInError::Denied(denied)) => Some(denied),
            Err(error) => panic!("{error}"),
        }
    }

    fn denied(change: impl FnOnce(&mut Profile)) -> Option<Denied> {
        denied_by(&crate::config::test_app(), change)
    }

    /// With rules as they stand in a file: `allow ..`, `deny ..`, a reason behind a `|`.
    fn ruled(rules: &[&str]) -> App {
        let rule = |text: &&str| {
            let (rule, reason) = text
                .split_once(" | ")
                .map_or((*text, None), |(rule, reason)| (rule, Some(reason.to_owned())));
            let (effect, when) = rule.split_once(' ').unwrap();
            let effect = if effect == "allow" { Effect::Allow } else { Effect::Deny };
            Rule { effect, when: Language::new().read(when).unwrap(), reason }
        };
        App { rules: Some(rules.iter().map(rule).collect()), ..crate::config::test_app() }
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_none_refuses() {
        let app =
            ruled(&["deny profile.status == 'S' | suspended", "allow profile.email_domain == 'example.org'"]);
        assert_eq!(denied_by(&app, |_| {}), None);
        assert_eq!(decide(profile(|_| {}), &app).ok().unwrap().rule(), Some(2));
        let suspended = denied_by(&app, |p| p.status = Some("S".to_owned())).unwrap();
        assert_eq!((suspended.name(), suspended.rule()), ("suspended", Some(1)));
        assert_eq!(denied_by(&app, |p| p.email = Some("a@b.example".to_owned())), Some(Denied::NoRule));
        assert_eq!(denied_by(&ruled(&["allow true", "deny true"]), |_| {}), None);
    }

    #[test]
    fn a_rule_that_cannot_be_worked_out_lets_nobody_in() {
        for rule in [
            "allow profile.attributes.X != 'y'",
            "deny profile.attributes.X == 'y'",
            "allow profile.status",
            "deny profile.phone",
        ] {
            let denied = denied_by(&ruled(&[rule, "allow true"]), |_| {}).unwrap();
            assert!(matches!(denied, Denied::RuleFailed { rule: 1, .. }), "{rule}: {denied:?}");
        }
    }

    #[test]
    fn no_rule_opens_what_a_guard_closes() {
        let app = ruled(&["allow true"]);
        assert_eq!(denied_by(&app, |p| p.kind = Kind::Company), Some(Denied::CompanyRecord));
        assert_eq!(denied_by(&app, |p| p.status = Some("I".to_owned())), Some(Denied::Inactive));
        assert_eq!(denied_by(&app, |p| p.email = None), Some(Denied::NoEmail));
        let guards = crate::config::Guards {
            refuses_companies: false,
            refuses_inactive: false,
            ..crate::config::Guards::default()
        };
        let open = App { guards, ..app };
        assert_eq!(denied_by(&open, |p| p.kind = Kind::Company), None);
        assert_eq!(denied_by(&open, |p| p.status = Some("I".to_owned())), None);
    }

    #[test]
    fn an_active_person_with_an_address_may_enter() {
        assert_eq!(denied(|_| {}), None);
        assert_eq!(denied(|p| p.status = None), None);
    }

    #[test]
    fn nobody_becomes_the_contact_they_act_for_unless_the_app_says_so() {
        let id = |text: &str| PartyId::parse(text).unwrap();
        let subject = |policy, contact: Option<&str>| {
            let app = App { on_behalf_of: policy, ..crate::config::test_app() };
            let identity = Identity { on_behalf_of: contact.map(id), ..Identity::of(id("7")) };
            subject(&app, &identity).map(|id| id.as_str().to_owned())
        };
        for policy in [OnBehalfOf::default(), OnBehalfOf::SignInAsStaff, OnBehalfOf::SignInAsContact] {
            assert_eq!(subject(policy, None), Ok("7".to_owned()));
        }
        assert_eq!(subject(OnBehalfOf::default(), Some("8")), Err(Denied::OnBehalfOf));
        assert_eq!(subject(OnBehalfOf::SignInAsStaff, Some("8")), Ok("7".to_owned()));
        assert_eq!(subject(OnBehalfOf::SignInAsContact, Some("8")), Ok("8".to_owned()));
    }

    #[test]
    fn companies_and_inactive_records_may_not() {
        assert_eq!(denied(|p| p.kind = Kind::Company), Some(Denied::CompanyRecord));
        assert_eq!(denied(|p| p.status = Some("I".to_owned())), Some(Denied::Inactive));
        assert_eq!(denied(|p| p.status = Some("D".to_owned())), Some(Denied::Inactive));
    }

    #[test]
    fn nobody_enters_without_an_address_and_a_name() {
        assert_eq!(denied(|p| p.email = None), Some(Denied::NoEmail));
        assert_eq!(denied(|p| p.email = Some("ann@@example.org".to_owned())), Some(Denied::BadEmail));
        assert_eq!(denied(|p| p.name = None), Some(Denied::NoName));
        assert_eq!(denied(|p| p.name = Some("\u{202e}\u{200b}".to_owned())), Some(Denied::NoName));
    }
}
