//! Single sign-on to Zendesk: the endpoints of an app.
//!
//! `request` is what every endpoint gets. `login`, `imis_callback`, `messaging_token` and `logout` serve one endpoint
//! each. A sign-in goes through `decision` (profile, guards, `policy`), `token` and `handoff`; only a `Permit` of
//! `policy` leads to a token. `answer` turns errors into responses. Nothing is stored between two requests, apart from
//! the nonces of used state cookies.

pub(crate) mod login;
pub(crate) mod imis_callback;
pub(crate) mod messaging_token;
pub(crate) mod logout;
pub(crate) mod single_logout;

mod answer;
mod redirects;
mod handoff;
mod loop_guard;
mod secret_rotation;
pub(crate) mod decision;
mod staff_guard;
pub(crate) mod request;
pub(crate) mod site;
pub(crate) mod state_cookie;
pub(crate) mod error;

pub(crate) mod token;
pub(crate) mod policy;
pub(crate) mod facts;
pub(crate) mod claims;
pub(crate) mod denied;
pub(crate) mod trace;
pub(crate) mod login_params;
pub(crate) mod return_to;
pub(crate) mod rate_limit;
mod email_address;
mod fetch_metadata;
