//! The client for Zendesk: addresses of an account, its API, and the reasons for which it rejects tokens.

pub(crate) mod api;
pub(crate) mod fields;
mod refusal;
mod roster;
pub(crate) mod staff;
mod urls;
pub(crate) mod writes;

pub(crate) use refusal::Refusal;
pub(crate) use roster::Hasher;
pub(crate) use urls::{jwt_url, password_sign_in, sign_out};
