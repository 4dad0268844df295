//! Errors of the entry point.

use crate::imis::token::TokenError;
use crate::imis::users::UserError;

/// Setting up the client for a site's iMIS failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("cannot set up the HTTP client")]
    Client(#[from] reqwest::Error),
    #[error("the system cannot provide random bytes")]
    Random(#[from] getrandom::Error),
}

/// A refresh token that the site's Single Sign-On page posted is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplicationError {
    #[error("the refresh token")]
    Token(#[from] TokenError),
    #[error("the response of the token endpoint has no user name")]
    NoUserName,
    #[error("the user name")]
    User(#[from] UserError),
}
