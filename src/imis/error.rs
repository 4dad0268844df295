//! Errors of the client for one site's iMIS as a whole.

use crate::imis::token::TokenError;
use crate::imis::users::UserError;

/// Why the clients of a site's iMIS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("the HTTP client")]
    Client(#[from] reqwest::Error),
    #[error("the system has no randomness to give")]
    Random(#[from] getrandom::Error),
}

/// Why a refresh token that the site's Single Sign-On page has posted signs nobody in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplicationError {
    #[error("the refresh token")]
    Token(#[from] TokenError),
    #[error("the token endpoint does not tell whose token it is")]
    NoUserName,
    #[error("the user name")]
    User(#[from] UserError),
}
