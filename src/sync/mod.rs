//! Profile sync: brings the users of a Zendesk account in line with the members of iMIS.
//!
//! `accounts` and `members` read both systems into the state file; `members` decides with the guards, rules and claims of
//! the sign-in. `plan` compares them, and `apply` writes.

pub(crate) mod accounts;
pub(crate) mod apply;
pub(crate) mod change;
pub(crate) mod compare;
pub(crate) mod error;
pub(crate) mod last_run;
pub(crate) mod members;
pub(crate) mod organizations;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod staff;
pub(crate) mod state;
mod user_writes;
