//! Every way in which a sign-in ends without a token, apart from a visitor who is not signed in.

use crate::imis::groups::GroupsError;
use crate::imis::recognise::RecogniseError;
use crate::imis::{ApplicationError, ProfileError};
use crate::sso::claims;
use crate::sso::denied::Denied;
use crate::sso::rate_limit::RateLimited;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignInError {
    #[error("not a top-level navigation")]
    NotNavigation,
    #[error("cannot recognise the visitor")]
    Recognise(#[from] RecogniseError),
    #[error("cannot redeem the refresh token")]
    Application(#[from] ApplicationError),
    #[error("cannot read the profile from iMIS")]
    Profile(#[from] ProfileError),
    #[error("refused")]
    Denied(#[from] Denied),
    #[error("cannot mint the token")]
    Mint(#[from] MintError),
    #[error("the system's random number generator failed")]
    Random(#[source] getrandom::Error),
    #[error("cannot read the groups from iMIS")]
    Groups(#[from] GroupsError),
    #[error("cannot look up who else has this e-mail address")]
    Duplicates(#[source] ProfileError),
    #[error("the list of Zendesk staff has not been fetched yet, and none was saved by an earlier process")]
    StaffUnknown,
    #[error("cannot compute the claims")]
    Claims(#[from] claims::NamedError),
    #[error("iMIS did not answer in time")]
    TimedOut,
    #[error("too many concurrent sign-ins")]
    Busy,
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
}

impl SignInError {
    /// Whether the decision may be possible when it is repeated after a while.
    pub(crate) fn is_transient(&self) -> bool {
        if let Self::Profile(error) | Self::Duplicates(error) = self {
            return error.is_transient();
        }
        matches!(self, Self::Groups(GroupsError::Api(error)) if error.is_transient())
    }
}

/// Minting a token failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MintError {
    #[error("signing failed")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error("the token has {0} bytes, but Zendesk accepts at most {MAX_TOKEN_BYTES}: configure fewer claims")]
    TooLong(usize),
}

/// Zendesk accepts tokens below 4 KB.
pub(super) const MAX_TOKEN_BYTES: usize = 4000;

/// The kinds of errors, by how they are answered.
pub(crate) enum ErrorKind<'a> {
    NotNavigation,
    Denied(&'a Denied),
    RateLimited(RateLimited),
    /// Whether the person may sign in is not known. `by_imis`: iMIS may be the cause.
    Unavailable {
        by_imis: bool,
    },
}

impl SignInError {
    pub(crate) fn kind(&self) -> ErrorKind<'_> {
        match self {
            Self::NotNavigation => ErrorKind::NotNavigation,
            Self::Denied(denied) => ErrorKind::Denied(denied),
            Self::RateLimited(limited) => ErrorKind::RateLimited(*limited),
            Self::StaffUnknown | Self::Claims(_) | Self::Mint(_) | Self::Random(_) => {
                ErrorKind::Unavailable { by_imis: false }
            }
            Self::Recognise(_)
            | Self::Application(_)
            | Self::Profile(_)
            | Self::Groups(_)
            | Self::Duplicates(_)
            | Self::TimedOut
            | Self::Busy => ErrorKind::Unavailable { by_imis: true },
        }
    }
}
