//! Who may enter. Only this module makes a `Permit`, and only a `Permit` can be minted.

use super::email::EmailAddress;
use crate::config::{App, OnBehalfOf};
use crate::imis::PartyId;
use crate::imis::party::{Kind, Profile};
use crate::imis::recognise::Identity;

/// Proof that a person may enter, with all that a token needs.
pub(super) struct Permit {
    profile: Profile,
    email: EmailAddress,
    name: String,
}

/// Why a person may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("the person is acting on behalf of another contact")]
    OnBehalfOf,
    #[error("the record is a company's")]
    CompanyRecord,
    #[error("the record is not active")]
    Inactive,
    #[error("the record has no single primary e-mail address")]
    NoEmail,
    #[error("the primary e-mail address is not one")]
    BadEmail,
    #[error("the record has no usable name")]
    NoName,
}

/// Names in Zendesk are at most 255 characters.
const MOST_NAME_CHARACTERS: usize = 255;

/// Whose profile counts. Somebody who acts for another contact is never taken for that contact unless the app says so in so many words.
pub(super) fn subject<'a>(app: &App, identity: &'a Identity) -> Result<&'a PartyId, Denied> {
    match (&identity.on_behalf_of, app.on_behalf_of) {
        (None, _) | (Some(_), OnBehalfOf::SignInAsStaff) => Ok(&identity.id),
        (Some(_), OnBehalfOf::Refuse) => Err(Denied::OnBehalfOf),
        (Some(contact), OnBehalfOf::SignInAsContact) => Ok(contact),
    }
}

/// Decides. Without rules, every active person whom iMIS signed in may enter.
pub(super) fn authorize(profile: Profile) -> Result<Permit, Denied> {
    match profile.kind {
        Kind::Person => {}
        Kind::Company => return Err(Denied::CompanyRecord),
    }
    // iMIS's own codes: I = inactive, D = marked for deletion. Associations add codes of their own, which say nothing.
    if matches!(profile.status.as_deref(), Some("I" | "i" | "D" | "d")) {
        return Err(Denied::Inactive);
    }
    let email = profile.email.as_deref().ok_or(Denied::NoEmail)?;
    let email = EmailAddress::parse(email).ok_or(Denied::BadEmail)?;
    let name = plain_name(profile.name.as_deref().unwrap_or_default()).ok_or(Denied::NoName)?;
    Ok(Permit { profile, email, name })
}

/// A name without control and direction characters, which could make it read as another's.
fn plain_name(text: &str) -> Option<String> {
    let invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    let visible: String = text.chars().filter(|c| !invisible(*c)).take(MOST_NAME_CHARACTERS).collect();
    let trimmed = visible.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

impl Permit {
    pub(super) fn id(&self) -> &PartyId {
        &self.profile.id
    }

    pub(super) fn email(&self) -> &str {
        self.email.as_str()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// E.164.
    pub(super) fn phone(&self) -> Option<&str> {
        self.profile.phone.as_deref()
    }

    pub(super) fn is_member(&self) -> Option<bool> {
        self.profile.is_member()
    }

    pub(super) fn customer_type(&self) -> Option<&str> {
        self.profile.customer_type()
    }
}

impl Denied {
    /// For the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OnBehalfOf => "on-behalf-of",
            Self::CompanyRecord => "company-record",
            Self::Inactive => "inactive",
            Self::NoEmail => "no-email",
            Self::BadEmail => "bad-email",
            Self::NoName => "no-name",
        }
    }

    /// For the member.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::OnBehalfOf => "You are working on behalf of somebody else",
            Self::CompanyRecord => "This account belongs to an organization",
            Self::Inactive => "This account is not active",
            Self::NoEmail | Self::BadEmail => "Your profile needs an e-mail address",
            Self::NoName => "Your profile needs a name",
        }
    }

    /// For the member: what to do.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::OnBehalfOf => {
                "While you act for another contact you cannot be signed in to the help desk, neither as yourself nor as the contact. \
                 Please end that on this site, then try again."
            }
            Self::CompanyRecord => {
                "The help desk is for people. You are signed in with an organization's account; \
                 please sign out and use your own."
            }
            Self::Inactive => {
                "Please contact the association: your record is marked as inactive, so it cannot be used here."
            }
            Self::NoEmail => {
                "The help desk knows people by their e-mail address, and your profile has no primary one. \
                 Please add it to your profile on this site, then try again."
            }
            Self::BadEmail => {
                "The primary e-mail address in your profile is not complete or has characters that do not belong there. \
                 Please correct it in your profile on this site, then try again."
            }
            Self::NoName => "Please add your name to your profile on this site, then try again.",
        }
    }
}

#[cfg(test)]
pub(super) fn test_permit(phone: Option<&str>) -> Permit {
    authorize(tests::profile(|profile| profile.phone = phone.map(str::to_owned))).ok().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn profile(change: impl FnOnce(&mut Profile)) -> Profile {
        let mut profile = Profile {
            id: PartyId::parse("104019").unwrap(),
            kind: Kind::Person,
            name: Some("Ann Müller".to_owned()),
            email: Some("ann@example.org".to_owned()),
            phone: None,
            status: Some("A".to_owned()),
            attributes: std::collections::BTreeMap::new(),
        };
        change(&mut profile);
        profile
    }

    fn denied(change: impl FnOnce(&mut Profile)) -> Option<Denied> {
        authorize(profile(change)).err()
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
