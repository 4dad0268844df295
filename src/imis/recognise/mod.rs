//! Who is it? PageResponse of iMIS with the visitor's own cookies; never guessed.
//!
//! A site has one or more methods, in order. A method that can say who it is, or that it is nobody, has the last word; only one that
//! cannot say (it is broken) lets the next one be asked, unless it is told to stop. When none can say, nobody is signed in.

mod identity_cache;
pub(crate) mod client_context;
mod counter;
mod error;
pub(crate) mod forms_ticket;
mod login_status;
pub(crate) mod page;
mod session_info;
mod visitor_client;
pub(crate) mod query_row;
mod recogniser;
mod report;
pub(crate) mod session_cookie;
mod whoami_query;

pub(crate) use crate::imis::identity::Identity;
pub(crate) use counter::RecognitionCounter;
pub(crate) use error::RecogniseError;
pub(crate) use recogniser::{Answer, Examined, Recogniser, Session};
pub(crate) use report::{Generation, RecognitionReport};
pub(crate) use session_cookie::SessionCookies;
