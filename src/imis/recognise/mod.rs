//! Who a visitor is. iMIS decides, by the visitor's own cookies.
//!
//! A site has one or more methods. If a method fails, the next one is tried, unless it is configured to stop.
//! Results of two methods are never combined. If all fail, the visitor is not signed in.

mod identity_cache;
pub(crate) mod client_context;
mod error;
pub(crate) mod forms_ticket;
mod login_status;
pub(crate) mod page;
mod session_info;
mod visitor_client;
pub(crate) mod query_row;
mod recognition;
mod report;
pub(crate) mod session_cookie;
mod whoami_query;

pub(crate) use crate::imis::identity::Identity;
pub(crate) use error::RecogniseError;
pub(crate) use recognition::{Answer, BuildError, Examined, Recognition, Seen};
pub(crate) use report::{Generation, RecognitionReport};
pub(crate) use session_cookie::SessionCookies;
pub(crate) use visitor_client::{DOCTOR_AGENT, Visitor, visitor_headers};
