//! The audit record: every decision about a sign-in, in the log and, if configured, in a file of JSON lines that is
//! only appended to.

mod file;
mod record;
mod search;

pub(crate) use record::{Audit, Decision};
pub(crate) use search::{Filter, read};
