//! How a sign-in ends that leads to no token.

use crate::imis::groups::GroupsError;
use crate::imis::recognise::RecogniseError;
use crate::imis::{ApplicationError, ProfileError};
use crate::sso::claims;
use crate::sso::denied::Denied;
use crate::sso::policy::Refused;
use crate::sso::rate_limit::RateLimited;
use crate::sso::token::MintError;

/// Every way a sign-in can end without a token, apart from nobody being signed in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignInError {
    #[error("not a top-level navigation")]
    NotNavigation,
    #[error("iMIS did not say who the visitor is")]
    Recognise(#[from] RecogniseError),
    #[error("iMIS did not say whose refresh token it is")]
    Application(#[from] ApplicationError),
    #[error("iMIS did not give the profile")]
    Profile(#[from] ProfileError),
    #[error("refused")]
    Denied(#[from] Denied),
    #[error("the token cannot be made")]
    Mint(#[from] MintError),
    #[error("the system has no randomness to give")]
    Random(#[source] getrandom::Error),
    #[error("iMIS did not say which groups the person belongs to")]
    Groups(#[from] GroupsError),
    #[error("iMIS did not say who else has this e-mail address")]
    Duplicates(#[source] ProfileError),
    #[error("it is not known yet who works in Zendesk")]
    StaffUnknown,
    #[error("the app's own claims")]
    Claims(#[source] claims::NamedError),
    #[error("iMIS took too long in all")]
    TimedOut,
    #[error("too many sign-ins at a time")]
    Busy,
    #[error("too many sign-ins in a minute: {}", .0.name())]
    RateLimited(RateLimited),
}

/// The kinds of answers that there are to them.
pub(crate) enum Failed<'a> {
    NotNavigation,
    Denied(&'a Denied),
    RateLimited(RateLimited),
    /// Nobody knows whether the person may enter.
    Broken,
}

impl SignInError {
    pub(crate) fn failed(&self) -> Failed<'_> {
        match self {
            Self::NotNavigation => Failed::NotNavigation,
            Self::Denied(denied) => Failed::Denied(denied),
            Self::RateLimited(enough) => Failed::RateLimited(*enough),
            Self::Recognise(_)
            | Self::Application(_)
            | Self::Profile(_)
            | Self::Groups(_)
            | Self::Duplicates(_)
            | Self::StaffUnknown
            | Self::Claims(_)
            | Self::Mint(_)
            | Self::Random(_)
            | Self::TimedOut
            | Self::Busy => Failed::Broken,
        }
    }

    /// Whether it may be iMIS that did not answer as it should.
    pub(crate) fn is_of_imis(&self) -> bool {
        !matches!(self, Self::StaffUnknown | Self::Claims(_) | Self::Mint(_) | Self::Random(_))
    }
}

impl From<Refused> for SignInError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Denied(denied) => Self::Denied(denied),
            Refused::Claim(error) => Self::Claims(error),
        }
    }
}
